#include "kernels/dense/simd_portable.h"
// The vectors come first.
#include "kernels/conv/depthwise_impl.h"

namespace graphopt {

extern const ConvKernels conv_kernels_portable;
constinit const ConvKernels conv_kernels_portable = {depthwise_lines, depthwise_half_lines};

}  // namespace graphopt
