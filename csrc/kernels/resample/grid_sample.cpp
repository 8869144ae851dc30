// The step kernel grid_sample, for any number of spatial axes.
//
// Sampling positions are turned into element offsets and weights once for a block of output positions;
// every channel then only sums.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace resample {
namespace {

using support::extent;
using support::fail;
using support::load;
using support::operand;
using support::require;

enum class Sampling : uint8_t { kNearest, kLinear, kCubic };
enum class Padding : uint8_t { kZeros, kBorder, kReflection };

// Reflects at both borders until inside.
double reflect(double x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return low;
  const double distance = x < low ? low - x : (x > high ? x - high : 0.0);
  if (distance == 0.0) return x;
  const double whole = std::floor(distance / range);
  const double rest = distance - whole * range;
  const bool even = std::fmod(whole, 2.0) == 0.0;
  return (x < low) == even ? low + rest : high - rest;
}

void cubic_weights(double t, double* weights) {
  constexpr double a = -0.75;
  const auto inner = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto outer = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  weights[0] = outer(t + 1);
  weights[1] = inner(t);
  weights[2] = inner(1 - t);
  weights[3] = outer(2 - t);
}

class GridSample final : public Kernel {
 public:
  explicit GridSample(const Attrs& attrs) : align_corners_(attrs.i("align_corners", 0) != 0) {
    const std::string mode = attrs.s("mode", "linear");
    const std::string padding = attrs.s("padding_mode", "zeros");
    if (mode == "nearest") {
      sampling_ = Sampling::kNearest;
    } else if (mode == "linear" || mode == "bilinear") {  // opset 16 names the two-dimensional modes
      sampling_ = Sampling::kLinear;
    } else if (mode == "cubic" || mode == "bicubic") {
      sampling_ = Sampling::kCubic;
    } else {
      fail("attribute 'mode' is '" + mode + "', expected linear, nearest or cubic");
    }
    if (padding == "zeros") {
      padding_ = Padding::kZeros;
    } else if (padding == "border") {
      padding_ = Padding::kBorder;
    } else if (padding == "reflection") {
      padding_ = Padding::kReflection;
    } else {
      fail("attribute 'padding_mode' is '" + padding + "', expected zeros, border or reflection");
    }
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& grid = operand(args.inputs, 1, "grid");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    require(x.rank >= 3, "grid_sample: X must have a batch, a channel and a spatial axis at least");
    support::require_rank(grid, x.rank, "grid");
    const int axes = x.rank - 2;
    require(grid.dim(0) == x.dim(0) && grid.dim(-1) == axes, "grid_sample: X and grid do not fit together");
    std::array<int64_t, kMaxRank> shape{x.dim(0), x.dim(1)};
    for (int i = 1; i <= axes; ++i) shape[static_cast<size_t>(i) + 1] = grid.dim(i);
    support::require_shape(y, std::span<const int64_t>(shape.data(), static_cast<size_t>(x.rank)), "Y");
    support::require_dtype(y, x.dtype, "Y");
    if (y.numel() == 0) return;
    require(x.numel() > 0, "grid_sample: X is empty");
    support::visit_float(grid.dtype, "grid", [&](auto grid_tag) {
      using G = typename decltype(grid_tag)::Type;
      support::visit_number(x.dtype, "grid_sample", [&](auto tag) {
        using T = typename decltype(tag)::Type;
        if constexpr (std::is_same_v<T, support::Bool>) {
          fail("grid_sample: booleans cannot be interpolated");
        } else {
          sample<T, G>(x, grid, y, args.parallel);
        }
      });
    });
  }

 private:
  static constexpr int64_t kBlock = 64;

  // Where one output position reads: `taps` pairs of an offset in a channel and a weight.
  struct Taps {
    std::vector<int64_t> offset;
    std::vector<double> weight;
  };

  int taps_per_axis() const { return sampling_ == Sampling::kNearest ? 1 : (sampling_ == Sampling::kLinear ? 2 : 4); }

  // Index `i` of an axis of `length`, or -1 for a zero.
  int64_t pixel(double i, int64_t length, double low, double high) const {
    const auto last = static_cast<double>(length - 1);
    if (padding_ == Padding::kZeros) return i >= 0 && i <= last ? static_cast<int64_t>(i) : -1;
    if (padding_ == Padding::kReflection) i = std::trunc(reflect(i, low, high));
    return static_cast<int64_t>(std::clamp(i, 0.0, last));
  }

