// The step kernels quantize_linear, dequantize_linear and dynamic_quantize_linear.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/convert/dispatch.h"
#include "kernels/convert/number_cast.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace convert {
namespace {

using support::fail;
using support::load;
using support::operand;
using support::require;

// A quantized tensor as runs of neighbouring elements whose scales lie `step` apart, from `start` on.
struct Runs {
  int64_t count;
  int64_t length;        // of a run, but for the last one of a row
  int64_t runs_per_row;  // a row: what the axis and everything below it hold
  int64_t row_length;
  int64_t step;           // 0: one scale a run, 1: one an element
  int64_t scales_a_row;   // scales that a row owns
  int64_t runs_a_scale;   // runs that share a scale (or a line of scales)
  int64_t scales_a_line;  // scales that one run reads

  struct Run {
    int64_t begin;
    int64_t length;
    int64_t scale;
  };

  [[nodiscard]] Run at(int64_t run) const {
    const int64_t row = run / runs_per_row;
    const int64_t i = run % runs_per_row;
    const int64_t begin = i * length;
    return {row * row_length + begin, std::min(length, row_length - begin),
            row * scales_a_row + i / runs_a_scale * scales_a_line};
  }
};

Runs make_runs(int64_t rows, int64_t row_length, int64_t length) {
  const int64_t per_row = length == 0 ? 0 : (row_length + length - 1) / length;
  return {rows * per_row, length, std::max<int64_t>(per_row, 1), row_length, 0, 0, 1, 0};
}

// The granularity follows from the scale's shape: one scale, one an index of the axis, or one a block.
Runs plan_runs(const Tensor& x, const Tensor& scale, int64_t axis_attr, int64_t block_size) {
  constexpr int64_t kChunk = 1024;
  const int64_t total = x.numel();
  if (scale.numel() == 1 && block_size == 0) return make_runs(1, total, std::min(kChunk, total));
  require(x.rank > 0, "a scalar is quantized with one scale");
  const int axis = x.rank == 1 ? 0 : support::normalize_axis(axis_attr, x.rank);
  const int64_t size = x.dim(axis);
  const int64_t inner = support::extent(x, axis + 1, x.rank);
  const int64_t outer = support::extent(x, 0, axis);
  if (block_size == 0) {
    support::require_shape(scale, {size}, "the scale (of one axis)");
    Runs runs = make_runs(outer, size * inner, inner == 1 ? size : inner);
    runs.step = inner == 1 ? 1 : 0;
    runs.scales_a_line = 1;
    return runs;
  }
  require(block_size > 0, "attribute 'block_size' is negative");
  support::require_rank(scale, x.rank, "the scale (of blocks)");
  const int64_t blocks = scale.dim(axis);
  for (int i = 0; i < x.rank; ++i) {
    const int64_t expected = i == axis ? (size + block_size - 1) / block_size : x.dim(i);
    if (scale.dim(i) != expected) {
      fail("the scale has shape " + support::shape_text(scale) + ", which does not fit blocks of " +
           std::to_string(block_size) + " along axis " + std::to_string(axis) + " of " + support::shape_text(x));
    }
  }
  Runs runs = make_runs(outer, size * inner, inner == 1 ? std::min(block_size, size) : inner);
  runs.step = inner == 1 ? 0 : 1;
  runs.scales_a_row = blocks * inner;
  runs.runs_a_scale = inner == 1 ? 1 : block_size;
  runs.scales_a_line = inner;
  return runs;
}

// Scales and zero points as f32, in scratch memory.
struct Parameters {
  const float* scale;
  const float* zero;  // null: none
};

size_t parameter_bytes(const Tensor& scale) { return 2 * static_cast<size_t>(scale.numel()) * sizeof(float); }

Parameters widen_parameters(const Tensor& scale, const Tensor& zero, void* workspace) {
  auto* memory = static_cast<float*>(workspace);
  const int64_t count = scale.numel();
  const auto widen = [count](const Tensor& from, float* to) {
    support::visit_real(from.dtype, "a quantization parameter", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(load(from.ptr<const T>()[i]));
    });
  };
  widen(scale, memory);
  if (!zero.present()) return {memory, nullptr};
  if (count != 1 || zero.numel() != 1) support::require_same_shape(zero, scale, "the zero point");
  widen(zero, memory + count);
  return {memory, memory + count};
}

