#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/gemm/round_impl.h"
#include "kernels/gemm/tile_impl.h"

namespace graphopt {
namespace {

// Compiled with the dot product of bfloat16 pairs as an instruction; what else a table holds, the one of
// AVX-512 has.
constexpr GemmKernels make_kernels() {
  GemmKernels kernels{};
  add_tiles<1, 12>(kernels);
  add_tiles<2, 12>(kernels);
  add_tiles<3, 9>(kernels);
  add_tiles<4, 6>(kernels);
  kernels.round = round_rows;
  kernels.pack_pairs = pack_pair_rows;
  kernels.widen = widen_row;
  return kernels;
}

}  // namespace

extern const GemmKernels gemm_kernels_avx512_bf16;
constinit const GemmKernels gemm_kernels_avx512_bf16 = make_kernels();

}  // namespace graphopt
