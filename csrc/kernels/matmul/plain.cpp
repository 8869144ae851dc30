#include "kernels/matmul/plain.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/support/dispatch.h"

namespace graphopt {
namespace {

using support::Tag;

// What products of a storage type are summed in. Unsigned sums wrap as signed ones are meant to.
template <class T, bool kInteger = std::is_integral_v<T>>
struct SumType {
  using Type = std::conditional_t<std::is_same_v<T, double>, double, float>;
};
template <class T>
struct SumType<T, true> {
  using Type = std::make_unsigned_t<T>;
};

template <class T>
class PlainMatmul {
 public:
  using Sum = typename SumType<T>::Type;

  PlainMatmul(const MatmulShape& shape, const MatmulOperands& operands, double alpha, const Epilogue& epilogue)
      : s_(shape), o_(operands), alpha_(alpha), epilogue_(epilogue) {}

  // Rows [begin, end) of one product: every row of B is widened once for all of them.
  void run(int64_t product, int64_t begin, int64_t end) {
    const T* a = o_.a.ptr<T>() + s_.offset(s_.a_steps, product);
    const T* b = o_.b.ptr<T>() + s_.offset(s_.b_steps, product);
    row_.resize(static_cast<size_t>(s_.n));
    sums_.assign(static_cast<size_t>((end - begin) * s_.n), Sum{0});
    for (int64_t k = 0; k < s_.k; ++k) {
      for (int64_t j = 0; j < s_.n; ++j) row_[static_cast<size_t>(j)] = widen(b[k * s_.b_row() + j * s_.b_column()]);
      Sum* sum = sums_.data();
      for (int64_t i = begin; i < end; ++i, sum += s_.n) {
        const Sum factor = widen(a[i * s_.a_row() + k * s_.a_column()]);
        for (int64_t j = 0; j < s_.n; ++j) sum[j] = static_cast<Sum>(sum[j] + factor * row_[static_cast<size_t>(j)]);
      }
    }
    const Sum* sum = sums_.data();
    int64_t at = (product * s_.m + begin) * s_.n;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < s_.n; ++j, ++at) o_.y.ptr<T>()[at] = finish(*sum++, j, at);
    }
  }

 private:
  static Sum widen(T value) { return static_cast<Sum>(support::load(value)); }

  [[nodiscard]] T finish(Sum sum, int64_t column, int64_t at) const {
    const Sum bias = o_.bias.present() ? widen(o_.bias.ptr<T>()[column]) : Sum{0};
    const Sum residual = o_.residual.present() ? widen(o_.residual.ptr<T>()[at]) : Sum{0};
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<Sum>(sum + bias + residual));
    } else {
      double value = static_cast<double>(sum) * alpha_ + static_cast<double>(bias);
      if (!epilogue_.residual_after) value += static_cast<double>(residual);
      value = apply_activation(epilogue_, value);
      if (epilogue_.residual_after) value += static_cast<double>(residual);
      return support::store<T>(static_cast<support::Compute<T>>(value));
    }
  }

  const MatmulShape& s_;
  const MatmulOperands& o_;
  double alpha_;
  const Epilogue& epilogue_;
  std::vector<Sum> row_;
  std::vector<Sum> sums_;
};

}  // namespace

void run_plain_matmul(const MatmulShape& shape, const MatmulOperands& operands, double alpha, const Epilogue& epilogue,
                      const Parallel& parallel) {
  constexpr int64_t kRows = 16;
  const int64_t blocks = (shape.m + kRows - 1) / kRows;
  const auto run = [&]<class T>(Tag<T>) {
    if (std::is_integral_v<T> && (alpha != 1 || epilogue.activation != Activation::kNone)) {
      throw Error("matmul: integers can't be scaled or activated");
    }
    parallel.for_range(shape.batch * blocks, support::grain_for(kRows * shape.n * shape.k),
                       [&](int64_t begin, int64_t end, int /*worker*/) {
                         PlainMatmul<T> matmul(shape, operands, alpha, epilogue);
                         for (int64_t i = begin; i < end; ++i) {
                           const int64_t row = i % blocks * kRows;
                           matmul.run(i / blocks, row, std::min(shape.m, row + kRows));
                         }
                       });
  };
  switch (operands.y.dtype) {
    case DType::kI32:
      return run(Tag<int32_t>{});
    case DType::kU32:
      return run(Tag<uint32_t>{});
    case DType::kI64:
      return run(Tag<int64_t>{});
    case DType::kU64:
      return run(Tag<uint64_t>{});
    default:
      return support::visit_float(operands.y.dtype, "matmul", run);
  }
}

}  // namespace graphopt
