// The step kernels conv_integer and q_linear_conv, on NCHW tensors of any number of spatial axes.
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/convert/int_gemm.h"

namespace graphopt {

namespace convert {
namespace {

using support::extent;
using support::fail;
using support::operand;
using support::require;

using Spatial = std::array<int64_t, kMaxRank>;

struct ConvShape {
  int axes;
  int64_t batch, groups, channels, filters;  // channels and filters of one group
  Spatial in, out, kernel, strides, dilations, pads;
  int64_t plane_in, plane_out, taps;

  [[nodiscard]] int64_t depth() const { return channels * taps; }
};

class IntConv : public Kernel {
 public:
  explicit IntConv(const Attrs& attrs) : auto_pad_(attrs.s("auto_pad", "NOTSET")), groups_(attrs.i("group", 1)) {
    if (attrs.has("strides")) strides_ = attrs.ints("strides");
    if (attrs.has("dilations")) dilations_ = attrs.ints("dilations");
    if (attrs.has("pads")) pads_ = attrs.ints("pads");
    if (attrs.has("kernel_shape")) kernel_ = attrs.ints("kernel_shape");
    if (auto_pad_ != "NOTSET" && auto_pad_ != "VALID" && auto_pad_ != "SAME_UPPER" && auto_pad_ != "SAME_LOWER") {
      fail("attribute 'auto_pad' is '" + auto_pad_ + "', expected NOTSET, VALID, SAME_UPPER or SAME_LOWER");
    }
    require(groups_ >= 1, "attribute 'group' is not positive");
  }

 protected:
  static size_t scratch_bytes(const Tensor& x, const Tensor& w, int threads) {
    const int64_t depth = support::extent(w, 1, w.rank);
    const int64_t taps = support::extent(w, 2, w.rank);
    (void)x;
    return rows_bytes(w.rank > 0 ? w.dim(0) : 0, depth) +
           static_cast<size_t>(threads) * (IntScratch::bytes(depth) + offsets_bytes(taps));
  }

  ConvShape shape_of(const Tensor& x, const Tensor& w, const Tensor& y) const {
    require(x.rank >= 3 && x.rank == w.rank, "a convolution: X and W must have the same rank, 3 at least");
    ConvShape s{};
    s.axes = x.rank - 2;
    s.batch = x.dim(0);
    s.groups = groups_;
    s.channels = w.dim(1);
    s.filters = w.dim(0) / groups_;
    require(s.channels * groups_ == x.dim(1) && s.filters * groups_ == w.dim(0),
            "a convolution: the channels of X, W and the groups do not fit together");
    const auto axes = static_cast<size_t>(s.axes);
    const auto at = [&](const std::vector<int64_t>& list, size_t i, int64_t fallback) {
      return list.empty() ? fallback : list[i];
    };
    require((strides_.empty() || strides_.size() == axes) && (dilations_.empty() || dilations_.size() == axes) &&
                (pads_.empty() || pads_.size() == 2 * axes) && (kernel_.empty() || kernel_.size() == axes),
            "a convolution: an attribute does not have a value for each axis");
    std::array<int64_t, kMaxRank> expected{x.dim(0), w.dim(0)};
    for (size_t i = 0; i < axes; ++i) {
      const int axis = static_cast<int>(i) + 2;
      s.in[i] = x.dim(axis);
      s.kernel[i] = w.dim(axis);
      require(at(kernel_, i, s.kernel[i]) == s.kernel[i], "a convolution: kernel_shape is not that of W");
      s.strides[i] = at(strides_, i, 1);
      s.dilations[i] = at(dilations_, i, 1);
      require(s.strides[i] > 0 && s.dilations[i] > 0, "a convolution: strides and dilations must be positive");
      const int64_t reach = (s.kernel[i] - 1) * s.dilations[i] + 1;
      int64_t end = at(pads_, i + axes, 0);
      s.pads[i] = at(pads_, i, 0);
      if (auto_pad_ != "NOTSET") {
        int64_t total = 0;
        if (auto_pad_ != "VALID") {
          const int64_t steps = (s.in[i] + s.strides[i] - 1) / s.strides[i];
          total = std::max<int64_t>(0, (steps - 1) * s.strides[i] + reach - s.in[i]);
        }
        s.pads[i] = auto_pad_ == "SAME_LOWER" ? total - total / 2 : total / 2;
        end = total - s.pads[i];
      }
      s.out[i] = (s.in[i] + s.pads[i] + end - reach) / s.strides[i] + 1;
      require(s.in[i] + s.pads[i] + end >= reach, "a convolution: the kernel is larger than the padded input");
      expected[i + 2] = s.out[i];
    }
    support::require_shape(y, std::span<const int64_t>(expected.data(), axes + 2), "Y");
    s.plane_in = extent(x, 2, x.rank);
    s.plane_out = extent(y, 2, y.rank);
    s.taps = extent(w, 2, w.rank);
    return s;
  }

