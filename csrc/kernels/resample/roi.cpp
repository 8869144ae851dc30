// The step kernels roi_align and max_roi_pool.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace resample {
namespace {

using support::fail;
using support::load;
using support::operand;
using support::require;

// One sampling coordinate: two neighbouring pixels and the weight of the second. Not `inside`: no contribution.
struct Sample {
  int64_t low;
  int64_t high;
  double fraction;
  bool inside;
};

Sample sample_at(double x, int64_t length) {
  if (!(x >= -1.0 && x <= static_cast<double>(length))) return {0, 0, 0.0, false};
  x = std::max(x, 0.0);
  const auto low = static_cast<int64_t>(x);
  if (low >= length - 1) return {length - 1, length - 1, 0.0, true};
  return {low, low + 1, x - static_cast<double>(low), true};
}

class RoiAlign final : public Kernel {
 public:
  explicit RoiAlign(const Attrs& attrs)
      : height_(attrs.i("output_height", 1)),
        width_(attrs.i("output_width", 1)),
        ratio_(attrs.i("sampling_ratio", 0)),
        scale_(attrs.f("spatial_scale", 1.0)) {
    const std::string mode = attrs.s("mode", "avg");
    if (mode != "avg" && mode != "max") fail("attribute 'mode' is '" + mode + "', expected avg or max");
    maximum_ = mode == "max";
    const std::string coordinates = attrs.s("coordinate_transformation_mode", "half_pixel");
    if (coordinates != "half_pixel" && coordinates != "output_half_pixel") {
      fail("attribute 'coordinate_transformation_mode' is '" + coordinates +
           "', expected half_pixel or output_half_pixel");
    }
    half_pixel_ = coordinates == "half_pixel";
    require(height_ > 0 && width_ > 0, "roi_align: the output size is not positive");
    require(ratio_ >= 0 && ratio_ <= kMostSamples, "roi_align: sampling_ratio is out of range");
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& rois = operand(args.inputs, 1, "rois");
    const Tensor& batch = operand(args.inputs, 2, "batch_indices");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    support::require_rank(x, 4, "X");
    support::require_rank(batch, 1, "batch_indices");
    const int64_t count = batch.dim(0);
    support::require_shape(rois, {count, 4}, "rois");
    support::require_dtype(rois, x.dtype, "rois");
    support::require_shape(y, {count, x.dim(1), height_, width_}, "Y");
    support::require_dtype(y, x.dtype, "Y");
    if (y.numel() == 0) return;
    require(x.numel() > 0, "roi_align: X is empty");
    support::visit_float(x.dtype, "roi_align", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      for (int64_t r = 0; r < count; ++r) check_roi<T>(rois, batch, r, x.dim(0));
      const int64_t channels = x.dim(1);
      args.parallel.for_range(count * channels, support::grain_for(height_ * width_ * 16),
                              [&](int64_t begin, int64_t end, int) {
                                for (int64_t i = begin; i < end; ++i) {
                                  align<T>(x, rois, batch, y, i / channels, i % channels);
                                }
                              });
    });
  }

 private:
  static constexpr int64_t kMostSamples = 4096;

  struct Region {
    double start_y, start_x, bin_y, bin_x;
    int64_t samples_y, samples_x;
  };

  template <class T>
  Region region(const Tensor& rois, int64_t r) const {
    const T* roi = rois.ptr<const T>() + 4 * r;
    const double shift = half_pixel_ ? 0.5 : 0.0;
    const auto edge = [&](int i) { return static_cast<double>(load(roi[i])) * scale_ - shift; };
    double width = edge(2) - edge(0);
    double height = edge(3) - edge(1);
    if (!half_pixel_) {
      width = std::max(width, 1.0);
      height = std::max(height, 1.0);
    }
    Region area{edge(1), edge(0), height / static_cast<double>(height_), width / static_cast<double>(width_),
                ratio_,  ratio_};
    if (ratio_ == 0) {
      const auto samples = [](double bin) {
        return bin > 0 ? static_cast<int64_t>(std::min(std::ceil(bin), static_cast<double>(kMostSamples + 1))) : 0;
      };
      area.samples_y = samples(area.bin_y);
      area.samples_x = samples(area.bin_x);
    }
    return area;
  }

