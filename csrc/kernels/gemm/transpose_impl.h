// Transposition and packing of matrices in memory, for operands known at run time only. Included after
// one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

// out[i][j] = in[j][i] for i < columns, j < rows; out[i][j] = 0 for rows <= j < out_columns. Square blocks
// in registers, each read along its rows and written along its columns.
void transpose_block(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out, int64_t out_step,
                     int64_t out_columns) {
  constexpr int kSide = Simd::kLanes;
  for (int64_t j = 0; j < out_columns; j += kSide) {
    const int64_t width = out_columns - j;  // of what is written
    const int64_t height = rows - j;        // of what is read
    for (int64_t i = 0; i < columns; i += kSide) {
      const int64_t lanes = columns - i;
      Simd::F block[kSide];
      if (height >= kSide && lanes >= kSide) {
        unroll<kSide>([&](auto r) GRAPHOPT_INLINE_LAMBDA { block[r] = Simd::load(in + (j + r) * in_step + i); });
      } else {
        unroll<kSide>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
          block[r] = r < height ? Simd::load_n(in + (j + r) * in_step + i, lanes) : Simd::zero();
        });
      }
      Simd::transpose(block);
      if (width >= kSide && lanes >= kSide) {
        unroll<kSide>([&](auto c) GRAPHOPT_INLINE_LAMBDA { Simd::store(out + (i + c) * out_step + j, block[c]); });
      } else {
        unroll<kSide>([&](auto c) GRAPHOPT_INLINE_LAMBDA {
          if (c < lanes) Simd::store_n(out + (i + c) * out_step + j, block[c], width);
        });
      }
    }
  }
}

// Panels of 16 columns, `panel` floats apart, of a row-major matrix: zero padded.
void pack_rows(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out, int64_t panel) {
  for (int64_t k = 0; k < rows; ++k, in += in_step, out += 16) {
    float* to = out;
    for (int64_t j = 0; j < columns; j += 16, to += panel) {
      unroll<16 / Simd::kLanes>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        constexpr int kOffset = v * Simd::kLanes;
        Simd::store(to + kOffset, Simd::load_n(in + j + kOffset, columns - j - kOffset));
      });
    }
  }
}

}  // namespace
}  // namespace graphopt
