// The rows of the matrices that a convolution multiplies: windows of a channels-last tensor, by pointer.
#pragma once

#include <vector>

#include "kernels/dense/spatial.h"

namespace graphopt {

// Everything about a convolution of known shapes that doesn't depend on the data pointers.
struct ConvGeometry {
  Window window;
  int64_t batch = 0;
  Dims3 in{};
  Dims3 out{};
  int64_t channels = 0;         // of X: floats from a position to the next one
  int64_t window_channels = 0;  // that one output sees (cin / group)
  int64_t out_channels = 0;     // of Y
  // The taps along the innermost axis make one segment: their inputs lie side by side in memory.
  bool merged = false;

  [[nodiscard]] int64_t segments() const { return merged ? window.kernel[0] * window.kernel[1] : window.taps(); }
  [[nodiscard]] int64_t depth() const { return merged ? window.kernel[2] * window_channels : window_channels; }
};

// Whether the taps along a line are taken as one run: of few channels each, so that inner loops stay long.
inline bool merges_taps(const Window& window, int64_t channels) {
  return channels < 32 && window.kernel[2] > 1 && window.dilation[2] == 1;
}

// One row an output position.
struct ConvRows {
  const ConvGeometry* geometry = nullptr;
  const float* x = nullptr;
  const float* zeros = nullptr;  // depth() of them, for taps in the padding
  // Where the last rows ended, from which the next ones mostly go on.
  Position cursor{};
  int64_t next_row = 0;

  void fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& spare);

 private:
  void fill_line(int64_t run, const float** slots, float*& spare) const;
  void fill_merged(int64_t run, const float** slots, const float* line, int64_t first, float*& spare) const;
};

// The outputs of a transposed convolution whose coordinates are `phase` modulo the strides: they share
// their taps, which make them an ordinary convolution of stride one.
struct ConvTransposePhase {
  Dims3 phase{};
  Dims3 count{};                 // outputs along each axis
  std::vector<Dims3> offsets;    // a tap: input coordinate minus output coordinate (counted in strides)
  std::vector<int64_t> weights;  // a tap: where its weights begin in a panel
};

struct ConvTransposeRows {
  const ConvGeometry* geometry = nullptr;
  const ConvTransposePhase* phase = nullptr;
  const float* x = nullptr;
  const float* zeros = nullptr;
  Position cursor{};
  int64_t next_row = 0;

  void fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& spare);
};

}  // namespace graphopt
