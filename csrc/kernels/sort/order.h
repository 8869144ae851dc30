// Unsigned keys that compare as the values they stand for: NaN above everything, minus zero equal to zero.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "kernels/support/dispatch.h"

namespace graphopt::sort {

template <class T>
using KeyOf = std::conditional_t<sizeof(support::Compute<T>) <= 4, uint32_t, uint64_t>;

template <class T>
inline KeyOf<T> order_key(T stored) {
  using Key = KeyOf<T>;
  using C = support::Compute<T>;
  constexpr int kTop = sizeof(Key) * 8 - 1;
  C value = support::load(stored);
  if constexpr (std::is_floating_point_v<C>) {
    if (value != value) return ~Key{0};
    if (value == C{0}) value = C{0};
    const auto bits = std::bit_cast<Key>(value);
    return (bits >> kTop) != 0 ? ~bits : bits | (Key{1} << kTop);
  } else if constexpr (std::is_signed_v<C>) {
    return static_cast<Key>(value) ^ (Key{1} << kTop);
  } else {
    return static_cast<Key>(value);
  }
}

}  // namespace graphopt::sort
