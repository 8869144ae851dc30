// The step kernels deform_conv and affine_grid.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace resample {
namespace {

using support::load;
using support::operand;
using support::require;

// A convolution whose sampling positions are moved by an operand, on [N, C, H, W].
class DeformConv final : public Kernel {
 public:
  explicit DeformConv(const Attrs& attrs) : groups_(attrs.i("group", 1)), offset_groups_(attrs.i("offset_group", 1)) {
    const auto two = [&](const char* name, size_t count, std::array<int64_t, 4> fallback) {
      if (!attrs.has(name)) return fallback;
      const std::vector<int64_t>& values = attrs.ints(name);
      require(values.size() == count, "deform_conv: an attribute does not have a value for each axis");
      std::array<int64_t, 4> result{};
      std::copy(values.begin(), values.end(), result.begin());
      return result;
    };
    strides_ = two("strides", 2, {1, 1});
    dilations_ = two("dilations", 2, {1, 1});
    pads_ = two("pads", 4, {0, 0, 0, 0});
    require(groups_ > 0 && offset_groups_ > 0, "deform_conv: groups must be positive");
    require(strides_[0] > 0 && strides_[1] > 0 && dilations_[0] > 0 && dilations_[1] > 0,
            "deform_conv: strides and dilations must be positive");
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    const Shape s = check(args.inputs, y);
    if (y.numel() == 0) return;
    support::visit_float(x.dtype, "deform_conv", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      std::vector<std::vector<float>> columns(static_cast<size_t>(args.parallel.threads()),
                                              std::vector<float>(static_cast<size_t>(x.dim(1) * s.taps)));
      const int64_t plane = s.out_h * s.out_w;
      const int64_t cost = x.dim(1) * s.taps * (8 + s.filters);
      args.parallel.for_range(x.dim(0) * plane, support::grain_for(cost), [&](int64_t begin, int64_t end, int worker) {
        float* column = columns[static_cast<size_t>(worker)].data();
        for (int64_t i = begin; i < end; ++i) {
          sample<T>(args.inputs, s, i / plane, i % plane, column);
          multiply<T>(args.inputs, y, s, i / plane, i % plane, column);
        }
      });
    });
  }

 private:
  struct Shape {
    int64_t channels, h, w, out_h, out_w, kernel_h, kernel_w, taps, filters;
  };

  Shape check(std::span<const Tensor> inputs, const Tensor& y) const {
    const Tensor& x = operand(inputs, 0, "X");
    const Tensor& w = operand(inputs, 1, "W");
    const Tensor& offset = operand(inputs, 2, "offset");
    support::require_rank(x, 4, "X");
    support::require_rank(w, 4, "W");
    support::require_rank(offset, 4, "offset");
    Shape s{x.dim(1), x.dim(2), x.dim(3), offset.dim(2), offset.dim(3), w.dim(2), w.dim(3), w.dim(2) * w.dim(3),
            w.dim(0)};
    require(w.dim(1) * groups_ == s.channels && s.filters % groups_ == 0 && s.channels % offset_groups_ == 0,
            "deform_conv: the channels of X, W and the groups do not fit together");
    const auto length = [&](int64_t in, int64_t kernel, size_t axis) {
      const int64_t reach = (kernel - 1) * dilations_[axis] + 1;
      const int64_t padded = in + pads_[axis] + pads_[axis + 2];
      return padded < reach ? 0 : (padded - reach) / strides_[axis] + 1;
    };
    require(length(s.h, s.kernel_h, 0) == s.out_h && length(s.w, s.kernel_w, 1) == s.out_w,
            "deform_conv: offset does not have the output's size");
    support::require_shape(offset, {x.dim(0), offset_groups_ * s.taps * 2, s.out_h, s.out_w}, "offset");
    support::require_shape(y, {x.dim(0), s.filters, s.out_h, s.out_w}, "Y");
    for (const Tensor* tensor : {&w, &offset, &y}) support::require_dtype(*tensor, x.dtype, "an operand");
    const Tensor bias = support::optional_operand(inputs, 3);
    const Tensor mask = support::optional_operand(inputs, 4);
    if (bias.present()) {
      support::require_shape(bias, {s.filters}, "B");
      support::require_dtype(bias, x.dtype, "B");
    }
    if (mask.present()) {
      support::require_shape(mask, {x.dim(0), offset_groups_ * s.taps, s.out_h, s.out_w}, "mask");
      support::require_dtype(mask, x.dtype, "mask");
    }
    return s;
  }

