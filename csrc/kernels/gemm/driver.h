// Runs a GEMM-shaped problem over the micro-kernels: cache blocking, threads, the epilogue.
//
// The rows of A are given by a `Rows` object, so that a dense matrix, a strided gather and the windows
// of a convolution share this code:
//   void fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& spare);
// writes, for rows [row, row + count), table[s * kTableRows + r] for every segment s and the offset of
// the row in C. It may take memory for rows that must be assembled from `spare` and advance it.
#pragma once

#include <algorithm>
#include <cstring>

#include "graphopt/kernel.h"
#include "kernels/dense/epilogue.h"
#include "kernels/gemm/amx.h"
#include "kernels/gemm/tile.h"

namespace graphopt {

// The kernels of the instruction set in use.
const GemmKernels& gemm_kernels();

// What a measurement chose at compile time, attributes of a step; it changes no result.
struct GemmChoice {
  int64_t tile = 0;   // panels of the tile; 0, or what the instruction set lacks: by tile_panels()
  int64_t share = 0;  // what threads share out: 1 rows, 2 columns, 0 what is predicted to be faster
};
GemmChoice parse_gemm_choice(const Attrs& attrs);

struct GemmShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t segments = 1;
  int64_t depth = 0;         // K = segments * depth
  int64_t spare_floats = 0;  // per row, that Rows::fill may take
  bool copy_rows = false;    // rows collide in the cache: work on a copy (one segment, no spare_floats)
  bool pairs = false;        // A and B hold bfloat16 pairs; K counts pairs
  // A's rows hold so many float32 numbers: work on a copy that is rounded to pairs (one segment). 0: A holds pairs
  // already.
  int64_t rounded = 0;
  // So many runs of them, which make one segment: each as pairs of its own, one behind the other.
  int64_t sources = 1;
  bool c_half = false;         // C holds bfloat16 numbers, an even number a row
  bool residual_half = false;  // so does the residual
  [[nodiscard]] bool copies() const { return copy_rows || rounded > 0; }
  GemmChoice choice{};
  [[nodiscard]] int64_t k() const { return segments * depth; }
  [[nodiscard]] int64_t panels() const { return (n + kPanel - 1) / kPanel; }
};

struct GemmOperands {
  const float* b = nullptr;
  const int64_t* b_segments = nullptr;
  int64_t b_step = kPanel;
  int64_t b_panel = 0;
  bool direct = false;
  void* c = nullptr;  // float, or uint16_t where the shape says so
  const float* bias = nullptr;
  const void* residual = nullptr;
  float alpha = 1;
};

// How a problem is cut so that its working set stays in the caches.
struct GemmBlocking {
  int64_t rows;      // of a block of A
  int64_t segments;  // of a block of K: whole segments,
  int64_t depth;     // or, when a segment is too long, a part of one
  bool rows_outer;   // all of B's panels for a tile of rows before the next tile
};
GemmBlocking gemm_blocking(const GemmShape& shape);

// Parts that one problem is cut into for threads.
struct GemmGrid {
  int64_t m = 1;
  int64_t n = 1;
};
GemmGrid gemm_grid(const GemmShape& shape, int64_t problems, int threads);
// Tasks that are worth a thread together, when `parts` tasks make a problem.
int64_t gemm_grain(const GemmShape& shape, int64_t tasks, int64_t parts);

// Scratch memory of a worker: byte offsets of its parts (spare memory comes first).
struct GemmScratch {
  size_t table;
  size_t originals;
  size_t c_rows;
  size_t bytes;
};
GemmScratch gemm_scratch(const GemmShape& shape, const GemmBlocking& blocking);
size_t gemm_scratch_bytes(const GemmShape& shape);

// Row length, in floats, of a copy of `depth` values: rows start in different cache sets.
inline int64_t gemm_copy_step(int64_t depth) { return (depth + kPanel - 1) / kPanel * kPanel + kPanel; }

// Sums shorter than this are too short to pay for tiles of few rows.
inline constexpr int64_t kShortSum = 192;

