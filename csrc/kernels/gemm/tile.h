// The micro-kernel at the heart of gemm, matmul, conv, conv_transpose and attention: a few rows of A
// times a few panels of B, summed over K, finished by the epilogue in registers.
//
// K is split in `segments` of `depth` values; a convolution has one segment a tap. In segment s the
// values of row r are the `depth` floats at a_rows[s * kTableRows + r] + a_offset, so A needs no copy
// whatever its layout. B is in panels of 16 columns: packed (rows of 16 floats, zero padded) or, with
// the `direct` kernels, in place (rows `b_step` floats apart).
//
// Every element of the result is one chain of multiply-adds in the order of k, whatever the tile: the
// value does not depend on how the work was cut.
#pragma once

#include <cstdint>

#include "kernels/dense/activation.h"

namespace graphopt {

inline constexpr int kPanel = 16;           // columns of a panel of B
inline constexpr int kTableRows = 16;       // pointers a segment has in a row table
inline constexpr int kMaxPanels = 4;        // panels of the widest tile
inline constexpr int kMaxDirectPanels = 2;  // and of the widest one that reads B in place

struct Tile {
  const float* const* a_rows;
  int64_t a_block;  // kernels of tile registers only (amx.h)
  int64_t segments;
  int64_t depth;
  int64_t a_offset;
  const float* b;             // first panel, first k
  const int64_t* b_segments;  // where in B (in floats from b) each segment begins; null: one after the other
  int64_t b_step;             // direct kernels only
  int64_t b_panel;            // floats from a panel to the next one
  const float* ahead;         // a line of it is brought to the cache at every k: weights of later tiles
  float* c;
  const int64_t* c_rows;  // offset of each row, in c and in residual
  const float* bias;      // of the tile's first column; may be null
  const float* residual;  // like c; may be null
  int64_t columns;        // columns to compute, at most 16 a panel
  float alpha;            // scales the sum
  float low;              // the clamp of the epilogue
  float high;
  bool accumulate;  // start from what C holds
  bool finish;      // false: store the bare sum
  bool residual_after;
  bool c_half;         // C holds bfloat16 numbers (offsets count them): with `finish` and without `accumulate`
  bool residual_half;  // so does the residual
};

using TileKernel = void (*)(const Tile& tile);

// What one instruction set offers. Index [panels - 1][rows - 1]; null where the tile does not fit the
// registers.
struct GemmKernels {
  int main_panels;   // width of the tile that does the most work a load: the one of the fewest rows
  int short_panels;  // width of the tile that loses the least between sums
  int max_rows[kMaxPanels];
  TileKernel packed[kMaxPanels][kTableRows];
  TileKernel direct[kMaxPanels][kTableRows];
  // As `packed`, for at most 8 columns of the last panel: their vectors are half as long, or half as many.
  TileKernel packed_half[kMaxPanels][kTableRows];
  // As `packed`, where A and B hold two bfloat16 numbers, neighbours along K, in the place of a float.
  TileKernel pairs[kMaxPanels][kTableRows];
  // Rounds rows of `columns` floats to such pairs; an odd last one is paired with zero.
  void (*round)(const float* in, int64_t in_step, int64_t rows, int64_t columns, uint32_t* out, int64_t out_step);
  // Packs rows of a matrix as pairs of two neighbours in a column into panels of 16 columns, `panel` pairs apart; an
  // odd last row is paired with zero.
  void (*pack_pairs)(const float* in, int64_t in_step, int64_t rows, int64_t columns, uint32_t* out, int64_t panel);
  // The float32 numbers that bfloat16 ones are.
  void (*widen)(const uint16_t* in, int64_t count, float* out);
  // Applies an activation that is no clamp to rows x columns of C, then adds the residual (may be null).
  void (*activate)(Activation activation, float alpha, float beta, float* c, const float* residual,
                   const int64_t* c_rows, int64_t rows, int64_t columns);
  // out[i][j] = in[j][i] for i < columns, j < rows; out[i][j] = 0 for rows <= j < out_columns.
  void (*transpose)(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out, int64_t out_step,
                    int64_t out_columns);
  // Packs a row-major matrix into panels of 16 columns, `panel` floats apart, zero padded.
  void (*pack)(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out, int64_t panel);
  // out[r] = rows[r] . v for `count` rows of k values, `step` floats apart.
  void (*dot)(const float* rows, int64_t step, int64_t count, const float* v, int64_t k, float* out);
  // Nothing but `steps` rounds of independent multiply-adds; how many operations that were.
  double (*multiply_adds)(int64_t steps);
};

}  // namespace graphopt
