// Runs a product of 8-bit integers over the micro-kernels: cache blocking, threads, the finish.
//
// The rows of A are given by a `Rows` object, see kernels/gemm/driver.h, of uint8_t.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/gemm/amx.h"
#include "kernels/gemm/driver.h"
#include "kernels/int8/dispatch.h"
#include "kernels/int8/finish.h"

namespace graphopt::int8 {

struct Shape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t segments = 1;
  int64_t depth = 0;        // bytes of a segment
  int64_t spare_bytes = 0;  // per row, that Rows::fill may take
  [[nodiscard]] int64_t groups() const { return (depth + 3) / 4; }
  [[nodiscard]] int64_t panels() const { return (n + kPanel - 1) / kPanel; }
  [[nodiscard]] int64_t panel_bytes() const { return segments * groups() * 4 * kPanel; }
  // The same work on floats: a group of four takes as long as one of them.
  [[nodiscard]] GemmShape as_floats() const {
    GemmShape shape;
    shape.m = m;
    shape.n = n;
    shape.segments = segments;
    shape.depth = groups();
    return shape;
  }
};

struct Operands {
  const int8_t* b = nullptr;
  Columns columns;
  void* c = nullptr;
  bool flip = false;
};

// How a problem is cut so that its working set stays in the caches, and where in a worker's memory what is.
struct Blocking {
  int64_t rows;
  bool rows_outer;  // all of B's panels for a tile of rows before the next tile
  size_t table;
  size_t c_rows;
  size_t bytes;
};
Blocking blocking_of(const Shape& shape);

// Bytes that whoever reads whole groups needs behind rows that are no multiple of four long.
inline constexpr int64_t kSlack = 4;

template <class Rows>
class Task {
 public:
  Task(const Shape& shape, const Blocking& blocking, const Operands& operands, const Finish& finish,
       const FinishPlan& plan, Rows& rows, std::byte* scratch, TileScope& tiles)
      : kernels_(kernels()),
        tiles_(tiles),
        shape_(shape),
        blocking_(blocking),
        operands_(operands),
        finish_(finish),
        plan_(plan),
        rows_(rows),
        spare_(reinterpret_cast<uint8_t*>(scratch)),
        table_(reinterpret_cast<const uint8_t**>(scratch + blocking.table)),
        c_rows_(reinterpret_cast<int64_t*>(scratch + blocking.c_rows)) {}

  // Rows [m.begin, m.end), panels [n.begin, n.end).
  void run(Range m, Range n) {
    if (m.begin >= m.end || n.begin >= n.end) return;
    const int64_t blocks = (m.end - m.begin + blocking_.rows - 1) / blocking_.rows;
    for (int64_t i = 0; i < blocks; ++i) {
      const Range block = part_of(m.end - m.begin, blocks, i);
      run_rows({m.begin + block.begin, m.begin + block.end}, n);
    }
  }

 private:
  void run_rows(Range m, Range n) {
    const int64_t count = m.end - m.begin;
    panels_ = kMaxPanels;
    while (panels_ > kernels_.main_panels && count > kernels_.max_rows[panels_ - 1]) --panels_;
    int64_t most = kernels_.max_rows[panels_ - 1];
    if (tiles_.registers() != nullptr) {
      panels_ = kFewTilePanels;
      most = kFewTileRows;
    }
    const int64_t tiles = (count + most - 1) / most;
    height_ = count / tiles;
    higher_ = count % tiles;
    uint8_t* spare = spare_;
    int64_t row = m.begin;
    for (int64_t i = 0; i < tiles; row += height(i++)) {
      rows_.fill(row, height(i), table_ + i * kTableRows * shape_.segments, c_rows_ + i * kTableRows, spare);
    }
    if (blocking_.rows_outer) {
      for (int64_t i = 0; i < tiles; ++i) {
        for (int64_t p = n.begin; p < n.end; p += panels_) run_tile(i, p, std::min(panels_, n.end - p));
      }
    } else {
      for (int64_t p = n.begin; p < n.end; p += panels_) {
        for (int64_t i = 0; i < tiles; ++i) run_tile(i, p, std::min(panels_, n.end - p));
      }
    }
  }

  [[nodiscard]] int64_t height(int64_t tile) const { return height_ + (tile < higher_ ? 1 : 0); }

  void run_tile(int64_t index, int64_t panel, int64_t panels) const {
    alignas(64) int32_t sums[kMaxRows * kMaxPanels * kPanel];
    const int64_t rows = height(index);
    const int64_t column = panel * kPanel;
    const Columns& columns = operands_.columns;
    Tile tile{};
    tile.a_rows = table_ + index * kTableRows * shape_.segments;
    tile.segments = shape_.segments;
    tile.groups = shape_.groups();
    tile.b_panel = shape_.panel_bytes();
    tile.b = operands_.b + panel * tile.b_panel;
    tile.columns = std::min(panels * kPanel, shape_.n - column);
    tile.start = columns.start == nullptr ? nullptr : columns.start + column;
    tile.sums = sums;
    tile.flip = operands_.flip;
    if (tiles_.registers() != nullptr) {
      sum_by_tiles(tile, rows, panels);
    } else {
      kernels_.tile[panels - 1][rows - 1](tile);
    }
    FinishTile last{};
    last.sums = sums;
    last.sums_step = panels * kPanel;
    last.rows = rows;
    last.columns = tile.columns;
    last.c_rows = c_rows_ + index * kTableRows;
    last.scale = columns.scale + column;
    last.offset = columns.offset == nullptr ? nullptr : columns.offset + column;
    const int64_t size = finish_.out == DType::kF32 ? 4 : 1;
    last.c = static_cast<std::byte*>(operands_.c) + column * size;
    if (columns.residual != nullptr) last.residual = static_cast<const std::byte*>(columns.residual) + column * size;
    int32_t row_sums[kMaxRows] = {};
    if (columns.row_factors != nullptr) {
      for (int64_t s = 0; s < shape_.segments; ++s) {
        kernels_.row_sums(tile.a_rows + s * kTableRows, rows, shape_.depth, operands_.flip, row_sums);
      }
      last.row_sums = row_sums;
      last.row_factors = columns.row_factors + column;
    }
    if (!plan_.activates()) {
      kernels_.finish(finish_, last);
    } else {
      activate(last);
    }
  }

