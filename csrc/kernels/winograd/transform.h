// The transforms of one tile of a Winograd convolution: 6 x 6 inputs to 36 points, 36 points to 4 x 4
// outputs. All channels-last.
#pragma once

#include <cstdint>

namespace graphopt {

struct WinogradInput {
  const float* const* taps;  // 36 positions of X, row by row; zeros for those in the padding
  int64_t channels;
  float* v;      // point p's channels are at v + p * step; written up to the next multiple of a vector
  int64_t step;  // floats
};

struct WinogradOutput {
  const float* m;  // point p's channels are at m + p * step
  int64_t step;
  int64_t channels;
  float* y;
  const float* bias;      // may be null
  const float* residual;  // like y; may be null
  int64_t rows;           // of the tile that lie inside Y, at most 4
  int64_t columns;
  int64_t row_step;  // floats from a row of Y to the next one
  int64_t column_step;
  float low;
  float high;
  bool residual_after;
};

struct WinogradKernels {
  void (*input)(const WinogradInput& tile);
  void (*output)(const WinogradOutput& tile);
};

}  // namespace graphopt
