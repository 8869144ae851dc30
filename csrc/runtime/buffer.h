// Owned, aligned memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {

inline constexpr size_t kAlignment = 64;       // of memory that we allocate
inline constexpr size_t kInputAlignment = 16;  // the least that kernels may rely on

constexpr size_t align_up(size_t size, size_t alignment) { return (size + alignment - 1) / alignment * alignment; }

// Uninitialised memory from malloc's heap, 64-byte aligned by default; whoever takes it with release() gives it
// back with std::free(). Never null, not even for zero bytes.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size, size_t alignment = kAlignment) : size_(size) {
    // Far above any machine's memory, far below where rounding up overflows.
    constexpr size_t kLimit = size_t{1} << 48U;
    if (size < kLimit) data_.reset(std::aligned_alloc(alignment, align_up(size == 0 ? 1 : size, alignment)));
    if (data_ == nullptr) throw Error("out of memory: cannot allocate " + std::to_string(size) + " bytes");
  }

  [[nodiscard]] void* data() const { return data_.get(); }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return data_ == nullptr; }
  [[nodiscard]] void* release() {
    size_ = 0;
    return data_.release();
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t size_ = 0;
};

}  // namespace graphopt
