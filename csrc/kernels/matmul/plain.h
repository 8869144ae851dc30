// Matrix products of the dtypes that have no vector kernels.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/dense/epilogue.h"

namespace graphopt {

// One product's sizes and the steps, in elements, along its operands' axes.
struct MatmulShape {
  int64_t batch = 1;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool trans_a = false;
  bool trans_b = false;
  // Products along each batch axis, and how far A and B move from one to the next (0: broadcast).
  int batch_rank = 0;
  std::array<int64_t, kMaxRank> batch_dims{};
  std::array<int64_t, kMaxRank> a_steps{};
  std::array<int64_t, kMaxRank> b_steps{};

  [[nodiscard]] int64_t a_row() const { return trans_a ? 1 : k; }
  [[nodiscard]] int64_t a_column() const { return trans_a ? m : 1; }
  [[nodiscard]] int64_t b_row() const { return trans_b ? 1 : n; }
  [[nodiscard]] int64_t b_column() const { return trans_b ? k : 1; }
  // Where the index-th product's operand begins.
  [[nodiscard]] int64_t offset(const std::array<int64_t, kMaxRank>& steps, int64_t index) const {
    int64_t at = 0;
    for (int axis = batch_rank; axis-- > 0;) {
      const auto i = static_cast<size_t>(axis);
      at += index % batch_dims[i] * steps[i];
      index /= batch_dims[i];
    }
    return at;
  }
};

struct MatmulOperands {
  const Tensor& a;
  const Tensor& b;
  const Tensor& bias;
  const Tensor& residual;
  const Tensor& y;
};

// f64, f16, bf16, i32, u32, i64 and u64. Floats are summed in double (f64) or float and rounded once;
// integers wrap around.
void run_plain_matmul(const MatmulShape& shape, const MatmulOperands& operands, double alpha, const Epilogue& epilogue,
                      const Parallel& parallel);

}  // namespace graphopt
