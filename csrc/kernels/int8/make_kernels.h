// The table of an instruction set. Included behind its kernels: tile<Rows, Panels>(), finish(), quantize(), depthwise()
// and row_sums().
#pragma once

#include "kernels/dense/unroll.h"
#include "kernels/int8/tile.h"

namespace graphopt::int8 {
namespace {

template <int Panels, int MaxRows>
constexpr void add_tiles(Kernels& kernels) {
  kernels.max_rows[Panels - 1] = MaxRows;
  unroll<MaxRows>([&](auto r) { kernels.tile[Panels - 1][r] = tile<r + 1, Panels>; });
}

// Rows: how many a tile of one, two, three and four panels has at most.
template <int MainPanels, int Rows1, int Rows2, int Rows3, int Rows4>
constexpr Kernels make_kernels() {
  Kernels kernels{};
  kernels.main_panels = MainPanels;
  add_tiles<1, Rows1>(kernels);
  add_tiles<2, Rows2>(kernels);
  add_tiles<3, Rows3>(kernels);
  add_tiles<4, Rows4>(kernels);
  kernels.finish = finish;
  kernels.quantize = quantize;
  kernels.depthwise = depthwise;
  kernels.row_sums = row_sums;
  return kernels;
}

}  // namespace
}  // namespace graphopt::int8
