#include "runtime/memory_planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "graphopt/kernel.h"
#include "runtime/buffer.h"

namespace graphopt {
namespace {

constexpr size_t kMaxArena = size_t{1} << 46U;

// The best place for a block among those that it may not overlap, which are sorted by offset.
size_t best_offset(const std::vector<const ArenaBlock*>& rivals, size_t size) {
  size_t best = std::numeric_limits<size_t>::max();
  size_t best_gap = std::numeric_limits<size_t>::max();
  size_t end = 0;  // of everything seen so far
  for (const ArenaBlock* rival : rivals) {
    if (rival->offset >= end + size && rival->offset - end < best_gap) {
      best = end;
      best_gap = rival->offset - end;
    }
    end = std::max(end, rival->offset + rival->size);
  }
  return best == std::numeric_limits<size_t>::max() ? end : best;
}

}  // namespace

size_t plan_arena(std::vector<ArenaBlock>& blocks) {
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blocks[a].size > blocks[b].size; });
  std::vector<const ArenaBlock*> placed;  // sorted by offset
  std::vector<const ArenaBlock*> rivals;
  size_t total = 0;
  for (const size_t i : order) {
    ArenaBlock& block = blocks[i];
    if (block.size > kMaxArena) throw Error("the model needs too much memory for these input shapes");
    block.size = align_up(block.size, kAlignment);
    if (block.size == 0) continue;
    rivals.clear();
    for (const ArenaBlock* other : placed) {
      if (other->first <= block.last && block.first <= other->last) rivals.push_back(other);
    }
    block.offset = best_offset(rivals, block.size);
    total = std::max(total, block.offset + block.size);
    if (total > kMaxArena) throw Error("the model needs too much memory for these input shapes");
    const auto before = [](const ArenaBlock* a, const ArenaBlock* b) { return a->offset < b->offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &block, before), &block);
  }
  return total;
}

}  // namespace graphopt
