// The tables of micro-kernels, one an instruction set.
#pragma once

#include "kernels/gemm/tile.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_GEMM_KERNELS(level, suffix) extern const GemmKernels gemm_kernels_##suffix;
// Of these only `pairs` and `round` are complete.
#define GRAPHOPT_GEMM_PAIRS(extension, suffix) extern const GemmKernels gemm_kernels_##suffix;
#include "kernels/gemm/kernels.inc"

// Of one level, which the processor must have.
const GemmKernels& gemm_kernels(Isa isa);

}  // namespace graphopt
