// The step kernels col2im and max_unpool: what im2col and max pooling took apart, put back.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace resample {
namespace {

using support::extent;
using support::fail;
using support::operand;
using support::require;

// Long enough for the pads of both ends.
using Spatial = std::array<int64_t, 2 * kMaxRank>;

// An attribute with a value for each of `count` axes.
Spatial per_axis(const Attrs& attrs, const char* name, size_t count, int64_t fallback) {
  Spatial values{};
  values.fill(fallback);
  if (!attrs.has(name)) return values;
  const std::vector<int64_t>& given = attrs.ints(name);
  if (given.size() != count) fail("attribute '" + std::string(name) + "' does not have a value for each axis");
  std::copy(given.begin(), given.end(), values.begin());
  return values;
}

class Col2Im final : public Kernel {
 public:
  explicit Col2Im(const Attrs& attrs) : attrs_(attrs) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "input");
    const Tensor& image = operand(args.inputs, 1, "image_shape");
    const Tensor& block = operand(args.inputs, 2, "block_shape");
    support::require_rank(x, 3, "input");
    const Shape s = plan(x, image, block);
    std::array<int64_t, kMaxRank> shape{x.dim(0), s.channels};
    std::copy_n(s.image.begin(), s.axes, shape.begin() + 2);
    const Tensor y =
        support::shaped_result(args, 0, std::span<const int64_t>(shape.data(), static_cast<size_t>(s.axes) + 2), "Y");
    support::require_dtype(y, x.dtype, "Y");
    support::visit_number(x.dtype, "col2im", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      if constexpr (std::is_same_v<T, support::Bool>) {
        fail("col2im: booleans cannot be summed");
      } else {
        args.parallel.for_range(
            x.dim(0) * s.channels, support::grain_for(s.taps * s.positions * 4), [&](int64_t begin, int64_t end, int) {
              for (int64_t plane = begin; plane < end; ++plane) {
                fold(x.ptr<const T>() + plane * s.taps * s.positions, y.ptr<T>() + plane * s.plane, s);
              }
            });
      }
    });
  }

 private:
  struct Shape {
    int axes;
    int64_t channels, taps, positions, plane;
    Spatial image, block, steps, strides, dilations, pads;
  };

  Shape plan(const Tensor& x, const Tensor& image, const Tensor& block) const {
    Shape s{};
    s.axes = static_cast<int>(image.numel());
    require(s.axes >= 1 && s.axes <= kMaxRank - 2 && block.numel() == s.axes,
            "col2im: image_shape and block_shape must have one value for each spatial axis");
    const auto axes = static_cast<size_t>(s.axes);
    s.strides = per_axis(attrs_, "strides", axes, 1);
    s.dilations = per_axis(attrs_, "dilations", axes, 1);
    s.pads = per_axis(attrs_, "pads", 2 * axes, 0);
    s.taps = s.positions = s.plane = 1;
    for (size_t i = 0; i < axes; ++i) {
      s.image[i] = support::integer_at(image, static_cast<int64_t>(i));
      s.block[i] = support::integer_at(block, static_cast<int64_t>(i));
      require(s.image[i] > 0 && s.block[i] > 0 && s.strides[i] > 0 && s.dilations[i] > 0,
              "col2im: sizes, strides and dilations must be positive");
      const int64_t reach = support::checked_product(s.block[i] - 1, s.dilations[i]) + 1;
      const int64_t padded = s.image[i] + s.pads[i] + s.pads[i + axes];
      s.steps[i] = padded < reach ? 0 : (padded - reach) / s.strides[i] + 1;
      s.taps = support::checked_product(s.taps, s.block[i]);
      s.positions = support::checked_product(s.positions, s.steps[i]);
      s.plane = support::checked_product(s.plane, s.image[i]);
    }
    require(x.dim(1) % s.taps == 0 && x.dim(2) == s.positions,
            "col2im: the input does not fit the image and the block");
    s.channels = x.dim(1) / s.taps;
    return s;
  }

  // One channel: every column value is added where im2col read it.
  template <class T>
  static void fold(const T* columns, T* image, const Shape& s) {
    std::memset(image, 0, static_cast<size_t>(s.plane) * sizeof(T));
    for (int64_t tap = 0; tap < s.taps; ++tap) {
      for (int64_t position = 0; position < s.positions; ++position) {
        int64_t rest_tap = tap;
        int64_t rest = position;
        int64_t offset = 0;
        int64_t stride = 1;
        bool inside = true;
        for (int i = s.axes - 1; i >= 0; --i) {
          const auto at = static_cast<size_t>(i);
          const int64_t place =
              rest % s.steps[at] * s.strides[at] + rest_tap % s.block[at] * s.dilations[at] - s.pads[at];
          rest /= s.steps[at];
          rest_tap /= s.block[at];
          inside = inside && place >= 0 && place < s.image[at];
          offset += place * stride;
          stride *= s.image[at];
        }
        if (inside) image[offset] = sum(image[offset], columns[tap * s.positions + position]);
      }
    }
  }

  template <class T>
  static T sum(T a, T b) {
    if constexpr (support::kIsFloating<T>) {
      return support::store<T>(support::load(a) + support::load(b));
    } else {  // wraps around
      return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    }
  }

  Attrs attrs_;
};

