// The micro-kernels of products of 8-bit integers: a few rows of A (u8) times a few panels of B (s8), summed
// exactly in int32, and what makes numbers or bytes of the sums.
//
// K is split in `segments` of `groups` times four values; a convolution has one segment a tap. In segment s
// row r is at a_rows[s * kTableRows + r]. B is in panels of 16 columns, four values along K side by side:
// [segments][groups][16][4] bytes a panel, zero padded, which is what VPDPBUSD and the tiles of AMX read.
// Rows are read in whole groups: up to three bytes behind a segment, which meet zeros of B.
//
// A of signed bytes is read as unsigned with 128 added (`flip`); whoever makes the biases subtracts
// 128 times the sum of a column.
#pragma once

#include <cstdint>

#include "graphopt/tensor.h"
#include "kernels/gemm/tile.h"

namespace graphopt::int8 {

inline constexpr int kMaxRows = kTableRows;

struct Tile {
  const uint8_t* const* a_rows;
  int64_t segments;
  int64_t groups;        // of four values, in a segment
  const int8_t* b;       // first panel
  int64_t b_panel;       // bytes from a panel to the next one
  const int32_t* start;  // what the sums of each column begin with; null: zero
  int64_t columns;       // that count, at most 16 a panel
  int32_t* sums;         // rows of 16 times the panels; those behind `columns` are arbitrary
  bool flip;
};

using TileKernel = void (*)(const Tile& tile);

// How sums become numbers, and numbers bytes. x = sum * scale[column] + offset[column].
struct Finish {
  DType out;  // kF32, kU8 or kI8
  // Of floats: the clamp, before or after the residual is added. Of bytes: bounds of what the last
  // rounding makes, without the zero point.
  float low;
  float high;
  float zero;
  bool residual_after;  // floats only
  bool huge;            // a product may lie beyond int32
  DType residual;       // of the operand that is added: kUndefined, out, or any of the two kinds of bytes
  // Bytes with a residual: x is rounded and clamped first if mid_scale > 0, and stands for mid_scale times
  // that; then y = round((x + (residual - residual_zero) * residual_scale) / out_scale).
  float mid_low;
  float mid_high;
  float mid_scale;
  float residual_scale;
  float residual_zero;
  float out_scale;
  const uint8_t* table;  // what each byte (by its bits) becomes at last; null: itself
};

struct FinishTile {
  const int32_t* sums;
  int64_t sums_step;
  int64_t rows;
  int64_t columns;
  const int64_t* c_rows;       // offset of each row, in c and in residual, in elements
  const int32_t* row_sums;     // may be null: sum += row_sums[row] * row_factors[column] first
  const int32_t* row_factors;  // of the tile's first column, as the next four
  const float* scale;
  const float* offset;  // may be null
  void* c;
  const void* residual;  // may be null
};

// Floats to bytes: round(x / scale) + zero, clamped to what finish.low and finish.high say.
struct QuantizeTile {
  const float* in;
  int64_t in_step;
  int64_t rows;
  int64_t columns;
  const int64_t* c_rows;
  void* c;
};

// One line of outputs of a depthwise convolution, for some channels. Weights are in blocks of 64 channels,
// [block][kernel lines / 4][kernel columns][4][64]: in the j-th 64 bytes, byte 16 L + 4 e + t is line t of
// the four, channel 16 L + 4 j + e.
struct DepthwiseLine {
  const uint8_t* const* lines;  // input lines, `line_groups` times 4; those in the padding are lines too
  int64_t line_groups;
  int64_t columns_in;
  int64_t columns;
  int64_t channels;  // bytes from a position to the next one
  int64_t channel_begin;
  int64_t channel_end;
  int64_t kernel;  // along the line, as the next three
  int64_t stride;
  int64_t dilation;
  int64_t begin;  // padding
  const int8_t* weights;
  const int32_t* start;  // of every channel
  const float* scale;
  const float* offset;  // may be null
  uint8_t zero;         // of X: what the padding holds
  bool flip;
  void* c;               // first position of the line, first channel
  const void* residual;  // may be null
};

// What finish() takes for the sums of up to `count` channels at one position of a line. Of internal linkage, as files
// for several instruction sets include this.
static inline FinishTile position_tile(const DepthwiseLine& line, const int32_t* sums, int64_t channel, int64_t count,
                                       const int64_t* at) {
  FinishTile t{};
  t.sums = sums;
  t.sums_step = count;
  t.rows = 1;
  t.columns = line.channel_end - channel < count ? line.channel_end - channel : count;
  t.c_rows = at;
  t.scale = line.scale + channel;
  t.offset = line.offset == nullptr ? nullptr : line.offset + channel;
  t.c = line.c;
  t.residual = line.residual;
  return t;
}

// What one instruction set offers. Index [panels - 1][rows - 1]; null where the tile does not fit the
// registers.
struct Kernels {
  int main_panels;  // width of the tile that does the most work a load
  int max_rows[kMaxPanels];
  TileKernel tile[kMaxPanels][kMaxRows];
  void (*finish)(const Finish& finish, const FinishTile& tile);
  void (*quantize)(const Finish& finish, const QuantizeTile& tile);
  void (*depthwise)(const Finish& finish, const DepthwiseLine& line);
  // out[i] = sum of `count` bytes of row i (with 128 added where flipped).
  void (*row_sums)(const uint8_t* const* rows, int64_t n, int64_t count, bool flip, int32_t* out);
};

}  // namespace graphopt::int8
