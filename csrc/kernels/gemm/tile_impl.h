// The micro-kernels, written once. Included after one simd_*.h by the translation unit of an
// instruction set, which instantiates them with make_kernels().
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"
#include "kernels/gemm/pairs_impl.h"
#include "kernels/gemm/tile.h"

namespace graphopt {
namespace {

constexpr int kVectors = kPanel / Simd::kLanes;  // vectors of a panel

// Columns of the tile from vector v on; at least a vector everywhere but at the right edge.
inline int64_t lanes_from(const Tile& t, int v) { return t.columns - int64_t{v} * Simd::kLanes; }

// Numbers `at` elements into the residual, or where C begins.
inline Simd::F load_residual(const Tile& t, int64_t at, int64_t lanes) {
  if (t.residual_half) return Simd::load_half_n(reinterpret_cast<const uint16_t*>(t.residual) + at, lanes);
  return Simd::load_n(t.residual + at, lanes);
}
inline void store_result(const Tile& t, int64_t at, Simd::F x, int64_t lanes) {
  if (t.c_half) {
    Simd::store_half_n(reinterpret_cast<uint16_t*>(t.c) + at, x, lanes);
  } else {
    Simd::store_n(t.c + at, x, lanes);
  }
}

// From the bare sums of a tile, one row after the other, to C. Not part of the kernels themselves, which
// would make each of them several times as long.
template <int Panels>
[[gnu::noinline]] void finish_tile(const Tile& t, const float* sums, int rows) {
  using F = Simd::F;
  constexpr int kWidth = Panels * kVectors;
  const bool before = t.finish && t.residual != nullptr && !t.residual_after;
  const bool after = t.finish && t.residual != nullptr && t.residual_after;
  const F alpha = Simd::set1(t.alpha);
  const F low = Simd::set1(t.low);
  const F high = Simd::set1(t.high);
  F bias[kWidth];
  unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
    bias[v] = t.finish && t.bias != nullptr ? Simd::load_n(t.bias + v * Simd::kLanes, lanes_from(t, v)) : Simd::zero();
  });
  for (int r = 0; r < rows; ++r, sums += Panels * kPanel) {
    const int64_t offset = t.c_rows[r];
    unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      constexpr int kOffset = v * Simd::kLanes;
      const int64_t lanes = lanes_from(t, v);
      F x = Simd::load(sums + kOffset);
      if (t.accumulate) x = Simd::add(x, Simd::load_n(t.c + offset + kOffset, lanes));
      if (t.finish) {
        x = Simd::fma(x, alpha, bias[v]);
        if (before) x = Simd::add(x, load_residual(t, offset + kOffset, lanes));
        x = Simd::min(high, Simd::max(low, x));
        if (after) x = Simd::add(x, load_residual(t, offset + kOffset, lanes));
      }
      store_result(t, offset + kOffset, x, lanes);
    });
  }
}

// The common end, without a detour through memory: no earlier block of K. Half: C may hold bfloat16, and a residual may
// be added.
template <int Rows, int Panels, bool Half>
[[gnu::always_inline]] inline void store_tile(const Tile& t, Simd::F (&acc)[Rows][Panels * kVectors]) {
  using F = Simd::F;
  const bool before = Half && t.residual != nullptr && !t.residual_after;
  const bool after = Half && t.residual != nullptr && t.residual_after;
  const F alpha = Simd::set1(t.alpha);
  const F low = Simd::set1(t.low);
  const F high = Simd::set1(t.high);
  unroll<Panels * kVectors>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
    constexpr int kOffset = v * Simd::kLanes;
    const int64_t lanes = lanes_from(t, v);
    const F bias = t.bias == nullptr ? Simd::zero() : Simd::load_n(t.bias + kOffset, lanes);
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
      F x = Simd::fma(acc[r][v], alpha, bias);
      if (before) x = Simd::add(x, load_residual(t, t.c_rows[r] + kOffset, lanes));
      x = Simd::min(high, Simd::max(low, x));
      if (after) x = Simd::add(x, load_residual(t, t.c_rows[r] + kOffset, lanes));
      if constexpr (Half) {
        store_result(t, t.c_rows[r] + kOffset, x, lanes);
      } else {
        Simd::store_n(t.c + t.c_rows[r] + kOffset, x, lanes);
      }
    });
  });
}

