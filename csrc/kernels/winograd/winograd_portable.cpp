#include "kernels/dense/simd_portable.h"
// The vectors come first.
#include "kernels/winograd/transform_impl.h"

namespace graphopt {

extern const WinogradKernels winograd_kernels_portable;
constinit const WinogradKernels winograd_kernels_portable = {input_tile, output_tile};

}  // namespace graphopt
