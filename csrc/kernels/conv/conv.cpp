// Step kernel `conv`: convolution of a channels-last tensor with weights packed at compile time.
//
// In float32 or, with the attribute `bf16`, on bfloat16 pairs; X (of such a step, or a depthwise one), the residual and
// Y may hold bfloat16 numbers.
//
// A matrix product whose rows are windows of X, read in place through pointers (rows.h); depthwise
// convolutions have a kernel of their own.
#include <algorithm>

#include "kernels/conv/depthwise_run.h"
#include "kernels/conv/pack.h"
#include "kernels/conv/rows.h"
#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"
#include "kernels/gemm/pairs.h"

namespace graphopt {
namespace {

class ConvKernel final : public Kernel {
 public:
  explicit ConvKernel(const Attrs& attrs)
      : window_(parse_window(attrs, "conv")),
        group_(attrs.i("group", 1)),
        cin_(attrs.i("cin")),
        cout_(attrs.i("cout")),
        bf16_(attrs.i("bf16", 0) != 0),
        merged_(attrs.i("merged", 0) != 0),
        choice_(parse_gemm_choice(attrs)),
        epilogue_(parse_epilogue(attrs)) {
    if (group_ < 1 || cin_ < 0 || cout_ < 0 || cin_ % group_ != 0 || cout_ % group_ != 0) {
      throw Error("conv: group must divide cin and cout");
    }
    depthwise_ = is_depthwise(cout_, cin_ / group_, group_);
    if (merged_ && (!bf16_ || window_.dilation[2] != 1)) throw Error("conv: merged is for bf16 without dilation");
    if (bf16_ && group_ != 1) throw Error("conv: bf16 is for convolutions without groups");
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    if (depthwise_) return 0;
    const ConvGeometry g = geometry(operand(inputs, 0), operand(outputs, 0));
    const Halves halves = this->halves(inputs, operand(outputs, 0));
    const size_t scratch = gemm_scratch_bytes(shape(g, halves)) * static_cast<size_t>(threads);
    const size_t pairs = rounds_first(halves.x) ? pairs_bytes(positions(g), cin_) : 0;
    return pairs + (window_.is_plain() ? 0 : zeros_bytes(g)) + scratch;
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& bias = operand(args.inputs, 2);
    const Tensor& residual = operand(args.inputs, 3);
    const Tensor& y = args.outputs[0];
    require_f32("conv", {&bias});
    const Halves halves = this->halves(args.inputs, y);
    require_weights("conv", w, bf16_);
    check(x, w, bias, residual, y);
    const ConvGeometry g = geometry(x, y);
    check_conv_output(window_, g.in, g.out, "conv");
    if (y.numel() == 0) return;
    if (depthwise_) {
      run_depthwise(g, epilogue_,
                    {x.data, w.ptr<float>(), data_or_null(bias), data_or_null(residual), y.data, halves.x, halves.y},
                    args.parallel);
      return;
    }
    const GemmShape shape = this->shape(g, halves);
    const int64_t cout = cout_ / group_;
    auto* workspace = static_cast<std::byte*>(args.workspace);
    const float* values = x.ptr<float>();
    if (rounds_first(halves.x)) {
      values = round_to_pairs(values, positions(g), cin_, workspace, args.parallel);
      workspace += pairs_bytes(positions(g), cin_);
    }
    const auto describe = [&](int64_t group, GemmOperands& operands) {
      operands.b_panel = shape.k() * kPanel;
      operands.b = static_cast<const float*>(w.data) + group * shape.panels() * operands.b_panel;
      operands.c = shape.c_half ? y.data : y.ptr<float>() + group * cout;
      if (bias.present()) operands.bias = bias.ptr<float>() + group * cout;
      if (residual.present()) {
        operands.residual = shape.residual_half ? residual.data : residual.ptr<float>() + group * cout;
      }
    };
    if (window_.is_plain()) {
      run_gemms<DenseRows>(shape, epilogue_, group_, args.parallel, workspace,
                           [&](int64_t group, GemmOperands& operands, DenseRows& rows) {
                             describe(group, operands);
                             rows = {values + group * g.window_channels, g.channels, cout_};
                           });
      return;
    }
    auto* zeros = reinterpret_cast<float*>(workspace);
    std::fill_n(zeros, zeros_bytes(g) / sizeof(float), 0.0F);
    run_gemms<ConvRows>(shape, epilogue_, group_, args.parallel, workspace + zeros_bytes(g),
                        [&](int64_t group, GemmOperands& operands, ConvRows& rows) {
                          describe(group, operands);
                          rows.geometry = &g;
                          rows.x = values + group * g.window_channels;
                          rows.zeros = zeros;
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
    if (bf16_ && x.dtype == DType::kBF16) g.channels = pairs_of(cin_);
    if (rounds_first(x.dtype == DType::kBF16)) g.channels = pairs_step(cin_);
    g.window_channels = bf16_ && !merged_ ? pairs_of(cin_) : cin_ / group_;
    g.out_channels = cout_;
    g.merged = merged_ || (!bf16_ && group_ == 1 && merges_taps(window_, cin_));
    return g;
  }

  [[nodiscard]] static int64_t positions(const ConvGeometry& g) { return g.batch * volume(g.in); }

  // Which operands hold bfloat16 numbers.
  struct Halves {
    bool x;
    bool residual;
    bool y;
  };
  [[nodiscard]] Halves halves(std::span<const Tensor> inputs, const Tensor& y) const {
    const Halves found{is_half("conv", operand(inputs, 0)), is_half("conv", operand(inputs, 3)), is_half("conv", y)};
    if (found.x && (!bf16_ || merged_) && !depthwise_) throw Error("conv: X is bfloat16, W isn't, or not by position");
    const bool one = group_ == 1 || (depthwise_ && cin_ == group_ && !found.residual);
    const bool later = depthwise_ && !epilogue_.is_clamp();
    if ((found.x || found.residual || found.y) && (!one || (found.y && later))) {
      throw Error("conv: bfloat16 operands with groups or an activation for which there is no kernel");
    }
    return found;
  }

  [[nodiscard]] GemmShape shape(const ConvGeometry& g, const Halves& halves) const {
    GemmShape shape;
    shape.c_half = halves.y;
    shape.residual_half = halves.residual;
    shape.m = g.batch * volume(g.out);
    shape.n = cout_ / group_;
    shape.segments = g.segments();
    shape.depth = g.depth();
    shape.pairs = bf16_;
    shape.rounded = bf16_ && !halves.x && !rounds_first(false) ? cin_ : 0;
    shape.choice = choice_;
    if (g.merged && (window_.begin[2] != 0 || window_.end[2] != 0)) shape.spare_floats = shape.k();
    if (merged_) {
      shape.sources = g.segments();
      shape.rounded = g.depth();
      shape.segments = 1;
      shape.depth = g.segments() * pairs_of(g.depth());
    }
    shape.copy_rows = shape.rounded == 0 && shape.segments == 1 && !g.merged &&
                      copies_rows(shape, g.channels * (window_.is_plain() ? 1 : window_.stride[2]));
    return shape;
  }

  // Whether X is rounded before the product, since windows share positions; else rows are, as they are read.
  [[nodiscard]] bool rounds_first(bool x_half) const { return bf16_ && !merged_ && !x_half && window_.taps() > 1; }

  // As many as a segment of a window reads.
  [[nodiscard]] size_t zeros_bytes(const ConvGeometry& g) const {
    const int64_t count = std::max(g.depth(), bf16_ ? cin_ : 0);
    return (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  }

  void check(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual, const Tensor& y) const {
    if (x.rank != window_.rank + 2 || y.rank != x.rank) throw Error("conv: X and Y must be [N, spatial..., C]");
    if (x.dim(-1) != cin_ || y.dim(-1) != cout_ || x.dim(0) != y.dim(0)) {
      throw Error("conv: X or Y doesn't have the channels or the batch size that the step says");
    }
    int64_t per_window = bf16_ ? pairs_of(cin_) : cin_ / group_;
    int64_t runs = window_.taps();
    if (merged_) {
      per_window = pairs_of(cin_ * window_.kernel[2]);
      runs /= window_.kernel[2];
    }
    if (w.numel() != static_cast<int64_t>(packed_conv_size(cout_, per_window, runs, group_))) {
      throw Error("conv: W isn't packed for this step");
    }
    if (bias.present() && bias.numel() != cout_) throw Error("conv: bias must hold cout values");
    if (residual.present() && residual.numel() != y.numel()) throw Error("conv: residual must be as large as Y");
  }

  Window window_;
  int64_t group_;
  int64_t cin_;
  int64_t cout_;
  bool bf16_;    // X is rounded to bfloat16, W holds it: pairs along the channels
  bool merged_;  // or along the channels of all taps of a line, for few of them
  GemmChoice choice_;
  Epilogue epilogue_;
  bool depthwise_ = false;
};

}  // namespace

std::unique_ptr<Kernel> make_conv(const Attrs& attrs) { return std::make_unique<ConvKernel>(attrs); }

}  // namespace graphopt
