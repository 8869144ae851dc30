// Step kernel `conv_nd_plain`: convolution of any float dtype, operands in ONNX's layouts, by plain loops.
#include <type_traits>
#include <vector>

#include "kernels/dense/epilogue.h"
#include "kernels/dense/operands.h"
#include "kernels/dense/spatial.h"
#include "kernels/support/dispatch.h"

namespace graphopt {
namespace {

using support::Tag;

struct PlainConv {
  Window window;
  int64_t batch;
  Dims3 in;
  Dims3 out;
  int64_t cin;  // of a group
  int64_t cout;
  int64_t group;
};

// One image's one output channel: sums in the precision that the result is rounded from.
template <class T, class Sum>
void plain_channel(const PlainConv& p, const T* x, const T* w, Sum bias, const Epilogue& epilogue,
                   std::vector<Sum>& sums, T* y) {
  const Window& v = p.window;
  sums.assign(static_cast<size_t>(volume(p.out)), Sum{0});
  for (int64_t c = 0; c < p.cin; ++c, x += volume(p.in)) {
    Position tap(0, v.kernel);
    for (int64_t t = 0; t < v.taps(); ++t, tap.next(v.kernel)) {
      const auto weight = static_cast<Sum>(support::load(w[c * v.taps() + t]));
      auto* sum = sums.data();
      for (int64_t d = 0; d < p.out[0]; ++d) {
        const int64_t from_d = d * v.stride[0] - v.begin[0] + tap.at[0] * v.dilation[0];
        for (int64_t h = 0; h < p.out[1]; ++h, sum += p.out[2]) {
          const int64_t from_h = h * v.stride[1] - v.begin[1] + tap.at[1] * v.dilation[1];
          if (from_d < 0 || from_d >= p.in[0] || from_h < 0 || from_h >= p.in[1]) continue;
          const T* line = x + (from_d * p.in[1] + from_h) * p.in[2];
          for (int64_t i = 0; i < p.out[2]; ++i) {
            const int64_t from = i * v.stride[2] - v.begin[2] + tap.at[2] * v.dilation[2];
            if (from >= 0 && from < p.in[2]) sum[i] += weight * static_cast<Sum>(support::load(line[from]));
          }
        }
      }
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const double value = apply_activation(epilogue, static_cast<double>(sums[i] + bias));
    y[i] = support::store<T>(static_cast<support::Compute<T>>(value));
  }
}

class PlainConvKernel final : public Kernel {
 public:
  explicit PlainConvKernel(const Attrs& attrs)
      : window_(parse_window(attrs, "conv_nd_plain")), group_(attrs.i("group", 1)), epilogue_(parse_epilogue(attrs)) {
    if (group_ < 1) throw Error("conv_nd_plain: group must be positive");
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& bias = operand(args.inputs, 2);
    const Tensor& y = args.outputs[0];
    const PlainConv p = check(x, w, bias, y);
    support::visit_float(x.dtype, "conv_nd_plain", [&]<class T>(Tag<T>) {
      using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
      const int64_t work = volume(p.out) * p.cin * p.window.taps();
      const int64_t cout = p.cout / p.group;
      args.parallel.for_range(
          p.batch * p.cout, support::grain_for(work), [&](int64_t begin, int64_t end, int /*worker*/) {
            std::vector<Sum> sums;
            for (int64_t i = begin; i < end; ++i) {
              const int64_t n = i / p.cout;
              const int64_t o = i % p.cout;
              const T* image = x.ptr<T>() + (n * p.group + o / cout) * p.cin * volume(p.in);
              const T* weights = w.ptr<T>() + o * p.cin * p.window.taps();
              const Sum b = bias.present() ? static_cast<Sum>(support::load(bias.ptr<T>()[o])) : Sum{0};
              plain_channel<T, Sum>(p, image, weights, b, epilogue_, sums, y.ptr<T>() + i * volume(p.out));
            }
          });
    });
  }

 private:
  [[nodiscard]] PlainConv check(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) const {
    const int rank = window_.rank + 2;
    if (x.rank != rank || w.rank != rank || y.rank != rank) {
      throw Error("conv_nd_plain: X, W and Y must be [N, C, spatial...]");
    }
    if (w.dtype != x.dtype || y.dtype != x.dtype || (bias.present() && bias.dtype != x.dtype)) {
      throw Error("conv_nd_plain: operands must have one element type");
    }
    PlainConv p{window_,  x.dim(0), spatial_dims(x, 2, window_.rank), spatial_dims(y, 2, window_.rank), w.dim(1),
                w.dim(0), group_};
    if (p.cout % group_ != 0 || x.dim(1) != p.cin * group_ || y.dim(1) != p.cout || y.dim(0) != p.batch ||
        spatial_dims(w, 2, window_.rank) != window_.kernel || (bias.present() && bias.numel() != p.cout)) {
      throw Error("conv_nd_plain: the operands' shapes don't fit together");
    }
    check_conv_output(window_, p.in, p.out, "conv_nd_plain");
    return p;
  }

  Window window_;
  int64_t group_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv_nd_plain(const Attrs& attrs) { return std::make_unique<PlainConvKernel>(attrs); }

}  // namespace graphopt
