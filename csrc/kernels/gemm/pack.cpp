#include "kernels/gemm/pack.h"

#include <algorithm>

#include "kernels/gemm/tile.h"

namespace graphopt {

size_t packed_gemm_size(int64_t k, int64_t n) {
  return static_cast<size_t>(k) * static_cast<size_t>((n + kPanel - 1) / kPanel * kPanel);
}

void pack_panels(const float* w, int64_t k, int64_t n, int64_t k_step, int64_t n_step, float* out) {
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const int64_t columns = std::min<int64_t>(kPanel, n - begin);
    for (int64_t i = 0; i < k; ++i, out += kPanel) {
      const float* row = w + i * k_step + begin * n_step;
      for (int64_t j = 0; j < columns; ++j) out[j] = row[j * n_step];
      std::fill(out + columns, out + kPanel, 0.0F);
    }
  }
}

void pack_gemm(const float* w_kn, int64_t k, int64_t n, float* out) { pack_panels(w_kn, k, n, n, 1, out); }

}  // namespace graphopt
