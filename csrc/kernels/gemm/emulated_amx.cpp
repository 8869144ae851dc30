// The kernels of gemm_amx.cpp on tiles that any processor has: linked into tests.
#include "kernels/dense/simd_portable.h"
// The vectors come first.
#include "kernels/gemm/tile_impl.h"
// Then the tiles.
#include "kernels/gemm/emulated_tiles.h"
// Built on both.
#include "kernels/gemm/amx_impl.h"

namespace graphopt {

extern const TileRegisters tile_registers_emulated;
constinit const TileRegisters tile_registers_emulated = make_registers<EmulatedTiles>();

}  // namespace graphopt
