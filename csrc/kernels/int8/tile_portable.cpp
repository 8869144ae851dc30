// Products of 8-bit integers in plain C++.
#include "kernels/dense/unroll.h"
#include "kernels/int8/plain_impl.h"

namespace graphopt::int8 {
namespace {

template <int Rows, int Panels>
void tile(const Tile& t) {
  constexpr int kWidth = Panels * kPanel;
  int32_t start[kWidth];
  start_columns(t, Panels, start);
  const uint8_t sign = t.flip ? 0x80 : 0;
  for (int r = 0; r < Rows; ++r) {
    for (int p = 0; p < Panels; ++p) {
      int32_t acc[kPanel];
      for (int j = 0; j < kPanel; ++j) acc[j] = start[p * kPanel + j];
      const int8_t* b = t.b + p * t.b_panel;
      for (int64_t s = 0; s < t.segments; ++s) {
        const uint8_t* a = t.a_rows[s * kTableRows + r];
        for (int64_t g = 0; g < t.groups; ++g, a += 4, b += 4 * kPanel) {
          for (int i = 0; i < 4; ++i) {
            const auto x = static_cast<int32_t>(static_cast<uint8_t>(a[i] ^ sign));
            for (int j = 0; j < kPanel; ++j) acc[j] += x * static_cast<int32_t>(b[j * 4 + i]);
          }
        }
      }
      for (int j = 0; j < kPanel; ++j) t.sums[(r * Panels + p) * kPanel + j] = acc[j];
    }
  }
}

}  // namespace
}  // namespace graphopt::int8

// The kernels come first.
#include "kernels/int8/make_kernels.h"

namespace graphopt::int8 {

extern const Kernels kernels_portable;
constinit const Kernels kernels_portable = make_kernels<1, 4, 4, 4, 4>();

}  // namespace graphopt::int8