// Panels of the tiles for `rows` rows, `width` panels and sums of k: the widest that holds all rows, else the best
// one; and no wider than needed for as many tiles beside each other, all of them about the same.
inline int64_t tile_panels(const GemmKernels& kernels, int64_t rows, int64_t width, int64_t k, bool direct,
                           const GemmChoice& choice = {}) {
  if (!direct && choice.tile > 0 && kernels.max_rows[choice.tile - 1] > 0) return choice.tile;
  const int64_t most = direct ? kMaxDirectPanels : kMaxPanels;
  int64_t panels = most;
  while (panels > 1 && rows > kernels.max_rows[panels - 1]) --panels;
  if (rows > kernels.max_rows[panels - 1]) {
    panels = std::min<int64_t>(k < kShortSum ? kernels.short_panels : kernels.main_panels, most);
  }
  const int64_t beside = std::max<int64_t>((width + panels - 1) / panels, 1);
  return std::max<int64_t>((width + beside - 1) / beside, 1);
}

// The part of [0, n) that is the index-th of `parts` equal ones, a multiple of `unit` long.
struct Range {
  int64_t begin;
  int64_t end;
};
inline Range part_of(int64_t n, int64_t parts, int64_t index, int64_t unit = 1) {
  const int64_t units = (n + unit - 1) / unit;
  return {std::min(n, units * index / parts * unit), std::min(n, units * (index + 1) / parts * unit)};
}

template <class Rows>
class GemmTask {
 public:
  GemmTask(const GemmShape& shape, const GemmBlocking& blocking, const GemmOperands& operands, const Epilogue& epilogue,
           Rows& rows, void* scratch, TileScope* tiles = nullptr)
      : kernels_(gemm_kernels()),
        registers_(tiles != nullptr ? tiles->registers() : nullptr),
        tile_scope_(tiles),
        shape_(shape),
        operands_(operands),
        epilogue_(epilogue),
        activation_(shape.c_half && epilogue.activation == Activation::kGelu ? Activation::kGeluRough
                                                                             : epilogue.activation),
        rows_(rows),
        blocking_(blocking) {
    const GemmScratch parts = gemm_scratch(shape, blocking_);
    auto* at = static_cast<std::byte*>(scratch);
    spare_ = reinterpret_cast<float*>(at);
    table_ = reinterpret_cast<const float**>(at + parts.table);
    originals_ = reinterpret_cast<const float**>(at + parts.originals);
    c_rows_ = reinterpret_cast<int64_t*>(at + parts.c_rows);
  }

  // Rows [m.begin, m.end), panels [n.begin, n.end).
  void run(Range m, Range n) {
    if (m.begin >= m.end || n.begin >= n.end) return;
    panels_ = n;
    const int64_t blocks = (m.end - m.begin + blocking_.rows - 1) / blocking_.rows;
    for (int64_t i = 0; i < blocks; ++i) {
      const Range block = part_of(m.end - m.begin, blocks, i);
      run_rows({m.begin + block.begin, m.begin + block.end});
    }
  }

 private:
  void run_rows(Range m) {
    const int64_t count = m.end - m.begin;
    choose_tile(count);
    tiles_ = (count + tile_rows_ - 1) / tile_rows_;
    height_ = count / tiles_;
    higher_ = count % tiles_;
    float* spare = spare_ + (shape_.copies() ? blocking_.rows * gemm_copy_step(blocking_.depth) : 0);
    const int64_t segments = shape_.copies() ? shape_.sources : shape_.segments;
    const float** table = shape_.copies() ? originals_ : table_;
    int64_t row = m.begin;
    for (int64_t i = 0; i < tiles_; row += height(i++)) {
      for (int64_t done = 0; done < height(i); done += kTableRows) {
        const int64_t block = i * table_blocks_ + done / kTableRows;
        rows_.fill(row + done, std::min<int64_t>(height(i) - done, kTableRows), table + block * kTableRows * segments,
                   c_rows_ + block * kTableRows, spare);
      }
    }
    if (blocking_.depth < shape_.depth) {
      for (int64_t s = 0; s < shape_.segments; ++s) {
        for (int64_t d = 0; d < shape_.depth; d += blocking_.depth) {
          run_block(s, 1, d, std::min(blocking_.depth, shape_.depth - d));
        }
      }
      return;
    }
    int64_t s = 0;
    do {  // once even when there is nothing to sum
      const int64_t some = std::min(blocking_.segments, shape_.segments - s);
      run_block(s, some, 0, shape_.depth);
      s += some;
    } while (s < shape_.segments);
  }

