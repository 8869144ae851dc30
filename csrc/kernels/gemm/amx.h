// Products by the tile registers of AMX: what the drivers of products see of them.
//
// A tile register holds 16 rows of 64 bytes, which are sixteen *slots* of four bytes: a float, two bfloat16
// numbers or four bytes, neighbours along K. In the packed layout of weights (gemm/pack.h) a panel's sixteen
// rows of 64 bytes are such a tile as they lie, so weights for AMX are those of every other instruction set.
//
// Kernels are templates over a layer of one function an instruction, with two implementations: the
// instructions (amx_tiles.h), and plain C++ that does what they are documented to do (emulated_tiles.h), on
// which all of it is tested wherever there are none.
#pragma once

#include <cstdint>

#include "kernels/gemm/tile.h"
#include "runtime/cpu.h"

namespace graphopt {

inline constexpr int kTileRows = 32;      // rows that a call takes at most: two registers below each other
inline constexpr int kTilePanels = 2;     // panels beside each other, with more rows than one register has
inline constexpr int kFewTileRows = 16;   // with fewer
inline constexpr int kFewTilePanels = 4;  // so many

// What the registers of a thread are configured for: calls that follow each other mostly are alike. 0: nothing.
struct TileState {
  int64_t shape = 0;
};

// What the bytes of A are; those of B are signed.
enum class Bytes : uint8_t {
  kUnsigned,
  kSigned,
  kFlipped,  // signed, but taken as unsigned with 128 added
};

// `tile` is as for the other kernels, with pointers to rows 0 to 15 of segment s at a_rows[s * kTableRows], and to
// rows 16 to 31 a_block pointers further; c_rows are one after the other. `depth` counts slots.
struct TileRegisters {
  // Products of bfloat16 pairs, finished as Tile says. In a segment, sums are made of runs of slots of
  // tile_step(depth), each of an even and an odd sum (the definition of TDPBF16PS): the order depends on depth alone.
  void (*pairs)(const Tile& tile, int rows, int panels, TileState& state);
  // Products of bytes in fours: sums[row][16 * panels], which begin with `start` (of tile.columns columns; null:
  // zero). Nothing of C.
  void (*quads)(const Tile& tile, int rows, int panels, Bytes a, const int32_t* start, TileState& state, int32_t* sums);
  // Ends the use of the registers: a thread that leaves them in use is switched more slowly.
  void (*release)();
};

// Slots that are multiplied at a time: a segment is cut into as few and as equal parts as it can be.
inline int64_t tile_step(int64_t depth) {
  const int64_t steps = (depth + kPanel - 1) / kPanel;
  return steps > 0 ? (depth + steps - 1) / steps : 1;
}

// Those of kAmxBf16 (only `pairs` may be called) or kAmxInt8 (`quads`); null where the processor has them not or
// they may not be used.
const TileRegisters* tile_registers(Extension extension);

// Has every kernel of this process use `registers` from now on, on any processor: for tests.
void set_tile_registers(const TileRegisters* registers);

// Ends the use of the registers when a thread leaves a piece of work.
class TileScope {
 public:
  explicit TileScope(const TileRegisters* registers) : registers_(registers) {}
  ~TileScope() {
    if (registers_ != nullptr && state_.shape != 0) registers_->release();
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

  [[nodiscard]] const TileRegisters* registers() const { return registers_; }
  [[nodiscard]] TileState& state() { return state_; }

 private:
  const TileRegisters* registers_;
  TileState state_;
};

}  // namespace graphopt