  // Bilinear; zero outside.
  template <class T>
  static float pixel(const T* plane, const Shape& s, double y, double x) {
    if (!(y > -1 && x > -1 && y < static_cast<double>(s.h) && x < static_cast<double>(s.w))) return 0.0F;
    const double top = std::floor(y);
    const double left = std::floor(x);
    double sum = 0;
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t row = static_cast<int64_t>(top) + corner / 2;
      const int64_t column = static_cast<int64_t>(left) + corner % 2;
      if (row < 0 || column < 0 || row >= s.h || column >= s.w) continue;
      const double weight = (corner / 2 != 0 ? y - top : 1 - (y - top)) * (corner % 2 != 0 ? x - left : 1 - (x - left));
      sum += weight * static_cast<double>(load(plane[row * s.w + column]));
    }
    return static_cast<float>(sum);
  }

  // column[channel][tap]: the values under the kernel at one output position.
  template <class T>
  void sample(std::span<const Tensor> inputs, const Shape& s, int64_t n, int64_t position, float* column) const {
    const Tensor mask = support::optional_operand(inputs, 4);
    const int64_t plane = s.out_h * s.out_w;
    const int64_t group_channels = s.channels / offset_groups_;
    for (int64_t group = 0; group < offset_groups_; ++group) {
      const T* offsets = inputs[2].ptr<const T>() + (n * offset_groups_ + group) * s.taps * 2 * plane + position;
      for (int64_t tap = 0; tap < s.taps; ++tap) {
        const double y =
            static_cast<double>(position / s.out_w * strides_[0] - pads_[0] + tap / s.kernel_w * dilations_[0]) +
            static_cast<double>(load(offsets[2 * tap * plane]));
        const double x =
            static_cast<double>(position % s.out_w * strides_[1] - pads_[1] + tap % s.kernel_w * dilations_[1]) +
            static_cast<double>(load(offsets[(2 * tap + 1) * plane]));
        float factor = 1.0F;
        if (mask.present()) {
          factor = static_cast<float>(
              load(mask.ptr<const T>()[((n * offset_groups_ + group) * s.taps + tap) * plane + position]));
        }
        for (int64_t c = group * group_channels; c < (group + 1) * group_channels; ++c) {
          column[c * s.taps + tap] =
              factor * pixel(inputs[0].ptr<const T>() + (n * s.channels + c) * s.h * s.w, s, y, x);
        }
      }
    }
  }

  template <class T>
  void multiply(std::span<const Tensor> inputs, const Tensor& y, const Shape& s, int64_t n, int64_t position,
                const float* column) const {
    const Tensor bias = support::optional_operand(inputs, 3);
    const int64_t depth = s.channels / groups_ * s.taps;
    for (int64_t filter = 0; filter < s.filters; ++filter) {
      const T* w = inputs[1].ptr<const T>() + filter * depth;
      const float* values = column + filter / (s.filters / groups_) * depth;
      support::Compute<T> sum = bias.present() ? load(bias.ptr<const T>()[filter]) : support::Compute<T>{0};
      for (int64_t k = 0; k < depth; ++k) sum += load(w[k]) * static_cast<support::Compute<T>>(values[k]);
      y.ptr<T>()[(n * s.filters + filter) * s.out_h * s.out_w + position] = support::store<T>(sum);
    }
  }

  int64_t groups_;
  int64_t offset_groups_;
  std::array<int64_t, 4> strides_{}, dilations_{}, pads_{};
};

class AffineGrid final : public Kernel {
 public:
  explicit AffineGrid(const Attrs& attrs) : align_corners_(attrs.i("align_corners", 0) != 0) {}

  void run(KernelArgs& args) const override {
    const Tensor& theta = operand(args.inputs, 0, "theta");
    const Tensor& size = operand(args.inputs, 1, "size");
    support::require_rank(theta, 3, "theta");
    const int64_t axes = theta.dim(1);
    require((axes == 2 || axes == 3) && theta.dim(2) == axes + 1 && size.numel() == axes + 2,
            "affine_grid: theta must be [N,2,3] with a size of 4, or [N,3,4] with a size of 5");
    std::array<int64_t, kMaxRank> shape{theta.dim(0)};
    for (int64_t i = 0; i < axes; ++i) shape[static_cast<size_t>(i) + 1] = support::integer_at(size, i + 2);
    require(support::integer_at(size, 0) == theta.dim(0), "affine_grid: theta and size have different batches");
    for (int64_t i = 1; i <= axes; ++i) require(shape[static_cast<size_t>(i)] >= 0, "affine_grid: a size is negative");
    shape[static_cast<size_t>(axes) + 1] = axes;
    const Tensor y =
        support::shaped_result(args, 0, std::span<const int64_t>(shape.data(), static_cast<size_t>(axes) + 2), "grid");
    support::require_dtype(y, theta.dtype, "grid");
    if (y.numel() == 0) return;
    support::visit_float(theta.dtype, "affine_grid", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      const int64_t points = y.numel() / axes / theta.dim(0);
      args.parallel.for_range(theta.dim(0) * points, support::grain_for(16), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          transform(theta.ptr<const T>() + i / points * axes * (axes + 1), y, axes, i % points, y.ptr<T>() + i * axes);
        }
      });
    });
  }

 private:
  template <class T>
  void transform(const T* theta, const Tensor& y, int64_t axes, int64_t point, T* to) const {
    std::array<double, 4> position{};  // x, y, (z,) 1
    position[static_cast<size_t>(axes)] = 1.0;
    for (int64_t i = 0; i < axes; ++i) {
      const int64_t length = y.dim(static_cast<int>(axes - i));
      const auto at = static_cast<double>(point % length);
      point /= length;
      const auto steps = static_cast<double>(align_corners_ ? std::max<int64_t>(length - 1, 1) : length);
      position[static_cast<size_t>(i)] = align_corners_ ? 2 * at / steps - 1 : (2 * at + 1) / steps - 1;
    }
    for (int64_t row = 0; row < axes; ++row) {
      double sum = 0;
      for (int64_t i = 0; i <= axes; ++i) {
        sum += static_cast<double>(load(theta[row * (axes + 1) + i])) * position[static_cast<size_t>(i)];
      }
      to[row] = support::store<T>(static_cast<support::Compute<T>>(sum));
    }
  }

  bool align_corners_;
};

}  // namespace
}  // namespace resample

std::unique_ptr<Kernel> make_deform_conv(const Attrs& attrs) { return std::make_unique<resample::DeformConv>(attrs); }

std::unique_ptr<Kernel> make_affine_grid(const Attrs& attrs) { return std::make_unique<resample::AffineGrid>(attrs); }

}  // namespace graphopt
