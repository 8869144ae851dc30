// The depthwise micro-kernel: some lines of outputs of a convolution that keeps channels, or groups of a
// few channels, apart.
#pragma once

#include <cstdint>

namespace graphopt {

// Everything channels-last. The input lines that a line of outputs sees are given by pointer, without
// those in the padding. All lines of one vector of channels are done before the next one, so that every
// input comes to L1 once.
struct DepthwiseLines {
  int64_t count;
  const int64_t* line_begin;  // of each line of outputs and behind the last: its first entry in the next two
  const void* const* lines;   // input lines: first position, first channel
  const int64_t* taps;        // and where their weights begin in a panel
  int64_t y_step;             // floats from a line of outputs to the next one
  int64_t columns_in;
  const float* weights;  // panels [taps][group size][16]
  int64_t panel;         // floats from a panel to the next one
  void* y;
  bool y_half;            // y holds bfloat16 numbers; one channel a group, no residual
  const float* bias;      // may be null
  const float* residual;  // like y; may be null
  int64_t columns;
  int64_t x_position;     // floats from a position to the next one, in the input lines
  int64_t y_position;     // and in y and residual
  int64_t channel_begin;  // a multiple of 16
  int64_t channel_end;
  int64_t group_size;  // channels that each output channel sees: 1, 2, 4 or 8
  int64_t kernel;      // along the line, as the next three
  int64_t stride;
  int64_t dilation;
  int64_t begin;  // padding
  float low;
  float high;
  bool residual_after;
};

struct ConvKernels {
  void (*depthwise)(const DepthwiseLines& lines);
  void (*depthwise_half)(const DepthwiseLines& lines);  // of inputs in bfloat16: one channel a group
};

}  // namespace graphopt
