#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/conv/depthwise_impl.h"

namespace graphopt {

// Compiled with the rounding of bfloat16 as an instruction.
extern const ConvKernels conv_kernels_avx512_bf16;
constinit const ConvKernels conv_kernels_avx512_bf16 = {depthwise_lines, depthwise_half_lines};

}  // namespace graphopt