  // The sums of a tile by tile registers (kernels/gemm/amx.h), for which a group of four bytes is a slot.
  void sum_by_tiles(const Tile& tile, int64_t rows, int64_t panels) const {
    graphopt::Tile slots{};
    slots.a_rows = reinterpret_cast<const float* const*>(tile.a_rows);
    slots.segments = tile.segments;
    slots.depth = tile.groups;
    slots.b = reinterpret_cast<const float*>(tile.b);
    slots.b_panel = tile.b_panel / 4;
    slots.columns = tile.columns;
    tiles_.registers()->quads(slots, static_cast<int>(rows), static_cast<int>(panels),
                              tile.flip ? Bytes::kFlipped : Bytes::kUnsigned, tile.start, tiles_.state(), tile.sums);
  }

  void activate(FinishTile& last) const {
    const Epilogue& epilogue = plan_.epilogue();
    const auto run = [&](float* c, const float* residual, const int64_t* c_rows) {
      gemm_kernels().activate(epilogue.activation, epilogue.alpha, epilogue.beta, c, residual, c_rows, last.rows,
                              last.columns);
    };
    if (finish_.out == DType::kF32) {
      const auto* residual = static_cast<const float*>(last.residual);
      if (epilogue.residual_after) last.residual = nullptr;
      kernels_.finish(finish_, last);
      run(static_cast<float*>(last.c), epilogue.residual_after ? residual : nullptr, last.c_rows);
      return;
    }
    constexpr int64_t kStep = kMaxPanels * kPanel;
    alignas(64) float numbers[kMaxRows * kStep];
    int64_t steps[kMaxRows];
    for (int64_t r = 0; r < last.rows; ++r) steps[r] = r * kStep;
    Finish floats{};
    floats.out = DType::kF32;
    floats.low = -std::numeric_limits<float>::infinity();
    floats.high = std::numeric_limits<float>::infinity();
    FinishTile middle = last;
    middle.c = numbers;
    middle.c_rows = steps;
    kernels_.finish(floats, middle);
    run(numbers, nullptr, steps);
    kernels_.quantize(finish_, {numbers, kStep, last.rows, last.columns, last.c_rows, last.c});
  }

  const Kernels& kernels_;
  TileScope& tiles_;
  const Shape& shape_;
  const Blocking& blocking_;
  const Operands& operands_;
  const Finish& finish_;
  const FinishPlan& plan_;
  Rows& rows_;
  uint8_t* spare_;
  const uint8_t** table_;
  int64_t* c_rows_;
  int64_t panels_ = 1;
  int64_t height_ = 0;
  int64_t higher_ = 0;
};

// Runs `problems` problems of one shape. make(i, operands, rows) describes the i-th.
// `scratch` holds blocking_of(shape).bytes a thread, 64-byte aligned.
template <class Rows, class Make>
void run_products(const Shape& shape, const Finish& finish, const FinishPlan& plan, int64_t problems,
                  const Parallel& parallel, std::byte* scratch, Make&& make) {
  if (problems <= 0 || shape.m <= 0 || shape.n <= 0) return;
  const GemmShape floats = shape.as_floats();
  const GemmGrid grid = gemm_grid(floats, problems, parallel.threads());
  const int64_t unit = shape.panels() >= 8 * grid.n ? kernels().main_panels : 1;
  const Blocking blocking = blocking_of(shape);
  const int64_t parts = grid.m * grid.n;
  const TileRegisters* registers = tile_registers(Extension::kAmxInt8);
  auto body = [&](int64_t begin, int64_t end, int worker) {
    TileScope tiles(registers);
    for (int64_t i = begin; i < end; ++i) {
      Operands operands;
      Rows rows;
      make(i / parts, operands, rows);
      Task<Rows> task(shape, blocking, operands, finish, plan, rows,
                      scratch + blocking.bytes * static_cast<size_t>(worker), tiles);
      task.run(part_of(shape.m, grid.m, i % parts / grid.n), part_of(shape.panels(), grid.n, i % grid.n, unit));
    }
  };
  parallel.for_range(problems * parts, gemm_grain(floats, problems * parts, parts), body);
}

// A dense matrix: rows `a_step` bytes apart.
struct DenseRows {
  const uint8_t* a = nullptr;
  int64_t a_step = 0;
  int64_t c_step = 0;

  void fill(int64_t row, int64_t count, const uint8_t** table, int64_t* c_rows, uint8_t*& /*spare*/) const {
    for (int64_t r = 0; r < count; ++r) {
      table[r] = a + (row + r) * a_step;
      c_rows[r] = (row + r) * c_step;
    }
  }
};

// X where whole groups may be read: itself, or where rows are no multiple of four long, a copy in `workspace`
// with kSlack bytes behind it.
const uint8_t* readable(const Tensor& x, int64_t depth, void* workspace);
inline size_t readable_bytes(const Tensor& x, int64_t depth) {
  return depth % 4 == 0 ? 0 : (static_cast<size_t>(x.numel() + kSlack) + 63) / 64 * 64;
}

}  // namespace graphopt::int8
