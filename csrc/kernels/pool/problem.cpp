#include "kernels/pool/problem.h"

#include <algorithm>
#include <string>

namespace graphopt {

PoolProblem pool_problem(const Window& window, bool ceil_mode, const Tensor& x, const Tensor& y, const char* step) {
  if (x.rank != window.rank + 2 || y.rank != x.rank) {
    throw Error(std::string(step) + ": X and Y must be [N, spatial..., C]");
  }
  if (x.dim(0) != y.dim(0) || x.dim(-1) != y.dim(-1) || x.dtype != y.dtype) {
    throw Error(std::string(step) + ": X and Y differ in batch size, channels or element type");
  }
  PoolProblem problem;
  problem.window = window;
  problem.batch = x.dim(0);
  problem.in = spatial_dims(x, 1, window.rank);
  problem.out = spatial_dims(y, 1, window.rank);
  problem.channels = x.dim(-1);
  for (size_t axis = 0; axis < 3; ++axis) {
    const int64_t stride = window.stride[axis];
    const int64_t room = problem.in[axis] + window.begin[axis] + window.end[axis] - window.extent(axis);
    const int64_t whole = room < 0 ? 0 : room / stride + 1;
    // ceil(room / stride) + 1, less a window that would begin in the padding behind the input
    int64_t most = room <= -stride ? 0 : (room + stride - 1) / stride + 1;
    if (most > 0 && (most - 1) * stride >= problem.in[axis] + window.begin[axis]) --most;
    // With auto_pad, ceil_mode adds no window.
    if (problem.out[axis] != whole && !(ceil_mode && problem.out[axis] == most)) {
      throw Error(std::string(step) + ": the output has the wrong spatial size");
    }
  }
  return problem;
}

void window_lines(const PoolProblem& problem, int64_t line, std::vector<LineOffset>& lines) {
  const Window& w = problem.window;
  const int64_t h_out = line % problem.out[1];
  const int64_t d_out = line / problem.out[1] % problem.out[0];
  lines.clear();
  for (int64_t i = 0; i < w.kernel[0]; ++i) {
    const int64_t d = d_out * w.stride[0] - w.begin[0] + i * w.dilation[0];
    if (d < 0 || d >= problem.in[0]) continue;
    for (int64_t j = 0; j < w.kernel[1]; ++j) {
      const int64_t h = h_out * w.stride[1] - w.begin[1] + j * w.dilation[1];
      if (h >= 0 && h < problem.in[1]) lines.push_back({d, h});
    }
  }
}

int64_t window_count(const PoolProblem& problem, size_t axis, int64_t at, bool padding) {
  const Window& w = problem.window;
  const int64_t low = padding ? -w.begin[axis] : 0;
  const int64_t high = problem.in[axis] + (padding ? w.end[axis] : 0);
  int64_t count = 0;
  for (int64_t k = 0; k < w.kernel[axis]; ++k) {
    const int64_t v = at * w.stride[axis] - w.begin[axis] + k * w.dilation[axis];
    if (v >= low && v < high) ++count;
  }
  return count;
}

}  // namespace graphopt
