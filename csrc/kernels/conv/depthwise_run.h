// A depthwise convolution over all lines and channels.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/conv/rows.h"
#include "kernels/dense/epilogue.h"

namespace graphopt {

struct DepthwiseOperands {
  const void* x = nullptr;
  const float* weights = nullptr;
  const float* bias = nullptr;
  const float* residual = nullptr;  // not where Y holds bfloat16 numbers
  void* y = nullptr;
  bool x_half = false;  // X holds bfloat16 numbers, and so does Y: one channel a group, an activation that is a clamp
  bool y_half = false;
};

void run_depthwise(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands,
                   const Parallel& parallel);

}  // namespace graphopt
