// Plain loops in double that define what gemm computes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dense/epilogue.h"

namespace graphopt::reference {

// activation(sum + bias + residual) or activation(sum + bias) + residual
inline double finish(const Epilogue& epilogue, double sum, double bias, double residual) {
  if (epilogue.residual_after) return apply_activation(epilogue, sum + bias) + residual;
  return apply_activation(epilogue, sum + bias + residual);
}

// bias and residual may be empty.
inline std::vector<double> gemm(const std::vector<float>& a, const std::vector<float>& b, int64_t m, int64_t n,
                                int64_t k, const std::vector<float>& bias, const std::vector<float>& residual,
                                const Epilogue& epilogue) {
  std::vector<double> y(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += static_cast<double>(a[static_cast<size_t>(i * k + p)]) * b[static_cast<size_t>(p * n + j)];
      }
      const auto at = static_cast<size_t>(i * n + j);
      y[at] =
          finish(epilogue, sum, bias.empty() ? 0 : bias[static_cast<size_t>(j)], residual.empty() ? 0 : residual[at]);
    }
  }
  return y;
}

}  // namespace graphopt::reference
