#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/conv/depthwise_impl.h"

namespace graphopt {

extern const ConvKernels conv_kernels_avx512;
constinit const ConvKernels conv_kernels_avx512 = {depthwise_lines, depthwise_half_lines};

}  // namespace graphopt
