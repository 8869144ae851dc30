// One vector type, `Vec`, for the instruction-set level that the including file is compiled for.
//
// For ISA sources only (see cmake/isa.cmake). Everything is in the unnamed namespace, so that no two
// levels ever share a symbol. Groups of kPanel floats are the unit that layouts are made of; a level
// uses kPanel / Vec::kLanes registers for one.
#pragma once

#include <stdint.h>

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
// GCC bug 105593: the intrinsics' own "undefined" values are reported as uninitialized.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int kPanel = 16;

#if defined(__AVX512F__)

struct Vec {
  __m512 v;
  static constexpr int kLanes = 16;
};

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load_first(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), p)};
}
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
// Lane i is p[index[i]].
inline Vec gather(const float* p, const int32_t* index) {
  return {_mm512_i32gather_ps(_mm512_loadu_si512(index), p, 4)};
}
inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// max(a, b) and min(a, b) are b where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
// |a| with the sign of s.
inline Vec copy_sign(Vec a, Vec s) {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __m512i bits = _mm512_or_si512(_mm512_andnot_si512(sign, _mm512_castps_si512(a.v)),
                                       _mm512_and_si512(sign, _mm512_castps_si512(s.v)));
  return {_mm512_castsi512_ps(bits)};
}
// a < b ? x : y
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// The low bits of a float, moved into its exponent: 2^n for the float (1.5 * 2^23 + n).
inline Vec power_of_two(Vec a) {
  const __m512i bits = _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(a.v), 23), _mm512_set1_epi32(0x3f800000));
  return {_mm512_castsi512_ps(bits)};
}
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
// Rows of a square become its columns.
inline void transpose(Vec (&m)[16]) {
  __m512 t[16];
  // 2 x 2, then 4 x 4 blocks inside 128-bit lanes, then the lanes themselves.
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(m[i].v, m[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(m[i].v, m[i + 1].v);
  }
  __m512 u[16];
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(t[i + j]);
      const __m512d high = _mm512_castps_pd(t[i + j + 2]);
      u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 even_low = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    m[j].v = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    m[4 + j].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    m[8 + j].v = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    m[12 + j].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

#elif defined(__AVX2__)

struct Vec {
  __m256 v;
  static constexpr int kLanes = 8;
};

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load_first(const float* p, int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane))};
}
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline Vec gather(const float* p, const int32_t* index) {
  return {_mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4)};
}
inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)}; }
inline Vec copy_sign(Vec a, Vec s) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_or_ps(_mm256_andnot_ps(sign, a.v), _mm256_and_ps(sign, s.v))};
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
inline Vec power_of_two(Vec a) {
  const __m256i bits = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(a.v), 23), _mm256_set1_epi32(0x3f800000));
  return {_mm256_castsi256_ps(bits)};
}
inline float sum(Vec a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline void transpose(Vec (&m)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(m[i].v, m[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(m[i].v, m[i + 1].v);
  }
  __m256 u[8];
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m256d low = _mm256_castps_pd(t[i + j]);
      const __m256d high = _mm256_castps_pd(t[i + j + 2]);
      u[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      u[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
  }
  for (int j = 0; j < 4; ++j) {
    m[j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    m[4 + j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}

#else

// GCC and Clang lower these to whatever the target's baseline has.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Uint4 __attribute__((vector_size(16)));

struct Vec {
  Float4 v;
  static constexpr int kLanes = 4;
};

inline Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a.v, p, sizeof(a.v));
  return a;
}
inline Vec load_first(const float* p, int count) {
  Vec a{Float4{0, 0, 0, 0}};
  for (int i = 0; i < count; ++i) a.v[i] = p[i];
  return a;
}
inline void store(float* p, Vec a) { __builtin_memcpy(p, &a.v, sizeof(a.v)); }
inline Vec gather(const float* p, const int32_t* index) {
  return {Float4{p[index[0]], p[index[1]], p[index[2]], p[index[3]]}};
}
inline Vec splat(float x) { return {Float4{x, x, x, x}}; }
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec select(Int4 condition, Vec x, Vec y) {
  return {(Float4)((condition & (Int4)x.v) | (~condition & (Int4)y.v))};
}
inline Vec max(Vec a, Vec b) { return select(a.v > b.v, a, b); }
inline Vec min(Vec a, Vec b) { return select(a.v < b.v, a, b); }
inline Vec abs(Vec a) { return {(Float4)((Uint4)a.v & Uint4{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff})}; }
inline Vec copy_sign(Vec a, Vec s) {
  const Uint4 sign = {0x80000000, 0x80000000, 0x80000000, 0x80000000};
  return {(Float4)(((Uint4)a.v & ~sign) | ((Uint4)s.v & sign))};
}
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) { return select(a.v < b.v, x, y); }
inline Vec power_of_two(Vec a) { return {(Float4)(((Uint4)a.v << 23) + 0x3f800000U)}; }
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline void transpose(Vec (&m)[4]) {
  const Float4 a = m[0].v, b = m[1].v, c = m[2].v, d = m[3].v;
  m[0].v = Float4{a[0], b[0], c[0], d[0]};
  m[1].v = Float4{a[1], b[1], c[1], d[1]};
  m[2].v = Float4{a[2], b[2], c[2], d[2]};
  m[3].v = Float4{a[3], b[3], c[3], d[3]};
}

#endif

constexpr int kVecsInPanel = kPanel / Vec::kLanes;

// Lane i of the result: the sum of all lanes of rows[i].
inline Vec sums_of(Vec (&rows)[Vec::kLanes]) {
  transpose(rows);
  for (int step = Vec::kLanes / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) rows[i] = add(rows[i], rows[i + step]);
  }
  return rows[0];
}

// e^x = 2^n (1 + p) for x <= 0: n is the nearest integer to x / ln 2, so |r| = |x - n ln 2| <= ln 2 / 2, and
// p = e^r - 1 is its Taylor polynomial of degree 7, whose remainder is below 2e-8 of p.
struct ExpParts {
  Vec scale;  // 2^n
  Vec p;      // e^r - 1
};

inline ExpParts exp_parts(Vec x) {
  // Below this, 2^n would leave the normal range.
  x = max(splat(-87.0F), x);
  const Vec shift = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(x, splat(1.44269504088896341F), shift);
  const Vec n = sub(shifted, shift);
  Vec r = fma(n, splat(-0.693145751953125F), x);  // ln 2 in two parts, the first exact in products with n
  r = fma(n, splat(-1.42860682030941723e-6F), r);
  Vec q = splat(1.0F / 5040);
  q = fma(q, r, splat(1.0F / 720));
  q = fma(q, r, splat(1.0F / 120));
  q = fma(q, r, splat(1.0F / 24));
  q = fma(q, r, splat(1.0F / 6));
  q = fma(q, r, splat(0.5F));
  return {power_of_two(shifted), fma(mul(r, r), q, r)};
}

// e^x for x <= 0.
inline Vec exp_negative(Vec x) {
  const ExpParts parts = exp_parts(x);
  return fma(parts.scale, parts.p, parts.scale);
}

// e^x - 1 for x <= 0, with a small relative error near 0 too.
inline Vec expm1_negative(Vec x) {
  const ExpParts parts = exp_parts(x);
  return fma(parts.scale, parts.p, sub(parts.scale, splat(1.0F)));
}

inline Vec sigmoid(Vec x) {
  const Vec e = exp_negative(copy_sign(x, splat(-1.0F)));
  const Vec denominator = add(e, splat(1.0F));
  // e / (1 + e) keeps the relative precision of small results; 1 / (1 + e) that of results near 1.
  return div(select_less(x, splat(0.0F), e, splat(1.0F)), denominator);
}

inline Vec tanh(Vec x) {
  const Vec e = expm1_negative(mul(abs(x), splat(-2.0F)));
  return copy_sign(div(e, add(e, splat(2.0F))), x);
}

}  // namespace
