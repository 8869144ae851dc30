#include "kernels/dense/simd_portable.h"
// The vectors come first.
#include "kernels/pool/bytes_impl.h"
#include "kernels/pool/pool_impl.h"

namespace graphopt {

extern const PoolKernels pool_kernels_portable;
constinit const PoolKernels pool_kernels_portable = {pool_line, pool_bytes};

}  // namespace graphopt
