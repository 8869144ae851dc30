// The pooling micro-kernel: one line of outputs of a float32 channels-last tensor.
#pragma once

#include <cstdint>

namespace graphopt {

enum class PoolOp : uint8_t {
  kMax,  // of nothing: -inf; NaN wins
  kAverage,
  kSumOfMagnitudes,  // LpPool with p = 1
  kRootOfSquares,    // and with p = 2
};

// The input lines that a line of outputs sees are given by pointer, without those in the padding.
struct PoolLine {
  const float* const* lines;  // first position, first channel
  int64_t line_count;
  int64_t columns_in;
  float* y;
  int64_t columns;
  int64_t channels;  // floats from a position to the next one
  int64_t channel_begin;
  int64_t channel_end;
  int64_t kernel;  // along the line, as the next three
  int64_t stride;
  int64_t dilation;
  int64_t begin;          // padding
  const float* divisors;  // kAverage: of each column
};

// The same for the largest of bytes.
struct BytePoolLine {
  const uint8_t* const* lines;
  int64_t line_count;
  int64_t columns_in;
  uint8_t* y;
  int64_t columns;
  int64_t channels;
  int64_t channel_begin;
  int64_t channel_end;
  int64_t kernel;
  int64_t stride;
  int64_t dilation;
  int64_t begin;
  bool is_signed;
};

struct PoolKernels {
  void (*line)(PoolOp op, const PoolLine& line);
  void (*bytes)(const BytePoolLine& line);
};

}  // namespace graphopt