// The integers that a quantized type holds; floats have no bounds of this kind.
template <class T>
constexpr bool kIsQuantizedInteger = support::kIsSmallInt<T> || std::is_integral_v<T>;

template <class T>
constexpr double lowest() {
  if constexpr (support::kIsSmallInt<T>) {
    return T::kIsSigned ? -(1 << (T::kWidth - 1)) : 0;
  } else {
    return static_cast<double>(std::numeric_limits<T>::min());
  }
}

template <class T>
constexpr double highest() {
  if constexpr (support::kIsSmallInt<T>) {
    return T::kIsSigned ? (1 << (T::kWidth - 1)) - 1 : (1 << T::kWidth) - 1;
  } else {
    return static_cast<double>(std::numeric_limits<T>::max());
  }
}

// f(Tag<T>{}) for the types that QuantizeLinear writes and DequantizeLinear reads.
template <class F>
void visit_quantized(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF64:
    case DType::kF16:
    case DType::kBF16:
    case DType::kBool:
    case DType::kF8E8M0:
    case DType::kU64:
    case DType::kI64:
    case DType::kU32:
      fail(std::string(what) + ": element type " + support::dtype_name(dtype) + " is not a quantized type");
    default:
      support::visit_real(dtype, what, [&](auto tag) {
        using T = typename decltype(tag)::Type;
        if constexpr (kIsQuantizedInteger<T> || kIsFloat8<T>) f(tag);
      });
  }
}

// The type that the division is rounded to, when it is not f32.
enum class Precision : uint8_t { kF32, kF16, kBF16 };

