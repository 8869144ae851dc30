// A depthwise convolution of bytes over all lines and channels.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/conv/rows.h"
#include "kernels/int8/finish.h"

namespace graphopt::int8 {

struct DepthwiseOperands {
  const uint8_t* x = nullptr;
  const int8_t* weights = nullptr;
  Columns columns;
  void* y = nullptr;
  uint8_t zero = 0;
  bool flip = false;
};

// Bytes of packed weights, see DepthwiseLine.
int64_t depthwise_weights(const ConvGeometry& geometry);
// Scratch memory of a run.
size_t depthwise_bytes(const ConvGeometry& geometry);
void run_depthwise(const ConvGeometry& geometry, const Finish& finish, const DepthwiseOperands& operands,
                   void* workspace, const Parallel& parallel);

}  // namespace graphopt::int8
