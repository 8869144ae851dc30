// Arenas that are not in use, for runs to take.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/buffer.h"

namespace graphopt {

// Keeps as many arenas as there were runs at the same time. Thread-safe.
class ArenaPool {
 public:
  // At least `size` bytes; the smallest arena that suffices, or a new one in place of one that doesn't.
  Buffer take(size_t size) {
    Buffer outgrown;  // freed after the lock is released
    {
      const std::lock_guard lock(mutex_);
      auto best = free_.end();
      for (auto it = free_.begin(); it != free_.end(); ++it) {
        if (it->size() >= size && (best == free_.end() || it->size() < best->size())) best = it;
      }
      if (best == free_.end() && !free_.empty()) best = std::prev(free_.end());
      if (best != free_.end()) {
        outgrown = std::move(*best);
        free_.erase(best);
      }
    }
    if (!outgrown.empty() && outgrown.size() >= size) return outgrown;
    outgrown = Buffer();
    return allocate(size);
  }

  void give(Buffer arena) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(arena));
  }

 private:
  // Large arenas lie on huge pages where the system has them: activations are read with long strides.
  static Buffer allocate(size_t size) {
    constexpr size_t kHugePage = size_t{2} << 20U;
    if (size < 2 * kHugePage) return Buffer(size);
    Buffer arena(align_up(size, kHugePage), kHugePage);
    (void)madvise(arena.data(), arena.size(), MADV_HUGEPAGE);
    return arena;
  }

  std::mutex mutex_;
  std::vector<Buffer> free_;
};

}  // namespace graphopt
