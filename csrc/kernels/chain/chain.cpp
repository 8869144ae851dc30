// Step kernel `conv_chain`: a dense convolution, a depthwise one and a 1 x 1 one after each other, of
// channels-last tensors with weights packed at compile time. What lies between them stays in the cache
// of the core that makes it. (M. Sandler et al., MobileNetV2, 2018, section 5.1 has the idea.)
#include <algorithm>

#include "kernels/chain/task.h"
#include "kernels/conv/pack.h"
#include "kernels/dense/operands.h"
#include "kernels/gemm/pack.h"

namespace graphopt {
namespace {

// Multiply-adds that take about as long as waking a thread.
constexpr int64_t kWorthAThread = 100'000;

enum Input : size_t { kX, kExpand, kExpandBias, kDepthwise, kDepthwiseBias, kProject, kProjectBias, kResidual };

class ConvChainKernel final : public Kernel {
 public:
  explicit ConvChainKernel(const Attrs& attrs) : chain_(parse_chain(attrs)) {}

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    const ChainGeometry g = chain_geometry(chain_, operand(inputs, kX), operand(outputs, 0));
    const ChainCut cut = chain_cut(chain_, g);
    size_t bytes = zeros_bytes(g) + outputs_bytes(g, cut);
    bytes += chain_scratch(chain_, g, cut).bytes * static_cast<size_t>(threads);
    if (later(cut)) bytes += gemm_scratch_bytes(project_shape(chain_, g, cut)) * static_cast<size_t>(threads);
    return bytes;
  }

  void run(KernelArgs& args) const override {
    check(args);
    const Tensor& y = args.outputs[0];
    const ChainGeometry g = chain_geometry(chain_, args.inputs[kX], y);
    if (y.numel() == 0) return;
    const ChainCut cut = chain_cut(chain_, g);
    auto* at = static_cast<std::byte*>(args.workspace);
    ChainOperands operands = this->operands(args);
    auto* zeros = reinterpret_cast<float*>(at);
    std::fill_n(zeros, g.expand.depth(), 0.0F);
    operands.zeros = zeros;
    at += zeros_bytes(g);
    operands.outputs = reinterpret_cast<float*>(at);
    at += outputs_bytes(g, cut);

    const size_t scratch = chain_scratch(chain_, g, cut).bytes;
    const int64_t bands = chain_bands(chain_, g, cut, args.parallel.threads());
    const int64_t parts = cut.by_bands ? bands : cut.slices;
    const int64_t tasks = g.batch * parts;
    const int64_t grain = std::clamp<int64_t>(kWorthAThread * tasks / std::max<int64_t>(work(g), 1), 1, tasks);
    args.parallel.for_range(tasks, grain, [&](int64_t begin, int64_t end, int worker) {
      ChainTask task(chain_, g, cut, operands, at + scratch * static_cast<size_t>(worker));
      for (int64_t i = begin; i < end; ++i) {
        const Range all{0, cut.slices};
        if (cut.by_bands) {
          task.run(i / parts, part_of(g.lines, bands, i % parts), all);
        } else {
          task.run(i / parts, {0, g.lines}, {i % parts, i % parts + 1});
        }
      }
    });
    if (later(cut)) {
      at += scratch * static_cast<size_t>(args.parallel.threads());
      project(g, cut, operands, args.parallel, at);
    }
  }

 private:
  [[nodiscard]] bool later(const ChainCut& cut) const { return chain_.projects && !cut.by_bands; }

  [[nodiscard]] static size_t zeros_bytes(const ChainGeometry& g) {
    return (static_cast<size_t>(g.expand.depth()) * sizeof(float) + 63) / 64 * 64;
  }

  [[nodiscard]] size_t outputs_bytes(const ChainGeometry& g, const ChainCut& cut) const {
    return later(cut) ? static_cast<size_t>(g.positions() * project_step(chain_)) * sizeof(float) : 0;
  }

  // Multiply-adds.
  [[nodiscard]] int64_t work(const ChainGeometry& g) const {
    int64_t total = g.positions() * chain_.channels * chain_.depthwise.taps();
    if (chain_.expands) {
      total += g.batch * g.lines_in * g.columns_in * chain_.channels * g.expand.segments() * g.expand.depth();
    }
    if (chain_.projects) total += g.positions() * chain_.channels * chain_.cout;
    return total;
  }

  void project(const ChainGeometry& g, const ChainCut& cut, const ChainOperands& o, const Parallel& parallel,
               void* scratch) const {
    run_gemms<DenseRows>(project_shape(chain_, g, cut), chain_.project_epilogue, 1, parallel, scratch,
                         [&](int64_t, GemmOperands& operands, DenseRows& rows) {
                           operands.b = o.project_weights;
                           operands.b_panel = chain_.channels * kPanel;
                           operands.c = o.y;
                           operands.bias = o.project_bias;
                           operands.residual = o.residual;
                           rows = {o.outputs, project_step(chain_), chain_.cout};
                         });
  }

  [[nodiscard]] static ChainOperands operands(const KernelArgs& args) {
    const auto data = [&](Input index) { return data_or_null(operand(args.inputs, index)); };
    ChainOperands o;
    o.x = data(kX);
    o.expand_weights = data(kExpand);
    o.expand_bias = data(kExpandBias);
    o.depthwise_weights = data(kDepthwise);
    o.depthwise_bias = data(kDepthwiseBias);
    o.project_weights = data(kProject);
    o.project_bias = data(kProjectBias);
    o.residual = data(kResidual);
    o.y = args.outputs[0].ptr<float>();
    return o;
  }

  void check(const KernelArgs& args) const {
    const auto in = [&](Input index) -> const Tensor& { return operand(args.inputs, index); };
    for (const Tensor& tensor : args.inputs) require_f32("conv_chain", {&tensor});
    const Tensor& x = in(kX);
    const Tensor& y = args.outputs[0];
    require_f32("conv_chain", {&y});
    if (x.rank != 4 || y.rank != 4 || x.dim(3) != chain_.cin || y.dim(3) != chain_.cout || x.dim(0) != y.dim(0)) {
      throw Error("conv_chain: X and Y must be [N, H, W, C] with the channels that the step says");
    }
    const auto require = [&](Input index, bool wanted, size_t size) {
      const Tensor& tensor = in(index);
      if (tensor.present() != wanted || (wanted && tensor.numel() != static_cast<int64_t>(size))) {
        throw Error("conv_chain: weights aren't packed for this step");
      }
    };
    const auto allow = [&](Input index, bool allowed, int64_t size) {
      const Tensor& tensor = in(index);
      if (tensor.present() && (!allowed || tensor.numel() != size)) {
        throw Error("conv_chain: a bias or the residual has the wrong size");
      }
    };
    require(kExpand, chain_.expands, packed_conv_size(chain_.channels, chain_.cin, chain_.expand.taps(), 1));
    require(kDepthwise, true, packed_conv_size(chain_.channels, 1, chain_.depthwise.taps(), chain_.channels));
    require(kProject, chain_.projects, packed_gemm_size(chain_.channels, chain_.cout));
    allow(kExpandBias, chain_.expands, chain_.channels);
    allow(kDepthwiseBias, true, chain_.channels);
    allow(kProjectBias, chain_.projects, chain_.cout);
    allow(kResidual, true, y.numel());
  }

  Chain chain_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv_chain(const Attrs& attrs) { return std::make_unique<ConvChainKernel>(attrs); }

}  // namespace graphopt
