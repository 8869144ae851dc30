// Step kernel `conv_transpose`: transposed convolution of a channels-last tensor.
//
// Outputs whose coordinates agree modulo the strides see the same taps: each such phase is an ordinary
// convolution of stride one over a part of the taps, so nothing is scattered and nothing is summed twice.
#include <algorithm>
#include <vector>

#include "kernels/conv/pack.h"
#include "kernels/conv/rows.h"
#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"

namespace graphopt {
namespace {

class ConvTransposeKernel final : public Kernel {
 public:
  explicit ConvTransposeKernel(const Attrs& attrs)
      : window_(parse_window(attrs, "conv_transpose")),
        group_(attrs.i("group", 1)),
        cin_(attrs.i("cin")),
        cout_(attrs.i("cout")),
        epilogue_(parse_epilogue(attrs)) {
    if (group_ < 1 || cin_ < 0 || cout_ < 0 || cin_ % group_ != 0 || cout_ % group_ != 0) {
      throw Error("conv_transpose: group must divide cin and cout");
    }
    if (!attrs.has("output_padding")) return;
    const std::vector<int64_t>& extra = attrs.ints("output_padding");
    if (extra.size() != static_cast<size_t>(window_.rank)) {
      throw Error("conv_transpose: attribute 'output_padding' has the wrong length");
    }
    std::copy(extra.begin(), extra.end(), extra_.end() - window_.rank);
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    const ConvGeometry g = geometry(operand(inputs, 0), operand(outputs, 0));
    size_t most = 0;
    for_phases(g, [&](const ConvTransposePhase& phase) { most = std::max(most, gemm_scratch_bytes(shape(g, phase))); });
    return zeros_bytes(g) + most * static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& bias = operand(args.inputs, 2);
    const Tensor& residual = operand(args.inputs, 3);
    const Tensor& y = args.outputs[0];
    require_f32("conv_transpose", {&x, &w, &bias, &residual, &y});
    check(x, w, bias, residual, y);
    const ConvGeometry g = geometry(x, y);
    check_output(g);
    auto* zeros = static_cast<float*>(args.workspace);
    std::fill_n(zeros, g.window_channels, 0.0F);
    void* scratch = static_cast<std::byte*>(args.workspace) + zeros_bytes(g);
    const int64_t cout = cout_ / group_;
    for_phases(g, [&](const ConvTransposePhase& phase) {
      const GemmShape shape = this->shape(g, phase);
      run_gemms<ConvTransposeRows>(shape, epilogue_, group_, args.parallel, scratch,
                                   [&](int64_t group, GemmOperands& operands, ConvTransposeRows& rows) {
                                     operands.b_panel = window_.taps() * g.window_channels * kPanel;
                                     operands.b = w.ptr<float>() + group * shape.panels() * operands.b_panel;
                                     operands.b_segments = phase.weights.data();
                                     operands.c = y.ptr<float>() + group * cout;
                                     if (bias.present()) operands.bias = bias.ptr<float>() + group * cout;
                                     if (residual.present()) operands.residual = residual.ptr<float>() + group * cout;
                                     rows.geometry = &g;
                                     rows.phase = &phase;
                                     rows.x = x.ptr<float>() + group * g.window_channels;
                                     rows.zeros = zeros;
                                   });
    });
  }

 private:
  [[nodiscard]] ConvGeometry geometry(const Tensor& x, const Tensor& y) const {
    ConvGeometry g;
    g.window = window_;
    g.batch = x.dim(0);
    g.in = spatial_dims(x, 1, window_.rank);
    g.out = spatial_dims(y, 1, window_.rank);
    g.channels = cin_;
    g.window_channels = cin_ / group_;
    g.out_channels = cout_;
    return g;
  }

  // f(phase) for every phase that has outputs.
  template <class F>
  void for_phases(const ConvGeometry& g, F&& f) const {
    ConvTransposePhase phase;
    Position at(0, window_.stride);
    for (int64_t i = 0; i < volume(window_.stride); ++i, at.next(window_.stride)) {
      phase.phase = at.at;
      for (size_t axis = 0; axis < 3; ++axis) {
        phase.count[axis] =
            std::max<int64_t>(0, g.out[axis] - at.at[axis] + window_.stride[axis] - 1) / window_.stride[axis];
      }
      if (volume(phase.count) == 0) continue;
      find_taps(phase);
      f(phase);
    }
  }

  // Tap k brings input i to output o = i * stride - begin + k * dilation: with o = q * stride + phase,
  // i = q + (phase + begin - k * dilation) / stride where that is whole.
  void find_taps(ConvTransposePhase& phase) const {
    phase.offsets.clear();
    phase.weights.clear();
    Position tap(0, window_.kernel);
    for (int64_t t = 0; t < window_.taps(); ++t, tap.next(window_.kernel)) {
      Dims3 offset{};
      bool whole = true;
      for (size_t axis = 0; axis < 3; ++axis) {
        const int64_t distance = phase.phase[axis] + window_.begin[axis] - tap.at[axis] * window_.dilation[axis];
        whole = whole && distance % window_.stride[axis] == 0;
        offset[axis] = distance / window_.stride[axis];
      }
      if (!whole) continue;
      phase.offsets.push_back(offset);
      phase.weights.push_back(t * (cin_ / group_) * kPanel);
    }
  }

  [[nodiscard]] GemmShape shape(const ConvGeometry& g, const ConvTransposePhase& phase) const {
    GemmShape shape;
    shape.m = g.batch * volume(phase.count);
    shape.n = cout_ / group_;
    shape.segments = static_cast<int64_t>(phase.offsets.size());
    shape.depth = g.window_channels;
    return shape;
  }

  static size_t zeros_bytes(const ConvGeometry& g) {
    return (static_cast<size_t>(g.window_channels) * sizeof(float) + 63) / 64 * 64;
  }

  void check(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual, const Tensor& y) const {
    if (x.rank != window_.rank + 2 || y.rank != x.rank)
      throw Error("conv_transpose: X and Y must be [N, spatial..., C]");
    if (x.dim(-1) != cin_ || y.dim(-1) != cout_ || x.dim(0) != y.dim(0)) {
      throw Error("conv_transpose: X or Y doesn't have the channels or the batch size that the step says");
    }
    if (w.numel() != static_cast<int64_t>(packed_conv_transpose_size(cin_, cout_ / group_, window_.taps(), group_))) {
      throw Error("conv_transpose: W isn't packed for this step");
    }
    if (bias.present() && bias.numel() != cout_) throw Error("conv_transpose: bias must hold cout values");
    if (residual.present() && residual.numel() != y.numel()) {
      throw Error("conv_transpose: residual must be as large as Y");
    }
  }

  void check_output(const ConvGeometry& g) const {
    for (size_t axis = 0; axis < 3; ++axis) {
      const int64_t size = (g.in[axis] - 1) * window_.stride[axis] + window_.extent(axis) + extra_[axis] -
                           window_.begin[axis] - window_.end[axis];
      if (g.out[axis] != std::max<int64_t>(size, 0))
        throw Error("conv_transpose: the output has the wrong spatial size");
    }
  }

  Window window_;
  int64_t group_;
  int64_t cin_;
  int64_t cout_;
  Epilogue epilogue_;
  Dims3 extra_{0, 0, 0};
};

}  // namespace

std::unique_ptr<Kernel> make_conv_transpose(const Attrs& attrs) { return std::make_unique<ConvTransposeKernel>(attrs); }

}  // namespace graphopt
