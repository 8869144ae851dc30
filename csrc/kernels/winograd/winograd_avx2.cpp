#include "kernels/dense/simd_avx2.h"
// The vectors come first.
#include "kernels/winograd/transform_impl.h"

namespace graphopt {

extern const WinogradKernels winograd_kernels_avx2;
constinit const WinogradKernels winograd_kernels_avx2 = {input_tile, output_tile};

}  // namespace graphopt
