// Where a tensor has row s of head h of a batch.
#pragma once

#include <cstdint>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {

// In floats: axes are [batch, heads, length, size], or [batch, length, features] with all heads among the features.
struct HeadView {
  int64_t begin = 0;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;

  // In a tensor of three dimensions the features of the first head begin at `first`, the next one's `step` later.
  HeadView(const char* kernel, const Tensor& x, int64_t heads, int64_t size, int64_t first, int64_t step) {
    if (x.rank == 4) {
      batch = heads * x.dim(2) * size;
      head = x.dim(2) * size;
      row = size;
      return;
    }
    const int64_t features = x.dim(2);
    if (first < 0 || step < size || size < 0 || first + (heads - 1) * step + size > features) {
      throw Error(std::string(kernel) + ": the heads don't fit into the features");
    }
    begin = first;
    batch = x.dim(1) * features;
    head = step;
    row = features;
  }

  [[nodiscard]] int64_t at(int64_t b, int64_t h, int64_t s) const { return begin + b * batch + h * head + s * row; }
};

}  // namespace graphopt
