#include "kernels/winograd/pack.h"

#include <algorithm>
#include <array>

#include "kernels/gemm/tile.h"
#include "kernels/winograd/points.h"

namespace graphopt {
namespace {

constexpr int kTaps = 3;
using Lanes = std::array<double, kPanel>;

// G: row i holds the powers of point i over the product of its distances to the other points.
constexpr std::array<std::array<double, kTaps>, kWinogradIn> make_g() {
  constexpr double kA2 = kWinogradA * kWinogradA;
  constexpr double kB2 = kWinogradB * kWinogradB;
  constexpr double kOfA = 2 * kA2 * (kA2 - kB2);
  constexpr double kOfB = 2 * kB2 * (kB2 - kA2);
  return {{{1 / (kA2 * kB2), 0, 0},
           {1 / kOfA, kWinogradA / kOfA, kA2 / kOfA},
           {1 / kOfA, -kWinogradA / kOfA, kA2 / kOfA},
           {1 / kOfB, kWinogradB / kOfB, kB2 / kOfB},
           {1 / kOfB, -kWinogradB / kOfB, kB2 / kOfB},
           {0, 0, 1}}};
}
constexpr auto kG = make_g();

// One input channel and up to 16 output channels: G g G^T.
void transform(const float* w, int64_t o_step, int64_t columns, float* out, int64_t point_step) {
  Lanes half[kWinogradIn][kTaps];
  for (int j = 0; j < kTaps; ++j) {
    Lanes g[kTaps]{};
    for (int i = 0; i < kTaps; ++i) {
      for (int64_t o = 0; o < columns; ++o)
        g[i][static_cast<size_t>(o)] = static_cast<double>(w[o * o_step + i * kTaps + j]);
    }
    for (size_t i = 0; i < kWinogradIn; ++i) {
      for (size_t o = 0; o < kPanel; ++o) half[i][j][o] = kG[i][0] * g[0][o] + kG[i][1] * g[1][o] + kG[i][2] * g[2][o];
    }
  }
  for (size_t i = 0; i < kWinogradIn; ++i) {
    for (size_t j = 0; j < kWinogradIn; ++j, out += point_step) {
      for (size_t o = 0; o < kPanel; ++o) {
        const double u = kG[j][0] * half[i][0][o] + kG[j][1] * half[i][1][o] + kG[j][2] * half[i][2][o];
        out[o] = static_cast<float>(u);
      }
    }
  }
}

int64_t panels(int64_t cout) { return (cout + kPanel - 1) / kPanel; }

}  // namespace

size_t packed_winograd_size(int64_t cout, int64_t cin) {
  return static_cast<size_t>(kWinogradPoints * panels(cout) * cin * kPanel);
}

void pack_winograd(const float* w_oihw, int64_t cout, int64_t cin, float* out) {
  constexpr int64_t kWindow = int64_t{kTaps} * kTaps;
  const int64_t point_step = panels(cout) * cin * kPanel;
  for (int64_t begin = 0; begin < cout; begin += kPanel) {
    const int64_t columns = std::min<int64_t>(kPanel, cout - begin);
    for (int64_t c = 0; c < cin; ++c, out += kPanel) {
      transform(w_oihw + (begin * cin + c) * kWindow, cin * kWindow, columns, out, point_step);
    }
  }
}

}  // namespace graphopt
