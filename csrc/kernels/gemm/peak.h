// The rate of multiply-adds that this machine reaches at best: what the speed of kernels is compared with.
#pragma once

#include "graphopt/kernel.h"

namespace graphopt {

// Floating-point operations a second of all threads together, at the instruction set in use; a tenth of a second.
double multiply_add_rate(const Parallel& parallel);

}  // namespace graphopt