  // emit(image, output channel, first position, positions, sums)
  template <class Emit>
  static void convolve(KernelArgs& args, const Tensor& x, const Tensor& w, const ConvShape& s, const Tensor& zero_x,
                       const Tensor& zero_w, Emit&& emit) {
    const int64_t depth = s.depth();
    const int64_t filters = s.groups * s.filters;
    if (s.batch * filters * s.plane_out == 0) return;
    auto* memory = static_cast<std::byte*>(args.workspace);
    auto* rows = reinterpret_cast<int16_t*>(memory);
    memory += rows_bytes(filters, depth);
    const int64_t width = 2 * pairs_of(depth);
    const PerLine zeros(zero_w, filters, 1, "w_zero_point");
    visit_byte(w.dtype, "W", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      for (int64_t m = 0; m < filters; ++m) {
        const int32_t zero = zeros.integer(0, m);
        for (int64_t k = 0; k < depth; ++k) {
          rows[m * width + k] = static_cast<int16_t>(w.ptr<const T>()[m * depth + k] - zero);
        }
        if (depth < width) rows[m * width + depth] = 0;
      }
    });
    const int32_t zero = zero_x.present() ? static_cast<int32_t>(support::integer_scalar(zero_x, "x_zero_point")) : 0;
    const int64_t panels = (s.plane_out + kIntColumns - 1) / kIntColumns;
    const size_t worker_bytes = IntScratch::bytes(depth) + offsets_bytes(s.taps);
    visit_byte(x.dtype, "X", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      auto body = [&](int64_t begin, int64_t end, int worker) {
        std::byte* own = memory + static_cast<size_t>(worker) * worker_bytes;
        const IntScratch scratch(own + offsets_bytes(s.taps));
        auto* offsets = reinterpret_cast<int64_t*>(own);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = i % panels * kIntColumns;
          const int64_t count = std::min(kIntColumns, s.plane_out - first);
          const int64_t group = i / panels % s.groups;
          const int64_t image = i / panels / s.groups;
          find_offsets(s, first, count, offsets);
          fill_panel(x.ptr<const T>() + (image * s.groups + group) * s.channels * s.plane_in, s, zero, offsets,
                     scratch.panel);
          multiply_panel(
              {rows + group * s.filters * width, s.filters, depth}, scratch,
              [&](int64_t row, const int32_t* sums) { emit(image, group * s.filters + row, first, count, sums); });
        }
      };
      args.parallel.for_range(s.batch * s.groups * panels, support::grain_for(s.filters * depth), body);
    });
  }

 private:
  static size_t rows_bytes(int64_t filters, int64_t depth) {
    return (static_cast<size_t>(filters * 2 * pairs_of(depth)) * sizeof(int16_t) + 63) / 64 * 64;
  }
  static size_t offsets_bytes(int64_t taps) { return static_cast<size_t>(taps * kIntColumns) * sizeof(int64_t); }

  // offsets[tap][column]: the element of an input plane under a kernel position, -1 in the padding.
  static void find_offsets(const ConvShape& s, int64_t first, int64_t count, int64_t* offsets) {
    std::fill_n(offsets, s.taps * kIntColumns, int64_t{-1});
    for (int64_t c = 0; c < count; ++c) {
      Spatial origin{};
      int64_t position = first + c;
      for (int i = s.axes - 1; i >= 0; --i) {
        const auto at = static_cast<size_t>(i);
        origin[at] = position % s.out[at] * s.strides[at] - s.pads[at];
        position /= s.out[at];
      }
      for (int64_t tap = 0; tap < s.taps; ++tap) {
        int64_t rest = tap;
        int64_t offset = 0;
        int64_t stride = 1;
        for (int i = s.axes - 1; i >= 0 && offset >= 0; --i) {
          const auto at = static_cast<size_t>(i);
          const int64_t place = origin[at] + rest % s.kernel[at] * s.dilations[at];
          rest /= s.kernel[at];
          offset = place >= 0 && place < s.in[at] ? offset + place * stride : -1;
          stride *= s.in[at];
        }
        offsets[tap * kIntColumns + c] = offset;
      }
    }
  }

