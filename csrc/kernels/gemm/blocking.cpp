#include <cmath>
#include <limits>

#include "kernels/gemm/driver.h"
#include "runtime/cpu.h"

namespace graphopt {
namespace {

// K is summed in blocks of about this many: a tile's panels of B (two times 16 columns) then take a
// small part of L2 and C is visited rarely. A constant, so that sums don't depend on the machine.
constexpr int64_t kBlockK = 1024;
// The pointers to a block's rows must not crowd the rows themselves out of L2.
constexpr int64_t kTableBytes = 85 << 10;
constexpr int64_t kMaxBlockRows = 576;
constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));
// Multiply-adds that take about as long as waking a thread.
constexpr int64_t kWorthAThread = 100'000;
// And a part of which half is still long against handing it out.
constexpr double kWorthHalving = 4e6;

// And how many times as fast tile registers are.
constexpr int64_t kTileSpeed = 8;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that the tables of a block of `rows` rows have room for, whatever its tiles. None is lower than that of
// main_panels, but for a chosen one.
int64_t table_rows(int64_t rows, const GemmShape& shape) {
  const GemmKernels& kernels = gemm_kernels();
  int64_t tile_rows = kernels.max_rows[kernels.main_panels - 1];
  if (shape.choice.tile > 0 && kernels.max_rows[shape.choice.tile - 1] > 0) {
    tile_rows = std::min<int64_t>(tile_rows, kernels.max_rows[shape.choice.tile - 1]);
  }
  const int64_t tiles = divide_up(rows, tile_rows);
  return std::max(tiles * kTableRows, divide_up(rows, kTileRows) * kTileRows);
}

int64_t worth_a_thread(const GemmShape& shape) {
  const bool tiles = shape.pairs && tile_registers(Extension::kAmxBf16) != nullptr;
  return tiles ? kTileSpeed * kWorthAThread : kWorthAThread;
}

}  // namespace

GemmChoice parse_gemm_choice(const Attrs& attrs) {
  const GemmChoice choice{attrs.i("tile", 0), attrs.i("share", 0)};
  if (choice.tile < 0 || choice.tile > kMaxPanels) throw Error("the tile must be of at most 4 panels");
  if (choice.share < 0 || choice.share > 2) throw Error("the share must be 0, 1 or 2");
  return choice;
}

GemmBlocking gemm_blocking(const GemmShape& shape) {
  const CacheSizes caches = cache_sizes();
  GemmBlocking blocking{};
  blocking.depth = shape.depth;
  blocking.segments = shape.segments;
  if (shape.c_half || shape.sources > 1) {
    // K in one block: sums aren't continued from C, or runs aren't cut.
  } else if (shape.depth > kBlockK + kBlockK / 2) {
    const int64_t parts = divide_up(shape.depth, kBlockK);
    blocking.depth = divide_up(divide_up(shape.depth, parts), kPanel) * kPanel;
    blocking.segments = 1;
  } else if (shape.k() > kBlockK + kBlockK / 2) {
    const int64_t some = std::max<int64_t>(1, kBlockK / shape.depth);
    blocking.segments = divide_up(shape.segments, divide_up(shape.segments, some));
  }
  const int64_t block_k = std::max<int64_t>(1, blocking.depth * blocking.segments);
  const GemmKernels& kernels = gemm_kernels();
  const int64_t tile_rows = kernels.max_rows[kernels.main_panels - 1];
  int64_t rows = static_cast<int64_t>(caches.l2) / 2 / (block_k * kFloat);
  rows = std::min({rows, kMaxBlockRows,
                   kTableBytes * tile_rows / (8 * kTableRows * std::max({shape.segments, shape.sources, int64_t{1}}))});
  blocking.rows = std::max(rows / tile_rows, int64_t{2}) * tile_rows;
  blocking.rows = std::min(blocking.rows, std::max<int64_t>(shape.m, 1));
  blocking.rows_outer = block_k * shape.panels() * kPanel * kFloat <= static_cast<int64_t>(caches.l1) * 3 / 4;
  return blocking;
}

