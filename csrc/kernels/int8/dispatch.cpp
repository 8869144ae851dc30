#include "kernels/int8/dispatch.h"

#include "runtime/cpu.h"

namespace graphopt::int8 {

const Kernels& kernels() {
  static const Kernels& found = []() -> const Kernels& {
    if (cpu_has(Extension::kVnni)) return kernels_avx512_vnni;
    return cpu_isa() >= Isa::kAvx2 ? kernels_avx2 : kernels_portable;
  }();
  return found;
}

}  // namespace graphopt::int8