  template <class T>
  static void fill_panel(const T* x, const ConvShape& s, int32_t zero, const int64_t* offsets, int16_t* panel) {
    if ((s.depth() & 1) != 0) {
      for (int64_t c = 0; c < kIntColumns; ++c) panel[panel_place(s.depth(), c)] = 0;
    }
    for (int64_t channel = 0; channel < s.channels; ++channel) {
      const T* plane = x + channel * s.plane_in;
      for (int64_t tap = 0; tap < s.taps; ++tap) {
        const int64_t k = channel * s.taps + tap;
        for (int64_t c = 0; c < kIntColumns; ++c) {
          const int64_t offset = offsets[tap * kIntColumns + c];
          panel[panel_place(k, c)] = offset < 0 ? int16_t{0} : static_cast<int16_t>(plane[offset] - zero);
        }
      }
    }
  }

  std::string auto_pad_;
  int64_t groups_;
  std::vector<int64_t> strides_, dilations_, pads_, kernel_;
};

class ConvInteger final : public IntConv {
 public:
  using IntConv::IntConv;

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int threads) const override {
    return scratch_bytes(operand(inputs, 0, "x"), operand(inputs, 1, "w"), threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& w = operand(args.inputs, 1, "w");
    const Tensor& y = support::result(args.outputs, 0, "y");
    support::require_dtype(y, DType::kI32, "y");
    const ConvShape s = shape_of(x, w, y);
    auto* to = y.ptr<int32_t>();
    convolve(args, x, w, s, support::optional_operand(args.inputs, 2), support::optional_operand(args.inputs, 3),
             [&](int64_t image, int64_t channel, int64_t first, int64_t count, const int32_t* sums) {
               std::copy_n(sums, count, to + (image * s.groups * s.filters + channel) * s.plane_out + first);
             });
  }
};

class QLinearConv final : public IntConv {
 public:
  using IntConv::IntConv;

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int threads) const override {
    return scratch_bytes(operand(inputs, 0, "x"), operand(inputs, 3, "w"), threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& w = operand(args.inputs, 3, "w");
    const Tensor& y = support::result(args.outputs, 0, "y");
    const Tensor bias = support::optional_operand(args.inputs, 8);
    const ConvShape s = shape_of(x, w, y);
    const int64_t filters = s.groups * s.filters;
    if (bias.present()) {
      support::require_dtype(bias, DType::kI32, "B");
      support::require_shape(bias, {filters}, "B");
    }
    const float scale_x = static_cast<float>(support::real_scalar(operand(args.inputs, 1, "x_scale"), "x_scale"));
    const float scale_y = static_cast<float>(support::real_scalar(operand(args.inputs, 6, "y_scale"), "y_scale"));
    const PerLine scale_w(operand(args.inputs, 4, "w_scale"), filters, 1, "w_scale");
    const Tensor zero_point = support::optional_operand(args.inputs, 7);
    const auto zero =
        zero_point.present() ? static_cast<int32_t>(support::integer_scalar(zero_point, "y_zero_point")) : 0;
    visit_byte(y.dtype, "y", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      convolve(args, x, w, s, support::optional_operand(args.inputs, 2), support::optional_operand(args.inputs, 5),
               [&](int64_t image, int64_t channel, int64_t first, int64_t count, const int32_t* sums) {
                 const float factor = scale_x * scale_w.real(0, channel) / scale_y;
                 const int32_t start = bias.present() ? bias.ptr<const int32_t>()[channel] : 0;
                 T* to = y.ptr<T>() + (image * filters + channel) * s.plane_out + first;
                 for (int64_t c = 0; c < count; ++c) {
                   const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sums[c]) + static_cast<uint32_t>(start));
                   to[c] = requantize<T>(sum, factor, zero);
                 }
               });
    });
  }
};

}  // namespace
}  // namespace convert

std::unique_ptr<Kernel> make_conv_integer(const Attrs& attrs) { return std::make_unique<convert::ConvInteger>(attrs); }

std::unique_ptr<Kernel> make_q_linear_conv(const Attrs& attrs) { return std::make_unique<convert::QLinearConv>(attrs); }

}  // namespace graphopt
