// The table of functions for this processor.
#pragma once

#include <span>

#include "kernels/convert/kernels.h"

namespace graphopt::convert {

// The best level, and every level that this machine can run, best first.
const Kernels& kernels();
std::span<const Kernels* const> runnable_kernels();

}  // namespace graphopt::convert
