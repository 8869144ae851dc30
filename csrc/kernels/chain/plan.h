// What the step `conv_chain` computes, and how that is cut.
#pragma once

#include "kernels/conv/rows.h"
#include "kernels/dense/epilogue.h"
#include "kernels/gemm/driver.h"

namespace graphopt {

// X -> expand (dense) -> depthwise -> project (1 x 1) -> Y. Either end may be missing, not both.
struct Chain {
  bool expands = false;
  bool projects = false;
  int64_t cin = 0;       // of X
  int64_t channels = 0;  // of the depthwise convolution
  int64_t cout = 0;      // of Y
  Window expand;
  Window depthwise;
  Epilogue expand_epilogue;
  Epilogue depthwise_epilogue;
  Epilogue project_epilogue;
};

// Reads cin, channels, cout and
//   kernel_shape, strides, dilations, pads                  of the depthwise convolution,
//   expand_kernel_shape and so on                           of the first one, where there is one,
//   projects                                                whether the last one is there,
//   activations, alphas, betas (three each, in that order), residual_after.
// Throws Error on nonsense.
Chain parse_chain(const Attrs& attrs);

// Everything about a chain of known shapes that doesn't depend on the data pointers.
struct ChainGeometry {
  int64_t batch = 0;
  int64_t lines_in = 0;  // that the depthwise convolution reads
  int64_t columns_in = 0;
  int64_t lines = 0;  // of Y
  int64_t columns = 0;
  ConvGeometry expand;
  bool plain = false;  // a row of the first product is a position of X

  [[nodiscard]] int64_t positions() const { return batch * lines * columns; }
};

// Throws Error where the spatial size of Y isn't what the chain makes of X.
ChainGeometry chain_geometry(const Chain& chain, const Tensor& x, const Tensor& y);

// A task makes some lines of an image for some channels. It goes through its lines in groups: what the
// group needs of the expanded tensor is added to a ring of lines, slice by slice of its channels.
// None of this changes how a value is summed.
struct ChainCut {
  int64_t group = 1;   // lines of outputs at a time
  int64_t slices = 1;  // of the channels
  // Where the expanded tensor would leave the cache, or there is none, a task is a band of lines with all
  // channels, and ends with its part of Y. Else, or where lines are few, it is a slice with all lines
  // (so that nothing is computed twice) and the last product comes when all slices are done.
  bool by_bands = true;
  int64_t ring = 0;            // lines
  int64_t width = 0;           // of a line of the ring, padding included
  int64_t slice_channels = 0;  // of the largest slice, a multiple of 16
};
ChainCut chain_cut(const Chain& chain, const ChainGeometry& geometry);

// The channels of a slice.
Range chain_slice(const Chain& chain, const ChainCut& cut, int64_t index);

// Bands that the lines of an image are cut into for threads.
int64_t chain_bands(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut, int threads);

// The products as problems of the GEMM driver: of one slice for a group of lines, and for a group of
// outputs.
GemmShape expand_shape(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut);
GemmShape project_shape(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut);

// Floats from a position to the next one, where the last product reads it.
int64_t project_step(const Chain& chain);

// A worker's memory: byte offsets of its parts.
struct ChainScratch {
  size_t expanded;  // [slices or 1][ring][width][slice_channels] floats
  size_t outputs;   // of a group, for the last product
  size_t lines;     // pointers to input lines
  size_t taps;      // and where their weights begin
  size_t line_begin;
  size_t products;  // the GEMM driver's
  size_t bytes;
};
ChainScratch chain_scratch(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut);

}  // namespace graphopt
