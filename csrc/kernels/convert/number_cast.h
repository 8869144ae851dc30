// ONNX's Cast of one number. What the definition leaves undefined is defined here: a float that an integer
// type cannot hold becomes what x86 conversions make of it (the lowest value, cut to the type's width).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/support/dispatch.h"

namespace graphopt::convert {

enum class RoundMode : uint8_t { kUp, kDown, kNearest };

struct CastSettings {
  support::Overflow overflow = support::Overflow::kSaturate;  // of the 8-bit floats
  RoundMode round_mode = RoundMode::kUp;                      // of float8e8m0
};

// Truncates; `value` outside of To's range gives the lowest To.
template <class To, class F>
inline To truncate(F value) {
  constexpr F kLow = static_cast<F>(std::numeric_limits<To>::min());
  constexpr F kPastHigh = -kLow;
  return value >= kLow && value < kPastHigh ? static_cast<To>(value) : std::numeric_limits<To>::min();
}

template <class To, class F>
inline To float_to_integer(F value) {
  if constexpr (std::is_same_v<To, int64_t>) {
    return truncate<int64_t>(value);
  } else if constexpr (std::is_same_v<To, uint64_t>) {
    constexpr F kHalf = static_cast<F>(0x1p63);
    if (value >= kHalf) return static_cast<uint64_t>(truncate<int64_t>(value - kHalf)) ^ (uint64_t{1} << 63);
    return static_cast<uint64_t>(truncate<int64_t>(value));
  } else if constexpr (std::is_same_v<To, uint32_t>) {
    return static_cast<uint32_t>(truncate<int64_t>(value));
  } else {
    return static_cast<To>(truncate<int32_t>(value));
  }
}

// The exponent of |value|, rounded as asked; Inf and NaN have none.
inline support::F8E8M0 encode_exponent(float value, const CastSettings& settings) {
  const auto bits = std::bit_cast<uint32_t>(value);
  uint32_t exponent = bits >> 23 & 0xffU;
  const uint32_t fraction = bits & 0x7fffffU;
  if (exponent == 0xff) return {0xff};
  // 2^-127 is a subnormal f32 of fraction 0x400000, and code 0; smaller values become it too.
  bool up = false;
  switch (settings.round_mode) {
    case RoundMode::kUp:
      up = exponent > 0 ? fraction != 0 : fraction > 0x400000U;
      break;
    case RoundMode::kNearest:  // ties up
      up = fraction > 0x400000U || (fraction == 0x400000U && exponent > 0);
      break;
    case RoundMode::kDown:
      break;
  }
  if (up && !(exponent == 0xfe && settings.overflow == support::Overflow::kSaturate)) ++exponent;
  return {static_cast<uint8_t>(exponent)};
}

// 8-bit floats obey `saturate`; f16 and bf16 overflow to infinity.
template <class T>
inline constexpr bool kIsFloat8 = support::kIsSmallFloat<T> && sizeof(T) == 1;

// From the compute type of any storage type (float, double, an integer, bool) to a storage type.
template <class To, class C>
inline To cast_number(C value, const CastSettings& settings) {
  if constexpr (std::is_same_v<To, support::Bool>) {
    return {static_cast<uint8_t>(value != C{} ? 1 : 0)};
  } else if constexpr (std::is_same_v<To, support::F8E8M0>) {
    return encode_exponent(static_cast<float>(value), settings);
  } else if constexpr (support::kIsSmallFloat<To>) {
    return support::encode<To>(static_cast<double>(value),
                               kIsFloat8<To> ? settings.overflow : support::Overflow::kSpecial);
  } else if constexpr (support::kIsSmallInt<To>) {
    if constexpr (std::is_floating_point_v<C>) {
      return support::encode_int<To>(truncate<int32_t>(value));
    } else {
      return support::encode_int<To>(static_cast<int64_t>(value));
    }
  } else if constexpr (std::is_floating_point_v<To> || !std::is_floating_point_v<C>) {
    return static_cast<To>(value);
  } else {
    return float_to_integer<To>(value);
  }
}

}  // namespace graphopt::convert
