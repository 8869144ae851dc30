// The bodies behind kernels.h, compiled once a level. Included by the kernels_<isa>.cpp files only.
//
// Plain loops where the compiler vectorises them well, intrinsics for the rest.
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/convert/kernels.h"

namespace graphopt::convert {
namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Half precision without F16C: the exponent is rebiased by a multiplication, which also handles subnormals.
inline float widen_f16(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffU;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  if (magnitude >= 0x7c00U) return float_of(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13);
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112F));
}

inline uint16_t narrow_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude >= 0x477ff000U) {  // 65520 and above round to infinity
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {  // subnormal: adding 0.5 leaves units of 2^-24 in the low bits
    half = bits_of(float_of(magnitude) + 0.5F) - 0x3f000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

void f16_to_f32(const uint16_t* from, float* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < count; ++i) to[i] = widen_f16(from[i]);
}

void f32_to_f16(const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(from + i);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < count; ++i) to[i] = narrow_f16(from[i]);
}

void bf16_to_f32(const uint16_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = float_of(static_cast<uint32_t>(from[i]) << 16);
}

void f32_to_bf16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = bits_of(from[i]);
    const uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    const uint32_t nan = (bits >> 16 & 0x8000U) | 0x7fc0U;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
  }
}

// Rounds to an integer, half-way cases to even, for magnitudes below 2^22.
inline float round_small(float x) {
  constexpr float kShift = 12582912.0F;  // 1.5 * 2^23
  return x + kShift - kShift;
}

template <class T>
inline void quantize(const float* from, float scale, float zero, T* to, int64_t count, float lowest, float highest) {
  const float low = lowest - zero;
  const float high = highest - zero;
  for (int64_t i = 0; i < count; ++i) {
    float q = from[i] / scale;
    q = q > low ? q : low;  // NaN too
    q = q < high ? q : high;
    to[i] = static_cast<T>(static_cast<int32_t>(round_small(q) + zero));
  }
}

void quantize_u8(const float* from, float scale, float zero, uint8_t* to, int64_t count) {
  quantize(from, scale, zero, to, count, 0.0F, 255.0F);
}

void quantize_i8(const float* from, float scale, float zero, int8_t* to, int64_t count) {
  quantize(from, scale, zero, to, count, -128.0F, 127.0F);
}

template <class T>
inline void dequantize(const T* from, float scale, float zero, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = (static_cast<float>(from[i]) - zero) * scale;
}

void dequantize_u8(const uint8_t* from, float scale, float zero, float* to, int64_t count) {
  dequantize(from, scale, zero, to, count);
}

void dequantize_i8(const int8_t* from, float scale, float zero, float* to, int64_t count) {
  dequantize(from, scale, zero, to, count);
}

void range_of(const float* from, int64_t count, float* low, float* high) {
  constexpr int kLanes = 16;
  float least[kLanes];
  float most[kLanes];
  for (int l = 0; l < kLanes; ++l) least[l] = *low, most[l] = *high;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      least[l] = from[i + l] < least[l] ? from[i + l] : least[l];
      most[l] = from[i + l] > most[l] ? from[i + l] : most[l];
    }
  }
  for (; i < count; ++i) {
    least[0] = from[i] < least[0] ? from[i] : least[0];
    most[0] = from[i] > most[0] ? from[i] : most[0];
  }
  for (int l = 0; l < kLanes; ++l) {
    *low = least[l] < *low ? least[l] : *low;
    *high = most[l] > *high ? most[l] : *high;
  }
}

// Four pairs of i16 products a 128 bits; kRegisters of `Ints` hold the sums of a panel's 16 columns.
#if defined(__AVX512BW__)
using Ints = __m512i;
inline Ints zero_ints() { return _mm512_setzero_si512(); }
inline Ints pair_ints(int32_t pair) { return _mm512_set1_epi32(pair); }
inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
#elif defined(__AVX2__)
using Ints = __m256i;
inline Ints zero_ints() { return _mm256_setzero_si256(); }
inline Ints pair_ints(int32_t pair) { return _mm256_set1_epi32(pair); }
inline Ints load_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
#elif defined(__x86_64__)
using Ints = __m128i;
inline Ints zero_ints() { return _mm_setzero_si128(); }
inline Ints pair_ints(int32_t pair) { return _mm_set1_epi32(pair); }
inline Ints load_ints(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store_ints(void* p, Ints v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }
#else
struct Ints {
  int32_t v;
};
inline Ints zero_ints() { return {0}; }
inline Ints pair_ints(int32_t pair) { return {pair}; }
inline Ints load_ints(const void* p) {
  Ints a;
  __builtin_memcpy(&a, p, sizeof(a));
  return a;
}
inline void store_ints(void* p, Ints v) { __builtin_memcpy(p, &v, sizeof(v)); }
inline Ints add_products(Ints sum, Ints a, Ints b) {
  int16_t x[2];
  int16_t y[2];
  __builtin_memcpy(x, &a, sizeof(x));
  __builtin_memcpy(y, &b, sizeof(y));
  // Overflow wraps around, as it does in vector registers.
  const uint32_t products = static_cast<uint32_t>(x[0] * y[0]) + static_cast<uint32_t>(x[1] * y[1]);
  return {static_cast<int32_t>(static_cast<uint32_t>(sum.v) + products)};
}
#endif

constexpr int kColumnsInInts = static_cast<int>(sizeof(Ints) / sizeof(int32_t));
constexpr int kIntsInPanel = static_cast<int>(kIntColumns) / kColumnsInInts;

template <int kRows>
inline void int_rows(const IntPanel& job, int64_t row) {
  Ints sums[kRows][kIntsInPanel];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kIntsInPanel; ++v) sums[r][v] = zero_ints();
  }
  for (int64_t k = 0; k < job.pairs; ++k) {
    Ints b[kIntsInPanel];
    for (int v = 0; v < kIntsInPanel; ++v) b[v] = load_ints(job.panel + (k * kIntColumns + v * kColumnsInInts) * 2);
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, job.a + (row + r) * job.a_step + 2 * k, sizeof(pair));
      const Ints a = pair_ints(pair);
      for (int v = 0; v < kIntsInPanel; ++v) sums[r][v] = add_products(sums[r][v], a, b[v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kIntsInPanel; ++v) {
      store_ints(job.sums + (row + r) * job.sums_step + v * kColumnsInInts, sums[r][v]);
    }
  }
}

void int_panel(const IntPanel& job) {
  constexpr int kRows = kIntsInPanel == 1 ? 8 : 4;
  int64_t row = 0;
  for (; row + kRows <= job.rows; row += kRows) int_rows<kRows>(job, row);
  for (; row < job.rows; ++row) int_rows<1>(job, row);
}

}  // namespace
}  // namespace graphopt::convert

#define GRAPHOPT_CONVERT_TABLE(table)                                                         \
  namespace graphopt::convert {                                                               \
  const Kernels table = {f16_to_f32,  f32_to_f16,    bf16_to_f32,   f32_to_bf16, quantize_u8, \
                         quantize_i8, dequantize_u8, dequantize_i8, range_of,    int_panel};  \
  }