  // Rows of a tile: all the same, or one more in the first ones.
  [[nodiscard]] int64_t height(int64_t tile) const { return height_ + (tile < higher_ ? 1 : 0); }

  void choose_tile(int64_t count) {
    if (registers_ != nullptr) {
      tile_panels_ = count <= kFewTileRows ? kFewTilePanels : kTilePanels;
      tile_rows_ = count <= kFewTileRows ? kFewTileRows : kTileRows;
    } else {
      tile_panels_ =
          tile_panels(kernels_, count, panels_.end - panels_.begin, shape_.k(), operands_.direct, shape_.choice);
      tile_rows_ = kernels_.max_rows[tile_panels_ - 1];
    }
    table_blocks_ = (tile_rows_ + kTableRows - 1) / kTableRows;
  }

  void run_block(int64_t segment, int64_t segments, int64_t depth_begin, int64_t depth) {
    Tile tile{};
    tile.a_block = kTableRows * shape_.segments;
    tile.segments = segments;
    tile.depth = depth;
    tile.a_offset = depth_begin;
    tile.b_segments = operands_.b_segments == nullptr ? nullptr : operands_.b_segments + segment;
    tile.b_step = operands_.b_step;
    tile.b_panel = operands_.b_panel;
    tile.alpha = operands_.alpha;
    tile.low = epilogue_.low();
    tile.high = epilogue_.high();
    tile.residual_after = epilogue_.residual_after;
    tile.accumulate = segment > 0 || depth_begin > 0;
    tile.finish = segment + segments == shape_.segments && depth_begin + depth == shape_.depth;
    b_offset_ = (segment * shape_.depth + depth_begin) * operands_.b_step;
    if (operands_.b_segments != nullptr) b_offset_ = depth_begin * operands_.b_step;
    if (shape_.copies()) copy_block(depth_begin, depth, tile);

    if (blocking_.rows_outer) {
      for (int64_t i = 0; i < tiles_; ++i) {
        for (int64_t p = panels_.begin; p < panels_.end; p += tile_panels_) run_tile(tile, segment, i, p);
      }
    } else {
      for (int64_t p = panels_.begin; p < panels_.end; p += tile_panels_) {
        for (int64_t i = 0; i < tiles_; ++i) run_tile(tile, segment, i, p);
      }
    }
  }

  void run_tile(Tile& tile, int64_t segment, int64_t index, int64_t panel) const {
    const int64_t rows = height(index);
    const int64_t panels = std::min(tile_panels_, panels_.end - panel);
    const int64_t column = panel * kPanel;
    tile.a_rows = table_ + (index * table_blocks_ * shape_.segments + segment) * kTableRows;
    tile.c_rows = c_rows_ + index * table_blocks_ * kTableRows;
    tile.b = operands_.b + panel * operands_.b_panel + b_offset_;
    // Tiles of columns take their weights one after the other; the first tiles of rows bring the next ones'.
    tile.ahead = tile.b;
    const int64_t next = panel + tile_panels_ + index;
    if (!blocking_.rows_outer && index < tile_panels_ && next < panels_.end) {
      tile.ahead = operands_.b + next * operands_.b_panel + b_offset_;
    }
    tile.columns = std::min(panels * kPanel, shape_.n - column);
    tile.bias = operands_.bias == nullptr ? nullptr : operands_.bias + column;
    if (!epilogue_.is_clamp() && (shape_.c_half || shape_.residual_half)) {
      run_staged(tile, rows, panels, column);
      return;
    }
    tile.c_half = shape_.c_half;
    tile.residual_half = shape_.residual_half;
    tile.c = static_cast<float*>(moved(operands_.c, column, shape_.c_half));
    const void* residual = operands_.residual;
    if (residual != nullptr) residual = moved(const_cast<void*>(residual), column, shape_.residual_half);
    compute_tile(tile, rows, panels, static_cast<const float*>(residual));
  }