GemmScratch gemm_scratch(const GemmShape& shape, const GemmBlocking& blocking) {
  const int64_t slots = table_rows(blocking.rows, shape);
  const int64_t spare = shape.spare_floats + (shape.copies() ? gemm_copy_step(blocking.depth) : 0);
  constexpr int64_t kPointer = static_cast<int64_t>(sizeof(float*));
  int64_t at = divide_up(spare * blocking.rows * kFloat, 64) * 64;
  GemmScratch parts{};
  parts.table = static_cast<size_t>(at);
  at += slots * shape.segments * kPointer;
  parts.originals = static_cast<size_t>(at);
  if (shape.copies()) at += slots * shape.sources * kPointer;
  parts.c_rows = static_cast<size_t>(at);
  at += slots * static_cast<int64_t>(sizeof(int64_t));
  // A line between workers' memories, against false sharing.
  parts.bytes = static_cast<size_t>(divide_up(at, 64) * 64 + 64);
  return parts;
}

size_t gemm_scratch_bytes(const GemmShape& shape) { return gemm_scratch(shape, gemm_blocking(shape)).bytes; }

GemmGrid gemm_grid(const GemmShape& shape, int64_t problems, int threads) {
  const auto work = static_cast<double>(shape.m) * static_cast<double>(shape.panels() * kPanel) *
                    static_cast<double>(std::max<int64_t>(shape.k(), 1));
  const int64_t worth = static_cast<int64_t>(std::min(work / static_cast<double>(worth_a_thread(shape)), 1e6));
  const int64_t wanted = std::min<int64_t>(divide_up(threads, problems), worth);
  GemmGrid best;
  if (wanted <= 1 || (problems >= threads && problems % threads == 0) || problems >= 4 * threads) return best;
  const GemmKernels& kernels = gemm_kernels();
  const int64_t tile_rows = kernels.max_rows[kernels.main_panels - 1];
  const auto k = static_cast<double>(shape.k());
  double best_cost = std::numeric_limits<double>::infinity();
  const int64_t most = shape.choice.share == 2 ? 1 : std::min(wanted, shape.m);
  for (int64_t m = shape.choice.share == 1 ? most : 1; m <= most; ++m) {
    const int64_t n = std::min(wanted / m, shape.panels());
    const int64_t rows = divide_up(shape.m, m);
    const int64_t panels = divide_up(shape.panels(), n);
    // Multiply-adds of a vector, and what it costs to bring A from a cache and B from memory.
    const double compute = (static_cast<double>(rows) + 0.4 * static_cast<double>(divide_up(rows, tile_rows))) *
                           static_cast<double>(panels) * k;
    const double a = static_cast<double>(rows) * k / 4;
    const double b = static_cast<double>(panels * kPanel) * k / 2;
    const double cost = compute + a + b;
    if (cost < best_cost) {
      best_cost = cost;
      best = {m, n};
    }
  }
  // Twice as many parts where they stay long: a thread that starts late or is slowed down then leaves
  // some of its work to the others.
  const double part = work / static_cast<double>(best.m * best.n);
  if (part < kWorthHalving) return best;
  if (shape.panels() >= 16 * best.n) {
    best.n *= 2;
  } else if (shape.m >= 8 * tile_rows * best.m) {
    best.m *= 2;
  }
  return best;
}

int64_t gemm_grain(const GemmShape& shape, int64_t tasks, int64_t parts) {
  const double work = static_cast<double>(shape.m) * static_cast<double>(shape.panels() * kPanel) *
                      static_cast<double>(std::max<int64_t>(shape.k(), 1)) / static_cast<double>(parts);
  const double grain = std::ceil(static_cast<double>(worth_a_thread(shape)) / work);
  return std::min(tasks, static_cast<int64_t>(std::max(grain, 1.0)));
}

bool rows_collide(int64_t step) {
  constexpr int64_t kSetBytes = 4096;  // L1 of every current x86 core: 64 sets of 64 bytes
  return step > 0 && step * kFloat % kSetBytes == 0;
}

bool copies_rows(const GemmShape& shape, int64_t step) {
  constexpr int64_t kWays = 8;  // of L1
  const GemmKernels& kernels = gemm_kernels();
  int64_t tile_rows =
      kernels.max_rows[tile_panels(kernels, shape.m, shape.panels(), shape.k(), false, shape.choice) - 1];
  if (shape.pairs && tile_registers(Extension::kAmxBf16) != nullptr) tile_rows = kTileRows;
  return tile_rows > kWays && shape.m > 4 && shape.panels() >= 8 && rows_collide(step);
}

}  // namespace graphopt
