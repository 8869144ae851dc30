#include "kernels/dense/simd_portable.h"
// The vectors come first.
#include "kernels/dense/vmath.h"
// Built on them.
#include "kernels/attention/softmax_impl.h"

namespace graphopt {

extern const AttentionKernels attention_kernels_portable;
constinit const AttentionKernels attention_kernels_portable = {softmax_row, scale_row, divide_row};

}  // namespace graphopt
