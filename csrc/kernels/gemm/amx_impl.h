// The kernels of tile registers, written once. Included after one simd_*.h, tile_impl.h and one implementation of the
// tile layer, which make_registers() is given.
//
// Registers 0 to 3 hold sums: two panels beside each other and two rows of tiles below each other, or four panels.
// From 4 on come those of A, one a row of tiles, then those of B.
#pragma once

#include <cstdint>

#include "kernels/dense/unroll.h"
#include "kernels/gemm/amx.h"
#include "kernels/gemm/tile_config.h"

namespace graphopt {
namespace {

constexpr int kSums = 4;
constexpr int kSlots = kPanel;  // of a row of a register
constexpr int kSlotBytes = kTileBytes / kSlots;
constexpr int kTileSlots = kMaxTileRows * kSlots;  // of a whole register

// Registers for `rows` rows and steps of `step` slots, unless they are so already.
template <class Tiles>
void configure_tiles(int rows, int64_t step, TileState& state) {
  const int64_t shape = rows * (kSlots + 1) + step;
  if (state.shape == shape) return;
  TileConfig config{};
  config.palette = 1;
  const auto set = [&config](int tile, int height, int64_t slots) {
    config.rows[tile] = static_cast<uint8_t>(height);
    config.colsb[tile] = static_cast<uint16_t>(slots * kSlotBytes);
  };
  const bool two = rows > kMaxTileRows;
  const int first = two ? kMaxTileRows : rows;
  for (int i = 0; i < kSums; ++i) set(i, two && i >= kTilePanels ? rows - first : first, kSlots);
  set(kSums, first, step);
  if (two) set(kSums + 1, rows - first, step);
  for (int i = kSums + (two ? 2 : 1); i < kTiles; ++i) set(i, static_cast<int>(step), kSlots);
  Tiles::configure(config);
  state.shape = shape;
}

// The rows of A of one register, by pointer and, where they lie at equal distances, in place.
struct TileRowsOfA {
  const float* const* rows;
  int count;
  int64_t step;  // bytes from a row to the next
  bool even;

  void find(const float* const* pointers, int number) {
    const auto at = [pointers](int r) { return reinterpret_cast<intptr_t>(pointers[r]); };
    rows = pointers;
    count = number;
    step = number > 1 ? at(1) - at(0) : kTileBytes;
    even = true;
    for (int r = 2; r < number; ++r) even &= at(r) - at(r - 1) == step;
  }
};

// `slots` slots of every row, from `offset` on, and zeros behind them.
void copy_tile(const float* const* rows, int count, int64_t offset, int64_t slots, float* out) {
  for (int r = 0; r < count; ++r, out += kSlots) {
    unroll<kSlots / Simd::kLanes>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      constexpr int kOffset = v * Simd::kLanes;
      Simd::store(out + kOffset, Simd::load_n(rows[r] + offset + kOffset, slots - kOffset));
    });
  }
}

// The same with 128 added to every byte, of all that is copied.
void flip_tile(float* copy) {
  typedef uint32_t Bits __attribute__((may_alias));
  auto* bits = reinterpret_cast<Bits*>(copy);
  for (int i = 0; i < kTileSlots; ++i) bits[i] ^= 0x80808080U;
}

// The last rows of a panel, and zeros below them.
void copy_panel(const float* b, int64_t slots, int64_t step, float* out) {
  for (int64_t i = 0; i < step; ++i, b += kSlots, out += kSlots) {
    unroll<kSlots / Simd::kLanes>([&](auto v) GRAPHOPT_INLINE_LAMBDA {
      constexpr int kOffset = v * Simd::kLanes;
      Simd::store(out + kOffset, i < slots ? Simd::load(b + kOffset) : Simd::zero());
    });
  }
}

struct DotBf16 {
  static constexpr bool kFlips = false;
  template <class Tiles, int Sum, int A, int B>
  static void step() {
    Tiles::template dot_bf16<Sum, A, B>();
  }
};
template <bool Flips>
struct DotU8S8 {
  static constexpr bool kFlips = Flips;
  template <class Tiles, int Sum, int A, int B>
  static void step() {
    Tiles::template dot_u8s8<Sum, A, B>();
  }
};
struct DotS8S8 {
  static constexpr bool kFlips = false;
  template <class Tiles, int Sum, int A, int B>
  static void step() {
    Tiles::template dot_s8s8<Sum, A, B>();
  }
};

