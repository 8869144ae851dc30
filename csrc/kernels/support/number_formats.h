// Storage formats of numbers that C++ has no type for, with exact conversions.
//
// Encoding starts from double, which holds every value of every smaller format, so each conversion
// rounds once (to nearest, ties to even).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "graphopt/tensor.h"

namespace graphopt::support {

// How a format spends its top codes.
enum class Special : uint8_t {
  kInfAndNan,    // IEEE: an exponent of ones is Inf or NaN
  kNanOnly,      // "fn": the code of ones is NaN, there is no Inf
  kUnsignedNan,  // "fnuz": the code of minus zero is NaN; no Inf, no minus zero
  kFinite,       // every code is a number
};

template <class Bits, int kExponentBits, int kMantissaBits, int kBias, Special kSpecial>
struct SmallFloat {
  Bits bits;

  static constexpr int kExponent = kExponentBits;
  static constexpr int kMantissa = kMantissaBits;
  static constexpr int kMinExponent = 1 - kBias;
  static constexpr Special kSpecials = kSpecial;
  static constexpr uint32_t kSign = 1U << (kExponentBits + kMantissaBits);
  static constexpr uint32_t kOnes = kSign - 1;
  // Code of the largest finite magnitude.
  static constexpr uint32_t kMax = kSpecial == Special::kInfAndNan ? (((1U << kExponentBits) - 1) << kMantissaBits) - 1
                                   : kSpecial == Special::kNanOnly ? kOnes - 1
                                                                   : kOnes;
};

using F16 = SmallFloat<uint16_t, 5, 10, 15, Special::kInfAndNan>;
using BF16 = SmallFloat<uint16_t, 8, 7, 127, Special::kInfAndNan>;
using F8E4M3FN = SmallFloat<uint8_t, 4, 3, 7, Special::kNanOnly>;
using F8E4M3FNUZ = SmallFloat<uint8_t, 4, 3, 8, Special::kUnsignedNan>;
using F8E5M2 = SmallFloat<uint8_t, 5, 2, 15, Special::kInfAndNan>;
using F8E5M2FNUZ = SmallFloat<uint8_t, 5, 2, 16, Special::kUnsignedNan>;
using F4E2M1 = SmallFloat<uint8_t, 2, 1, 1, Special::kFinite>;
using F6E2M3 = SmallFloat<uint8_t, 2, 3, 1, Special::kFinite>;
using F6E3M2 = SmallFloat<uint8_t, 3, 2, 3, Special::kFinite>;

// A power of two: exponent + 127, all ones for NaN.
struct F8E8M0 {
  uint8_t bits;
};

// Sub-byte integers, one a byte, in the low bits; the bits above are zero when written, ignored when read.
template <int kBits, bool kSigned>
struct SmallInt {
  uint8_t bits;
  static constexpr int kWidth = kBits;
  static constexpr bool kIsSigned = kSigned;
};
using U4 = SmallInt<4, false>;
using I4 = SmallInt<4, true>;
using U2 = SmallInt<2, false>;
using I2 = SmallInt<2, true>;

template <class T>
inline constexpr bool kIsSmallFloat = false;
template <class Bits, int kE, int kM, int kB, Special kS>
inline constexpr bool kIsSmallFloat<SmallFloat<Bits, kE, kM, kB, kS>> = true;
template <class T>
inline constexpr bool kIsSmallInt = false;
template <int kBits, bool kSigned>
inline constexpr bool kIsSmallInt<SmallInt<kBits, kSigned>> = true;

template <class T>
constexpr int decode_int(T value)
  requires kIsSmallInt<T>
{
  const int low = value.bits & ((1 << T::kWidth) - 1);
  return T::kIsSigned && (low >> (T::kWidth - 1)) != 0 ? low - (1 << T::kWidth) : low;
}

template <class T>
constexpr T encode_int(int64_t value)
  requires kIsSmallInt<T>
{
  return T{static_cast<uint8_t>(value & ((1 << T::kWidth) - 1))};
}

template <class T>
inline float decode(T value)
  requires kIsSmallFloat<T>
{
  const uint32_t bits = value.bits;
  if constexpr (T::kExponent == 8) {
    return std::bit_cast<float>(bits << 16);
  } else {
    const uint32_t magnitude = bits & T::kOnes;
    const uint32_t sign = (bits & T::kSign) != 0 ? 0x80000000U : 0U;
    if constexpr (T::kSpecials == Special::kUnsignedNan) {
      if (bits == T::kSign) return std::numeric_limits<float>::quiet_NaN();
    } else if (magnitude > T::kMax) {
      const bool infinite = T::kSpecials == Special::kInfAndNan && magnitude == T::kMax + 1;
      return std::bit_cast<float>(sign | (infinite ? 0x7f800000U : 0x7fc00000U));
    }
    const uint32_t field = magnitude >> T::kMantissa;
    const uint32_t fraction = magnitude & ((1U << T::kMantissa) - 1);
    if (field == 0) {
      // fraction * 2^(kMinExponent - kMantissa), both factors exact
      const auto unit = std::bit_cast<float>(static_cast<uint32_t>(T::kMinExponent - T::kMantissa + 127) << 23);
      return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(fraction) * unit) | sign);
    }
    const auto exponent = static_cast<uint32_t>(static_cast<int>(field) - 1 + T::kMinExponent + 127);
    return std::bit_cast<float>(sign | (exponent << 23) | (fraction << (23 - T::kMantissa)));
  }
}