  static void* moved(void* p, int64_t elements, bool half) {
    return half ? static_cast<void*>(static_cast<uint16_t*>(p) + elements) : static_cast<float*>(p) + elements;
  }

  // The tile and, behind its last block of K, an activation that is no clamp.
  void compute_tile(Tile& tile, int64_t rows, int64_t panels, const float* residual) const {
    const bool later = !epilogue_.is_clamp();
    const bool add_later = later && epilogue_.residual_after;
    tile.residual = add_later ? nullptr : residual;
    if (registers_ != nullptr) {
      registers_->pairs(tile, static_cast<int>(rows), static_cast<int>(panels), tile_scope_->state());
    } else {
      const bool half = tile.columns <= panels * kPanel - kPanel / 2;
      const auto& packed = shape_.pairs ? kernels_.pairs : half ? kernels_.packed_half : kernels_.packed;
      const auto& variants = operands_.direct ? kernels_.direct : packed;
      variants[panels - 1][rows - 1](tile);
    }
    if (tile.finish && later) {
      kernels_.activate(activation_, epilogue_.alpha, epilogue_.beta, tile.c, add_later ? residual : nullptr,
                        tile.c_rows, rows, tile.columns);
    }
  }

  // The same in float32 scratch memory, where its residual is put before and from where C takes it.
  void run_staged(Tile& tile, int64_t rows, int64_t panels, int64_t column) const {
    alignas(64) float sums[kStageFloats];
    alignas(64) float residual[kStageFloats];
    int64_t stage_rows[kTileRows];
    const int64_t step = panels * kPanel;
    const auto count = static_cast<size_t>(tile.columns);
    const int64_t* c_rows = tile.c_rows;
    for (int64_t r = 0; r < rows; ++r) stage_rows[r] = r * step;
    if (operands_.residual != nullptr) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = c_rows[r] + column;
        if (shape_.residual_half) {
          kernels_.widen(static_cast<const uint16_t*>(operands_.residual) + at, tile.columns, residual + r * step);
        } else {
          std::memcpy(residual + r * step, static_cast<const float*>(operands_.residual) + at, count * sizeof(float));
        }
      }
    }
    tile.c = sums;
    tile.c_rows = stage_rows;
    compute_tile(tile, rows, panels, operands_.residual == nullptr ? nullptr : residual);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = c_rows[r] + column;
      if (shape_.c_half) {
        auto* to = static_cast<uint16_t*>(operands_.c) + at;
        kernels_.round(sums + r * step, 0, 1, tile.columns, reinterpret_cast<uint32_t*>(to), 0);
      } else {
        std::memcpy(static_cast<float*>(operands_.c) + at, sums + r * step, count * sizeof(float));
      }
    }
  }

  // Moves this block's part of every row to a compact copy, which is rounded where that is wanted and whose row
  // length is no multiple of a page.
  void copy_block(int64_t depth_begin, int64_t depth, Tile& tile) {
    const int64_t step = gemm_copy_step(depth);
    float* to = spare_;
    for (int64_t i = 0; i < tiles_; ++i) {
      for (int64_t r = 0; r < height(i); ++r, to += step) {
        const int64_t block = (i * table_blocks_ + r / kTableRows) * kTableRows;
        const float** from = originals_ + block * shape_.sources + r % kTableRows;
        if (shape_.rounded > 0) {
          round_row(from, depth_begin, depth, to);
        } else {
          std::memcpy(to, *from + depth_begin, static_cast<size_t>(depth) * sizeof(float));
        }
        table_[block + r % kTableRows] = to;
      }
    }
    tile.a_offset = 0;
  }

  // The pairs of a row's sources; of one source alone, those from depth_begin on.
  void round_row(const float* const* from, int64_t depth_begin, int64_t depth, float* to) const {
    const int64_t begin = 2 * depth_begin;
    const int64_t columns = shape_.sources > 1 ? shape_.rounded : std::min(2 * depth, shape_.rounded - begin);
    const int64_t run = (columns + 1) / 2;
    for (int64_t s = 0; s < shape_.sources; ++s, to += run) {
      kernels_.round(from[s * kTableRows] + begin, 0, 1, columns, reinterpret_cast<uint32_t*>(to), 0);
    }
  }

  static constexpr int kStageFloats = kTileRows * kTilePanels * kPanel;  // as many as any tile has

  const GemmKernels& kernels_;
  const TileRegisters* registers_;  // null: the kernels above
  TileScope* tile_scope_;
  const GemmShape& shape_;
  const GemmOperands& operands_;
  const Epilogue& epilogue_;
  Activation activation_;
  Rows& rows_;
  const GemmBlocking& blocking_;
  float* spare_;
  const float** table_;
  const float** originals_;
  int64_t* c_rows_;
  Range panels_{};
  int64_t tile_panels_ = 1;
  int64_t tile_rows_ = 1;
  int64_t table_blocks_ = 1;  // tables of rows of a tile
  int64_t tiles_ = 0;
  int64_t height_ = 0;
  int64_t higher_ = 0;
  int64_t b_offset_ = 0;
};

