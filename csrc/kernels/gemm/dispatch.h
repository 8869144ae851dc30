// The tables of micro-kernels, one an instruction set.
#pragma once

#include "kernels/gemm/tile.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_GEMM_KERNELS(level, suffix) extern const GemmKernels gemm_kernels_##suffix;
#include "kernels/gemm/kernels.inc"
#undef GRAPHOPT_GEMM_KERNELS

// For the products of bfloat16 pairs; only `pairs` and `round` are complete.
extern const GemmKernels gemm_kernels_avx512_bf16;

// Of one level, which the processor must have.
const GemmKernels& gemm_kernels(Isa isa);

}  // namespace graphopt