inline float decode(F8E8M0 value) {
  if (value.bits == 255) return std::numeric_limits<float>::quiet_NaN();
  if (value.bits == 0) return std::bit_cast<float>(0x00400000U);  // 2^-127 is subnormal
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 23);
}

// What a value beyond the largest finite one becomes: that largest one, or Inf/NaN as the format has it.
enum class Overflow : uint8_t { kSaturate, kSpecial };

namespace number_formats_internal {

template <class T>
inline uint32_t nan_code(uint32_t sign) {
  switch (T::kSpecials) {
    case Special::kInfAndNan:
      return sign | (T::kMax + 1) | (1U << (T::kMantissa - 1));
    case Special::kNanOnly:
      return sign | T::kOnes;
    case Special::kUnsignedNan:
      return T::kSign;
    case Special::kFinite:
      return T::kSign;  // minus zero, whatever the sign
  }
  return T::kSign;
}

template <class T>
inline uint32_t overflow_code(uint32_t sign, Overflow overflow) {
  if (overflow == Overflow::kSaturate || T::kSpecials == Special::kFinite) return sign | T::kMax;
  return T::kSpecials == Special::kInfAndNan ? (sign | (T::kMax + 1)) : nan_code<T>(sign);
}

}  // namespace number_formats_internal

template <class T>
inline T encode(double value, Overflow overflow = Overflow::kSpecial)
  requires kIsSmallFloat<T>
{
  using Bits = decltype(T::bits);
  constexpr uint64_t kFraction = (uint64_t{1} << 52) - 1;
  const auto raw = std::bit_cast<uint64_t>(value);
  const uint32_t sign = (raw >> 63) != 0 ? T::kSign : 0U;
  const auto field = static_cast<int>((raw >> 52) & 0x7ff);
  if (field == 0x7ff) {
    const bool nan = (raw & kFraction) != 0;
    return T{static_cast<Bits>(nan ? number_formats_internal::nan_code<T>(sign)
                                   : number_formats_internal::overflow_code<T>(sign, overflow))};
  }
  const int exponent = field - 1023;
  // Below the smallest exponent the mantissa is shifted further right, into subnormals.
  const int base = exponent < T::kMinExponent ? T::kMinExponent : exponent;
  const int shift = 52 - T::kMantissa + (base - exponent);
  uint64_t code = 0;
  if (field != 0 && shift < 64) {
    const uint64_t mantissa = (raw & kFraction) | (uint64_t{1} << 52);
    code = mantissa >> shift;
    const uint64_t rest = mantissa & ((uint64_t{1} << shift) - 1);
    const uint64_t half = uint64_t{1} << (shift - 1);
    if (rest > half || (rest == half && (code & 1) != 0)) ++code;
  }
  // A mantissa that rounds up to the next power of two carries into the exponent by itself.
  const uint64_t magnitude = (static_cast<uint64_t>(base - T::kMinExponent) << T::kMantissa) + code;
  if (magnitude > T::kMax) return T{static_cast<Bits>(number_formats_internal::overflow_code<T>(sign, overflow))};
  if (T::kSpecials == Special::kUnsignedNan && magnitude == 0) return T{0};
  return T{static_cast<Bits>(sign | static_cast<uint32_t>(magnitude))};
}

}  // namespace graphopt::support
