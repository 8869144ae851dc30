#include "kernels/resample/resize_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/support/operands.h"

namespace graphopt::resample {

using support::fail;
using support::require;

namespace {

template <class E>
E choose(const std::string& value, const char* attribute, std::initializer_list<std::pair<const char*, E>> rows) {
  std::string expected;
  for (const auto& [name, result] : rows) {
    if (value == name) return result;
    expected += (expected.empty() ? "" : ", ") + std::string(name);
  }
  fail("attribute '" + std::string(attribute) + "' is '" + value + "', expected one of " + expected);
}

// How one axis is resized.
struct Axis {
  int64_t in;
  int64_t out;
  double scale;
  double out_length;  // scale * in, which need not be whole
  double roi_start;
  double roi_end;
};

double source_coordinate(const ResizeSettings& settings, const Axis& axis, double x) {
  const auto in = static_cast<double>(axis.in);
  switch (settings.coordinates) {
    case Coordinates::kHalfPixel:
      return (x + 0.5) / axis.scale - 0.5;
    case Coordinates::kHalfPixelSymmetric: {
      const double adjustment = static_cast<double>(axis.out) / axis.out_length;
      return in / 2 * (1 - adjustment) + (x + 0.5) / axis.scale - 0.5;
    }
    case Coordinates::kPytorchHalfPixel:
      return axis.out > 1 ? (x + 0.5) / axis.scale - 0.5 : 0.0;
    case Coordinates::kAlignCorners:
      return axis.out_length == 1.0 ? 0.0 : x * (in - 1) / (axis.out_length - 1);
    case Coordinates::kAsymmetric:
      return x / axis.scale;
    case Coordinates::kCropAndResize:
      if (axis.out_length == 1.0) return 0.5 * (axis.roi_start + axis.roi_end) * (in - 1);
      return axis.roi_start * (in - 1) + x * (axis.roi_end - axis.roi_start) * (in - 1) / (axis.out_length - 1);
  }
  return x;
}

// Ties are decided in f32, as the frameworks and runtimes that models come from do.
float source_coordinate_f32(const ResizeSettings& settings, const Axis& axis, float x) {
  const auto scale = static_cast<float>(axis.scale);
  switch (settings.coordinates) {
    case Coordinates::kHalfPixel:
      return (x + 0.5F) / scale - 0.5F;
    case Coordinates::kPytorchHalfPixel:
      return axis.out > 1 ? (x + 0.5F) / scale - 0.5F : 0.0F;
    case Coordinates::kAsymmetric:
      return x / scale;
    default:
      return static_cast<float>(source_coordinate(settings, axis, static_cast<double>(x)));
  }
}

int64_t nearest_index(Nearest mode, float x) {
  switch (mode) {
    case Nearest::kRoundPreferFloor:
      return static_cast<int64_t>(std::ceil(x - 0.5F));
    case Nearest::kRoundPreferCeil:
      return static_cast<int64_t>(std::floor(x + 0.5F));
    case Nearest::kFloor:
      return static_cast<int64_t>(std::floor(x));
    case Nearest::kCeil:
      return static_cast<int64_t>(std::ceil(x));
  }
  return 0;
}

double cubic_weight(double a, double distance) {
  const double x = std::abs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

class TableBuilder {
 public:
  TableBuilder(const ResizeSettings& settings, const Axis& axis) : settings_(settings), axis_(axis) {
    // An antialiasing filter is stretched by 1 / scale when the axis shrinks.
    stretch_ = settings.antialias ? std::min(axis.scale, 1.0) : 1.0;
    const double reach = settings.mode == Mode::kCubic ? 2.0 : 1.0;
    if (settings.mode != Mode::kNearest) {
      const double start = std::floor(-reach / stretch_) + 1;
      require(start > -1e6, "resize: the scale is too small for antialiasing");
      start_ = static_cast<int64_t>(start);
      table_.taps = 2 - 2 * start_;
    }
  }

  AxisTable build() {
    table_.in = axis_.in;
    table_.out = axis_.out;
    table_.identity = is_identity();
    if (table_.identity) {
      table_.taps = 1;
      return std::move(table_);
    }
    require(axis_.in > 0 || axis_.out == 0, "resize: an empty axis cannot be enlarged");
    require(axis_.in <= std::numeric_limits<int32_t>::max(), "resize: an axis is too long");
    const auto count = static_cast<size_t>(support::checked_product(table_.taps, axis_.out));
    table_.index.resize(count);
    table_.weight.resize(count);
    table_.exact.resize(count);
    if (settings_.coordinates == Coordinates::kCropAndResize) table_.outside.resize(static_cast<size_t>(axis_.out));
    std::vector<double> weights(static_cast<size_t>(table_.taps));
    for (int64_t x = 0; x < axis_.out; ++x) fill(x, weights);
    return std::move(table_);
  }

 private:
  [[nodiscard]] bool is_identity() const {
    if (axis_.in != axis_.out || std::abs(axis_.scale - 1.0) > 1e-9) return false;
    if (settings_.coordinates != Coordinates::kCropAndResize) return true;
    return axis_.roi_start == 0.0 && axis_.roi_end == 1.0;
  }

  void set(int64_t x, int64_t tap, int64_t index, double weight) {
    const auto at = static_cast<size_t>(tap * axis_.out + x);
    table_.index[at] = static_cast<int32_t>(std::clamp<int64_t>(index, 0, axis_.in - 1));
    table_.weight[at] = static_cast<float>(weight);
    table_.exact[at] = weight;
  }

  void fill(int64_t x, std::vector<double>& weights) {
    double source = source_coordinate(settings_, axis_, static_cast<double>(x));
    if (!table_.outside.empty()) {
      const bool inside = source >= 0 && source <= static_cast<double>(axis_.in - 1);
      table_.outside[static_cast<size_t>(x)] = inside ? 0 : 1;
    }
    // Far outside, every tap is the edge; the bound keeps conversions to integers defined.
    const double far = static_cast<double>(axis_.in) + static_cast<double>(table_.taps) + 2;
    source = source == source ? std::clamp(source, -far, far) : 0.0;
    if (settings_.mode == Mode::kNearest) {
      const float nearest = source_coordinate_f32(settings_, axis_, static_cast<float>(x));
      const auto bound = static_cast<float>(far);
      set(x, 0, nearest_index(settings_.nearest, nearest == nearest ? std::clamp(nearest, -bound, bound) : 0.0F), 1.0);
      return;
    }
    // The pixel left of the source, strictly, so that the distance to it is in (0, 1].
    const double left = std::ceil(source) - 1;
    const auto first = static_cast<int64_t>(left) + start_;
    double sum = 0;
    for (int64_t t = 0; t < table_.taps; ++t) {
      const double distance = (static_cast<double>(start_ + t) - (source - left)) * stretch_;
      double weight = settings_.mode == Mode::kCubic ? cubic_weight(settings_.cubic_a, distance)
                                                     : std::max(0.0, 1 - std::abs(distance));
      if (settings_.exclude_outside && (first + t < 0 || first + t >= axis_.in)) weight = 0;
      weights[static_cast<size_t>(t)] = weight;
      sum += weight;
    }
    const bool normalize = (settings_.antialias || settings_.exclude_outside) && sum != 0;
    for (int64_t t = 0; t < table_.taps; ++t) {
      set(x, t, first + t, normalize ? weights[static_cast<size_t>(t)] / sum : weights[static_cast<size_t>(t)]);
    }
  }

  const ResizeSettings& settings_;
  const Axis& axis_;
  AxisTable table_;
  double stretch_;
  int64_t start_ = 0;
};

// The axes that scales, sizes and roi speak of, in their order.
std::vector<int> resized_axes(const ResizeSettings& settings, const Tensor& x) {
  std::vector<int> axes;
  for (const int64_t axis : settings.axes) axes.push_back(support::normalize_axis(axis, x.rank));
  if (axes.empty()) {
    axes.resize(static_cast<size_t>(x.rank));
    std::iota(axes.begin(), axes.end(), 0);
  }
  return axes;
}

// The scale of every axis in `axes`, as given or as the sizes and the policy imply.
std::vector<double> axis_scales(const ResizeSettings& settings, const std::vector<int>& axes, const Tensor& x,
                                const Tensor& scales, const Tensor& sizes) {
  require(scales.present() != sizes.present(), "resize: exactly one of scales and sizes must be given");
  const Tensor& factors = scales.present() ? scales : sizes;
  support::require_shape(factors, {static_cast<int64_t>(axes.size())}, scales.present() ? "scales" : "sizes");
  std::vector<double> result;
  for (size_t k = 0; k < axes.size(); ++k) {
    const auto at = static_cast<int64_t>(k);
    const auto in = static_cast<double>(x.dim(axes[k]));
    double scale = 1.0;
    if (scales.present()) {
      scale = support::real_at(scales, at);
      require(scale > 0 && scale < 1e9, "resize: a scale is not positive, or too large");
    } else {
      const int64_t size = support::integer_at(sizes, at);
      require(size >= 0, "resize: a size is negative");
      if (in > 0) scale = static_cast<double>(size) / in;
    }
    result.push_back(scale);
  }
  if (sizes.present() && settings.aspect_ratio != AspectRatio::kStretch && !result.empty()) {
    const bool larger = settings.aspect_ratio == AspectRatio::kNotSmaller;
    const double common =
        larger ? *std::max_element(result.begin(), result.end()) : *std::min_element(result.begin(), result.end());
    std::fill(result.begin(), result.end(), common);
  }
  return result;
}

// in * scale, whole where only the rounding of an f32 scale made it fractional.
double scaled_length(int64_t in, double scale) {
  const double length = static_cast<double>(in) * scale;
  const double whole = std::nearbyint(length);
  return std::abs(length - whole) < 2e-7 * std::max(whole, 1.0) ? whole : length;
}

ResizeSettings defaults() {
  return {Mode::kNearest,
          Coordinates::kHalfPixel,
          Nearest::kRoundPreferFloor,
          AspectRatio::kStretch,
          false,
          false,
          -0.75,
          0.0,
          {}};
}

}  // namespace

ResizeSettings parse_resize(const Attrs& attrs) {
  ResizeSettings settings = defaults();
  settings.mode = choose<Mode>(attrs.s("mode", "nearest"), "mode",
                               {{"nearest", Mode::kNearest}, {"linear", Mode::kLinear}, {"cubic", Mode::kCubic}});
  settings.coordinates =
      choose<Coordinates>(attrs.s("coordinate_transformation_mode", "half_pixel"), "coordinate_transformation_mode",
                          {{"half_pixel", Coordinates::kHalfPixel},
                           {"half_pixel_symmetric", Coordinates::kHalfPixelSymmetric},
                           {"pytorch_half_pixel", Coordinates::kPytorchHalfPixel},
                           {"align_corners", Coordinates::kAlignCorners},
                           {"asymmetric", Coordinates::kAsymmetric},
                           {"tf_crop_and_resize", Coordinates::kCropAndResize}});
  settings.nearest = choose<Nearest>(attrs.s("nearest_mode", "round_prefer_floor"), "nearest_mode",
                                     {{"round_prefer_floor", Nearest::kRoundPreferFloor},
                                      {"round_prefer_ceil", Nearest::kRoundPreferCeil},
                                      {"floor", Nearest::kFloor},
                                      {"ceil", Nearest::kCeil}});
  settings.aspect_ratio =
      choose<AspectRatio>(attrs.s("keep_aspect_ratio_policy", "stretch"), "keep_aspect_ratio_policy",
                          {{"stretch", AspectRatio::kStretch},
                           {"not_larger", AspectRatio::kNotLarger},
                           {"not_smaller", AspectRatio::kNotSmaller}});
  settings.antialias = attrs.i("antialias", 0) != 0;
  require(!settings.antialias || settings.mode != Mode::kNearest, "resize: mode nearest has no antialiasing");
  settings.exclude_outside = attrs.i("exclude_outside", 0) != 0;
  settings.cubic_a = attrs.f("cubic_coeff_a", -0.75);
  settings.extrapolation = attrs.f("extrapolation_value", 0.0);
  if (attrs.has("axes")) settings.axes = attrs.ints("axes");
  return settings;
}

ResizeSettings parse_upsample(const Attrs& attrs) {
  ResizeSettings settings = defaults();
  settings.mode = choose<Mode>(attrs.s("mode", "nearest"), "mode",
                               {{"nearest", Mode::kNearest}, {"linear", Mode::kLinear}, {"bilinear", Mode::kLinear}});
  settings.coordinates = Coordinates::kAsymmetric;
  settings.nearest = Nearest::kFloor;
  return settings;
}

std::array<int64_t, kMaxRank> resized_shape(const ResizeSettings& settings, const Tensor& x, const Tensor& scales,
                                            const Tensor& sizes) {
  const std::vector<int> axes = resized_axes(settings, x);
  const std::vector<double> factors = axis_scales(settings, axes, x, scales, sizes);
  std::array<int64_t, kMaxRank> shape = x.shape;
  for (size_t k = 0; k < axes.size(); ++k) {
    int64_t& length = shape[static_cast<size_t>(axes[k])];
    if (sizes.present() && settings.aspect_ratio == AspectRatio::kStretch) {
      length = support::integer_at(sizes, static_cast<int64_t>(k));
    } else {
      const double exact = scaled_length(length, factors[k]);
      require(exact < 1e15, "resize: an output axis is too long");
      length = static_cast<int64_t>(std::floor(sizes.present() ? exact + 0.5 : exact));
    }
  }
  return shape;
}

std::vector<AxisTable> plan_axes(const ResizeSettings& settings, const Tensor& x, const Tensor& roi,
                                 const Tensor& scales, const Tensor& sizes, const Tensor& y) {
  const std::vector<int> axes = resized_axes(settings, x);
  const std::vector<double> factors = axis_scales(settings, axes, x, scales, sizes);
  const auto count = static_cast<int64_t>(axes.size());
  const bool crop = settings.coordinates == Coordinates::kCropAndResize;
  if (crop) {
    require(roi.present(), "resize: tf_crop_and_resize needs roi");
    support::require_shape(roi, {2 * count}, "roi");
  }
  support::require_rank(y, x.rank, "Y");
  std::vector<Axis> all;
  for (int i = 0; i < x.rank; ++i) {
    const bool fixed = std::find(axes.begin(), axes.end(), i) == axes.end();
    require(!fixed || x.dim(i) == y.dim(i), "resize: an axis that is not resized changes its length");
    all.push_back({x.dim(i), y.dim(i), 1.0, static_cast<double>(x.dim(i)), 0.0, 1.0});
  }
  for (int64_t k = 0; k < count; ++k) {
    Axis& axis = all[static_cast<size_t>(axes[static_cast<size_t>(k)])];
    axis.scale = factors[static_cast<size_t>(k)];
    axis.out_length = scaled_length(axis.in, axis.scale);
    // One more or less is a matter of rounding, which a plan may have done differently.
    if (!crop && std::abs(axis.out_length - static_cast<double>(axis.out)) > 1.0) {
      fail("resize: axis " + std::to_string(axes[static_cast<size_t>(k)]) + " of the output has length " +
           std::to_string(axis.out) + ", the scale says " + std::to_string(axis.out_length));
    }
    if (crop) {
      axis.roi_start = support::real_at(roi, k);
      axis.roi_end = support::real_at(roi, count + k);
    }
  }
  std::vector<AxisTable> tables;
  for (const Axis& axis : all) tables.push_back(TableBuilder(settings, axis).build());
  return tables;
}

}  // namespace graphopt::resample
