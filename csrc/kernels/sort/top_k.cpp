// The step kernel top_k. Of equal values the one with the lower index comes first; NaN counts as the largest.
#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <memory>

#include "kernels/sort/order.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace sort {
namespace {

using support::operand;
using support::require;

// A value and where it is, ordered so that better is larger.
struct Wide {
  uint64_t key;
  uint64_t inverted_index;
  friend bool operator>(const Wide& a, const Wide& b) {
    return a.key != b.key ? a.key > b.key : a.inverted_index > b.inverted_index;
  }
};

// The same in one integer, for 32-bit keys and axes shorter than 2^32.
struct Narrow {
  uint64_t bits;
  friend bool operator>(const Narrow& a, const Narrow& b) { return a.bits > b.bits; }
};

template <class Entry, class Key>
inline Entry make_entry(Key key, int64_t index) {
  const auto inverted = ~static_cast<uint64_t>(index);
  if constexpr (std::is_same_v<Entry, Narrow>) {
    return {static_cast<uint64_t>(key) << 32 | (inverted & 0xffffffffU)};
  } else {
    return {key, inverted};
  }
}

inline int64_t index_of(const Narrow& entry) { return static_cast<int64_t>(~entry.bits & 0xffffffffU); }
inline int64_t index_of(const Wide& entry) { return static_cast<int64_t>(~entry.inverted_index); }

// The best k entries to the front, best first.
template <class Entry>
void select(Entry* entries, int64_t count, int64_t k) {
  const auto better = [](const Entry& a, const Entry& b) { return a > b; };
  if (k == 1) {
    std::iter_swap(entries, std::min_element(entries, entries + count, better));
    return;
  }
  if (k < count) std::nth_element(entries, entries + k, entries + count, better);
  std::sort(entries, entries + k, better);
}

class TopK final : public Kernel {
 public:
  explicit TopK(const Attrs& attrs) : axis_(attrs.i("axis", -1)), largest_(attrs.i("largest", 1) != 0) {}

  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int threads) const override {
    const Tensor& x = operand(inputs, 0, "X");
    return static_cast<size_t>(x.dim(support::normalize_axis(axis_, x.rank))) * sizeof(Wide) *
           static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const int axis = support::normalize_axis(axis_, x.rank);
    const int64_t k = support::integer_scalar(operand(args.inputs, 1, "K"), "K");
    require(k >= 0 && k <= x.dim(axis), "top_k: K is negative or larger than the axis");
    std::array<int64_t, kMaxRank> shape = x.shape;
    shape[static_cast<size_t>(axis)] = k;
    const std::span<const int64_t> dims(shape.data(), static_cast<size_t>(x.rank));
    const Tensor values = support::shaped_result(args, 0, dims, "Values");
    support::require_dtype(values, x.dtype, "Values");
    Tensor indices = support::optional_result(args.outputs, 1);
    if (indices.present()) {
      indices = support::shaped_result(args, 1, dims, "Indices");
      support::require_dtype(indices, DType::kI64, "Indices");
    }
    if (values.numel() == 0) return;
    support::visit_number(x.dtype, "top_k", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      if (sizeof(KeyOf<T>) == 4 && x.dim(axis) <= std::numeric_limits<uint32_t>::max()) {
        run_lines<T, Narrow>(args, x, values, indices, axis, k);
      } else {
        run_lines<T, Wide>(args, x, values, indices, axis, k);
      }
    });
  }

 private:
  template <class T, class Entry>
  void run_lines(KernelArgs& args, const Tensor& x, const Tensor& values, const Tensor& indices, int axis,
                 int64_t k) const {
    const int64_t length = x.dim(axis);
    const int64_t inner = support::extent(x, axis + 1, x.rank);
    const int64_t lines = support::extent(x, 0, axis) * inner;
    auto* memory = static_cast<std::byte*>(args.workspace);
    args.parallel.for_range(lines, support::grain_for(length * 4), [&](int64_t begin, int64_t end, int worker) {
      auto* entries = reinterpret_cast<Entry*>(memory + static_cast<size_t>(worker * length) * sizeof(Wide));
      for (int64_t line = begin; line < end; ++line) {
        const int64_t block = line / inner;
        const T* from = x.ptr<const T>() + block * length * inner + line % inner;
        for (int64_t i = 0; i < length; ++i) {
          const KeyOf<T> key = order_key(from[i * inner]);
          entries[i] = make_entry<Entry>(largest_ ? key : static_cast<KeyOf<T>>(~key), i);
        }
        select(entries, length, k);
        const int64_t out = block * k * inner + line % inner;
        for (int64_t i = 0; i < k; ++i) {
          const int64_t index = index_of(entries[i]);
          values.ptr<T>()[out + i * inner] = from[index * inner];
          if (indices.present()) indices.ptr<int64_t>()[out + i * inner] = index;
        }
      }
    });
  }

  int64_t axis_;
  bool largest_;
};

}  // namespace
}  // namespace sort

std::unique_ptr<Kernel> make_top_k(const Attrs& attrs) { return std::make_unique<sort::TopK>(attrs); }

}  // namespace graphopt
