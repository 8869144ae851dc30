// Plain loops in double that define what matmul computes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/gemm/reference.h"
#include "kernels/matmul/plain.h"

namespace graphopt::reference {

inline std::vector<double> matmul(const MatmulShape& s, const std::vector<double>& a, const std::vector<double>& b,
                                  double scale, const std::vector<double>& bias, const std::vector<double>& residual,
                                  const Epilogue& epilogue) {
  std::vector<double> y;
  for (int64_t product = 0; product < s.batch; ++product) {
    const int64_t a0 = s.offset(s.a_steps, product);
    const int64_t b0 = s.offset(s.b_steps, product);
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < s.k; ++k) {
          sum += a[static_cast<size_t>(a0 + (s.trans_a ? k * s.m + i : i * s.k + k))] *
                 b[static_cast<size_t>(b0 + (s.trans_b ? j * s.k + k : k * s.n + j))];
        }
        const size_t at = y.size();
        y.push_back(finish(epilogue, sum * scale, bias.empty() ? 0 : bias[static_cast<size_t>(j)],
                           residual.empty() ? 0 : residual[at]));
      }
    }
  }
  return y;
}

}  // namespace graphopt::reference
