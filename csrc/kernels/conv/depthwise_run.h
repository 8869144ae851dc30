// A depthwise convolution over all lines and channels.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/conv/rows.h"
#include "kernels/dense/epilogue.h"

namespace graphopt {

struct DepthwiseOperands {
  const float* x = nullptr;
  const float* weights = nullptr;
  const float* bias = nullptr;
  const float* residual = nullptr;
  float* y = nullptr;
};

void run_depthwise(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands,
                   const Parallel& parallel);

}  // namespace graphopt
