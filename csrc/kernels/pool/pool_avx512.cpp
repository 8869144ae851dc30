#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/pool/bytes_impl.h"
#include "kernels/pool/pool_impl.h"

namespace graphopt {

extern const PoolKernels pool_kernels_avx512;
constinit const PoolKernels pool_kernels_avx512 = {pool_line, pool_bytes};

}  // namespace graphopt