  template <class T>
  void check_roi(const Tensor& rois, const Tensor& batch, int64_t r, int64_t batches) const {
    const int64_t image = support::integer_at(batch, r);
    if (image < 0 || image >= batches) {
      fail("batch_indices[" + std::to_string(r) + "] is " + std::to_string(image) + ", X has " +
           std::to_string(batches) + " images");
    }
    const Region area = region<T>(rois, r);
    require(std::isfinite(area.start_x) && std::isfinite(area.start_y) && std::isfinite(area.bin_x) &&
                std::isfinite(area.bin_y),
            "roi_align: a region is not finite");
    require(area.samples_x <= kMostSamples && area.samples_y <= kMostSamples, "roi_align: a region is too large");
  }

  template <class T>
  void align(const Tensor& x, const Tensor& rois, const Tensor& batch, const Tensor& y, int64_t r, int64_t c) const {
    const Region area = region<T>(rois, r);
    const int64_t channels = x.dim(1);
    const int64_t h = x.dim(2);
    const int64_t w = x.dim(3);
    const T* plane = x.ptr<const T>() + (support::integer_at(batch, r) * channels + c) * h * w;
    T* out = y.ptr<T>() + (r * channels + c) * height_ * width_;
    for (int64_t py = 0; py < height_; ++py) {
      for (int64_t px = 0; px < width_; ++px) {
        double sum = 0.0;
        double most = -std::numeric_limits<double>::infinity();
        for (int64_t iy = 0; iy < area.samples_y; ++iy) {
          const Sample sy = sample_at(position(area.start_y, area.bin_y, py, iy, area.samples_y), h);
          for (int64_t ix = 0; ix < area.samples_x; ++ix) {
            const Sample sx = sample_at(position(area.start_x, area.bin_x, px, ix, area.samples_x), w);
            double parts[4] = {0, 0, 0, 0};
            if (sy.inside && sx.inside) corners(plane, w, sy, sx, parts);
            sum += parts[0] + parts[1] + parts[2] + parts[3];
            // The definition takes the largest weighted corner, not the largest interpolated value.
            most = std::max({most, parts[0], parts[1], parts[2], parts[3]});
          }
        }
        const int64_t samples = area.samples_y * area.samples_x;
        const double average = sum / static_cast<double>(std::max<int64_t>(samples, 1));
        const double value = maximum_ ? (samples > 0 ? most : 0.0) : average;
        out[py * width_ + px] = support::store<T>(static_cast<support::Compute<T>>(value));
      }
    }
  }

  static double position(double start, double bin, int64_t p, int64_t i, int64_t samples) {
    return start + static_cast<double>(p) * bin + (static_cast<double>(i) + 0.5) * bin / static_cast<double>(samples);
  }

  template <class T>
  static void corners(const T* plane, int64_t w, const Sample& sy, const Sample& sx, double* parts) {
    const auto at = [&](int64_t row, int64_t column) { return static_cast<double>(load(plane[row * w + column])); };
    const double y = sy.fraction;
    const double x = sx.fraction;
    parts[0] = (1 - y) * (1 - x) * at(sy.low, sx.low);
    parts[1] = (1 - y) * x * at(sy.low, sx.high);
    parts[2] = y * (1 - x) * at(sy.high, sx.low);
    parts[3] = y * x * at(sy.high, sx.high);
  }

  int64_t height_;
  int64_t width_;
  int64_t ratio_;
  double scale_;
  bool maximum_ = false;
  bool half_pixel_ = true;
};

