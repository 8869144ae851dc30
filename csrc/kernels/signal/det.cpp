// The step kernel det: LU decomposition with partial pivoting, in double precision.
#include <cmath>
#include <cstddef>
#include <memory>
#include <utility>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace signal {
namespace {

using support::operand;

double determinant(double* a, int64_t n) {
  double det = 1.0;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (std::abs(a[i * n + k]) > std::abs(a[pivot * n + k])) pivot = i;
    }
    if (a[pivot * n + k] == 0.0) return 0.0;
    if (pivot != k) {
      det = -det;
      for (int64_t j = k; j < n; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
    }
    det *= a[k * n + k];
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / a[k * n + k];
      for (int64_t j = k + 1; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
    }
  }
  return det;
}

class Det final : public Kernel {
 public:
  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int threads) const override {
    const Tensor& x = operand(inputs, 0, "X");
    support::require(x.rank >= 2 && x.dim(-1) == x.dim(-2), "det: X must be square matrices");
    return static_cast<size_t>(x.dim(-1)) * static_cast<size_t>(x.dim(-1)) * sizeof(double) *
           static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    support::require(x.rank >= 2 && x.dim(-1) == x.dim(-2), "det: X must be square matrices");
    support::require_shape(y, std::span<const int64_t>(x.shape.data(), static_cast<size_t>(x.rank) - 2), "Y");
    support::require_dtype(y, x.dtype, "Y");
    const int64_t n = x.dim(-1);
    support::visit_float(x.dtype, "det", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      args.parallel.for_range(y.numel(), support::grain_for(n * n * n), [&](int64_t begin, int64_t end, int worker) {
        double* matrix = static_cast<double*>(args.workspace) + worker * n * n;
        for (int64_t i = begin; i < end; ++i) {
          const T* from = x.ptr<const T>() + i * n * n;
          for (int64_t k = 0; k < n * n; ++k) matrix[k] = static_cast<double>(support::load(from[k]));
          y.ptr<T>()[i] = support::store<T>(static_cast<support::Compute<T>>(determinant(matrix, n)));
        }
      });
    });
  }
};

}  // namespace
}  // namespace signal

std::unique_ptr<Kernel> make_det(const Attrs&) { return std::make_unique<signal::Det>(); }

}  // namespace graphopt
