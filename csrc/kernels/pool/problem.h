// What the pooling steps share: sizes, the windows of a line, what an average divides by.
#pragma once

#include <vector>

#include "graphopt/kernel.h"
#include "kernels/dense/spatial.h"

namespace graphopt {

struct PoolProblem {
  Window window;
  int64_t batch = 0;
  Dims3 in{};
  Dims3 out{};
  int64_t channels = 0;

  [[nodiscard]] int64_t lines() const { return batch * out[0] * out[1]; }
};

// The sizes of X and Y, both [N, spatial..., C]. Throws unless Y is what the window makes of X; in
// ceil_mode a window may overhang the end, but must begin before the padding there.
PoolProblem pool_problem(const Window& window, bool ceil_mode, const Tensor& x, const Tensor& y, const char* step);

// An input line that a line of outputs sees.
struct LineOffset {
  int64_t d;
  int64_t h;
};
// Those of the line-th line of outputs that aren't padding, in order.
void window_lines(const PoolProblem& problem, int64_t line, std::vector<LineOffset>& lines);

// How many positions the at-th window along an axis averages over: those of the input or, with
// `padding`, of the padded input. Never those behind it that ceil_mode makes a window reach.
int64_t window_count(const PoolProblem& problem, size_t axis, int64_t at, bool padding);

// Pools any dtype, with or without the indices of maxima, by plain loops.
struct PlainPool {
  enum class Op : uint8_t { kMax, kAverage, kLp } op;
  int64_t p = 2;
  bool count_padding = false;
  bool column_major = false;  // order of the spatial axes in the indices
};
void run_plain_pool(const PoolProblem& problem, const PlainPool& pool, const Tensor& x, const Tensor& y,
                    const Tensor& indices, const Parallel& parallel);

}  // namespace graphopt
