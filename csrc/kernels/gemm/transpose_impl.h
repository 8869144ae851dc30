// Block transposition, for packing. Included after one simd_*.h.
#pragma once

#include <cstdint>

namespace graphopt {
namespace {

// Blocks small enough for L1: 16 rows are read while 16 columns are written.
void transpose_block(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out, int64_t out_step,
                     int64_t out_columns) {
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = 0; j < rows; ++j) out[i * out_step + j] = in[j * in_step + i];
    for (int64_t j = rows; j < out_columns; ++j) out[i * out_step + j] = 0;
  }
}

}  // namespace
}  // namespace graphopt