class QuantizeLinear final : public Kernel {
 public:
  explicit QuantizeLinear(const Attrs& attrs)
      : axis_(attrs.i("axis", 1)),
        block_size_(attrs.i("block_size", 0)),
        output_dtype_(attrs.i("output_dtype", 0)),
        precision_(attrs.i("precision", 0)),
        overflow_(attrs.i("saturate", 1) != 0 ? support::Overflow::kSaturate : support::Overflow::kSpecial) {}

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int) const override {
    return parameter_bytes(operand(inputs, 1, "y_scale"));
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& scale = operand(args.inputs, 1, "y_scale");
    const Tensor zero = support::optional_operand(args.inputs, 2);
    const Tensor& y = support::result(args.outputs, 0, "y");
    support::require_same_shape(y, x, "y");
    if (zero.present()) support::require_dtype(zero, y.dtype, "y_zero_point");
    if (output_dtype_ != 0) support::require_dtype(y, static_cast<DType>(output_dtype_), "y");
    const Runs runs = plan_runs(x, scale, axis_, block_size_);
    const Parameters parameters = widen_parameters(scale, zero, args.workspace);
    const Precision precision = division_precision(x, scale);
    visit_source(x.dtype, [&](auto from_tag) {
      visit_quantized(y.dtype, "quantize_linear", [&](auto to_tag) {
        using From = typename decltype(from_tag)::Type;
        using To = typename decltype(to_tag)::Type;
        args.parallel.for_range(runs.count, support::grain_for(runs.length * 2), [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            const Runs::Run run = runs.at(i);
            quantize_run(x.ptr<const From>() + run.begin, y.ptr<To>() + run.begin, run.length,
                         {parameters.scale + run.scale, parameters.zero ? parameters.zero + run.scale : nullptr},
                         runs.step, precision);
          }
        });
      });
    });
  }

 private:
  template <class F>
  static void visit_source(DType dtype, F&& f) {
    if (dtype == DType::kI32) return f(support::Tag<int32_t>{});
    support::visit_float(dtype, "quantize_linear", f);
  }

  // f32 unless the operands, or the attribute, say less.
  Precision division_precision(const Tensor& x, const Tensor& scale) const {
    DType type = static_cast<DType>(precision_);
    if (precision_ == 0) type = x.dtype == scale.dtype ? scale.dtype : DType::kF32;
    return type == DType::kF16 ? Precision::kF16 : (type == DType::kBF16 ? Precision::kBF16 : Precision::kF32);
  }

  static float rounded(float value, Precision precision) {
    switch (precision) {
      case Precision::kF16:
        return support::decode(support::encode<support::F16>(static_cast<double>(value)));
      case Precision::kBF16:
        return support::decode(support::encode<support::BF16>(static_cast<double>(value)));
      case Precision::kF32:
        break;
    }
    return value;
  }

  template <class From, class To>
  void quantize_run(const From* x, To* y, int64_t count, const Parameters& parameters, int64_t step,
                    Precision precision) const {
    if constexpr (std::is_same_v<From, float> && (std::is_same_v<To, uint8_t> || std::is_same_v<To, int8_t>)) {
      if (step == 0 && precision == Precision::kF32) {
        const float zero = parameters.zero != nullptr ? parameters.zero[0] : 0.0F;
        if constexpr (std::is_same_v<To, uint8_t>) return kernels().quantize_u8(x, parameters.scale[0], zero, y, count);
        if constexpr (std::is_same_v<To, int8_t>) return kernels().quantize_i8(x, parameters.scale[0], zero, y, count);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const float zero = parameters.zero != nullptr ? parameters.zero[i * step] : 0.0F;
      const float q = rounded(static_cast<float>(load(x[i])) / parameters.scale[i * step], precision);
      y[i] = quantize_one<To>(q, zero);
    }
  }

  template <class To>
  To quantize_one(float q, float zero) const {
    if constexpr (kIsQuantizedInteger<To>) {
      const double shifted = std::nearbyint(static_cast<double>(q)) + static_cast<double>(zero);
      const double bounded = shifted > lowest<To>() ? std::min(shifted, highest<To>()) : lowest<To>();  // NaN too
      return cast_number<To>(static_cast<int64_t>(bounded), {});
    } else {
      return support::encode<To>(static_cast<double>(q + zero), overflow_);
    }
  }

  int64_t axis_;
  int64_t block_size_;
  int64_t output_dtype_;
  int64_t precision_;
  support::Overflow overflow_;
};

