#include "runtime/dtype.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace graphopt {
namespace {

// Indexed by type code.
constexpr std::array<std::string_view, kMaxDType + 1> kNames = {"undefined",
                                                                "float32",
                                                                "uint8",
                                                                "int8",
                                                                "uint16",
                                                                "int16",
                                                                "int32",
                                                                "int64",
                                                                "object",
                                                                "bool",
                                                                "float16",
                                                                "float64",
                                                                "uint32",
                                                                "uint64",
                                                                "complex64",
                                                                "complex128",
                                                                "bfloat16",
                                                                "float8_e4m3fn",
                                                                "float8_e4m3fnuz",
                                                                "float8_e5m2",
                                                                "float8_e5m2fnuz",
                                                                "uint4",
                                                                "int4",
                                                                "float4_e2m1fn",
                                                                "float8_e8m0fnu",
                                                                "uint2",
                                                                "int2",
                                                                "float6_e2m3fn",
                                                                "float6_e3m2fn"};

}  // namespace

std::string_view dtype_name(DType type) {
  const auto code = static_cast<size_t>(type);
  return code < kNames.size() ? kNames[code] : kNames[0];
}

DType dtype_from_name(std::string_view name) {
  const auto* it = std::find(kNames.begin() + 1, kNames.end(), name);
  return it == kNames.end() ? DType::kUndefined : static_cast<DType>(it - kNames.begin());
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

bool checked_numel(std::span<const int64_t> shape, int64_t* count) {
  int64_t total = 1;
  bool overflow = false;
  bool zero = false;
  for (const int64_t dim : shape) {
    if (dim < 0) return false;
    zero = zero || dim == 0;
    if (dim > 0) overflow = __builtin_mul_overflow(total, dim, &total) || overflow;
  }
  // A strided walk over an empty tensor still multiplies its other dimensions.
  if (overflow) return false;
  *count = zero ? 0 : total;
  return true;
}

bool checked_nbytes(std::span<const int64_t> shape, DType type, size_t* bytes) {
  int64_t count = 0;
  if (!checked_numel(shape, &count)) return false;
  int64_t total = 0;
  if (__builtin_mul_overflow(count, static_cast<int64_t>(element_size(type)), &total)) return false;
  *bytes = static_cast<size_t>(total);
  return true;
}

}  // namespace graphopt