class MaxRoiPool final : public Kernel {
 public:
  explicit MaxRoiPool(const Attrs& attrs) : scale_(attrs.f("spatial_scale", 1.0)) {
    const std::vector<int64_t>& shape = attrs.ints("pooled_shape");
    require(shape.size() == 2 && shape[0] > 0 && shape[1] > 0, "max_roi_pool: pooled_shape must be two positive sizes");
    height_ = shape[0];
    width_ = shape[1];
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& rois = operand(args.inputs, 1, "rois");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    support::require_rank(x, 4, "X");
    support::require_rank(rois, 2, "rois");
    require(rois.dim(1) == 5, "max_roi_pool: a region is [batch, x1, y1, x2, y2]");
    support::require_dtype(rois, x.dtype, "rois");
    support::require_shape(y, {rois.dim(0), x.dim(1), height_, width_}, "Y");
    support::require_dtype(y, x.dtype, "Y");
    if (y.numel() == 0) return;
    support::visit_float(x.dtype, "max_roi_pool", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      for (int64_t r = 0; r < rois.dim(0); ++r) check_roi(rois.ptr<const T>() + 5 * r, x.dim(0));
      const int64_t channels = x.dim(1);
      args.parallel.for_range(rois.dim(0) * channels, support::grain_for(height_ * width_ * 16),
                              [&](int64_t begin, int64_t end, int) {
                                for (int64_t i = begin; i < end; ++i) pool<T>(x, rois, y, i / channels, i % channels);
                              });
    });
  }

 private:
  template <class T>
  static void check_roi(const T* roi, int64_t batches) {
    const auto image = static_cast<double>(load(roi[0]));
    require(image >= 0 && image < static_cast<double>(batches), "max_roi_pool: a batch index is out of range");
    for (int i = 1; i < 5; ++i) {
      require(std::abs(static_cast<double>(load(roi[i]))) < 1e9, "max_roi_pool: a region is out of range");
    }
  }

  // Bin `p` of an axis: its first and last-plus-one pixel.
  struct Bins {
    double start;
    double size;
    int64_t length;

    [[nodiscard]] int64_t edge(double p, bool last) const {
      const double at = (last ? std::ceil(p * size) : std::floor(p * size)) + start;
      return static_cast<int64_t>(std::clamp(at, 0.0, static_cast<double>(length)));
    }
  };

  Bins bins(double first, double last, int64_t count, int64_t length) const {
    const double start = std::round(first * scale_);
    const double size = std::max(std::round(last * scale_) - start + 1, 1.0);
    return {start, size / static_cast<double>(count), length};
  }

  template <class T>
  void pool(const Tensor& x, const Tensor& rois, const Tensor& y, int64_t r, int64_t c) const {
    const T* roi = rois.ptr<const T>() + 5 * r;
    const auto at = [&](int i) { return static_cast<double>(load(roi[i])); };
    const int64_t channels = x.dim(1);
    const int64_t w = x.dim(3);
    const T* plane = x.ptr<const T>() + (static_cast<int64_t>(at(0)) * channels + c) * x.dim(2) * w;
    const Bins rows = bins(at(2), at(4), height_, x.dim(2));
    const Bins columns = bins(at(1), at(3), width_, w);
    T* out = y.ptr<T>() + (r * channels + c) * height_ * width_;
    for (int64_t py = 0; py < height_; ++py) {
      for (int64_t px = 0; px < width_; ++px) {
        const int64_t row_end = rows.edge(static_cast<double>(py + 1), true);
        const int64_t column_end = columns.edge(static_cast<double>(px + 1), true);
        auto most = -std::numeric_limits<support::Compute<T>>::infinity();
        bool any = false;
        for (int64_t i = rows.edge(static_cast<double>(py), false); i < row_end; ++i) {
          for (int64_t j = columns.edge(static_cast<double>(px), false); j < column_end; ++j) {
            most = std::max(most, load(plane[i * w + j]));
            any = true;
          }
        }
        out[py * width_ + px] = support::store<T>(any ? most : support::Compute<T>{0});
      }
    }
  }

  double scale_;
  int64_t height_;
  int64_t width_;
};

}  // namespace
}  // namespace resample

std::unique_ptr<Kernel> make_roi_align(const Attrs& attrs) { return std::make_unique<resample::RoiAlign>(attrs); }

std::unique_ptr<Kernel> make_max_roi_pool(const Attrs& attrs) { return std::make_unique<resample::MaxRoiPool>(attrs); }

}  // namespace graphopt