class DequantizeLinear final : public Kernel {
 public:
  explicit DequantizeLinear(const Attrs& attrs)
      : axis_(attrs.i("axis", 1)), block_size_(attrs.i("block_size", 0)), output_dtype_(attrs.i("output_dtype", 0)) {}

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int) const override {
    return parameter_bytes(operand(inputs, 1, "x_scale"));
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& scale = operand(args.inputs, 1, "x_scale");
    const Tensor zero = support::optional_operand(args.inputs, 2);
    const Tensor& y = support::result(args.outputs, 0, "y");
    support::require_same_shape(y, x, "y");
    if (zero.present()) support::require_dtype(zero, x.dtype, "x_zero_point");
    if (output_dtype_ != 0) support::require_dtype(y, static_cast<DType>(output_dtype_), "y");
    const Runs runs = plan_runs(x, scale, axis_, block_size_);
    const Parameters parameters = widen_parameters(scale, zero, args.workspace);
    visit_quantized(x.dtype, "dequantize_linear", [&](auto from_tag) {
      support::visit_float(y.dtype, "dequantize_linear", [&](auto to_tag) {
        using From = typename decltype(from_tag)::Type;
        using To = typename decltype(to_tag)::Type;
        args.parallel.for_range(runs.count, support::grain_for(runs.length), [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            const Runs::Run run = runs.at(i);
            dequantize_run(x.ptr<const From>() + run.begin, y.ptr<To>() + run.begin, run.length,
                           {parameters.scale + run.scale, parameters.zero ? parameters.zero + run.scale : nullptr},
                           runs.step);
          }
        });
      });
    });
  }

 private:
  template <class From, class To>
  static void dequantize_run(const From* x, To* y, int64_t count, const Parameters& parameters, int64_t step) {
    if constexpr (std::is_same_v<To, float> && (std::is_same_v<From, uint8_t> || std::is_same_v<From, int8_t>)) {
      if (step == 0) {
        const float zero = parameters.zero != nullptr ? parameters.zero[0] : 0.0F;
        if constexpr (std::is_same_v<From, uint8_t>) {
          return kernels().dequantize_u8(x, parameters.scale[0], zero, y, count);
        } else {
          return kernels().dequantize_i8(x, parameters.scale[0], zero, y, count);
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const float zero = parameters.zero != nullptr ? parameters.zero[i * step] : 0.0F;
      const float value = (static_cast<float>(load(x[i])) - zero) * parameters.scale[i * step];
      y[i] = support::store<To>(static_cast<support::Compute<To>>(value));
    }
  }

  int64_t axis_;
  int64_t block_size_;
  int64_t output_dtype_;
};

class DynamicQuantizeLinear final : public Kernel {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& y = support::result(args.outputs, 0, "y");
    const Tensor scale_out = support::optional_result(args.outputs, 1);
    const Tensor zero_out = support::optional_result(args.outputs, 2);
    support::require_dtype(x, DType::kF32, "x");
    support::require_dtype(y, DType::kU8, "y");
    support::require_same_shape(y, x, "y");
    constexpr int64_t kGrain = int64_t{1} << 14;
    const Kernels& table = kernels();
    struct alignas(64) Range {  // a cache line a worker
      float low = 0.0F;         // the range includes zero
      float high = 0.0F;
    };
    std::vector<Range> ranges(static_cast<size_t>(args.parallel.threads()));
    args.parallel.for_range(x.numel(), kGrain, [&](int64_t begin, int64_t end, int worker) {
      Range& range = ranges[static_cast<size_t>(worker)];
      table.range_of(x.ptr<const float>() + begin, end - begin, &range.low, &range.high);
    });
    Range all;
    for (const Range& range : ranges) {
      all.low = std::min(all.low, range.low);
      all.high = std::max(all.high, range.high);
    }
    const float scale = all.high == all.low ? 1.0F : (all.high - all.low) / 255.0F;
    const float zero = std::nearbyint(std::clamp(0.0F - all.low / scale, 0.0F, 255.0F));
    args.parallel.for_range(x.numel(), kGrain, [&](int64_t begin, int64_t end, int) {
      table.quantize_u8(x.ptr<const float>() + begin, scale, zero, y.ptr<uint8_t>() + begin, end - begin);
    });
    if (scale_out.present()) {
      support::require_dtype(scale_out, DType::kF32, "y_scale");
      require(scale_out.numel() == 1, "dynamic_quantize_linear: y_scale must be a scalar");
      *scale_out.ptr<float>() = scale;
    }
    if (zero_out.present()) {
      support::require_dtype(zero_out, DType::kU8, "y_zero_point");
      require(zero_out.numel() == 1, "dynamic_quantize_linear: y_zero_point must be a scalar");
      *zero_out.ptr<uint8_t>() = static_cast<uint8_t>(zero);
    }
  }
};

}  // namespace
}  // namespace convert

std::unique_ptr<Kernel> make_quantize_linear(const Attrs& attrs) {
  return std::make_unique<convert::QuantizeLinear>(attrs);
}

std::unique_ptr<Kernel> make_dequantize_linear(const Attrs& attrs) {
  return std::make_unique<convert::DequantizeLinear>(attrs);
}

std::unique_ptr<Kernel> make_dynamic_quantize_linear(const Attrs&) {
  return std::make_unique<convert::DynamicQuantizeLinear>();
}

}  // namespace graphopt
