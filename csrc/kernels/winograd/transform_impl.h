// The transforms, written once. Included after one simd_*.h by the translation unit of an instruction set.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"
#include "kernels/winograd/points.h"
#include "kernels/winograd/transform.h"

namespace graphopt {
namespace {

constexpr int kIn = static_cast<int>(kWinogradIn);
constexpr int kOut = static_cast<int>(kWinogradOut);
constexpr auto kA = static_cast<float>(kWinogradA);
constexpr auto kB = static_cast<float>(kWinogradB);
constexpr auto kA2 = static_cast<float>(kWinogradA * kWinogradA);
constexpr auto kB2 = static_cast<float>(kWinogradB * kWinogradB);
constexpr auto kA3 = static_cast<float>(kWinogradA * kWinogradA * kWinogradA);
constexpr auto kB3 = static_cast<float>(kWinogradB * kWinogradB * kWinogradB);

// Six inputs of a line to its values at the six points: B^T d. Opposite points share their even and odd parts.
[[gnu::always_inline]] inline void to_points(const Simd::F (&d)[kIn], Simd::F (&v)[kIn]) {
  using F = Simd::F;
  const F a2 = Simd::set1(-kA2);
  const F b2 = Simd::set1(-kB2);
  const F both = Simd::set1(-(kA2 + kB2));
  const F even_a = Simd::fma(b2, d[2], d[4]);
  const F even_b = Simd::fma(a2, d[2], d[4]);
  const F odd_a = Simd::mul(Simd::set1(kA), Simd::fma(b2, d[1], d[3]));
  const F odd_b = Simd::mul(Simd::set1(kB), Simd::fma(a2, d[1], d[3]));
  v[0] = Simd::add(Simd::fma(both, d[2], d[4]), d[0]);
  v[1] = Simd::add(even_a, odd_a);
  v[2] = Simd::sub(even_a, odd_a);
  v[3] = Simd::add(even_b, odd_b);
  v[4] = Simd::sub(even_b, odd_b);
  v[5] = Simd::add(Simd::fma(both, d[3], d[5]), d[1]);
}

// Six points of a line to its four outputs: A^T m.
[[gnu::always_inline]] inline void from_points(const Simd::F (&m)[kIn], Simd::F (&y)[kOut]) {
  using F = Simd::F;
  const F even_a = Simd::add(m[1], m[2]);
  const F odd_a = Simd::sub(m[1], m[2]);
  const F even_b = Simd::add(m[3], m[4]);
  const F odd_b = Simd::sub(m[3], m[4]);
  y[0] = Simd::add(Simd::add(even_a, even_b), m[0]);
  y[1] = Simd::fma(Simd::set1(kA), odd_a, Simd::mul(Simd::set1(kB), odd_b));
  y[2] = Simd::fma(Simd::set1(kA2), even_a, Simd::mul(Simd::set1(kB2), even_b));
  y[3] = Simd::add(Simd::fma(Simd::set1(kA3), odd_a, Simd::mul(Simd::set1(kB3), odd_b)), m[5]);
}

template <bool Whole>
[[gnu::always_inline]] inline void input_lanes(const WinogradInput& t, int64_t at) {
  using F = Simd::F;
  F half[kIn][kIn];  // [point][column]
  unroll<kIn>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
    F d[kIn];
    F v[kIn];
    unroll<kIn>([&](auto i) GRAPHOPT_INLINE_LAMBDA {
      const float* from = t.taps[i * kIn + j] + at;
      d[i] = Whole ? Simd::load(from) : Simd::load_n(from, t.channels - at);
    });
    to_points(d, v);
    unroll<kIn>([&](auto i) GRAPHOPT_INLINE_LAMBDA { half[i][j] = v[i]; });
  });
  unroll<kIn>([&](auto i) GRAPHOPT_INLINE_LAMBDA {
    F v[kIn];
    to_points(half[i], v);
    unroll<kIn>([&](auto j) GRAPHOPT_INLINE_LAMBDA { Simd::store(t.v + (i * kIn + j) * t.step + at, v[j]); });
  });
}

void input_tile(const WinogradInput& t) {
  int64_t at = 0;
  for (; at + Simd::kLanes <= t.channels; at += Simd::kLanes) input_lanes<true>(t, at);
  if (at < t.channels) input_lanes<false>(t, at);
}

void output_tile(const WinogradOutput& t) {
  using F = Simd::F;
  const F low = Simd::set1(t.low);
  const F high = Simd::set1(t.high);
  for (int64_t at = 0; at < t.channels; at += Simd::kLanes) {
    const int64_t lanes = t.channels - at;
    F half[kOut][kIn];
    unroll<kIn>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
      F m[kIn];
      F y[kOut];
      unroll<kIn>([&](auto i) GRAPHOPT_INLINE_LAMBDA { m[i] = Simd::load(t.m + (i * kIn + j) * t.step + at); });
      from_points(m, y);
      unroll<kOut>([&](auto i) GRAPHOPT_INLINE_LAMBDA { half[i][j] = y[i]; });
    });
    const F bias = t.bias == nullptr ? Simd::zero() : Simd::load_n(t.bias + at, lanes);
    unroll<kOut>([&](auto i) GRAPHOPT_INLINE_LAMBDA {
      if (i >= t.rows) return;
      F y[kOut];
      from_points(half[i], y);
      unroll<kOut>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
        if (j >= t.columns) return;
        const int64_t offset = i * t.row_step + j * t.column_step + at;
        F x = Simd::add(y[j], bias);
        F residual = Simd::zero();
        if (t.residual != nullptr) residual = Simd::load_n(t.residual + offset, lanes);
        if (t.residual != nullptr && !t.residual_after) x = Simd::add(x, residual);
        x = Simd::min(high, Simd::max(low, x));
        if (t.residual != nullptr && t.residual_after) x = Simd::add(x, residual);
        Simd::store_n(t.y + offset, x, lanes);
      });
    });
  }
}

}  // namespace
}  // namespace graphopt
