#include "kernels/gemm/dispatch.h"

#include <cstring>

#include "kernels/gemm/amx.h"
#include "kernels/gemm/driver.h"

namespace graphopt {

#define GRAPHOPT_TILE_REGISTERS(extension, suffix) extern const TileRegisters tile_registers_##suffix;
#include "kernels/gemm/kernels.inc"

namespace {

const TileRegisters* replaced = nullptr;

}  // namespace

const GemmKernels& gemm_kernels(Isa isa) {
  switch (isa) {
#define GRAPHOPT_GEMM_KERNELS(level, suffix) \
  case Isa::level:                           \
    return gemm_kernels_##suffix;
#include "kernels/gemm/kernels.inc"
  }
  return gemm_kernels_portable;
}

const GemmKernels& gemm_kernels() {
  static const GemmKernels kernels = [] {
    GemmKernels found = gemm_kernels(cpu_isa());
#define GRAPHOPT_GEMM_PAIRS(extension, suffix)                                 \
  if (cpu_has(Extension::extension)) {                                         \
    std::memcpy(found.pairs, gemm_kernels_##suffix.pairs, sizeof found.pairs); \
    found.round = gemm_kernels_##suffix.round;                                 \
    found.pack_pairs = gemm_kernels_##suffix.pack_pairs;                       \
  }
#include "kernels/gemm/kernels.inc"
    return found;
  }();
  return kernels;
}

const TileRegisters* tile_registers(Extension extension) {
  if (replaced != nullptr) return replaced;
  switch (extension) {
#define GRAPHOPT_TILE_REGISTERS(row, suffix) \
  case Extension::row:                       \
    return cpu_has(extension) ? &tile_registers_##suffix : nullptr;
#include "kernels/gemm/kernels.inc"
    default:
      return nullptr;
  }
}

void set_tile_registers(const TileRegisters* registers) { replaced = registers; }

}  // namespace graphopt
