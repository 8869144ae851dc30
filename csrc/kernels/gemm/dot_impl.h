// Products of a matrix's rows with one vector, and the rate of multiply-adds. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

// out[r] = rows[r] . v for Rows rows: two partial sums a row hide the latency of the multiply-add.
template <int Rows>
void dot_few(const float* rows, int64_t step, const float* v, int64_t k, float* out) {
  using F = Simd::F;
  constexpr int kTwo = 2 * Simd::kLanes;
  F even[Rows];
  F odd[Rows];
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    even[r] = Simd::zero();
    odd[r] = Simd::zero();
  });
  int64_t i = 0;
  for (; i + kTwo <= k; i += kTwo) {
    const F a = Simd::keep(Simd::load(v + i));
    const F b = Simd::keep(Simd::load(v + i + Simd::kLanes));
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
      even[r] = Simd::fma(Simd::load(rows + r * step + i), a, even[r]);
      odd[r] = Simd::fma(Simd::load(rows + r * step + i + Simd::kLanes), b, odd[r]);
    });
  }
  for (; i < k; i += Simd::kLanes) {
    const F a = Simd::load_n(v + i, k - i);
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
      even[r] = Simd::fma(Simd::load_n(rows + r * step + i, k - i), a, even[r]);
    });
  }
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { out[r] = Simd::sum(Simd::add(even[r], odd[r])); });
}

void dot_rows(const float* rows, int64_t step, int64_t count, const float* v, int64_t k, float* out) {
  constexpr int kRows = 4;
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) dot_few<kRows>(rows + r * step, step, v, k, out + r);
  for (; r < count; ++r) dot_few<1>(rows + r * step, step, v, k, out + r);
}

// Chains enough to hide the latency of all the units there are, each from a start of its own.
double multiply_adds(int64_t steps) {
  using F = Simd::F;
  constexpr int kChains = 12;
  F sums[kChains];
  unroll<kChains>([&](auto i) GRAPHOPT_INLINE_LAMBDA { sums[i] = Simd::keep(Simd::set1(1.0F + i)); });
  F factor = Simd::set1(0.999F);
  const F summand = Simd::set1(1e-9F);
  for (int64_t step = 0; step < steps; ++step) {
    factor = Simd::keep(factor);
    unroll<kChains>([&](auto i) GRAPHOPT_INLINE_LAMBDA { sums[i] = Simd::fma(sums[i], factor, summand); });
  }
  unroll<kChains - 1>([&](auto i) GRAPHOPT_INLINE_LAMBDA { sums[0] = Simd::add(sums[0], sums[i + 1]); });
  const double done = static_cast<double>(steps) * kChains * Simd::kLanes * 2;
  return Simd::sum(sums[0]) < 0 ? 0 : done;  // never: but it needs the sums
}

}  // namespace
}  // namespace graphopt
