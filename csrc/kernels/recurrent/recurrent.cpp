// The step kernels lstm, gru and rnn: ONNX operands, outputs and attributes.
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include "graphopt/kernel.h"
#include "kernels/recurrent/layer.h"
#include "kernels/recurrent/problem.h"
#include "kernels/recurrent/reference.h"
#include "kernels/support/dispatch.h"

namespace graphopt {

namespace recurrent {
namespace {

constexpr size_t kLengthsOperand = 4;

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Half-precision operands are widened into scratch memory; the results are rounded once.
template <class T>
class Widened {
 public:
  Widened(KernelArgs& args, std::byte* memory) : args_(args) {
    std::array<Tensor, 8> inputs{};
    std::array<Tensor, 3> outputs{};
    for (size_t i = 0; i < std::min(inputs.size(), args.inputs.size()); ++i) {
      inputs[i] = args.inputs[i];
      if (i == kLengthsOperand || !inputs[i].present()) continue;
      auto* wide = reinterpret_cast<float*>(memory);
      const T* narrow = inputs[i].ptr<const T>();
      for (int64_t k = 0; k < inputs[i].numel(); ++k) wide[k] = support::load(narrow[k]);
      inputs[i].data = wide;
      memory += aligned(static_cast<size_t>(inputs[i].numel()) * sizeof(float));
    }
    for (size_t i = 0; i < std::min(outputs.size(), args.outputs.size()); ++i) {
      outputs[i] = args.outputs[i];
      if (!outputs[i].present()) continue;
      outputs[i].data = memory;
      memory += aligned(static_cast<size_t>(outputs[i].numel()) * sizeof(float));
    }
    operands_ = operands_of<float>(inputs, outputs);
    rest_ = memory;
  }

  [[nodiscard]] const Operands<float>& operands() const { return operands_; }
  [[nodiscard]] std::byte* rest() const { return rest_; }

  void write_back() {
    const std::array<const float*, 3> wide = {operands_.y, operands_.y_h, operands_.y_c};
    for (size_t i = 0; i < std::min(wide.size(), args_.outputs.size()); ++i) {
      if (wide[i] == nullptr) continue;
      T* narrow = args_.outputs[i].ptr<T>();
      for (int64_t k = 0; k < args_.outputs[i].numel(); ++k) narrow[k] = support::store<T>(wide[i][k]);
    }
  }

 private:
  KernelArgs& args_;
  Operands<float> operands_{};
  std::byte* rest_ = nullptr;
};

class RecurrentKernel final : public Kernel {
 public:
  RecurrentKernel(const Attrs& attrs, Cell cell) : settings_(parse_settings(attrs, cell)) {}

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs, int) const override {
    const Sizes sizes = check_sizes(settings_, inputs, outputs);
    const DType dtype = inputs[0].dtype;
    if (dtype == DType::kF64) return 0;
    size_t bytes = plan_scratch(settings_, sizes).bytes;
    if (dtype == DType::kF32) return bytes;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (i != kLengthsOperand) bytes += aligned(static_cast<size_t>(inputs[i].numel()) * sizeof(float));
    }
    for (const Tensor& output : outputs) bytes += aligned(static_cast<size_t>(output.numel()) * sizeof(float));
    return bytes;
  }

  void run(KernelArgs& args) const override {
    const Sizes sizes = check_sizes(settings_, args.inputs, args.outputs);
    auto* memory = static_cast<std::byte*>(args.workspace);
    support::visit_float(args.inputs[0].dtype, "a recurrent layer", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      const Operands<T> ops = operands_of<T>(args.inputs, args.outputs);
      check_lengths(sizes, ops.lengths);
      if constexpr (std::is_same_v<T, double>) {
        run_reference(settings_, sizes, ops);
      } else if constexpr (std::is_same_v<T, float>) {
        run_layer(settings_, sizes, ops, kernels(), memory, args.parallel);
      } else {
        Widened<T> wide(args, memory);
        run_layer(settings_, sizes, wide.operands(), kernels(), wide.rest(), args.parallel);
        wide.write_back();
      }
    });
  }

 private:
  Settings settings_;
};

}  // namespace
}  // namespace recurrent

std::unique_ptr<Kernel> make_lstm(const Attrs& attrs) {
  return std::make_unique<recurrent::RecurrentKernel>(attrs, recurrent::Cell::kLstm);
}

std::unique_ptr<Kernel> make_gru(const Attrs& attrs) {
  return std::make_unique<recurrent::RecurrentKernel>(attrs, recurrent::Cell::kGru);
}

std::unique_ptr<Kernel> make_rnn(const Attrs& attrs) {
  return std::make_unique<recurrent::RecurrentKernel>(attrs, recurrent::Cell::kRnn);
}

}  // namespace graphopt
