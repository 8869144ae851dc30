// The micro-kernel of products with weights of four bits: one panel of 16 columns times rows of floats.
#pragma once

#include <cstdint>

namespace graphopt::int8 {

// Weights [depth / 2][16]: a byte holds two neighbours along K of a column, the first in the low bits. Every
// `block` along K a column has a scale and a zero point of its own, [blocks][16] of each.
struct NibbleTile {
  const uint8_t* weights;
  const float* scale;
  const float* zero;
  int64_t depth;  // even
  int64_t block;  // even
  const float* x;
  int64_t x_step;
  int64_t rows;
  const float* bias;  // of 16 columns
  float* y;
  int64_t y_step;
  int64_t columns;  // of Y, at most 16
};

using NibbleKernel = void (*)(const NibbleTile& tile);

extern const NibbleKernel nibble_kernel_portable;
extern const NibbleKernel nibble_kernel_avx2;
extern const NibbleKernel nibble_kernel_avx512;

}  // namespace graphopt::int8