  // The taps of one axis for a normalized coordinate.
  void axis_taps(double n, int64_t length, int64_t* index, double* weight) const {
    const auto size = static_cast<double>(length);
    // In f32, as the coordinates of the definition's own evaluation are.
    double x =
        align_corners_ ? static_cast<float>((n + 1) / 2 * (size - 1)) : static_cast<float>(((n + 1) * size - 1) / 2);
    const double low = align_corners_ ? 0.0 : -0.5;
    const double high = align_corners_ ? size - 1 : size - 0.5;
    // Whatever is not a number or far away stays outside, in the range of integers.
    constexpr double kFar = 1e9;
    x = x == x ? std::clamp(x, -kFar, kFar) : -kFar;
    if (sampling_ == Sampling::kNearest) x = std::nearbyint(x);
    // Cubic sampling pads the pixels that it reads and leaves the position alone, as PyTorch and onnxruntime do.
    if (sampling_ != Sampling::kCubic && (x < low || x > high)) {
      if (padding_ == Padding::kBorder) x = std::clamp(x, 0.0, size - 1);
      if (padding_ == Padding::kReflection) x = reflect(x, low, high);
    }
    if (sampling_ == Sampling::kNearest) {
      index[0] = pixel(std::trunc(x), length, low, high);
      weight[0] = 1.0;
      return;
    }
    const double left = std::floor(x);
    const int first = sampling_ == Sampling::kLinear ? 0 : -1;
    for (int t = 0; t < taps_per_axis(); ++t) index[t] = pixel(left + first + t, length, low, high);
    if (sampling_ == Sampling::kLinear) {
      weight[0] = 1 - (x - left);
      weight[1] = x - left;
    } else {
      cubic_weights(x - left, weight);
    }
  }

  template <class G>
  void fill_taps(const Tensor& x, const G* coordinates, int64_t count, Taps& taps) const {
    const int axes = x.rank - 2;
    const int per_axis = taps_per_axis();
    std::array<int64_t, 4 * kMaxRank> index{};
    std::array<double, 4 * kMaxRank> weight{};
    for (int a = 0; a < axes; ++a) {
      // Coordinates are listed from the innermost axis outwards.
      const auto n = static_cast<double>(load(coordinates[axes - 1 - a]));
      axis_taps(n, x.dim(a + 2), &index[static_cast<size_t>(4 * a)], &weight[static_cast<size_t>(4 * a)]);
    }
    for (int64_t t = 0; t < count; ++t) {
      int64_t code = t;
      int64_t offset = 0;
      int64_t stride = 1;
      double product = 1.0;
      for (int a = axes - 1; a >= 0; --a) {
        const auto at = static_cast<size_t>(4 * a + code % per_axis);
        code /= per_axis;
        if (index[at] < 0) product = 0.0;
        offset += std::max<int64_t>(index[at], 0) * stride;
        stride *= x.dim(a + 2);
        product *= weight[at];
      }
      taps.offset[static_cast<size_t>(t)] = offset;
      taps.weight[static_cast<size_t>(t)] = product;
    }
  }

  template <class T, class G>
  void sample(const Tensor& x, const Tensor& grid, const Tensor& y, const Parallel& parallel) const {
    const int axes = x.rank - 2;
    const int64_t channels = x.dim(1);
    const int64_t plane_in = extent(x, 2, x.rank);
    const int64_t plane_out = extent(y, 2, y.rank);
    int64_t count = 1;
    for (int a = 0; a < axes; ++a) count = support::checked_product(count, taps_per_axis());
    const int64_t blocks = (plane_out + kBlock - 1) / kBlock;
    std::vector<Taps> all(static_cast<size_t>(parallel.threads()));
    for (Taps& taps : all) {
      taps.offset.resize(static_cast<size_t>(count));
      taps.weight.resize(static_cast<size_t>(count));
    }
    const int64_t cost = kBlock * count * (channels + 4 * axes);
    parallel.for_range(x.dim(0) * blocks, support::grain_for(cost), [&](int64_t begin, int64_t end, int worker) {
      Taps& taps = all[static_cast<size_t>(worker)];
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / blocks;
        const int64_t last = std::min((task % blocks + 1) * kBlock, plane_out);
        for (int64_t p = task % blocks * kBlock; p < last; ++p) {
          fill_taps(x, grid.ptr<const G>() + (n * plane_out + p) * axes, count, taps);
          const T* from = x.ptr<const T>() + n * channels * plane_in;
          T* to = y.ptr<T>() + n * channels * plane_out + p;
          for (int64_t c = 0; c < channels; ++c) {
            to[c * plane_out] = weighted(from + c * plane_in, taps, count);
          }
        }
      }
    });
  }

  template <class T>
  T weighted(const T* plane, const Taps& taps, int64_t count) const {
    if (sampling_ == Sampling::kNearest) return taps.weight[0] != 0.0 ? plane[taps.offset[0]] : T{};
    using C = std::conditional_t<std::is_same_v<support::Compute<T>, float>, float, double>;
    C sum = 0;
    for (size_t t = 0; t < static_cast<size_t>(count); ++t) {
      if (taps.weight[t] == 0.0) continue;
      sum += static_cast<C>(taps.weight[t]) * static_cast<C>(load(plane[taps.offset[t]]));
    }
    if constexpr (support::kIsFloating<T>) {
      return support::store<T>(static_cast<support::Compute<T>>(sum));
    } else {
      if (sum >= static_cast<C>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
      if (sum <= static_cast<C>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
      return static_cast<T>(sum);
    }
  }

  bool align_corners_;
  Sampling sampling_ = Sampling::kLinear;
  Padding padding_ = Padding::kZeros;
};

}  // namespace
}  // namespace resample

std::unique_ptr<Kernel> make_grid_sample(const Attrs& attrs) { return std::make_unique<resample::GridSample>(attrs); }

}  // namespace graphopt
