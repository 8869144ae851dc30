// The step kernels cum_sum and cum_prod.
#include <algorithm>
#include <memory>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace indexing {
namespace {

using support::extent;
using support::load;
using support::operand;
using support::result;
using support::store;

template <class C, bool kProduct>
inline C accumulate(C a, C b) {
  if constexpr (std::is_floating_point_v<C>) {
    return kProduct ? a * b : a + b;
  } else {  // wraps around
    const auto x = static_cast<uint64_t>(a);
    const auto y = static_cast<uint64_t>(b);
    return static_cast<C>(kProduct ? x * y : x + y);
  }
}

template <bool kProduct>
class Cumulate final : public Kernel {
 public:
  explicit Cumulate(const Attrs& attrs)
      : exclusive_(attrs.i("exclusive", 0) != 0), reverse_(attrs.i("reverse", 0) != 0) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "x");
    const Tensor& y = result(args.outputs, 0, "y");
    const int axis = support::normalize_axis(support::integer_scalar(operand(args.inputs, 1, "axis"), "axis"), x.rank);
    support::require_same_shape(y, x, "y");
    support::require_dtype(y, x.dtype, "y");
    const auto body = [&](auto tag) {
      using T = typename decltype(tag)::Type;
      cumulate<T>(x, y, axis, args.parallel);
    };
    if (x.dtype == DType::kF32 || x.dtype == DType::kF64 || x.dtype == DType::kF16 || x.dtype == DType::kBF16) {
      support::visit_float(x.dtype, "cum_sum", body);
    } else {
      support::visit_integer(x.dtype, "cum_sum", body);
    }
  }

 private:
  template <class T>
  void cumulate(const Tensor& x, const Tensor& y, int axis, const Parallel& parallel) const {
    constexpr int64_t kBlock = 128;
    const int64_t length = x.dim(axis);
    const int64_t inner = extent(x, axis + 1, x.rank);
    const int64_t blocks = (inner + kBlock - 1) / kBlock;
    if (length == 0) return;
    auto body = [&](int64_t begin, int64_t end, int) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t start = task / blocks * length * inner + task % blocks * kBlock;
        const int64_t width = std::min(kBlock, inner - task % blocks * kBlock);
        cumulate_block(x.ptr<const T>() + start, y.ptr<T>() + start, length, inner, width);
      }
    };
    const int64_t cost = length * std::min(inner, kBlock);
    parallel.for_range(extent(x, 0, axis) * blocks, support::grain_for(cost), body);
  }

  // `width` neighbouring lines of `length` elements that are `stride` apart.
  template <class T>
  void cumulate_block(const T* x, T* y, int64_t length, int64_t stride, int64_t width) const {
    using C = support::Compute<T>;
    int64_t previous = 0;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t at = (reverse_ ? length - 1 - i : i) * stride;
      if (i == 0) {
        for (int64_t j = 0; j < width; ++j) y[at + j] = exclusive_ ? store<T>(C{kProduct}) : x[at + j];
      } else {
        const int64_t term = exclusive_ ? previous : at;
        for (int64_t j = 0; j < width; ++j) {
          y[at + j] = store<T>(accumulate<C, kProduct>(load(y[previous + j]), load(x[term + j])));
        }
      }
      previous = at;
    }
  }

  bool exclusive_;
  bool reverse_;
};

}  // namespace
}  // namespace indexing

std::unique_ptr<Kernel> make_cum_sum(const Attrs& attrs) { return std::make_unique<indexing::Cumulate<false>>(attrs); }

std::unique_ptr<Kernel> make_cum_prod(const Attrs& attrs) { return std::make_unique<indexing::Cumulate<true>>(attrs); }

}  // namespace graphopt