// Runs `problems` problems of one shape. make(i, operands, rows) describes the i-th.
// `scratch` holds gemm_scratch_bytes(shape) bytes a thread, 64-byte aligned.
template <class Rows, class Make>
void run_gemms(const GemmShape& shape, const Epilogue& epilogue, int64_t problems, const Parallel& parallel,
               void* scratch, Make&& make) {
  if (problems <= 0 || shape.m <= 0 || shape.n <= 0) return;
  const GemmGrid grid = gemm_grid(shape, problems, parallel.threads());
  const int64_t unit = shape.panels() >= 8 * grid.n ? gemm_kernels().main_panels : 1;
  const GemmBlocking blocking = gemm_blocking(shape);
  const size_t scratch_bytes = gemm_scratch(shape, blocking).bytes;
  const int64_t parts = grid.m * grid.n;
  const TileRegisters* registers = shape.pairs ? tile_registers(Extension::kAmxBf16) : nullptr;
  auto body = [&](int64_t begin, int64_t end, int worker) {
    TileScope tiles(registers);
    for (int64_t i = begin; i < end; ++i) {
      GemmOperands operands;
      Rows rows;
      make(i / parts, operands, rows);
      GemmTask<Rows> task(shape, blocking, operands, epilogue, rows,
                          static_cast<std::byte*>(scratch) + scratch_bytes * static_cast<size_t>(worker), &tiles);
      task.run(part_of(shape.m, grid.m, i % parts / grid.n), part_of(shape.panels(), grid.n, i % grid.n, unit));
    }
  };
  parallel.for_range(problems * parts, gemm_grain(shape, problems * parts, parts), body);
}

// A dense matrix: rows `a_step` floats apart.
struct DenseRows {
  const float* a = nullptr;
  int64_t a_step = 0;
  int64_t c_step = 0;

  void fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& /*spare*/) const {
    for (int64_t r = 0; r < count; ++r) {
      table[r] = a + (row + r) * a_step;
      c_rows[r] = (row + r) * c_step;
    }
  }
};

// Whether rows that lie `step` floats apart fall into so few cache sets that a tile evicts its own rows.
bool rows_collide(int64_t step);
// Whether that is so for the tiles of this shape, and enough of them beside each other read a copy that it pays.
bool copies_rows(const GemmShape& shape, int64_t step);

}  // namespace graphopt
