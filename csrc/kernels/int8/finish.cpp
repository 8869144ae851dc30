#include "kernels/int8/finish.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/dense/operands.h"

namespace graphopt::int8 {
namespace {

bool is_byte(DType type) { return type == DType::kU8 || type == DType::kI8; }

template <class T>
const T* numbers(const char* step, const Tensor& tensor, DType type, int64_t count, const char* what) {
  if (!tensor.present()) return nullptr;
  if (tensor.dtype != type || tensor.numel() != count) {
    throw Error(std::string(step) + ": operand '" + what + "' has the wrong type or length");
  }
  return tensor.ptr<T>();
}

}  // namespace

FinishPlan::FinishPlan(const Attrs& attrs) : epilogue_(parse_epilogue(attrs)), bounded_(attrs.has("low")) {
  const auto real = [&attrs](const char* name, double fallback) { return static_cast<float>(attrs.f(name, fallback)); };
  finish_.low = real("low", 0);
  finish_.high = real("high", 0);
  finish_.zero = real("zero", 0);
  finish_.mid_low = real("mid_low", 0);
  finish_.mid_high = real("mid_high", 0);
  finish_.mid_scale = real("mid_scale", 0);
  finish_.residual_scale = real("residual_scale", 0);
  finish_.residual_zero = real("residual_zero", 0);
  finish_.out_scale = real("out_scale", 0);
  finish_.residual_after = epilogue_.residual_after;
}

Finish FinishPlan::complete(const char* step, std::span<const Tensor> inputs, const Tensor& y, int64_t columns,
                            Columns& found) const {
  const auto text = [step](const char* what) { return std::string(step) + ": " + what; };
  Finish finish = finish_;
  finish.out = y.dtype;
  found.start = numbers<int32_t>(step, operand(inputs, 2), DType::kI32, columns, "bias");
  found.scale = numbers<float>(step, operand(inputs, 3), DType::kF32, columns, "scale");
  found.offset = numbers<float>(step, operand(inputs, 4), DType::kF32, columns, "offset");
  found.table = numbers<uint8_t>(step, operand(inputs, 6), DType::kU8, 256, "table");
  found.row_factors = numbers<int32_t>(step, operand(inputs, 7), DType::kI32, columns, "row_factors");
  if (found.scale == nullptr) throw Error(text("operand 'scale' is missing"));
  finish.table = found.table;
  const Tensor& residual = operand(inputs, 5);
  if (residual.present()) {
    if (residual.numel() != y.numel()) throw Error(text("residual must be as large as Y"));
    const bool fits = y.dtype == DType::kF32 ? residual.dtype == DType::kF32 : is_byte(residual.dtype);
    if (!fits) throw Error(text("residual must be float32 like Y, or of bytes like Y"));
    finish.residual = residual.dtype;
    found.residual = residual.data;
  }
  if (y.dtype == DType::kF32) {
    if (found.table != nullptr) throw Error(text("a table is for bytes"));
    const bool free = activates();
    finish.low = free ? -std::numeric_limits<float>::infinity() : epilogue_.low();
    finish.high = free ? std::numeric_limits<float>::infinity() : epilogue_.high();
    return finish;
  }
  if (!is_byte(y.dtype)) throw Error(text("Y must be float32, uint8 or int8"));
  const float least = y.dtype == DType::kU8 ? 0.0F : -128.0F;
  if (!bounded_) {
    finish.low = least - finish.zero;
    finish.high = least + 255.0F - finish.zero;
  }
  if (finish.low + finish.zero < least || finish.high + finish.zero > least + 255.0F || finish.low > finish.high) {
    throw Error(text("the bounds of Y are not those of its type"));
  }
  if ((residual.present() || activates()) && !(finish.out_scale > 0)) throw Error(text("out_scale must be positive"));
  if (activates() && residual.present()) throw Error(text("a residual of bytes and an activation exclude each other"));
  // A sum is smaller than 2^31; so is its product, if scales are at most one.
  finish.huge = std::any_of(found.scale, found.scale + columns, [](float scale) { return !(scale <= 1.0F); });
  return finish;
}

bool is_signed_byte(const char* step, const Tensor& x) {
  if (!is_byte(x.dtype)) throw Error(std::string(step) + ": X must be uint8 or int8");
  return x.dtype == DType::kI8;
}

}  // namespace graphopt::int8
