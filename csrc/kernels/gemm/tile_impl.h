// The micro-kernels, written once. Included after one simd_*.h by the translation unit of an
// instruction set, which instantiates them with make_kernels().
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"
#include "kernels/gemm/tile.h"

namespace graphopt {
namespace {

constexpr int kVectors = kPanel / Simd::kLanes;  // vectors of a panel

// Columns of the tile from vector v on; at least a vector everywhere but at the right edge.
inline int64_t lanes_from(const Tile& t, int v) { return t.columns - int64_t{v} * Simd::kLanes; }

template <int Rows, int Panels>
[[gnu::always_inline]] inline void finish_tile(const Tile& t, Simd::F (&acc)[Rows][Panels * kVectors]) {
  constexpr int kWidth = Panels * kVectors;
  if (t.accumulate) {
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
      const float* c = t.c + t.c_rows[r];
      unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        acc[r][v] = Simd::add(acc[r][v], Simd::load_n(c + v * Simd::kLanes, lanes_from(t, v)));
      });
    });
  }
  if (t.finish) {
    const Simd::F alpha = Simd::set1(t.alpha);
    unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      const Simd::F bias =
          t.bias == nullptr ? Simd::zero() : Simd::load_n(t.bias + v * Simd::kLanes, lanes_from(t, v));
      unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { acc[r][v] = Simd::fma(acc[r][v], alpha, bias); });
    });
    const bool before = t.residual != nullptr && !t.residual_after;
    const bool after = t.residual != nullptr && t.residual_after;
    const Simd::F low = Simd::set1(t.low);
    const Simd::F high = Simd::set1(t.high);
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
      unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        Simd::F residual = Simd::zero();
        if (before || after) {
          residual = Simd::load_n(t.residual + t.c_rows[r] + v * Simd::kLanes, lanes_from(t, v));
        }
        Simd::F x = acc[r][v];
        if (before) x = Simd::add(x, residual);
        x = Simd::min(high, Simd::max(low, x));
        if (after) x = Simd::add(x, residual);
        acc[r][v] = x;
      });
    });
  }
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    float* c = t.c + t.c_rows[r];
    unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      Simd::store_n(c + v * Simd::kLanes, acc[r][v], lanes_from(t, v));
    });
  });
}

// Masked: the last panel has fewer than 16 columns and B is in place, so its loads are masked.
template <int Rows, int Panels, bool Direct, bool Masked>
[[gnu::always_inline]] inline void run_tile(const Tile& t) {
  constexpr int kWidth = Panels * kVectors;
  Simd::F acc[Rows][kWidth];
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA { acc[r][v] = Simd::zero(); });
  });
  const float* const* rows = t.a_rows;
  const float* b = t.b;
  const int64_t depth = t.depth;
  const int64_t panel = t.b_panel;
  const int64_t step = Direct ? t.b_step : kPanel;
  for (int64_t s = 0; s < t.segments; ++s, rows += kTableRows) {
    if (t.b_segments != nullptr) b = t.b + t.b_segments[s];
    const float* a[Rows];
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { a[r] = rows[r] + t.a_offset; });
    for (int64_t k = 0; k < depth; ++k) {
      Simd::F column[kWidth];
      unroll<kWidth>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
        const float* p = b + (v / kVectors) * panel + (v % kVectors) * Simd::kLanes;
        column[v] = Masked && v / kVectors == Panels - 1 ? Simd::load_n(p, lanes_from(t, v)) : Simd::load(p);
      });
      b += step;
      unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
        const Simd::F x = Simd::set1(a[r][k]);
        unroll<kWidth>(
            [&](auto v) GRAPHOPT_INLINE_LAMBDA { acc[r][v] = Simd::fma(x, column[v], acc[r][v]); });
      });
    }
  }
  finish_tile<Rows, Panels>(t, acc);
}

template <int Rows, int Panels>
void packed_tile(const Tile& t) {
  run_tile<Rows, Panels, false, false>(t);
}

template <int Rows, int Panels>
void direct_tile(const Tile& t) {
  if (t.columns == Panels * kPanel) {
    run_tile<Rows, Panels, true, false>(t);
  } else {
    run_tile<Rows, Panels, true, true>(t);
  }
}

template <int Panels, int MaxRows>
constexpr void add_tiles(GemmKernels& kernels) {
  kernels.max_rows[Panels - 1] = MaxRows;
  unroll<MaxRows>([&](auto r) {
    kernels.packed[Panels - 1][r] = packed_tile<r + 1, Panels>;
    kernels.direct[Panels - 1][r] = direct_tile<r + 1, Panels>;
  });
}

}  // namespace
}  // namespace graphopt
