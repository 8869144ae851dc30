#include "kernels/dense/simd_avx2.h"
// The vectors come first.
#include "kernels/pool/bytes_impl.h"
#include "kernels/pool/pool_impl.h"

namespace graphopt {

extern const PoolKernels pool_kernels_avx2;
constinit const PoolKernels pool_kernels_avx2 = {pool_line, pool_bytes};

}  // namespace graphopt
