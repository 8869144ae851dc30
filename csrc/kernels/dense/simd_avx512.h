// Vectors of 16 floats for the AVX-512 translation units.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace graphopt {
namespace {

struct Simd {
  static constexpr int kLanes = 16;
  using F = __m512;
  using M = __mmask16;
  using Lower = __m256;

  // The first n lanes, 0 <= n <= 16 after clamping. No branch: loops take it out.
  static M first(int64_t n) {
    n = n < 0 ? 0 : n;
    n = n > 16 ? 16 : n;
    return static_cast<M>((1U << static_cast<unsigned>(n)) - 1U);
  }

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  // A value that the compiler must hold in a register: GCC else repeats a load for each of its uses.
  static F keep(F x) {
    __asm__("" : "+v"(x));
    return x;
  }
  // The first n lanes only (n <= 0: none); the others load as zero and memory behind them is not touched.
  static F load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_n(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }

  // The first 8 lanes as a vector of their own: half the work where the processor splits long ones.
  static Lower lower(F a) { return _mm512_castps512_ps256(a); }
  static Lower load_lower(const float* p) { return _mm256_loadu_ps(p); }
  static Lower fma(Lower a, Lower b, Lower c) { return _mm256_fmadd_ps(a, b, c); }
  static F from_lower(Lower a) { return _mm512_zextps256_ps512(a); }

  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F sqrt(F a) { return _mm512_sqrt_ps(a); }
  // When a lane of either is NaN the result is b's: a bound goes first, data goes second.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  // magnitude of a, sign of b
  static F copysign(F a, F b) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b), _mm512_castps_si512(a), 0xca));
  }
  static M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }

  // Numbers that are stored in bfloat16: widened, or rounded to nearest even.
  static F load_half(const uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load_half_n(const uint16_t* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static void store_half(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
  static void store_half_n(uint16_t* p, F x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }
  // Low and high halves of lanes.
  static F pair(F low, F high) {
    const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(high)), 16);
    return _mm512_castsi512_ps(_mm512_or_si512(upper, _mm512_cvtepu16_epi32(narrow(low))));
  }
  static F widen(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }
  static __m256i narrow(F x) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(sum, is_nan(x), quiet), 16));
#endif
  }

  // The numbers that the low and the high 16 bits of a lane are in bfloat16.
  static F low_half(F a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16)); }
  static F high_half(F a) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN >> 15)));
  }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // a 2^n for a whole n in [-252, 254]
  static F scale(F a, F n) { return _mm512_scalef_ps(a, n); }

  // Every lane gets the Part-th value of its group of Size lanes.
  template <int Size, int Part>
  static F spread(F a) {
    if constexpr (Size == 1) return a;
    if constexpr (Size == 2) return _mm512_permute_ps(a, Part == 0 ? 0xa0 : 0xf5);
    if constexpr (Size == 4) return _mm512_permute_ps(a, Part * 0x55);
    const __m512i lane = _mm512_set_epi32(8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(_mm512_add_epi32(lane, _mm512_set1_epi32(Part)), a);
  }

  // Row r of a 16 x 16 block becomes its column r.
  static void transpose(F (&m)[16]) {
    F t[16];
    for (int i = 0; i < 16; i += 4) {  // 4 x 4 blocks inside the four lanes
      const F a = _mm512_unpacklo_ps(m[i], m[i + 1]);
      const F b = _mm512_unpackhi_ps(m[i], m[i + 1]);
      const F c = _mm512_unpacklo_ps(m[i + 2], m[i + 3]);
      const F d = _mm512_unpackhi_ps(m[i + 2], m[i + 3]);
      t[i] = _mm512_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {  // and the lanes as a 4 x 4 block
      const F a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
      const F b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const F c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
      const F d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      m[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      m[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      m[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      m[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }

  // Horizontal, always in the same order.
  static float sum(F a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float max_of(F a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace
}  // namespace graphopt
