// Compile-time loops for micro-kernels: every index is a constant, so that small arrays of vectors
// live in registers. Everything has internal linkage: the includers are compiled for different
// instruction sets.
#pragma once

namespace graphopt {
namespace {

template <int N>
struct Index {
  // NOLINTNEXTLINE: an index is used as a number
  constexpr operator int() const { return N; }
};

template <int Begin, int End, class F>
[[gnu::always_inline]] constexpr void unroll_range(F&& f) {
  if constexpr (Begin < End) {
    f(Index<Begin>{});
    unroll_range<Begin + 1, End>(f);
  }
}

// f(Index<0>{}), ..., f(Index<N - 1>{})
template <int N, class F>
[[gnu::always_inline]] constexpr void unroll(F&& f) {
  unroll_range<0, N>(f);
}

// Put between a lambda's parameters and its body.
#define GRAPHOPT_INLINE_LAMBDA __attribute__((always_inline))

}  // namespace
}  // namespace graphopt
