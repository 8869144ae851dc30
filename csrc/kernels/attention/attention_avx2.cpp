#include "kernels/dense/simd_avx2.h"
// The vectors come first.
#include "kernels/dense/vmath.h"
// Built on them.
#include "kernels/attention/softmax_impl.h"

namespace graphopt {

extern const AttentionKernels attention_kernels_avx2;
constinit const AttentionKernels attention_kernels_avx2 = {softmax_row, scale_row, divide_row};

}  // namespace graphopt
