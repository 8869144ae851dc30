// What LDTILECFG reads: the sizes of the tile registers (Intel, Software Developer's Manual, LDTILECFG).
#pragma once

#include <cstdint>

namespace graphopt {

inline constexpr int kTiles = 8;  // of palette 1
inline constexpr int kMaxTileRows = 16;
inline constexpr int kTileBytes = 64;  // of a row

struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t colsb[16];  // bytes of a row, of each register
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace graphopt
