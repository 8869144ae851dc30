// The step kernel unique: distinct values, or distinct slices along an axis.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/sort/order.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace sort {
namespace {

using support::extent;
using support::operand;

// Items to compare: `count` rows of `width` keys.
struct Items {
  int64_t count;
  int64_t width;
  std::vector<uint64_t> keys;

  [[nodiscard]] const uint64_t* row(int64_t item) const { return keys.data() + item * width; }
  [[nodiscard]] int compare(int64_t a, int64_t b) const {
    for (int64_t i = 0; i < width; ++i) {
      if (row(a)[i] != row(b)[i]) return row(a)[i] < row(b)[i] ? -1 : 1;
    }
    return 0;
  }
};

// The keys of x seen as [outer][count][inner] elements of `parts` real numbers each.
template <class T>
void fill_keys(const T* x, int64_t outer, int64_t inner, int64_t parts, Items& items) {
  items.width = outer * inner * parts;
  items.keys.resize(static_cast<size_t>(items.count * items.width));
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t item = 0; item < items.count; ++item) {
      const T* from = x + (o * items.count + item) * inner * parts;
      uint64_t* to = items.keys.data() + item * items.width + o * inner * parts;
      for (int64_t i = 0; i < inner * parts; ++i) to[i] = order_key(from[i]);
    }
  }
}

// What the outputs are made of, in output order.
struct Groups {
  std::vector<int64_t> first;    // first occurrence of each distinct item
  std::vector<int64_t> inverse;  // group of every item
  std::vector<int64_t> count;
};

Groups group(const Items& items, bool sorted) {
  std::vector<int64_t> order(static_cast<size_t>(items.count));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int compared = items.compare(a, b);
    return compared != 0 ? compared < 0 : a < b;
  });
  Groups groups;
  groups.inverse.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || items.compare(order[i - 1], order[i]) != 0) {
      groups.first.push_back(order[i]);
      groups.count.push_back(0);
    }
    groups.inverse[static_cast<size_t>(order[i])] = static_cast<int64_t>(groups.first.size()) - 1;
    ++groups.count.back();
  }
  if (sorted) return groups;
  // By first occurrence.
  std::vector<size_t> by_first(groups.first.size());
  std::iota(by_first.begin(), by_first.end(), size_t{0});
  std::sort(by_first.begin(), by_first.end(), [&](size_t a, size_t b) { return groups.first[a] < groups.first[b]; });
  Groups ordered;
  ordered.inverse.resize(groups.inverse.size());
  std::vector<int64_t> place(by_first.size());
  for (size_t i = 0; i < by_first.size(); ++i) {
    place[by_first[i]] = static_cast<int64_t>(i);
    ordered.first.push_back(groups.first[by_first[i]]);
    ordered.count.push_back(groups.count[by_first[i]]);
  }
  for (size_t i = 0; i < groups.inverse.size(); ++i) {
    ordered.inverse[i] = place[static_cast<size_t>(groups.inverse[i])];
  }
  return ordered;
}

class Unique final : public Kernel {
 public:
  explicit Unique(const Attrs& attrs)
      : flat_(!attrs.has("axis")), axis_(attrs.i("axis", 0)), sorted_(attrs.i("sorted", 1) != 0) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "X");
    const int axis = flat_ ? 0 : support::normalize_axis(axis_, x.rank);
    Items items{flat_ ? x.numel() : x.dim(axis), 0, {}};
    const int64_t outer = flat_ ? 1 : extent(x, 0, axis);
    const int64_t inner = flat_ ? 1 : extent(x, axis + 1, x.rank);
    if (x.dtype == DType::kC64) {
      fill_keys(x.ptr<const float>(), outer, inner, 2, items);
    } else if (x.dtype == DType::kC128) {
      fill_keys(x.ptr<const double>(), outer, inner, 2, items);
    } else {
      support::visit_number(x.dtype, "unique", [&](auto tag) {
        fill_keys(x.ptr<const typename decltype(tag)::Type>(), outer, inner, 1, items);
      });
    }
    const Groups groups = group(items, sorted_);
    write_values(args, x, groups, axis, outer, inner);
    write_indices(args, 1, groups.first);
    write_indices(args, 2, groups.inverse);
    write_indices(args, 3, groups.count);
  }

 private:
  void write_values(KernelArgs& args, const Tensor& x, const Groups& groups, int axis, int64_t outer,
                    int64_t inner) const {
    if (!support::optional_result(args.outputs, 0).present()) return;
    support::require_dtype(args.outputs[0], x.dtype, "Y");
    const auto count = static_cast<int64_t>(groups.first.size());
    std::array<int64_t, kMaxRank> shape = x.shape;
    shape[static_cast<size_t>(axis)] = count;
    const Tensor& y =
        args.allocator.allocate(0, std::span<const int64_t>(shape.data(), flat_ ? 1 : static_cast<size_t>(x.rank)));
    const int64_t length = flat_ ? x.numel() : x.dim(axis);
    const size_t bytes = static_cast<size_t>(inner) * element_size(x.dtype);
    if (bytes == 0) return;
    const auto step = static_cast<int64_t>(bytes);
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t g = 0; g < count; ++g) {
        std::memcpy(y.ptr<char>() + (o * count + g) * step,
                    x.ptr<const char>() + (o * length + groups.first[static_cast<size_t>(g)]) * step, bytes);
      }
    }
  }

  static void write_indices(KernelArgs& args, size_t index, const std::vector<int64_t>& values) {
    if (!support::optional_result(args.outputs, index).present()) return;
    support::require_dtype(args.outputs[index], DType::kI64, "an index output");
    const auto count = static_cast<int64_t>(values.size());
    const Tensor& out = args.allocator.allocate(static_cast<int>(index), std::span<const int64_t>(&count, 1));
    std::copy(values.begin(), values.end(), out.ptr<int64_t>());
  }

  bool flat_;
  int64_t axis_;
  bool sorted_;
};

}  // namespace
}  // namespace sort

std::unique_ptr<Kernel> make_unique_step(const Attrs& attrs) { return std::make_unique<sort::Unique>(attrs); }

}  // namespace graphopt
