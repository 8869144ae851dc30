// Pooling of any dtype by plain loops, and the indices of maxima.
#include <cmath>
#include <limits>

#include "kernels/pool/problem.h"
#include "kernels/support/dispatch.h"

namespace graphopt {
namespace {

using support::Tag;

// Of a type that is computed with.
template <class T>
T lowest() {
  if constexpr (std::numeric_limits<T>::has_infinity) {
    return -std::numeric_limits<T>::infinity();
  } else {
    return std::numeric_limits<T>::lowest();
  }
}

template <class T>
class PlainPoolLine {
 public:
  using Value = support::Compute<T>;
  // Sums in the precision that the result is rounded from.
  using Sum = std::conditional_t<std::is_same_v<Value, double>, double, float>;

  PlainPoolLine(const PoolProblem& problem, const PlainPool& pool, const T* x, T* y, int64_t* indices)
      : p_(problem), pool_(pool), x_(x), y_(y), indices_(indices) {}

  void run(int64_t line) {
    window_lines(p_, line, lines_);
    const int64_t n = line / (p_.out[0] * p_.out[1]);
    for (int64_t column = 0; column < p_.out[2]; ++column) {
      taps_.clear();
      for (const LineOffset& from : lines_) {
        for (int64_t k = 0; k < p_.window.kernel[2]; ++k) {
          const int64_t v = column * p_.window.stride[2] - p_.window.begin[2] + k * p_.window.dilation[2];
          if (v >= 0 && v < p_.in[2]) taps_.push_back({from.d, from.h, v});
        }
      }
      const int64_t at = (line * p_.out[2] + column) * p_.channels;
      const int64_t divisor = pool_.op == PlainPool::Op::kAverage ? count(line, column) : 1;
      for (int64_t c = 0; c < p_.channels; ++c) {
        if (pool_.op == PlainPool::Op::kMax) {
          max(n, c, at + c);
        } else {
          sum(n, c, at + c, divisor);
        }
      }
    }
  }

 private:
  [[nodiscard]] int64_t count(int64_t line, int64_t column) const {
    return window_count(p_, 0, line / p_.out[1] % p_.out[0], pool_.count_padding) *
           window_count(p_, 1, line % p_.out[1], pool_.count_padding) *
           window_count(p_, 2, column, pool_.count_padding);
  }
  [[nodiscard]] Value value(int64_t n, const Dims3& tap, int64_t c) const {
    const int64_t position = ((n * p_.in[0] + tap[0]) * p_.in[1] + tap[1]) * p_.in[2] + tap[2];
    return support::load(x_[position * p_.channels + c]);
  }

  // Without indices NaN wins; with them the first of the largest does, as ONNX's definitions say.
  void max(int64_t n, int64_t c, int64_t at) {
    Value best = lowest<Value>();
    const Dims3* where = nullptr;
    for (const Dims3& tap : taps_) {
      const Value v = value(n, tap, c);
      const bool nan = v != v && indices_ == nullptr;
      if (v > best || where == nullptr || nan) {
        best = v;
        where = &tap;
      }
      if (nan) break;
    }
    y_[at] = support::store<T>(best);
    if (indices_ != nullptr) indices_[at] = index(n, c, where);
  }

  // In the input, taken as one flat tensor with channels first; just before the image for no position.
  [[nodiscard]] int64_t index(int64_t n, int64_t c, const Dims3* where) const {
    const int64_t image = (n * p_.channels + c) * volume(p_.in);
    if (where == nullptr) return image - 1;
    const Dims3& at = *where;
    if (pool_.column_major) return image + at[0] + p_.in[0] * (at[1] + p_.in[1] * at[2]);
    return image + (at[0] * p_.in[1] + at[1]) * p_.in[2] + at[2];
  }

  void sum(int64_t n, int64_t c, int64_t at, int64_t divisor) {
    Sum sum = 0;
    for (const Dims3& tap : taps_) {
      const auto v = static_cast<Sum>(value(n, tap, c));
      sum += pool_.op == PlainPool::Op::kAverage ? v : power(std::abs(v));
    }
    const Sum result = pool_.op == PlainPool::Op::kAverage ? sum / static_cast<Sum>(divisor) : root(sum);
    y_[at] = support::store<T>(static_cast<Value>(result));
  }
  [[nodiscard]] Sum power(Sum x) const {
    return pool_.p == 1 ? x : pool_.p == 2 ? x * x : std::pow(x, static_cast<Sum>(pool_.p));
  }
  [[nodiscard]] Sum root(Sum x) const {
    return pool_.p == 1 ? x : pool_.p == 2 ? std::sqrt(x) : std::pow(x, Sum{1} / static_cast<Sum>(pool_.p));
  }

  const PoolProblem& p_;
  const PlainPool& pool_;
  const T* x_;
  T* y_;
  int64_t* indices_;
  std::vector<LineOffset> lines_;
  std::vector<Dims3> taps_;
};

}  // namespace

void run_plain_pool(const PoolProblem& problem, const PlainPool& pool, const Tensor& x, const Tensor& y,
                    const Tensor& indices, const Parallel& parallel) {
  auto* where = indices.present() ? indices.ptr<int64_t>() : nullptr;
  const auto run = [&]<class T>(Tag<T>) {
    const int64_t work = problem.out[2] * problem.channels * problem.window.taps();
    parallel.for_range(problem.lines(), support::grain_for(work), [&](int64_t begin, int64_t end, int /*worker*/) {
      PlainPoolLine<T> line(problem, pool, x.ptr<T>(), y.ptr<T>(), where);
      for (int64_t i = begin; i < end; ++i) line.run(i);
    });
  };
  if (pool.op == PlainPool::Op::kMax && x.dtype == DType::kI8) {
    run(Tag<int8_t>{});
  } else if (pool.op == PlainPool::Op::kMax && x.dtype == DType::kU8) {
    run(Tag<uint8_t>{});
  } else {
    support::visit_float(x.dtype, "pooling", run);
  }
}

}  // namespace graphopt
