#include "kernels/convert/dispatch.h"

#include <vector>

#include "runtime/cpu.h"

namespace graphopt::convert {

std::span<const Kernels* const> runnable_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
#define GRAPHOPT_CONVERT(isa, table) \
  if (cpu_isa() >= Isa::isa) found.push_back(&(table));
#include "kernels/convert/kernels.inc"
#undef GRAPHOPT_CONVERT
    return found;
  }();
  return tables;
}

const Kernels& kernels() { return *runnable_kernels().front(); }

}  // namespace graphopt::convert
