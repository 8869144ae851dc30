#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/winograd/transform_impl.h"

namespace graphopt {

extern const WinogradKernels winograd_kernels_avx512;
constinit const WinogradKernels winograd_kernels_avx512 = {input_tile, output_tile};

}  // namespace graphopt
