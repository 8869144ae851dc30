// The micro-kernel of kernels/int8/int4.h, written once, on vectors of the compiler's own.
#pragma once

#include <stddef.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/int8/int4.h"

namespace graphopt::int8 {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));
typedef uint8_t Codes __attribute__((vector_size(16)));

// A macro: a function that returns such a vector would have no ABI on smaller instruction sets.
#define GRAPHOPT_LOAD(to, from) __builtin_memcpy(&(to), from, sizeof(to))

// Sixteen bytes as words; what the compiler makes of a conversion of its own vectors goes byte by byte.
#if defined(__AVX512F__)
#define GRAPHOPT_WIDEN(to, from) \
  to = (Words)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#elif defined(__AVX2__)
#define GRAPHOPT_WIDEN(to, from)                                                                                     \
  do {                                                                                                               \
    const __m256i halves[2] = {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))),        \
                               _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>((from) + 8)))}; \
    __builtin_memcpy(&(to), halves, sizeof(to));                                                                     \
  } while (false)
#else
#define GRAPHOPT_WIDEN(to, from)               \
  do {                                         \
    Codes pair;                                \
    GRAPHOPT_LOAD(pair, from);                 \
    to = __builtin_convertvector(pair, Words); \
  } while (false)
#endif

template <int Rows>
void nibble_rows(const NibbleTile& t, int64_t row) {
  Floats sums[Rows];
  for (Floats& sum : sums) GRAPHOPT_LOAD(sum, t.bias);
  const uint8_t* codes = t.weights;
  for (int64_t begin = 0, index = 0; begin < t.depth; begin += t.block, ++index) {
    const int64_t end = begin + t.block < t.depth ? begin + t.block : t.depth;
    Floats zero;
    GRAPHOPT_LOAD(zero, t.zero + index * 16);
    // Two chains of multiply-adds a row hide their latency.
    Floats even[Rows] = {};
    Floats odd[Rows] = {};
    for (int64_t k = begin; k < end; k += 2, codes += 16) {
      Words wide;
      GRAPHOPT_WIDEN(wide, codes);
      const Floats first = __builtin_convertvector(wide & 15, Floats) - zero;
      const Floats second = __builtin_convertvector(wide >> 4, Floats) - zero;
      for (int r = 0; r < Rows; ++r) {
        const float* x = t.x + (row + r) * t.x_step + k;
        even[r] += first * x[0];
        odd[r] += second * x[1];
      }
    }
    Floats scale;
    GRAPHOPT_LOAD(scale, t.scale + index * 16);
    for (int r = 0; r < Rows; ++r) sums[r] += scale * (even[r] + odd[r]);
  }
  for (int r = 0; r < Rows; ++r) {
    float* y = t.y + (row + r) * t.y_step;
    __builtin_memcpy(y, &sums[r], static_cast<size_t>(t.columns) * sizeof(float));
  }
}

void nibbles(const NibbleTile& t) {
  int64_t row = 0;
  for (; row + 4 <= t.rows; row += 4) nibble_rows<4>(t, row);
  for (; row < t.rows; ++row) nibble_rows<1>(t, row);
}

#undef GRAPHOPT_WIDEN
#undef GRAPHOPT_LOAD

}  // namespace
}  // namespace graphopt::int8