class MaxUnpool final : public Kernel {
 public:
  explicit MaxUnpool(const Attrs& attrs) : attrs_(attrs), kernel_(attrs.ints("kernel_shape")) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& indices = operand(args.inputs, 1, "I");
    const Tensor wanted = support::optional_operand(args.inputs, 2);
    support::require_dtype(indices, DType::kI64, "I");
    support::require_same_shape(indices, x, "I");
    require(x.rank >= 3 && kernel_.size() == static_cast<size_t>(x.rank) - 2,
            "max_unpool: kernel_shape does not have a value for each spatial axis");
    Tensor pooled = pooled_input(x);
    std::array<int64_t, kMaxRank> shape = pooled.shape;
    if (wanted.present()) {
      support::require_shape(wanted, {x.rank}, "output_shape");
      for (int i = 0; i < x.rank; ++i) {
        shape[static_cast<size_t>(i)] = support::integer_at(wanted, i);
        require(shape[static_cast<size_t>(i)] >= pooled.dim(i),
                "max_unpool: output_shape is smaller than the unpooled");
      }
    }
    const Tensor y =
        support::shaped_result(args, 0, std::span<const int64_t>(shape.data(), static_cast<size_t>(x.rank)), "output");
    support::require_dtype(y, x.dtype, "output");
    if (y.numel() == 0) return;
    std::memset(y.data, 0, y.nbytes());
    const int64_t total = pooled.numel();
    const auto strides = support::strides_of(y);
    support::visit_size(x.dtype, "max_unpool", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      for (int64_t i = 0; i < x.numel(); ++i) {
        int64_t index = indices.ptr<const int64_t>()[i];
        if (index < 0 || index >= total) fail("max_unpool: index " + std::to_string(index) + " is out of range");
        // Indices count the elements of the pool's input; the output may be larger.
        int64_t offset = 0;
        for (int axis = x.rank - 1; axis >= 0; --axis) {
          offset += index % pooled.dim(axis) * strides[static_cast<size_t>(axis)];
          index /= pooled.dim(axis);
        }
        y.ptr<T>()[offset] = x.ptr<const T>()[i];
      }
    });
  }

 private:
  // The shape of what the pool read, as far as its output tells.
  Tensor pooled_input(const Tensor& x) const {
    const size_t axes = kernel_.size();
    const Spatial strides = per_axis(attrs_, "strides", axes, 1);
    const Spatial pads = per_axis(attrs_, "pads", 2 * axes, 0);
    Tensor pooled = x;
    for (size_t i = 0; i < axes; ++i) {
      int64_t& length = pooled.shape[i + 2];
      length = support::checked_product(std::max<int64_t>(length - 1, 0), strides[i]) - pads[i] - pads[i + axes] +
               kernel_[i];
      require(length >= 0, "max_unpool: an output size is negative");
    }
    (void)support::checked_product(std::span<const int64_t>(pooled.shape.data(), static_cast<size_t>(pooled.rank)));
    return pooled;
  }

  Attrs attrs_;
  std::vector<int64_t> kernel_;
};

}  // namespace
}  // namespace resample

std::unique_ptr<Kernel> make_col2im(const Attrs& attrs) { return std::make_unique<resample::Col2Im>(attrs); }

std::unique_ptr<Kernel> make_max_unpool(const Attrs& attrs) { return std::make_unique<resample::MaxUnpool>(attrs); }

}  // namespace graphopt
