// Access to a step's operands.
#pragma once

#include <initializer_list>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {

// The index-th operand; an absent one when the step has fewer.
inline const Tensor& operand(std::span<const Tensor> tensors, size_t index) {
  static const Tensor absent;
  return index < tensors.size() ? tensors[index] : absent;
}

inline const float* data_or_null(const Tensor& tensor) { return tensor.present() ? tensor.ptr<float>() : nullptr; }

inline void require_f32(const char* step, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (tensor->present() && tensor->dtype != DType::kF32)
      throw Error(std::string(step) + ": operands must be float32");
  }
}

}  // namespace graphopt
