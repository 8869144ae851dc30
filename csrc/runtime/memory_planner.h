// Places buffers of known sizes and lifetimes in one arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace graphopt {

struct ArenaBlock {
  size_t size = 0;
  int32_t first = 0;  // needed in positions [first, last]
  int32_t last = 0;
  size_t offset = 0;  // the answer; 64-byte aligned
};

// Greedy by size, best fit: the largest block first, each in the smallest gap that it fits in between
// the blocks that are alive at the same time (Pisarchyk and Lee, "Efficient Memory Management for Deep
// Neural Net Inference", 2020). Returns the size of the arena. Throws Error when it overflows.
size_t plan_arena(std::vector<ArenaBlock>& blocks);

}  // namespace graphopt
