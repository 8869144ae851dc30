// Vectors of 4 floats made of the compiler's vector extension: any processor.
#pragma once

#include <cstdint>

namespace graphopt {
namespace {

struct Simd {
  static constexpr int kLanes = 4;
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  using M = I;
  using Lower = F;  // only vectors of 16 have halves of their own

  static F zero() { return F{0, 0, 0, 0}; }
  static F set1(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  static F keep(F x) { return x; }
  // The first n lanes only (n <= 0: none); the others load as zero and memory behind them is not touched.
  static F load_n(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    F x = zero();
    for (int i = 0; i < kLanes; ++i) {
      float lane = 0;  // may lie anywhere: rows of bytes are read so
      if (i < n) __builtin_memcpy(&lane, p + i, sizeof lane);
      x[i] = lane;
    }
    return x;
  }
  static void store_n(float* p, F x, int64_t n) {
    if (n >= kLanes) {
      store(p, x);
      return;
    }
    for (int i = 0; i < kLanes; ++i) {
      if (i < n) p[i] = x[i];
    }
  }

  // Numbers that are stored in bfloat16: widened, or rounded to nearest even.
  static F load_half(const uint16_t* p) { return load_half_n(p, kLanes); }
  static F load_half_n(const uint16_t* p, int64_t n) {
    I bits{};
    for (int i = 0; i < kLanes; ++i) {
      if (i < n) bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16U);
    }
    return (F)bits;
  }
  // Low and high halves of lanes.
  static F pair(F low, F high) {
    uint16_t halves[2][kLanes];
    store_half(halves[0], low);
    store_half(halves[1], high);
    I bits{};
    for (int i = 0; i < kLanes; ++i) {
      bits[i] = static_cast<int32_t>(halves[0][i] | static_cast<uint32_t>(halves[1][i]) << 16U);
    }
    return (F)bits;
  }
  static void store_half(uint16_t* p, F x) { store_half_n(p, x, kLanes); }
  static void store_half_n(uint16_t* p, F x, int64_t n) {
    const I all = (I)x;
    for (int i = 0; i < kLanes; ++i) {
      const auto bits = static_cast<uint32_t>(all[i]);
      const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
      const uint32_t rounded = nan ? bits | 0x400000U : bits + 0x7fffU + ((bits >> 16U) & 1U);
      if (i < n) p[i] = static_cast<uint16_t>(rounded >> 16U);
    }
  }

  // The numbers that the low and the high 16 bits of a lane are in bfloat16.
  static F low_half(F a) {
    typedef uint32_t U __attribute__((vector_size(16)));
    return (F)((U)a << 16U);
  }
  static F high_half(F a) {
    typedef uint32_t U __attribute__((vector_size(16)));
    return (F)((U)a & 0xffff0000U);
  }
  static Lower lower(F a) { return a; }
  static Lower load_lower(const float* p) { return load(p); }
  static F from_lower(Lower a) { return a; }

  static F fma(F a, F b, F c) { return a * b + c; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F sqrt(F a) {
    return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
  }
  // When a lane of either is NaN the result is b's: a bound goes first, data goes second.
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  static I magnitude() { return I{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}; }
  static F abs(F a) { return bits(bits(a) & magnitude()); }
  // magnitude of a, sign of b
  static F copysign(F a, F b) { return bits((bits(a) & magnitude()) | (bits(b) & ~magnitude())); }
  static M lt(F a, F b) { return a < b; }
  static M is_nan(F a) { return a != a; }
  static F select(M m, F yes, F no) { return m ? yes : no; }

  // To the nearest integer, for |a| < 2^22: the low bits of the shifted sum are the integer.
  static F round(F a) { return (a + set1(12582912.0F)) - set1(12582912.0F); }
  // a 2^n for a whole n in [-252, 254]: in two steps, so that neither factor leaves the range of a float
  static F scale(F a, F n) {
    const I whole = __builtin_convertvector(n, I);
    const I half = whole >> 1;
    return a * pow2(half) * pow2(whole - half);
  }

  // Every lane gets the Part-th value of its group of Size lanes, Size <= kLanes.
  template <int Size, int Part>
  static F spread(F a) {
    if constexpr (Size == 1) return a;
    if constexpr (Size == 2) return F{a[Part], a[Part], a[Part + 2], a[Part + 2]};
    return F{a[Part], a[Part], a[Part], a[Part]};
  }

  // Row r of a 4 x 4 block becomes its column r.
  static void transpose(F (&m)[4]) {
    const F a = F{m[0][0], m[1][0], m[2][0], m[3][0]};
    const F b = F{m[0][1], m[1][1], m[2][1], m[3][1]};
    const F c = F{m[0][2], m[1][2], m[2][2], m[3][2]};
    m[3] = F{m[0][3], m[1][3], m[2][3], m[3][3]};
    m[0] = a;
    m[1] = b;
    m[2] = c;
  }

  // Horizontal, always in the same order.
  static float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
  static float max_of(F a) {
    const float x = a[0] > a[2] ? a[0] : a[2];
    const float y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
  }

 private:
  static I bits(F a) {
    I x;
    __builtin_memcpy(&x, &a, sizeof x);
    return x;
  }
  static F pow2(I n) { return bits((n + I{127, 127, 127, 127}) << 23); }
  static F bits(I a) {
    F x;
    __builtin_memcpy(&x, &a, sizeof x);
    return x;
  }
};

}  // namespace
}  // namespace graphopt
