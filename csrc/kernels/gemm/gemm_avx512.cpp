#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/dense/vmath.h"
// Built on them.
#include "kernels/dense/activation_impl.h"
#include "kernels/gemm/dot_impl.h"
#include "kernels/gemm/round_impl.h"
#include "kernels/gemm/tile_impl.h"
#include "kernels/gemm/transpose_impl.h"

namespace graphopt {
namespace {

void activate(Activation activation, float alpha, float beta, float* c, const float* residual, const int64_t* c_rows,
              int64_t rows, int64_t columns) {
  activate_tile(activation, {c, residual, c_rows, rows, columns, alpha, beta});
}

constexpr GemmKernels make_kernels() {
  GemmKernels kernels{};
  kernels.main_panels = 4;
  kernels.short_panels = 2;
  add_tiles<1, 12>(kernels);
  add_tiles<2, 12>(kernels);
  add_tiles<3, 9>(kernels);
  add_tiles<4, 6>(kernels);
  kernels.activate = activate;
  kernels.transpose = transpose_block;
  kernels.pack = pack_rows;
  kernels.dot = dot_rows;
  kernels.multiply_adds = multiply_adds;
  kernels.round = round_rows;
  kernels.pack_pairs = pack_pair_rows;
  kernels.widen = widen_row;
  return kernels;
}

}  // namespace

extern const GemmKernels gemm_kernels_avx512;
constinit const GemmKernels gemm_kernels_avx512 = make_kernels();

}  // namespace graphopt
