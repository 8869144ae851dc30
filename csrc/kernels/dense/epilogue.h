// What a step does with an accumulated sum before it is stored: parsed once from the attributes.
#pragma once

#include <limits>

#include "graphopt/kernel.h"
#include "kernels/dense/activation.h"

namespace graphopt {

// y = activation(alpha_scale sum + bias + residual), or activation(sum + bias) + residual.
struct Epilogue {
  Activation activation = Activation::kNone;
  float alpha = 0;
  float beta = 0;
  bool residual_after = false;

  // none, relu and clip are a clamp to [low, high], which costs nothing on a tile in registers.
  [[nodiscard]] bool is_clamp() const { return activation <= Activation::kClip; }
  [[nodiscard]] float low() const {
    if (activation == Activation::kRelu) return 0;
    return activation == Activation::kClip ? alpha : -std::numeric_limits<float>::infinity();
  }
  [[nodiscard]] float high() const {
    return activation == Activation::kClip ? beta : std::numeric_limits<float>::infinity();
  }
};

// Reads `activation`, `alpha`, `beta` and `residual_after`; throws Error on an unknown activation.
Epilogue parse_epilogue(const Attrs& attrs);

// The same function on one number, for the dtypes that have no vector kernels.
double apply_activation(const Epilogue& epilogue, double x);

}  // namespace graphopt
