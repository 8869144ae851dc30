// The step kernel range.
#include <cmath>
#include <memory>

#include "kernels/indexing/indices.h"

namespace graphopt {

namespace indexing {
namespace {

using support::operand;
using support::require;

// Elements from `first` in steps of `step` up to `last`, which is left out.
template <class T>
int64_t count_of(T first, T last, T step) {
  require(step != 0, "range: the step must not be 0");
  if constexpr (std::is_floating_point_v<T>) {
    const T count = std::ceil((last - first) / step);
    require(count < static_cast<T>(9e18), "range: it has too many elements");
    require(!std::isnan(count), "range: its bounds must be numbers");
    return count > 0 ? static_cast<int64_t>(count) : 0;
  } else {
    if (step > 0 ? last <= first : last >= first) return 0;
    // Differences of 64-bit integers fit unsigned ones.
    const auto low = static_cast<uint64_t>(step > 0 ? first : last);
    const auto high = static_cast<uint64_t>(step > 0 ? last : first);
    const uint64_t size = step > 0 ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
    return static_cast<int64_t>((high - low - 1) / size + 1);
  }
}

// Integers wrap around on their way, never in what comes out.
template <class T>
T element(T first, T step, int64_t i) {
  if constexpr (std::is_floating_point_v<T>) {
    return first + static_cast<T>(i) * step;
  } else {
    return static_cast<T>(static_cast<uint64_t>(first) + static_cast<uint64_t>(i) * static_cast<uint64_t>(step));
  }
}

class RangeKernel final : public Kernel {
 public:
  explicit RangeKernel(const Attrs& /*attrs*/) {}

  void run(KernelArgs& args) const override {
    const Tensor& start = operand(args.inputs, 0, "start");
    const Tensor& limit = operand(args.inputs, 1, "limit");
    const Tensor& delta = operand(args.inputs, 2, "delta");
    for (const Tensor* bound : {&start, &limit, &delta}) {
      require(bound->numel() == 1, "range: its operands must be one element each");
      support::require_dtype(*bound, start.dtype, "an operand");
    }
    support::visit_number(start.dtype, "range", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      const auto value = [](const Tensor& tensor) { return support::load(*tensor.ptr<const T>()); };
      const auto first = value(start);
      const auto step = value(delta);
      if constexpr (std::is_signed_v<std::remove_cv_t<decltype(first)>>) {
        using C = std::remove_cv_t<decltype(first)>;
        const std::array<int64_t, 1> shape = {count_of<C>(first, value(limit), step)};
        const Tensor& out = args.allocator.allocate(0, shape);
        args.parallel.for_range(shape[0], support::grain_for(2), [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) out.ptr<T>()[i] = support::store<T>(element<C>(first, step, i));
        });
      } else {
        support::fail("range: its operands must be signed numbers");
      }
    });
  }
};

}  // namespace
}  // namespace indexing

std::unique_ptr<Kernel> make_range(const Attrs& attrs) { return std::make_unique<indexing::RangeKernel>(attrs); }

}  // namespace graphopt
