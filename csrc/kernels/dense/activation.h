// The activation that gemm, matmul, conv and conv_transpose apply to their result.
#pragma once

#include <cstdint>

namespace graphopt {

enum class Activation : uint8_t {
  kNone,
  kRelu,
  kClip,       // min(max(x, alpha), beta)
  kLeakyRelu,  // x < 0 ? alpha x : x
  kSigmoid,
  kSilu,  // x sigmoid(x)
  kTanh,
  kHardSigmoid,  // min(max(alpha x + beta, 0), 1)
  kHardSwish,    // x min(max(x / 6 + 1 / 2, 0), 1)
  kGelu,         // by erf
  kGeluTanh,
  kElu,  // x < 0 ? alpha (e^x - 1) : x
  kMish,
  kSoftplus,
  kGeluRough,  // kGelu for a result that is rounded to bfloat16
};

}  // namespace graphopt
