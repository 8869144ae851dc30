#include "kernels/int8/driver.h"

#include "runtime/cpu.h"

namespace graphopt::int8 {
namespace {

// The pointers to a block's rows must not crowd the rows themselves out of L2.
constexpr int64_t kTableBytes = 64 << 10;
constexpr int64_t kMaxBlockRows = 1152;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Blocking blocking_of(const Shape& shape) {
  const CacheSizes caches = cache_sizes();
  const Kernels& table = kernels();
  const int64_t tile_rows = table.max_rows[table.main_panels - 1];
  const int64_t segments = std::max<int64_t>(shape.segments, 1);
  const int64_t row = std::max<int64_t>(segments * shape.groups() * 4, 1);
  int64_t rows = static_cast<int64_t>(caches.l2) / 2 / row;
  rows = std::min({rows, kMaxBlockRows, kTableBytes / static_cast<int64_t>(sizeof(uint8_t*)) / segments});
  rows = std::max(rows / tile_rows, int64_t{2}) * tile_rows;
  Blocking blocking{};
  blocking.rows = std::min(rows, std::max<int64_t>(shape.m, 1));
  blocking.rows_outer = shape.panels() * shape.panel_bytes() <= static_cast<int64_t>(caches.l1) * 3 / 4;
  // A block of few rows may be cut into lower tiles.
  int64_t least = tile_rows;
  for (int max : table.max_rows) least = std::min<int64_t>(least, max);
  const int64_t slots = divide_up(blocking.rows, least) * kTableRows;
  int64_t at = divide_up((shape.spare_bytes * blocking.rows) + kSlack, 64) * 64;
  blocking.table = static_cast<size_t>(at);
  at += slots * segments * static_cast<int64_t>(sizeof(uint8_t*));
  blocking.c_rows = static_cast<size_t>(at);
  at += slots * static_cast<int64_t>(sizeof(int64_t));
  // A line between workers' memories, against false sharing.
  blocking.bytes = static_cast<size_t>(divide_up(at, 64) * 64 + 64);
  return blocking;
}

const uint8_t* readable(const Tensor& x, int64_t depth, void* workspace) {
  const auto* bytes = static_cast<const uint8_t*>(x.data);
  if (depth % 4 == 0) return bytes;
  const auto count = static_cast<size_t>(x.numel());
  auto* copy = static_cast<uint8_t*>(workspace);
  if (count > 0) std::memcpy(copy, bytes, count);
  std::memset(copy + count, 0, kSlack);
  return copy;
}

}  // namespace graphopt::int8
