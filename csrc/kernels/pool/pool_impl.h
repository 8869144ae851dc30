// The pooling micro-kernel, written once. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"
#include "kernels/pool/pool.h"

namespace graphopt {
namespace {

template <PoolOp Op>
[[gnu::always_inline]] inline Simd::F pool_start() {
  return Op == PoolOp::kMax ? Simd::set1(-__builtin_inff()) : Simd::zero();
}

template <PoolOp Op>
[[gnu::always_inline]] inline Simd::F pool_step(Simd::F sum, Simd::F x) {
  if constexpr (Op == PoolOp::kMax) return Simd::select(Simd::is_nan(sum), sum, Simd::max(sum, x));
  if constexpr (Op == PoolOp::kSumOfMagnitudes) return Simd::add(sum, Simd::abs(x));
  if constexpr (Op == PoolOp::kRootOfSquares) return Simd::fma(x, x, sum);
  return Simd::add(sum, x);
}

// Columns x Vectors outputs. Checked: inputs or outputs of the tile may lie outside the line, or its last
// vector of channels is not full.
template <PoolOp Op, int Columns, int Vectors, bool Checked>
void pool_tile(const PoolLine& l, int64_t column, int64_t channel) {
  using F = Simd::F;
  const int64_t first = column * l.stride - l.begin;
  const int64_t step = l.channels;
  const int64_t lanes = l.channel_end - channel;
  F acc[Columns][Vectors];
  unroll<Columns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
    unroll<Vectors>([&](auto v) GRAPHOPT_INLINE_LAMBDA { acc[t][v] = pool_start<Op>(); });
  });
  for (int64_t i = 0; i < l.line_count; ++i) {
    const float* line = l.lines[i] + channel;
    for (int64_t k = 0; k < l.kernel; ++k) {
      unroll<Columns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
        const int64_t at = first + t * l.stride + k * l.dilation;
        if (Checked && (at < 0 || at >= l.columns_in)) return;
        const float* p = line + at * step;
        unroll<Vectors>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
          constexpr int kOffset = v * Simd::kLanes;
          const F x = Checked ? Simd::load_n(p + kOffset, lanes - kOffset) : Simd::load(p + kOffset);
          acc[t][v] = pool_step<Op>(acc[t][v], x);
        });
      });
    }
  }
  unroll<Columns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
    if (Checked && column + t >= l.columns) return;
    float* y = l.y + (column + t) * step + channel;
    unroll<Vectors>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      constexpr int kOffset = v * Simd::kLanes;
      F x = acc[t][v];
      if constexpr (Op == PoolOp::kAverage) x = Simd::div(x, Simd::set1(l.divisors[column + t]));
      if constexpr (Op == PoolOp::kRootOfSquares) x = Simd::sqrt(x);
      if constexpr (Checked) {
        Simd::store_n(y + kOffset, x, lanes - kOffset);
      } else {
        Simd::store(y + kOffset, x);
      }
    });
  });
}

template <PoolOp Op, int Columns, int Vectors>
void pool_channels(const PoolLine& l) {
  const int64_t reach = (Columns - 1) * l.stride + l.dilation * (l.kernel - 1);  // last input of a tile
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += Vectors * Simd::kLanes) {
    const bool full = channel + Vectors * Simd::kLanes <= l.channel_end;
    for (int64_t column = 0; column < l.columns; column += Columns) {
      const int64_t first = column * l.stride - l.begin;
      if (full && first >= 0 && first + reach < l.columns_in && column + Columns <= l.columns) {
        pool_tile<Op, Columns, Vectors, false>(l, column, channel);
      } else {
        pool_tile<Op, Columns, Vectors, true>(l, column, channel);
      }
    }
  }
}

template <PoolOp Op>
void pool_op(const PoolLine& l) {
  if (l.columns >= 4) {
    pool_channels<Op, 4, 1>(l);
  } else {
    pool_channels<Op, 1, 4>(l);
  }
}

void pool_line(PoolOp op, const PoolLine& line) {
  switch (op) {
    case PoolOp::kMax:
      return pool_op<PoolOp::kMax>(line);
    case PoolOp::kAverage:
      return pool_op<PoolOp::kAverage>(line);
    case PoolOp::kSumOfMagnitudes:
      return pool_op<PoolOp::kSumOfMagnitudes>(line);
    case PoolOp::kRootOfSquares:
      return pool_op<PoolOp::kRootOfSquares>(line);
  }
}

}  // namespace
}  // namespace graphopt
