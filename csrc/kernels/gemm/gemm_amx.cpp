#include "kernels/dense/simd_avx512.h"
// The vectors come first.
#include "kernels/gemm/tile_impl.h"
// Then the tiles.
#include "kernels/gemm/amx_tiles.h"
// Built on both.
#include "kernels/gemm/amx_impl.h"

namespace graphopt {

extern const TileRegisters tile_registers_amx;
constinit const TileRegisters tile_registers_amx = make_registers<AmxTiles>();

}  // namespace graphopt
