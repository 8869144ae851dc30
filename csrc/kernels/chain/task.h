// One worker's part of a chain.
#pragma once

#include <cstddef>

#include "kernels/chain/plan.h"
#include "kernels/conv/depthwise.h"

namespace graphopt {

struct ChainOperands {
  const float* x = nullptr;
  const float* expand_weights = nullptr;
  const float* expand_bias = nullptr;
  const float* depthwise_weights = nullptr;
  const float* depthwise_bias = nullptr;
  const float* project_weights = nullptr;
  const float* project_bias = nullptr;
  const float* residual = nullptr;
  const float* zeros = nullptr;  // for taps of the first convolution in the padding
  float* y = nullptr;
  float* outputs = nullptr;  // of the depthwise convolution, where the last product comes later
};

class ChainTask {
 public:
  ChainTask(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut, const ChainOperands& operands,
            void* scratch);

  // Lines [lines.begin, lines.end) of an image; slices [slices.begin, slices.end) of the channels.
  void run(int64_t image, Range lines, Range slices);

 private:
  void clear_padding(int64_t slices) const;
  void expand(int64_t image, Range lines, float* to, Range channels);
  void find_lines(int64_t image, Range lines, const float* from);
  void depthwise(int64_t image, Range lines, Range channels);
  void project(int64_t image, Range lines);

  [[nodiscard]] int64_t line_floats() const { return cut_.width * cut_.slice_channels; }
  [[nodiscard]] int64_t slice_floats() const { return cut_.ring * line_floats(); }

  const Chain& chain_;
  const ChainGeometry& g_;
  const ChainCut& cut_;
  const ChainOperands& operands_;
  GemmShape expand_shape_;
  GemmShape project_shape_;
  GemmBlocking expand_blocking_;
  GemmBlocking project_blocking_;
  float* expanded_;
  float* outputs_;
  const void** lines_;
  int64_t* taps_;
  int64_t* line_begin_;
  void* products_;
};

}  // namespace graphopt
