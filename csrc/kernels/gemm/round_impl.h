// From float32 to bfloat16 pairs and back. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

#ifdef __AVX512BF16__
void round_row(const float* in, int64_t columns, uint32_t* out) {
  for (int64_t i = 0; i < columns; i += 2 * Simd::kLanes) {
    const Simd::F low = Simd::load_n(in + i, columns - i);
    const Simd::F high = Simd::load_n(in + i + Simd::kLanes, columns - i - Simd::kLanes);
    const __mmask16 pairs = Simd::first((columns - i + 1) / 2);
    _mm512_mask_storeu_epi32(out + i / 2, pairs, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}
#else
// To nearest, ties to even; a NaN stays one.
inline uint32_t round_to_bf16(uint32_t bits) {
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
  return (bits & 0x7fffffffU) > 0x7f800000U ? (bits >> 16U) | 0x40U : rounded;
}

// Halves one after the other: a loop that the compiler makes vectors of.
void round_row(const float* in, int64_t columns, uint32_t* out) {
  typedef uint32_t Bits __attribute__((may_alias));
  typedef uint16_t Half __attribute__((may_alias));
  const auto* from = reinterpret_cast<const Bits*>(in);
  auto* to = reinterpret_cast<Half*>(out);
  for (int64_t i = 0; i < columns; ++i) to[i] = static_cast<uint16_t>(round_to_bf16(from[i]));
  if (columns % 2 != 0) to[columns] = 0;
}
#endif

// Rows of `columns` floats, in_step apart, as pairs, out_step apart; an odd last one is paired with zero.
void round_rows(const float* in, int64_t in_step, int64_t rows, int64_t columns, uint32_t* out, int64_t out_step) {
  for (int64_t r = 0; r < rows; ++r, in += in_step, out += out_step) round_row(in, columns, out);
}

// A loop that the compiler makes vectors of.
void widen_row(const uint16_t* in, int64_t count, float* out) {
  typedef uint32_t Bits __attribute__((may_alias));
  auto* to = reinterpret_cast<Bits*>(out);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint32_t>(in[i]) << 16U;
}

// See GemmKernels::pack_pairs.
void pack_pair_rows(const float* in, int64_t in_step, int64_t rows, int64_t columns, uint32_t* out, int64_t panel) {
  for (int64_t r = 0; r < rows; r += 2, in += 2 * in_step, out += 16) {
    const int64_t odd = r + 1 < rows ? columns : 0;
    uint32_t* to = out;
    for (int64_t j = 0; j < columns; j += 16, to += panel) {
      unroll<16 / Simd::kLanes>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        constexpr int kOffset = v * Simd::kLanes;
        const int64_t at = j + kOffset;
        const Simd::F low = Simd::load_n(in + at, columns - at);
        const Simd::F high = Simd::load_n(in + in_step + at, odd - at);
        Simd::store(reinterpret_cast<float*>(to + kOffset), Simd::pair(low, high));
      });
    }
  }
}

}  // namespace
}  // namespace graphopt
