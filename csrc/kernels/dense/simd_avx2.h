// Vectors of 8 floats for the AVX2 translation units.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace graphopt {
namespace {

struct Simd {
  static constexpr int kLanes = 8;
  using F = __m256;
  using I = __m256i;
  using M = __m256;
  using Lower = F;  // only vectors of 16 have halves of their own

  static __m256i first(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  // A value that the compiler must hold in a register: GCC else repeats a load for each of its uses.
  static F keep(F x) {
    __asm__("" : "+x"(x));
    return x;
  }
  // The first n lanes only (n <= 0: none); the others load as zero and memory behind them is not touched.
  static F load_n(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    return n <= 0 ? zero() : _mm256_maskload_ps(p, first(n));
  }
  static void store_n(float* p, F x, int64_t n) {
    if (n >= kLanes) {
      store(p, x);
    } else if (n > 0) {
      _mm256_maskstore_ps(p, first(n), x);
    }
  }

  static Lower lower(F a) { return a; }
  static Lower load_lower(const float* p) { return load(p); }
  static F from_lower(Lower a) { return a; }

  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F sqrt(F a) { return _mm256_sqrt_ps(a); }
  // When a lane of either is NaN the result is b's: a bound goes first, data goes second.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  // magnitude of a, sign of b
  static F copysign(F a, F b) {
    const F sign = _mm256_set1_ps(-0.0F);
    return _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b));
  }
  // Numbers that are stored in bfloat16: widened, or rounded to nearest even.
  static F load_half(const uint16_t* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_half_n(const uint16_t* p, int64_t n) {
    uint16_t some[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) {
      if (i < n) some[i] = p[i];
    }
    return load_half(some);
  }
  static void store_half(uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
  static void store_half_n(uint16_t* p, F x, int64_t n) {
    uint16_t some[kLanes];
    store_half(some, x);
    for (int i = 0; i < kLanes; ++i) {
      if (i < n) p[i] = some[i];
    }
  }
  // Low and high halves of lanes.
  static F pair(F low, F high) {
    const __m256i upper = _mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow(high)), 16);
    return _mm256_castsi256_ps(_mm256_or_si256(upper, _mm256_cvtepu16_epi32(narrow(low))));
  }
  static F widen(__m128i halves) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)); }
  static __m128i narrow(F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22));
    const __m256i halves = _mm256_srli_epi32(_mm256_blendv_epi8(sum, quiet, _mm256_castps_si256(is_nan(x))), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  }

  // The numbers that the low and the high 16 bits of a lane are in bfloat16.
  static F low_half(F a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16)); }
  static F high_half(F a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN >> 15))); }
  static M lt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static M is_nan(F a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
  static F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }

  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // a 2^n for a whole n in [-252, 254]: in two steps, so that neither factor leaves the range of a float
  static F scale(F a, F n) {
    const I whole = _mm256_cvtps_epi32(n);
    const I half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, pow2(half)), pow2(_mm256_sub_epi32(whole, half)));
  }

  // Every lane gets the Part-th value of its group of Size lanes.
  template <int Size, int Part>
  static F spread(F a) {
    if constexpr (Size == 1) return a;
    if constexpr (Size == 2) return _mm256_permute_ps(a, Part == 0 ? 0xa0 : 0xf5);
    if constexpr (Size == 4) return _mm256_permute_ps(a, Part * 0x55);
    return _mm256_permutevar8x32_ps(a, _mm256_set1_epi32(Part));
  }

  // Row r of an 8 x 8 block becomes its column r.
  static void transpose(F (&m)[8]) {
    F t[8];
    for (int i = 0; i < 8; i += 4) {  // 4 x 4 blocks inside the two lanes
      const F a = _mm256_unpacklo_ps(m[i], m[i + 1]);
      const F b = _mm256_unpackhi_ps(m[i], m[i + 1]);
      const F c = _mm256_unpacklo_ps(m[i + 2], m[i + 3]);
      const F d = _mm256_unpackhi_ps(m[i + 2], m[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      m[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
      m[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
  }

  // Horizontal, always in the same order.
  static float sum(F a) {
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float max_of(F a) {
    const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  static F pow2(I n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
};

}  // namespace
}  // namespace graphopt
