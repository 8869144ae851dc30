// A depthwise convolution over all lines and channels, and what it is made of.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/conv/depthwise.h"
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

// The kernel of the instruction set in use; `x_half`: of inputs in bfloat16.
void run_depthwise_lines(const DepthwiseLines& lines, bool x_half = false);

// Applies an activation that is no clamp to `channels` values at each of the positions, `step` floats
// apart, then adds the residual (may be null).
void activate_positions(const Epilogue& epilogue, float* y, const float* residual, int64_t step, int64_t positions,
                        int64_t channels);

void run_depthwise(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands,
                   const Parallel& parallel);

}  // namespace graphopt
