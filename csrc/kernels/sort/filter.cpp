// The step kernels non_zero and compress.
#include <algorithm>
#include <array>
#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace sort {
namespace {

using support::extent;
using support::operand;
using support::require;

template <class T>
inline bool is_set(T value) {
  if constexpr (std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>) {
    return value != T{};
  } else {
    return support::load(value) != support::Compute<T>{};
  }
}

template <class F>
void visit_any(DType dtype, F&& f) {
  if (dtype == DType::kC64) return f(support::Tag<std::complex<float>>{});
  if (dtype == DType::kC128) return f(support::Tag<std::complex<double>>{});
  support::visit_number(dtype, "non_zero", f);
}

class NonZero final : public Kernel {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    support::require_dtype(support::result(args.outputs, 0, "Y"), DType::kI64, "Y");
    visit_any(x.dtype, [&](auto tag) { find<typename decltype(tag)::Type>(args, x); });
  }

 private:
  template <class T>
  static void find(KernelArgs& args, const Tensor& x) {
    constexpr int64_t kChunk = int64_t{1} << 15;
    const int64_t total = x.numel();
    const int64_t chunks = (total + kChunk - 1) / kChunk;
    // Where each chunk's findings start: counted first, so that chunks can be written independently.
    std::vector<int64_t> start(static_cast<size_t>(chunks) + 1, 0);
    args.parallel.for_range(chunks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t c = begin; c < end; ++c) {
        int64_t count = 0;
        const int64_t last = std::min(total, (c + 1) * kChunk);
        for (int64_t i = c * kChunk; i < last; ++i) count += is_set(x.ptr<const T>()[i]) ? 1 : 0;
        start[static_cast<size_t>(c) + 1] = count;
      }
    });
    for (size_t c = 1; c < start.size(); ++c) start[c] += start[c - 1];
    const int64_t found = start.back();
    const std::array<int64_t, 2> shape = {x.rank, found};
    const Tensor& y = args.allocator.allocate(0, shape);
    args.parallel.for_range(chunks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t c = begin; c < end; ++c) {
        int64_t at = start[static_cast<size_t>(c)];
        const int64_t last = std::min(total, (c + 1) * kChunk);
        for (int64_t i = c * kChunk; i < last; ++i) {
          if (!is_set(x.ptr<const T>()[i])) continue;
          int64_t rest = i;
          for (int axis = x.rank - 1; axis >= 0; --axis) {
            y.ptr<int64_t>()[axis * found + at] = rest % x.dim(axis);
            rest /= x.dim(axis);
          }
          ++at;
        }
      }
    });
  }
};

class Compress final : public Kernel {
 public:
  explicit Compress(const Attrs& attrs) : flat_(!attrs.has("axis")), axis_(attrs.i("axis", 0)) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "input");
    const Tensor& condition = operand(args.inputs, 1, "condition");
    support::require_dtype(condition, DType::kBool, "condition");
    support::require_rank(condition, 1, "condition");
    support::require_dtype(support::result(args.outputs, 0, "output"), x.dtype, "output");
    require(x.rank >= 1, "compress: the input must not be a scalar");
    const int axis = flat_ ? 0 : support::normalize_axis(axis_, x.rank);
    const int64_t length = flat_ ? x.numel() : x.dim(axis);
    require(condition.dim(0) <= length, "compress: the condition is longer than the axis");
    std::vector<int64_t> picked;
    for (int64_t i = 0; i < condition.dim(0); ++i) {
      if (condition.ptr<const uint8_t>()[i] != 0) picked.push_back(i);
    }
    const auto count = static_cast<int64_t>(picked.size());
    std::array<int64_t, kMaxRank> shape = x.shape;
    shape[static_cast<size_t>(axis)] = count;
    const Tensor& out =
        args.allocator.allocate(0, std::span<const int64_t>(shape.data(), flat_ ? 1 : static_cast<size_t>(x.rank)));
    const size_t bytes = static_cast<size_t>(flat_ ? 1 : extent(x, axis + 1, x.rank)) * element_size(x.dtype);
    if (bytes == 0 || count == 0) return;
    const auto step = static_cast<int64_t>(bytes);
    const int64_t outer = flat_ ? 1 : extent(x, 0, axis);
    args.parallel.for_range(outer * count, support::grain_for(2 + step / 16), [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t from = at / count * length + picked[static_cast<size_t>(at % count)];
        std::memcpy(out.ptr<char>() + at * step, x.ptr<const char>() + from * step, bytes);
      }
    });
  }

 private:
  bool flat_;
  int64_t axis_;
};

}  // namespace
}  // namespace sort

std::unique_ptr<Kernel> make_non_zero(const Attrs&) { return std::make_unique<sort::NonZero>(); }

std::unique_ptr<Kernel> make_compress(const Attrs& attrs) { return std::make_unique<sort::Compress>(attrs); }

}  // namespace graphopt