// Direct: B is in place, so loads of the last panel are masked. Half: the last panel has 8 columns at most.
// Product: Multiply or DotPairs.
template <int Rows, int Panels, bool Direct, class Product = Multiply, bool Half = false>
[[gnu::always_inline]] inline void run_tile(const Tile& t) {
  constexpr int kWidth = Panels * kVectors;
  // Vectors of full length to sum; a vector of half the length follows where a panel is no more than one.
  constexpr int kFull = Half ? kWidth - (kVectors + 1) / 2 : kWidth;
  constexpr bool kHalfVector = Half && kVectors == 1;
  Simd::F acc[Rows][kWidth];
  typename Simd::Lower lower[Rows];
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA { acc[r][v] = Simd::zero(); });
    if constexpr (kHalfVector) lower[r] = Simd::lower(Simd::zero());
  });
  const float* const* rows = t.a_rows;
  const float* b = t.b;
  const float* ahead = t.ahead;
  const int64_t depth = t.depth;
  const int64_t panel = t.b_panel;
  const int64_t step = Direct ? t.b_step : kPanel;
  for (int64_t s = 0; s < t.segments; ++s, rows += kTableRows) {
    if (t.b_segments != nullptr) b = t.b + t.b_segments[s];
    const float* a[Rows];
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { a[r] = rows[r] + t.a_offset; });
    for (int64_t k = 0; k < depth; ++k) {
      Simd::F column[kFull > 0 ? kFull : 1];
      unroll<kFull>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        const float* p = b + (v / kVectors) * panel + (v % kVectors) * Simd::kLanes;
        column[v] = Direct && v / kVectors == Panels - 1 ? Simd::load_n(p, lanes_from(t, v)) : Simd::load(p);
      });
      typename Simd::Lower last;
      if constexpr (kHalfVector) last = Simd::load_lower(b + (Panels - 1) * panel);
      b += step;
      if constexpr (!Direct) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += kPanel;
      }
      unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
        const Simd::F x = Simd::set1(a[r][k]);
        unroll<kFull>([&](auto v) GRAPHOPT_INLINE_LAMBDA { acc[r][v] = Product::step(x, column[v], acc[r][v]); });
        if constexpr (kHalfVector) lower[r] = Simd::fma(Simd::lower(x), last, lower[r]);
      });
    }
  }
  if constexpr (kHalfVector) {
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { acc[r][kWidth - 1] = Simd::from_lower(lower[r]); });
  }
  constexpr bool kHalf = Product::kPairs;
  if (t.finish && !t.accumulate && (kHalf || (t.residual == nullptr && !t.c_half))) {
    store_tile<Rows, Panels, kHalf>(t, acc);
    return;
  }
  float sums[Rows * Panels * kPanel];
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<kWidth>([&](auto v)
                       GRAPHOPT_INLINE_LAMBDA { Simd::store(sums + (r * kWidth + v) * Simd::kLanes, acc[r][v]); });
  });
  finish_tile<Panels>(t, sums, Rows);
}

template <int Rows, int Panels>
void packed_tile(const Tile& t) {
  run_tile<Rows, Panels, false>(t);
}

template <int Rows, int Panels>
void packed_half_tile(const Tile& t) {
  run_tile<Rows, Panels, false, Multiply, true>(t);
}

template <int Rows, int Panels>
void pairs_tile(const Tile& t) {
  run_tile<Rows, Panels, false, DotPairs>(t);
}

template <int Rows, int Panels>
void direct_tile(const Tile& t) {
  run_tile<Rows, Panels, true>(t);
}

template <int Panels, int MaxRows>
constexpr void add_tiles(GemmKernels& kernels) {
  kernels.max_rows[Panels - 1] = MaxRows;
  unroll<MaxRows>([&](auto r) {
    kernels.packed[Panels - 1][r] = packed_tile<r + 1, Panels>;
    kernels.packed_half[Panels - 1][r] = packed_half_tile<r + 1, Panels>;
    kernels.pairs[Panels - 1][r] = pairs_tile<r + 1, Panels>;
    if constexpr (Panels <= kMaxDirectPanels) kernels.direct[Panels - 1][r] = direct_tile<r + 1, Panels>;
  });
}

}  // namespace
}  // namespace graphopt
