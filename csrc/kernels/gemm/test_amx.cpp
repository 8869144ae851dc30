// The kernels of tile registers: every size on the emulated registers, and the code for AMX itself, whose
// instructions are trapped where the processor doesn't have them.
#include <cstdio>

#include "kernels/gemm/amx.h"
#include "kernels/gemm/pairs_cases.h"
#include "kernels/gemm/trapped_tiles.h"

namespace graphopt {
extern const TileRegisters tile_registers_amx;
extern const TileRegisters tile_registers_emulated;
}  // namespace graphopt

using namespace graphopt;
using namespace graphopt::test;

namespace {

// Rows, columns and depths below, at and above a register and the kernels' two by two.
void test_pairs() {
  for (int64_t m : {1, 2, 15, 16, 17, 31, 32, 33, 65}) {
    for (int64_t k : {1, 2, 31, 32, 33, 62, 98}) {
      for (int64_t n : {1, 16, 17, 33, 64, 70}) check_pairs_gemm(m, k, n, n == 17 ? "gelu" : "relu", k % 2 == 0);
    }
  }
  check_pairs_gemm(40, 3333, 40, "none", true);  // K in several blocks
  check_pairs_gemm(5, 0, 20, "relu", true);
  for (int64_t cin : {1, 3, 16, 35, 48, 66}) {
    check_pairs_conv(9, cin, 20, 1, 1, 0);
    check_pairs_conv(9, cin, 20, 1, 2, 0);
    check_pairs_conv(9, cin, 37, 3, 1, 1);
    check_pairs_conv(10, cin, 16, 5, 2, 2);
  }
  check_pairs_conv(19, 3, 20, 3, 2, 1, true);
  check_pairs_conv(18, 3, 37, 7, 2, 3, true);
  for (int64_t m : {1, 17, 40}) {
    check_half_gemm(m, 34, 70, "relu", 1);
    check_half_gemm(m, 66, 20, "gelu", 2);
  }
  check_half_conv(9, 36, 38, 3, 1, "relu", true);
}

// A call of `quads` itself against plain sums: rows in two tables, in place or far apart, between guard pages.
template <class A>
void check_quads(const TileRegisters& registers, Bytes bytes, int rows, int panels, int64_t segments, int64_t depth,
                 bool even) {
  const int64_t k = segments * depth;  // slots
  Random random(static_cast<uint64_t>(rows + 100 * panels + 1000 * k));
  const int64_t a_step = depth + (even ? 0 : 5);
  GuardedBuffer a_memory(static_cast<size_t>(rows * segments * a_step - (a_step - depth)) * 4, Guard::kAfter, 1);
  GuardedBuffer b_memory(static_cast<size_t>(panels * k * kPanel) * 4, Guard::kAfter, 1);
  auto* a = static_cast<A*>(a_memory.data());
  auto* b = static_cast<int8_t*>(b_memory.data());
  for (int64_t i = 0; i < (rows * segments * a_step - (a_step - depth)) * 4; ++i) a[i] = static_cast<A>(random.next());
  for (int64_t i = 0; i < panels * k * kPanel * 4; ++i) b[i] = static_cast<int8_t>(random.next());
  // Rows of one segment after the other; in the last order where they shall not lie at equal distances.
  const auto row_of = [&](int64_t s, int r) {
    const int64_t place = even ? r : (r * 7) % rows;
    return ((rows % 7 == 0 && !even ? rows - 1 - r : place) * segments + s) * a_step;
  };
  std::vector<const float*> table(static_cast<size_t>(2 * segments * kTableRows));
  for (int64_t s = 0; s < segments; ++s) {
    for (int r = 0; r < rows; ++r) {
      const int64_t slot = r / kTableRows * segments * kTableRows + s * kTableRows + r % kTableRows;
      table[static_cast<size_t>(slot)] = reinterpret_cast<const float*>(a) + row_of(s, r);
    }
  }
  Tile tile{};
  tile.a_rows = table.data();
  tile.a_block = segments * kTableRows;
  tile.segments = segments;
  tile.depth = depth;
  tile.b = reinterpret_cast<const float*>(b);
  tile.b_panel = k * kPanel;
  const auto columns = static_cast<size_t>(panels * kPanel);
  tile.columns = panels * kPanel - rows % 3;  // others may hold anything
  std::vector<int32_t> start(static_cast<size_t>(tile.columns));
  for (int32_t& x : start) x = static_cast<int32_t>(random.next());
  const int shift = bytes == Bytes::kFlipped ? 128 : 0;
  std::vector<int32_t> sums(static_cast<size_t>(rows) * columns + columns, 77);
  {
    TileScope scope(&registers);
    registers.quads(tile, rows, panels, bytes, segments > 1 ? start.data() : nullptr, scope.state(), sums.data());
  }
  for (int r = 0; r < rows; ++r) {
    for (size_t column = 0; column < start.size(); ++column) {
      uint32_t want = segments > 1 ? static_cast<uint32_t>(start[column]) : 0;
      for (int64_t i = 0; i < k; ++i) {
        const A* x = a + (row_of(i / depth, r) + i % depth) * 4;
        const int8_t* y = b + ((static_cast<int64_t>(column) / kPanel * k + i) * kPanel + column % kPanel) * 4;
        for (int j = 0; j < 4; ++j) want += static_cast<uint32_t>((x[j] + shift) * y[j]);
      }
      CHECK(sums[static_cast<size_t>(r) * columns + column] == static_cast<int32_t>(want));
    }
  }
  for (size_t i = static_cast<size_t>(rows) * columns; i < sums.size(); ++i) CHECK(sums[i] == 77);
}

void test_quads(const TileRegisters& registers) {
  for (int rows : {1, 2, 15, 16, 17, 31, 32}) {
    for (int panels = 1; panels <= (rows > kFewTileRows ? kTilePanels : kFewTilePanels); ++panels) {
      for (int64_t depth : {1, 15, 16, 17, 29, 48}) {
        for (bool even : {true, false}) {
          check_quads<uint8_t>(registers, Bytes::kUnsigned, rows, panels, 1, depth, even);
          check_quads<uint8_t>(registers, Bytes::kUnsigned, rows, panels, 2, depth, even);
          check_quads<int8_t>(registers, Bytes::kSigned, rows, panels, 3, depth, even);
          check_quads<int8_t>(registers, Bytes::kFlipped, rows, panels, 2, depth, even);
        }
      }
    }
  }
}

void test_all(const TileRegisters& registers) {
  set_tile_registers(&registers);
  test_pairs();
  test_quads(registers);
  CHECK(tile_machine().config().palette == 0);  // scopes release the registers
}

}  // namespace

int main() {
  test_all(tile_registers_emulated);
  if (cpu_isa() == Isa::kAvx512) {
    if (!cpu_has(Extension::kAmxInt8) || !cpu_has(Extension::kAmxBf16)) trap_tile_instructions();
    test_all(tile_registers_amx);
  } else {
    std::printf("no AVX-512: the code for AMX isn't run\n");
  }
  return 0;
}