// The sums of one call, to sums[row][Panels * 16], from `start` on, Panels * 16 columns (null: zero). Blocks: rows of
// tiles.
template <class Tiles, class Product, int Blocks, int Panels>
void sum_tiles(const Tile& t, int rows, const int32_t* start, TileState& state, void* sums) {
  constexpr int kB = kSums + Blocks;   // the first register for B
  constexpr int kTurns = kTiles - kB;  // panels take turns in so many
  alignas(64) float a_copy[Blocks * kTileSlots];
  alignas(64) float b_copy[kTileSlots];
  const int64_t step = tile_step(t.depth);
  configure_tiles<Tiles>(rows, step, state);
  unroll<Blocks>([&](auto block) GRAPHOPT_INLINE_LAMBDA {
    unroll<Panels>([&](auto p) GRAPHOPT_INLINE_LAMBDA {
      if (start == nullptr) {
        Tiles::template zero<block * kTilePanels + p>();
      } else {  // every row the same one
        Tiles::template load<block * kTilePanels + p>(start + p * kPanel, 0);
      }
    });
  });
  const float* b = t.b;
  const float* ahead = t.ahead;
  for (int64_t s = 0; s < t.segments; ++s) {
    if (t.b_segments != nullptr) b = t.b + t.b_segments[s];
    TileRowsOfA a[Blocks];
    unroll<Blocks>([&](auto block) GRAPHOPT_INLINE_LAMBDA {
      const int count = block + 1 < Blocks ? kMaxTileRows : rows - block * kMaxTileRows;
      a[block].find(t.a_rows + block * t.a_block + s * kTableRows, count);
    });
    for (int64_t k = 0; k < t.depth; k += step, b += step * kSlots) {
      const int64_t slots = t.depth - k < step ? t.depth - k : step;
      const int64_t offset = t.a_offset + k;
      if (ahead != nullptr) {
        for (int64_t i = 0; i < slots; ++i, ahead += kSlots) __builtin_prefetch(ahead, 0, 2);
      }
      unroll<Blocks>([&](auto block) GRAPHOPT_INLINE_LAMBDA {
        const TileRowsOfA& some = a[block];
        if (some.even && slots == step && !Product::kFlips) {
          Tiles::template load<kSums + block>(some.rows[0] + offset, some.step);
          return;
        }
        copy_tile(some.rows, some.count, offset, slots, a_copy + block * kTileSlots);
        if constexpr (Product::kFlips) flip_tile(a_copy + block * kTileSlots);
        Tiles::template load<kSums + block>(a_copy + block * kTileSlots, kTileBytes);
      });
      unroll<Panels>([&](auto p) GRAPHOPT_INLINE_LAMBDA {
        constexpr int kRegister = kB + p % kTurns;
        const float* from = b + p * t.b_panel;
        if (slots != step) {
          copy_panel(from, slots, step, b_copy);
          from = b_copy;
        }
        Tiles::template load<kRegister>(from, kTileBytes);
        unroll<Blocks>([&](auto block) GRAPHOPT_INLINE_LAMBDA {
          Product::template step<Tiles, block * kTilePanels + p, kSums + block, kRegister>();
        });
      });
    }
    b += (t.depth - (t.depth + step - 1) / step * step) * kSlots;  // a last step that was shorter
  }
  unroll<Blocks>([&](auto block) GRAPHOPT_INLINE_LAMBDA {
    unroll<Panels>([&](auto p) GRAPHOPT_INLINE_LAMBDA {
      float* to = static_cast<float*>(sums) + (block * kMaxTileRows * Panels + p) * kSlots;
      Tiles::template store<block * kTilePanels + p>(to, Panels * kTileBytes);
    });
  });
}

// f(Index<Blocks>{}, Index<Panels>{}) for a call's size.
template <class F>
void for_tile_size(int rows, int panels, F&& f) {
  if (rows > kMaxTileRows) {
    if (panels == 1) return f(Index<2>{}, Index<1>{});
    return f(Index<2>{}, Index<2>{});
  }
  if (panels == 1) return f(Index<1>{}, Index<1>{});
  if (panels == 2) return f(Index<1>{}, Index<2>{});
  if (panels == 3) return f(Index<1>{}, Index<3>{});
  return f(Index<1>{}, Index<4>{});
}

template <class Tiles>
void pairs_by_tiles(const Tile& t, int rows, int panels, TileState& state) {
  alignas(64) float sums[kSums * kTileSlots];
  for_tile_size(rows, panels, [&](auto blocks, auto width) {
    sum_tiles<Tiles, DotBf16, blocks, width>(t, rows, nullptr, state, sums);
    finish_tile<width>(t, sums, rows);
  });
}

template <class Tiles>
void quads_by_tiles(const Tile& t, int rows, int panels, Bytes a, const int32_t* start, TileState& state,
                    int32_t* sums) {
  int32_t padded[kSums * kPanel] = {};
  if (start != nullptr && t.columns < panels * kPanel) {
    for (int64_t i = 0; i < t.columns; ++i) padded[i] = start[i];
    start = padded;
  }
  for_tile_size(rows, panels, [&](auto blocks, auto width) {
    switch (a) {
      case Bytes::kUnsigned:
        return sum_tiles<Tiles, DotU8S8<false>, blocks, width>(t, rows, start, state, sums);
      case Bytes::kSigned:
        return sum_tiles<Tiles, DotS8S8, blocks, width>(t, rows, start, state, sums);
      case Bytes::kFlipped:
        return sum_tiles<Tiles, DotU8S8<true>, blocks, width>(t, rows, start, state, sums);
    }
  });
}

template <class Tiles>
constexpr TileRegisters make_registers() {
  return {pairs_by_tiles<Tiles>, quads_by_tiles<Tiles>, Tiles::release};
}

}  // namespace
}  // namespace graphopt
