// The step kernels resize and upsample.
//
// An output row is everything below one position of the axes before the last resized one. It is made in
// two passes: input rows are combined with the weights of the leading axes, then the result is
// interpolated along the last resized axis, whose elements are blocks of `inner` neighbours (the channels
// of a channels-last tensor). Nearest copies only.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/resample/dispatch.h"
#include "kernels/resample/resize_plan.h"
#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace resample {
namespace {

using support::extent;
using support::load;
using support::operand;
using support::require;
using support::Tag;

// Half-way cases to even, and what the type cannot hold to its nearest bound.
template <class T, class C>
T rounded(C value) {
  if constexpr (support::kIsFloating<T>) {
    return support::store<T>(static_cast<support::Compute<T>>(value));
  } else {
    // 2^63 is the first double beyond int64: the comparison decides before the conversion.
    const double whole = std::nearbyint(static_cast<double>(value));
    if (whole >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    if (whole <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    return whole == whole ? static_cast<T>(whole) : T{0};
  }
}

// f(Tag<T>{}) for the types that can be interpolated.
template <class F>
void visit_interpolated(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF64:
    case DType::kF16:
    case DType::kBF16:
      return support::visit_float(dtype, "resize", f);
    default:
      support::visit_integer(dtype, "resize (a mode other than nearest)", f);
  }
}

class Resizer {
 public:
  Resizer(const ResizeSettings& settings, std::vector<AxisTable> tables, const Tensor& x, const Tensor& y,
          const Parallel& parallel)
      : settings_(settings), tables_(std::move(tables)), x_(x), y_(y), parallel_(parallel) {
    last_ = x.rank - 1;
    while (last_ > 0 && table(last_).identity) --last_;
    inner_ = extent(x, last_ + 1, x.rank);
    row_in_ = x.dim(last_) * inner_;
    row_out_ = y.dim(last_) * inner_;
    rows_ = extent(y, 0, last_);
    const std::vector<int32_t>& index = table(last_).index;
    repeats_twice_ = settings.mode == Mode::kNearest && y.dim(last_) == 2 * x.dim(last_);
    for (size_t i = 0; i < index.size(); ++i)
      repeats_twice_ = repeats_twice_ && index[i] == static_cast<int32_t>(i / 2);
    for (int i = 0; i < last_; ++i) combinations_ = support::checked_product(combinations_, table(i).taps);
    int64_t stride = row_in_;
    for (int i = last_ - 1; i >= 0; --i) {
      strides_[static_cast<size_t>(i)] = stride;
      stride *= x.dim(i);
    }
  }

  void run() {
    if (y_.numel() == 0) return;
    bool identity = true;
    for (const AxisTable& axis : tables_) identity = identity && axis.identity;
    if (identity) {
      std::memcpy(y_.data, x_.data, x_.nbytes());
    } else if (settings_.mode == Mode::kNearest) {
      nearest();
    } else if (x_.dtype == DType::kF32) {
      interpolate_f32();
    } else {
      visit_interpolated(x_.dtype, [&](auto tag) {
        using T = typename decltype(tag)::Type;
        using C = std::conditional_t<std::is_same_v<support::Compute<T>, float>, float, double>;
        interpolate<T, C>();
      });
    }
  }

 private:
  const AxisTable& table(int axis) const { return tables_[static_cast<size_t>(axis)]; }
  bool any_outside() const {
    return std::any_of(tables_.begin(), tables_.end(), [](const AxisTable& axis) { return !axis.outside.empty(); });
  }

  // Position of row `row` on every leading axis; false when one of them is outside the input.
  bool locate(int64_t row, std::array<int64_t, kMaxRank>& position) const {
    bool inside = true;
    for (int i = last_ - 1; i >= 0; --i) {
      position[static_cast<size_t>(i)] = row % y_.dim(i);
      row /= y_.dim(i);
      inside = inside && !table(i).is_outside(position[static_cast<size_t>(i)]);
    }
    return inside;
  }

  // The input row that combination `code` of taps picks for an output row, and its weight.
  int64_t input_row(const std::array<int64_t, kMaxRank>& position, int64_t code, double& weight) const {
    int64_t offset = 0;
    weight = 1.0;
    for (int i = last_ - 1; i >= 0; --i) {
      const AxisTable& axis = table(i);
      int64_t at = position[static_cast<size_t>(i)];
      if (!axis.identity) {
        const auto entry = static_cast<size_t>(code % axis.taps * axis.out + at);
        code /= axis.taps;
        weight *= axis.exact[entry];
        at = axis.index[entry];
      }
      offset += at * strides_[static_cast<size_t>(i)];
    }
    return offset;
  }

  int64_t row_grain(int64_t work) const { return support::grain_for(work / 4 + 8); }

  void nearest() {
    std::array<uint8_t, 16> fill{};
    if (any_outside()) {
      support::visit_number(x_.dtype, "resize", [&](auto tag) {
        using T = typename decltype(tag)::Type;
        T value;
        if constexpr (std::is_same_v<T, support::Bool>) {
          value = support::store<T>(settings_.extrapolation != 0);
        } else {
          value = rounded<T>(settings_.extrapolation);
        }
        std::memcpy(fill.data(), &value, sizeof(T));
      });
    }
    support::visit_size(x_.dtype, "resize", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      T outside;
      std::memcpy(&outside, fill.data(), sizeof(T));
      parallel_.for_range(rows_, row_grain(row_out_),
                          [&](int64_t begin, int64_t end, int) { nearest_rows<T>(begin, end, outside); });
    });
  }

  template <class T>
  void nearest_rows(int64_t begin, int64_t end, T outside) const {
    const AxisTable& axis = table(last_);
    std::array<int64_t, kMaxRank> position{};
    int64_t previous = -1;
    for (int64_t row = begin; row < end; ++row) {
      T* to = y_.ptr<T>() + row * row_out_;
      if (!locate(row, position)) {
        std::fill_n(to, row_out_, outside);
        previous = -1;
        continue;
      }
      double weight = 1.0;
      const int64_t offset = input_row(position, 0, weight);
      if (offset == previous) {  // the same input row as the output row before
        std::memcpy(to, to - row_out_, static_cast<size_t>(row_out_) * sizeof(T));
        continue;
      }
      previous = offset;
      nearest_row(axis, x_.ptr<const T>() + offset, to, outside);
    }
  }

  template <class T>
  void nearest_row(const AxisTable& axis, const T* from, T* to, T outside) const {
    if (axis.identity) {
      std::memcpy(to, from, static_cast<size_t>(row_out_) * sizeof(T));
    } else if (!axis.outside.empty()) {
      for (int64_t x = 0; x < axis.out; ++x) {
        for (int64_t c = 0; c < inner_; ++c) {
          to[x * inner_ + c] = axis.is_outside(x) ? outside : from[axis.index[static_cast<size_t>(x)] * inner_ + c];
        }
      }
    } else if (inner_ == 1 && repeats_twice_) {
      for (int64_t x = 0; x < axis.in; ++x) to[2 * x] = to[2 * x + 1] = from[x];
    } else if (inner_ == 1) {
      for (int64_t x = 0; x < axis.out; ++x) to[x] = from[axis.index[static_cast<size_t>(x)]];
    } else {
      const auto bytes = static_cast<size_t>(inner_) * sizeof(T);
      for (int64_t x = 0; x < axis.out; ++x) {
        std::memcpy(to + x * inner_, from + axis.index[static_cast<size_t>(x)] * inner_, bytes);
      }
    }
  }

  // Scratch memory of one worker: a combined row, and the rows it is made of.
  template <class C, class T>
  struct Scratch {
    std::vector<C> row;
    std::vector<const T*> rows;
    std::vector<C> weights;
  };

  template <class C, class T>
  std::vector<Scratch<C, T>> scratches() const {
    std::vector<Scratch<C, T>> all(static_cast<size_t>(parallel_.threads()));
    for (Scratch<C, T>& scratch : all) {
      scratch.row.resize(static_cast<size_t>(combinations_ > 1 ? row_in_ : 0));
      scratch.rows.resize(static_cast<size_t>(combinations_));
      scratch.weights.resize(static_cast<size_t>(combinations_));
    }
    return all;
  }

  // The rows behind an output row, without those of weight zero.
  template <class C, class T>
  int64_t list_rows(const std::array<int64_t, kMaxRank>& position, Scratch<C, T>& scratch) const {
    int64_t count = 0;
    for (int64_t code = 0; code < combinations_; ++code) {
      double weight = 1.0;
      const int64_t offset = input_row(position, code, weight);
      if (weight == 0.0 && (count > 0 || code + 1 < combinations_)) continue;
      scratch.rows[static_cast<size_t>(count)] = x_.ptr<const T>() + offset;
      scratch.weights[static_cast<size_t>(count++)] = static_cast<C>(weight);
    }
    return count;
  }

  void interpolate_f32() {
    const Kernels& table_of_functions = kernels();
    const AxisTable& axis = table(last_);
    auto all = scratches<float, float>();
    const int64_t work = row_in_ * combinations_ + row_out_ * axis.taps;
    parallel_.for_range(rows_, row_grain(work), [&](int64_t begin, int64_t end, int worker) {
      auto& scratch = all[static_cast<size_t>(worker)];
      std::array<int64_t, kMaxRank> position{};
      const RowTaps taps{axis.index.data(), axis.weight.data(), axis.taps, axis.out, inner_};
      for (int64_t row = begin; row < end; ++row) {
        float* to = y_.ptr<float>() + row * row_out_;
        if (!locate(row, position)) {
          std::fill_n(to, row_out_, static_cast<float>(settings_.extrapolation));
          continue;
        }
        const int64_t count = list_rows(position, scratch);
        const float* source = scratch.rows[0];
        if (count > 1 || scratch.weights[0] != 1.0F) {
          float* combined = axis.identity ? to : scratch.row.data();
          table_of_functions.combine(scratch.rows.data(), scratch.weights.data(), count, row_in_, combined);
          source = combined;
        }
        if (!axis.identity) {
          table_of_functions.interpolate(source, taps, to);
        } else if (source != to) {
          std::memcpy(to, source, static_cast<size_t>(row_out_) * sizeof(float));
        }
        mark_outside(axis, to, static_cast<float>(settings_.extrapolation));
      }
    });
  }

  template <class T>
  void mark_outside(const AxisTable& axis, T* to, T outside) const {
    for (int64_t x = 0; !axis.outside.empty() && x < axis.out; ++x) {
      if (axis.is_outside(x)) std::fill_n(to + x * inner_, inner_, outside);
    }
  }

  // The same with plain loops, for every other type.
  template <class T, class C>
  void interpolate() {
    auto all = scratches<C, T>();
    const AxisTable& axis = table(last_);
    const T outside = rounded<T>(settings_.extrapolation);
    const int64_t work = 4 * (row_in_ * combinations_ + row_out_ * axis.taps);
    parallel_.for_range(rows_, row_grain(work), [&](int64_t begin, int64_t end, int worker) {
      auto& scratch = all[static_cast<size_t>(worker)];
      std::array<int64_t, kMaxRank> position{};
      for (int64_t row = begin; row < end; ++row) {
        T* to = y_.ptr<T>() + row * row_out_;
        if (!locate(row, position)) {
          std::fill_n(to, row_out_, outside);
          continue;
        }
        const int64_t count = list_rows(position, scratch);
        if (combinations_ == 1) {
          const T* from = scratch.rows[0];
          interpolate_row<T, C>(axis, [from](int64_t i) { return static_cast<C>(load(from[i])); }, to);
        } else {
          combine(scratch, count);
          const C* from = scratch.row.data();
          interpolate_row<T, C>(axis, [from](int64_t i) { return from[i]; }, to);
        }
        mark_outside(axis, to, outside);
      }
    });
  }

  template <class C, class T>
  void combine(Scratch<C, T>& scratch, int64_t count) const {
    for (int64_t i = 0; i < row_in_; ++i) {
      C sum = 0;
      for (int64_t r = 0; r < count; ++r) {
        const auto at = static_cast<size_t>(r);
        sum += scratch.weights[at] * static_cast<C>(load(scratch.rows[at][i]));
      }
      scratch.row[static_cast<size_t>(i)] = sum;
    }
  }

  template <class T, class C, class Source>
  void interpolate_row(const AxisTable& axis, Source source, T* to) const {
    for (int64_t x = 0; x < axis.out; ++x) {
      for (int64_t c = 0; c < inner_; ++c) {
        C sum = 0;
        if (axis.identity) {
          sum = source(x * inner_ + c);
        } else {
          for (int64_t t = 0; t < axis.taps; ++t) {
            const auto at = static_cast<size_t>(t * axis.out + x);
            sum += static_cast<C>(axis.exact[at]) * source(axis.index[at] * inner_ + c);
          }
        }
        to[x * inner_ + c] = rounded<T>(sum);
      }
    }
  }

  const ResizeSettings& settings_;
  std::vector<AxisTable> tables_;
  const Tensor& x_;
  const Tensor& y_;
  const Parallel& parallel_;
  int last_ = 0;
  int64_t inner_ = 1;
  int64_t row_in_ = 1;
  int64_t row_out_ = 1;
  int64_t rows_ = 1;
  int64_t combinations_ = 1;
  bool repeats_twice_ = false;  // the last resized axis doubles every element
  std::array<int64_t, kMaxRank> strides_{};
};

class Resize final : public Kernel {
 public:
  Resize(ResizeSettings settings, bool upsample) : settings_(std::move(settings)), upsample_(upsample) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const auto given = [&](size_t index) {  // an empty tensor stands for an absent operand
      const Tensor tensor = support::optional_operand(args.inputs, index);
      return tensor.present() && tensor.numel() > 0 ? tensor : Tensor{};
    };
    const Tensor roi = upsample_ ? Tensor{} : given(1);
    const Tensor scales = given(upsample_ ? 1 : 2);
    const Tensor sizes = upsample_ ? Tensor{} : given(3);
    if (x.rank == 0) {  // nothing to resize, and operands without elements
      const Tensor y = support::shaped_result(args, 0, {}, "Y");
      support::require_dtype(y, x.dtype, "Y");
      std::memcpy(y.data, x.data, x.nbytes());
      return;
    }
    Tensor y = support::result(args.outputs, 0, "Y");
    support::require_dtype(y, x.dtype, "Y");
    if (!support::shape_is_known(y)) {
      const auto shape = resized_shape(settings_, x, scales, sizes);
      y = args.allocator.allocate(0, std::span<const int64_t>(shape.data(), static_cast<size_t>(x.rank)));
    }
    require(x.numel() > 0 || y.numel() == 0, "resize: the input is empty");
    Resizer(settings_, plan_axes(settings_, x, roi, scales, sizes, y), x, y, args.parallel).run();
  }

 private:
  ResizeSettings settings_;
  bool upsample_;
};

}  // namespace
}  // namespace resample

std::unique_ptr<Kernel> make_resize(const Attrs& attrs) {
  return std::make_unique<resample::Resize>(resample::parse_resize(attrs), false);
}

std::unique_ptr<Kernel> make_upsample(const Attrs& attrs) {
  return std::make_unique<resample::Resize>(resample::parse_upsample(attrs), true);
}

}  // namespace graphopt
