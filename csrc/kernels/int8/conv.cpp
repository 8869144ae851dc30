// Step kernel `conv_int8`: convolution of a channels-last tensor of bytes with signed weights packed at compile
// time. Padding holds the zero point of X.
#include <algorithm>

#include "kernels/conv/rows.h"
#include "kernels/dense/operands.h"
#include "kernels/int8/depthwise.h"
#include "kernels/int8/driver.h"

namespace graphopt {
namespace {

using Rows = WindowRows<uint8_t>;

class ConvInt8 final : public Kernel {
 public:
  explicit ConvInt8(const Attrs& attrs)
      : window_(parse_window(attrs, "conv_int8")),
        group_(attrs.i("group", 1)),
        cin_(attrs.i("cin")),
        cout_(attrs.i("cout")),
        x_zero_(attrs.i("x_zero", 0)),
        merged_(attrs.i("merged", 0) != 0),
        plan_(attrs) {
    if (group_ < 1 || cin_ < 0 || cout_ < 0 || cin_ % group_ != 0 || cout_ % group_ != 0) {
      throw Error("conv_int8: group must divide cin and cout");
    }
    if (merged_ && (group_ != 1 || window_.dilation[2] != 1)) {
      throw Error("conv_int8: lines of taps are merged without groups and dilation only");
    }
    depthwise_ = group_ > 1 && group_ == cin_ && group_ == cout_;
    if (depthwise_ && plan_.activates()) throw Error("conv_int8: a depthwise one takes no activation but a clamp");
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    const Tensor& x = operand(inputs, 0);
    const ConvGeometry g = geometry(x, operand(outputs, 0));
    if (depthwise_) return int8::depthwise_bytes(g);
    return int8::readable_bytes(x, g.depth()) + pad_bytes(g) +
           int8::blocking_of(shape(g)).bytes * static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& y = args.outputs[0];
    const bool flip = int8::is_signed_byte("conv_int8", x);
    if (x.rank != window_.rank + 2 || y.rank != x.rank) throw Error("conv_int8: X and Y must be [N, spatial..., C]");
    if (x.dim(-1) != cin_ || y.dim(-1) != cout_ || x.dim(0) != y.dim(0)) {
      throw Error("conv_int8: X or Y doesn't have the channels or the batch size that the step says");
    }
    const ConvGeometry g = geometry(x, y);
    check_conv_output(window_, g.in, g.out, "conv_int8");
    const int8::Shape shape = this->shape(g);
    const int64_t packed = depthwise_ ? int8::depthwise_weights(g) : group_ * shape.panels() * shape.panel_bytes();
    if (w.dtype != DType::kI8 || w.numel() != packed) throw Error("conv_int8: W isn't packed for this step");
    int8::Columns columns;
    const int8::Finish finish = plan_.complete("conv_int8", args.inputs, y, cout_, columns);
    if (y.numel() == 0) return;
    const auto zero = static_cast<uint8_t>(x_zero_);
    if (depthwise_) {
      if (columns.row_factors != nullptr) throw Error("conv_int8: a depthwise one takes no row_factors");
      int8::run_depthwise(g, finish, {x.ptr<const uint8_t>(), w.ptr<const int8_t>(), columns, y.data, zero, flip},
                          args.workspace, args.parallel);
      return;
    }
    const uint8_t* values = int8::readable(x, g.depth(), args.workspace);
    auto* pad = static_cast<uint8_t*>(args.workspace) + int8::readable_bytes(x, g.depth());
    std::fill_n(pad, g.depth() + int8::kSlack, zero);
    auto* scratch = reinterpret_cast<std::byte*>(pad) + pad_bytes(g);
    const int64_t cout = cout_ / group_;
    const auto describe = [&](int64_t group, int8::Operands& operands) {
      operands.b = w.ptr<const int8_t>() + group * shape.panels() * shape.panel_bytes();
      operands.columns = of_group(columns, group * cout, finish);
      operands.c = static_cast<std::byte*>(y.data) + group * cout * size_of(finish);
      operands.flip = flip;
    };
    if (window_.is_plain()) {
      int8::run_products<int8::DenseRows>(shape, finish, plan_, group_, args.parallel, scratch,
                                          [&](int64_t group, int8::Operands& operands, int8::DenseRows& rows) {
                                            describe(group, operands);
                                            rows = {values + group * g.window_channels, g.channels, cout_};
                                          });
      return;
    }
    int8::run_products<Rows>(shape, finish, plan_, group_, args.parallel, scratch,
                             [&](int64_t group, int8::Operands& operands, Rows& rows) {
                               describe(group, operands);
                               rows.geometry = &g;
                               rows.x = values + group * g.window_channels;
                               rows.zeros = pad;
                             });
  }

 private:
  static int64_t size_of(const int8::Finish& finish) { return finish.out == DType::kF32 ? 4 : 1; }

  static int8::Columns of_group(int8::Columns columns, int64_t first, const int8::Finish& finish) {
    if (columns.start != nullptr) columns.start += first;
    columns.scale += first;
    if (columns.offset != nullptr) columns.offset += first;
    if (columns.row_factors != nullptr) columns.row_factors += first;
    if (columns.residual != nullptr) {
      columns.residual = static_cast<const std::byte*>(columns.residual) + first * size_of(finish);
    }
    return columns;
  }

  [[nodiscard]] ConvGeometry geometry(const Tensor& x, const Tensor& y) const {
    ConvGeometry g;
    g.window = window_;
    g.batch = x.dim(0);
    g.in = spatial_dims(x, 1, window_.rank);
    g.out = spatial_dims(y, 1, window_.rank);
    g.channels = cin_;
    g.window_channels = cin_ / group_;
    g.out_channels = cout_;
    g.merged = merged_;
    return g;
  }

  [[nodiscard]] int8::Shape shape(const ConvGeometry& g) const {
    int8::Shape shape;
    shape.m = g.batch * volume(g.out);
    shape.n = cout_ / group_;
    shape.segments = g.segments();
    shape.depth = g.depth();
    if (merged_ && (window_.begin[2] != 0 || window_.end[2] != 0)) shape.spare_bytes = shape.segments * shape.depth;
    return shape;
  }

  static size_t pad_bytes(const ConvGeometry& g) {
    return (static_cast<size_t>(g.depth() + int8::kSlack) + 63) / 64 * 64;
  }

  Window window_;
  int64_t group_;
  int64_t cin_;
  int64_t cout_;
  int64_t x_zero_;
  bool merged_;
  int8::FinishPlan plan_;
  bool depthwise_ = false;
};

}  // namespace

std::unique_ptr<Kernel> make_conv_int8(const Attrs& attrs) { return std::make_unique<ConvInt8>(attrs); }

}  // namespace graphopt
