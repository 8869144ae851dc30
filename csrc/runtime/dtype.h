// Names and checked sizes of element types.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "graphopt/tensor.h"

namespace graphopt {

inline constexpr int kMaxDType = 28;

// numpy's (or ml_dtypes') name: "float32", "bfloat16", ...; "undefined" for what is not a type.
std::string_view dtype_name(DType type);

// The type of that numpy or ml_dtypes name; kUndefined when there is none.
DType dtype_from_name(std::string_view name);

// "[1, 3, 224]".
std::string shape_text(std::span<const int64_t> shape);

// Elements of a shape and their bytes. False when a dimension is negative or the product overflows.
bool checked_numel(std::span<const int64_t> shape, int64_t* count);
bool checked_nbytes(std::span<const int64_t> shape, DType type, size_t* bytes);

}  // namespace graphopt
