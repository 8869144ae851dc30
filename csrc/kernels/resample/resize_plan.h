// Where every output coordinate of a resized axis comes from: Resize's attributes and operands as tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "graphopt/kernel.h"

namespace graphopt::resample {

enum class Mode : uint8_t { kNearest, kLinear, kCubic };
enum class Coordinates : uint8_t {
  kHalfPixel,
  kHalfPixelSymmetric,
  kPytorchHalfPixel,
  kAlignCorners,
  kAsymmetric,
  kCropAndResize,
};
enum class Nearest : uint8_t { kRoundPreferFloor, kRoundPreferCeil, kFloor, kCeil };
enum class AspectRatio : uint8_t { kStretch, kNotLarger, kNotSmaller };

struct ResizeSettings {
  Mode mode;
  Coordinates coordinates;
  Nearest nearest;
  AspectRatio aspect_ratio;
  bool antialias;
  bool exclude_outside;
  double cubic_a;
  double extrapolation;
  std::vector<int64_t> axes;  // empty: all
};

ResizeSettings parse_resize(const Attrs& attrs);
ResizeSettings parse_upsample(const Attrs& attrs);

// Output position x is the sum over taps t of weight[t * out + x] * input[index[t * out + x]].
struct AxisTable {
  int64_t in = 0;
  int64_t out = 0;
  int64_t taps = 1;
  bool identity = true;  // taps, indices and weights are not stored then
  std::vector<int32_t> index;
  std::vector<float> weight;
  std::vector<double> exact;     // the weights before rounding, for the types that are not f32
  std::vector<uint8_t> outside;  // positions that take the extrapolation value; empty for none

  [[nodiscard]] bool is_outside(int64_t x) const { return !outside.empty() && outside[static_cast<size_t>(x)] != 0; }
};

// The shape of Y. Throws on operands that do not fit. One of scales and sizes is present.
std::array<int64_t, kMaxRank> resized_shape(const ResizeSettings& settings, const Tensor& x, const Tensor& scales,
                                            const Tensor& sizes);

// One table an axis of x. Throws on operands that do not fit. One of scales and sizes is present.
std::vector<AxisTable> plan_axes(const ResizeSettings& settings, const Tensor& x, const Tensor& roi,
                                 const Tensor& scales, const Tensor& sizes, const Tensor& y);

}  // namespace graphopt::resample
