// Products of bfloat16 numbers in pairs: two neighbours along K share the 32 bits of a float, so that
// tables of rows, packing and tiles are those of floats. Included after one simd_*.h.
#pragma once

#include <cstdint>

namespace graphopt {
namespace {

// The multiply-add of a tile on floats.
struct Multiply {
  static constexpr bool kPairs = false;
  static Simd::F step(Simd::F x, Simd::F b, Simd::F sum) { return Simd::fma(x, b, sum); }
};

// The same on pairs: sum + x.low b.low + x.high b.high, in float32.
struct DotPairs {
  static constexpr bool kPairs = true;
  static Simd::F step(Simd::F x, Simd::F b, Simd::F sum) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)b);
#else
    sum = Simd::fma(Simd::low_half(x), Simd::low_half(b), sum);
    return Simd::fma(Simd::high_half(x), Simd::high_half(b), sum);
#endif
  }
};

}  // namespace
}  // namespace graphopt
