#pragma once

#include <cstdint>

namespace graphopt::bench {

// Runs `steps` steps of independent multiply-adds on the calling thread; returns how many operations.
double fma_flops(int64_t steps);

}  // namespace graphopt::bench
