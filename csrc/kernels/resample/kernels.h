// The vectorised f32 parts of Resize, one table of functions an instruction-set level.
#pragma once

#include <stdint.h>

namespace graphopt::resample {

struct RowTaps {
  const int32_t* index;  // [taps][out]
  const float* weight;   // [taps][out]
  int64_t taps;
  int64_t out;
  int64_t inner;  // neighbouring elements that share an index
};

struct Kernels {
  // out[i] = sum over rows r of weight[r] * rows[r][i]
  void (*combine)(const float* const* rows, const float* weight, int64_t count, int64_t length, float* out);
  // out[x * inner + c] = sum over taps of weight * row[index * inner + c]
  void (*interpolate)(const float* row, const RowTaps& taps, float* out);
};

#define GRAPHOPT_RESAMPLE(isa, table) extern const Kernels table;
#include "kernels/resample/kernels.inc"
#undef GRAPHOPT_RESAMPLE

}  // namespace graphopt::resample
