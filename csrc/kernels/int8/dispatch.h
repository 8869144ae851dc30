// The tables of micro-kernels, one an instruction set.
#pragma once

#include "kernels/int8/tile.h"

namespace graphopt::int8 {

#define GRAPHOPT_INT8_KERNELS(suffix) extern const Kernels kernels_##suffix;
#include "kernels/int8/kernels.inc"
#undef GRAPHOPT_INT8_KERNELS

// Of the instruction set in use.
const Kernels& kernels();

}  // namespace graphopt::int8
