// The vectorised loops behind cast, the quantizers and the integer products, one table a level.
#pragma once

#include <stdint.h>

namespace graphopt::convert {

// Columns that the integer product computes at a time; see int_gemm.h.
inline constexpr int64_t kIntColumns = 16;

// sums[m][16] = a[m][2 * pairs] times one panel [pairs][16][2], rows `a_step` and `sums_step` apart.
struct IntPanel {
  const int16_t* a;
  int64_t a_step;
  int64_t rows;
  const int16_t* panel;
  int64_t pairs;
  int32_t* sums;
  int64_t sums_step;
};

struct Kernels {
  void (*f16_to_f32)(const uint16_t* from, float* to, int64_t count);
  void (*f32_to_f16)(const float* from, uint16_t* to, int64_t count);
  void (*bf16_to_f32)(const uint16_t* from, float* to, int64_t count);
  void (*f32_to_bf16)(const float* from, uint16_t* to, int64_t count);
  // clamp(round(x / scale), low - zero, high - zero) + zero, with low..high the range of the type.
  void (*quantize_u8)(const float* from, float scale, float zero, uint8_t* to, int64_t count);
  void (*quantize_i8)(const float* from, float scale, float zero, int8_t* to, int64_t count);
  void (*dequantize_u8)(const uint8_t* from, float scale, float zero, float* to, int64_t count);
  void (*dequantize_i8)(const int8_t* from, float scale, float zero, float* to, int64_t count);
  void (*range_of)(const float* from, int64_t count, float* low, float* high);  // both are updated
  void (*int_panel)(const IntPanel& job);
};

#define GRAPHOPT_CONVERT(isa, table) extern const Kernels table;
#include "kernels/convert/kernels.inc"
#undef GRAPHOPT_CONVERT

}  // namespace graphopt::convert
