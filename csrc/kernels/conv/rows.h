// The rows of the matrices that a convolution multiplies: windows of a channels-last tensor, by pointer.
// T is float, or uint8_t for the elements of a quantized tensor.
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
  int64_t channels = 0;         // of X: elements from a position to the next one
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
template <class T>
struct WindowRows {
  const ConvGeometry* geometry = nullptr;
  const T* x = nullptr;
  const T* zeros = nullptr;  // depth() of what the padding holds, for taps in it
  // Where the last rows ended, from which the next ones mostly go on.
  Position cursor{};
  int64_t next_row = 0;

  void fill(int64_t row, int64_t count, const T** table, int64_t* c_rows, T*& spare);

 private:
  void fill_line(int64_t run, const T** slots, T*& spare) const;
  void fill_merged(int64_t run, const T** slots, const T* line, int64_t first, T*& spare) const;
  const T* assemble(const T* line, int64_t begin, T*& spare) const;
};

using ConvRows = WindowRows<float>;

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
