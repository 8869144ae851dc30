#include "kernels/resample/dispatch.h"

#include <vector>

#include "runtime/cpu.h"

namespace graphopt::resample {

std::span<const Kernels* const> runnable_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
#define GRAPHOPT_RESAMPLE(isa, table) \
  if (cpu_isa() >= Isa::isa) found.push_back(&(table));
#include "kernels/resample/kernels.inc"
#undef GRAPHOPT_RESAMPLE
    return found;
  }();
  return tables;
}

const Kernels& kernels() { return *runnable_kernels().front(); }

}  // namespace graphopt::resample
