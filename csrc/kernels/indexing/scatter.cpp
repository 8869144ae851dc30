// The step kernels scatter_elements (also called scatter), scatter_nd and tensor_scatter.
//
// Updates of the same element are applied in the order of the index tensor, whatever the number of
// threads: work is split so that one element belongs to one worker.
#include <algorithm>
#include <complex>
#include <cstring>
#include <memory>

#include "kernels/indexing/indices.h"

namespace graphopt {

namespace indexing {
namespace {

using support::extent;
using support::fail;
using support::grain_for;
using support::load;
using support::operand;
using support::require;
using support::result;
using support::store;
using support::Tag;

enum class Reduction : uint8_t { kNone, kAdd, kMul, kMax, kMin };

Reduction parse_reduction(const Attrs& attrs) {
  const std::string name = attrs.s("reduction", "none");
  if (name == "none") return Reduction::kNone;
  if (name == "add") return Reduction::kAdd;
  if (name == "mul") return Reduction::kMul;
  if (name == "max") return Reduction::kMax;
  if (name == "min") return Reduction::kMin;
  fail("attribute 'reduction' is '" + name + "', expected none, add, mul, max or min");
}

template <class T>
inline constexpr bool kIsComplex = false;
template <class T>
inline constexpr bool kIsComplex<std::complex<T>> = true;

// NaN wins over numbers, as in numpy.
template <class T>
inline bool first_wins(T a, T b, Reduction reduction) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return true;
    if (b != b) return false;
  }
  return reduction == Reduction::kMax ? a >= b : a <= b;
}

template <Reduction kReduction, class T>
inline T combine(T old, T update) {
  if constexpr (kReduction == Reduction::kNone) {
    return update;
  } else if constexpr (kIsComplex<T>) {
    return kReduction == Reduction::kAdd ? old + update : old * update;
  } else {
    const auto a = load(old);
    const auto b = load(update);
    using C = std::remove_cv_t<decltype(a)>;
    if constexpr (std::is_same_v<C, bool>) {
      return store<T>(kReduction == Reduction::kAdd || kReduction == Reduction::kMax ? a || b : a && b);
    } else if constexpr (kReduction == Reduction::kAdd || kReduction == Reduction::kMul) {
      if constexpr (std::is_floating_point_v<C>) {
        return store<T>(kReduction == Reduction::kAdd ? a + b : a * b);
      } else {  // wraps around
        using U = uint64_t;
        const U wide = kReduction == Reduction::kAdd ? static_cast<U>(a) + static_cast<U>(b)
                                                     : static_cast<U>(a) * static_cast<U>(b);
        return static_cast<T>(wide);
      }
    } else {
      return first_wins(a, b, kReduction) ? old : update;
    }
  }
}

// f(Tag<T>{}, constant of Reduction): by size alone when elements are only moved.
template <class F>
void visit_update(DType dtype, Reduction reduction, F&& f) {
  const auto with = [&](auto tag) {
    switch (reduction) {
      case Reduction::kAdd:
        return f(tag, std::integral_constant<Reduction, Reduction::kAdd>{});
      case Reduction::kMul:
        return f(tag, std::integral_constant<Reduction, Reduction::kMul>{});
      case Reduction::kMax:
        return f(tag, std::integral_constant<Reduction, Reduction::kMax>{});
      default:
        return f(tag, std::integral_constant<Reduction, Reduction::kMin>{});
    }
  };
  if (reduction == Reduction::kNone) {
    support::visit_size(dtype, "scatter",
                        [&](auto tag) { f(tag, std::integral_constant<Reduction, Reduction::kNone>{}); });
  } else if (dtype == DType::kC64 || dtype == DType::kC128) {
    require(reduction == Reduction::kAdd || reduction == Reduction::kMul, "scatter: complex numbers have no order");
    if (dtype == DType::kC64) return with(Tag<std::complex<float>>{});
    with(Tag<std::complex<double>>{});
  } else {
    support::visit_number(dtype, "scatter", with);
  }
}

class ScatterElements final : public Kernel {
 public:
  explicit ScatterElements(const Attrs& attrs) : axis_(attrs.i("axis", 0)), reduction_(parse_reduction(attrs)) {}

  void run(KernelArgs& args) const override {
    const Tensor& data = operand(args.inputs, 0, "data");
    const Tensor& indices = operand(args.inputs, 1, "indices");
    const Tensor& updates = operand(args.inputs, 2, "updates");
    const Tensor& out = result(args.outputs, 0, "output");
    const int axis = support::normalize_axis(axis_, data.rank);
    support::require_rank(indices, data.rank, "indices");
    support::require_same_shape(updates, indices, "updates");
    support::require_same_shape(out, data, "output");
    support::require_dtype(updates, data.dtype, "updates");
    support::require_dtype(out, data.dtype, "output");
    for (int i = 0; i < data.rank; ++i) {
      if (i == axis || indices.dim(i) <= data.dim(i)) continue;
      fail("indices have shape " + support::shape_text(indices) + ", larger than data " + support::shape_text(data) +
           " beside the axis");
    }
    visit_index(indices, [&](auto index_tag) {
      using Index = typename decltype(index_tag)::Type;
      check_indices(indices.ptr<const Index>(), indices.numel(), 1, data.dim(axis));
      copy_all(data, out, args.parallel);
      if (indices.numel() == 0) return;
      visit_update(data.dtype, reduction_, [&](auto tag, auto reduction) {
        scatter<typename decltype(tag)::Type, Index, reduction.value>(indices, updates, out, axis, args.parallel);
      });
    });
  }

 private:
  // Index tensors are walked as [groups][axis][columns]: a (group, column) is a line of its own in the data.
  template <class T, class Index, Reduction kReduction>
  static void scatter(const Tensor& indices, const Tensor& updates, const Tensor& out, int axis,
                      const Parallel& parallel) {
    constexpr int64_t kBlock = 256;
    const auto strides = support::strides_of(out);
    const int64_t axis_stride = strides[static_cast<size_t>(axis)];
    const int64_t limit = out.dim(axis);
    const int64_t length = indices.dim(axis);
    const int64_t inner = extent(indices, axis + 1, indices.rank);
    const int64_t blocks = (inner + kBlock - 1) / kBlock;
    const int64_t* dims = indices.shape.data();
    const int after = axis + 1;
    auto body = [&](int64_t begin, int64_t end, int) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / blocks;
        const int64_t first = task % blocks * kBlock;
        const int64_t last = std::min(first + kBlock, inner);
        T* base = out.ptr<T>() + strided_offset(group, dims, strides.data(), axis);
        std::array<int64_t, kBlock> column;  // where each column is in the data
        for (int64_t j = first; j < last; ++j) {
          column[static_cast<size_t>(j - first)] =
              strided_offset(j, dims + after, strides.data() + after, indices.rank - after);
        }
        for (int64_t i = 0; i < length; ++i) {
          const int64_t row = (group * length + i) * inner;
          const auto* index = indices.ptr<const Index>() + row;
          const T* update = updates.ptr<const T>() + row;
          for (int64_t j = first; j < last; ++j) {
            T& target = base[wrapped(index[j], limit) * axis_stride + column[static_cast<size_t>(j - first)]];
            target = combine<kReduction>(target, update[j]);
          }
        }
      }
    };
    const int64_t cost = length * std::min(inner, kBlock) * 2;
    parallel.for_range(extent(indices, 0, axis) * blocks, grain_for(cost), body);
  }

  int64_t axis_;
  Reduction reduction_;
};

class ScatterNd final : public Kernel {
 public:
  explicit ScatterNd(const Attrs& attrs) : reduction_(parse_reduction(attrs)) {}

  void run(KernelArgs& args) const override {
    const Tensor& data = operand(args.inputs, 0, "data");
    const Tensor& indices = operand(args.inputs, 1, "indices");
    const Tensor& updates = operand(args.inputs, 2, "updates");
    const Tensor& out = result(args.outputs, 0, "output");
    require(data.rank >= 1 && indices.rank >= 1, "scatter_nd: data and indices must not be scalars");
    const int64_t depth = indices.dim(-1);
    require(depth >= 0 && depth <= data.rank, "scatter_nd: index tuples are longer than data has axes");
    check_updates(data, indices, updates, static_cast<int>(depth));
    support::require_same_shape(out, data, "output");
    support::require_dtype(updates, data.dtype, "updates");
    support::require_dtype(out, data.dtype, "output");
    const int64_t tuples = extent(indices, 0, indices.rank - 1);
    visit_index(indices, [&](auto index_tag) {
      using Index = typename decltype(index_tag)::Type;
      for (int64_t k = 0; k < depth; ++k) {
        check_indices(indices.ptr<const Index>() + k, tuples, depth, data.dim(static_cast<int>(k)));
      }
      copy_all(data, out, args.parallel);
      visit_update(data.dtype, reduction_, [&](auto tag, auto reduction) {
        scatter<typename decltype(tag)::Type, Index, reduction.value>(indices, updates, out, tuples, depth,
                                                                      args.parallel);
      });
    });
  }

 private:
  static void check_updates(const Tensor& data, const Tensor& indices, const Tensor& updates, int depth) {
    std::array<int64_t, 2 * kMaxRank> shape{};
    size_t rank = 0;
    for (int i = 0; i < indices.rank - 1; ++i) shape[rank++] = indices.dim(i);
    for (int i = depth; i < data.rank; ++i) shape[rank++] = data.dim(i);
    support::require_shape(updates, std::span<const int64_t>(shape.data(), rank), "updates");
  }

  // Tuples may name the same slice: the split is along the slices.
  template <class T, class Index, Reduction kReduction>
  static void scatter(const Tensor& indices, const Tensor& updates, const Tensor& out, int64_t tuples, int64_t depth,
                      const Parallel& parallel) {
    const int64_t slice = extent(out, static_cast<int>(depth), out.rank);
    parallel.for_range(slice, std::max<int64_t>(64, grain_for(tuples * 2)), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = 0; t < tuples; ++t) {
        const auto* index = indices.ptr<const Index>() + t * depth;
        int64_t position = 0;
        for (int64_t k = 0; k < depth; ++k) {
          const int64_t limit = out.shape[static_cast<size_t>(k)];
          position = position * limit + wrapped(index[k], limit);
        }
        T* target = out.ptr<T>() + position * slice;
        const T* update = updates.ptr<const T>() + t * slice;
        for (int64_t j = begin; j < end; ++j) target[j] = combine<kReduction>(target[j], update[j]);
      }
    });
  }

  Reduction reduction_;
};

// A cache of keys or values with new entries written at a position of its own for every batch row.
class TensorScatter final : public Kernel {
 public:
  explicit TensorScatter(const Attrs& attrs) : axis_(attrs.i("axis", -2)) {
    const std::string mode = attrs.s("mode", "linear");
    if (mode != "linear" && mode != "circular") {
      fail("attribute 'mode' is '" + mode + "', expected linear or circular");
    }
    circular_ = mode == "circular";
  }

  void run(KernelArgs& args) const override {
    const Tensor& past = operand(args.inputs, 0, "past_cache");
    const Tensor& update = operand(args.inputs, 1, "update");
    const Tensor at = support::optional_operand(args.inputs, 2);
    const Tensor& out = result(args.outputs, 0, "present_cache");
    const int axis = support::normalize_axis(axis_, past.rank);
    require(axis != 0, "tensor_scatter: the sequence axis cannot be the batch axis");
    support::require_rank(update, past.rank, "update");
    for (int i = 0; i < past.rank; ++i) {
      require(i == axis || update.dim(i) == past.dim(i), "tensor_scatter: update and cache differ beside the axis");
    }
    support::require_same_shape(out, past, "present_cache");
    support::require_dtype(update, past.dtype, "update");
    support::require_dtype(out, past.dtype, "present_cache");
    const int64_t most = past.dim(axis);
    const int64_t length = update.dim(axis);
    require(length <= most, "tensor_scatter: the update is longer than the cache");
    if (at.present()) check_positions(at, past.dim(0), length, most);
    copy_all(past, out, args.parallel);
    const int64_t prefixes = extent(past, 0, axis);
    const size_t bytes = static_cast<size_t>(extent(past, axis + 1, past.rank)) * element_size(past.dtype);
    if (prefixes * length == 0 || bytes == 0) return;
    const int64_t rows_per_batch = prefixes / past.dim(0);
    const auto step = static_cast<int64_t>(bytes);
    args.parallel.for_range(prefixes, grain_for(1 + length * step / 16), [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t start = at.present() ? at.ptr<const int64_t>()[p / rows_per_batch] : 0;
        for (int64_t s = 0; s < length; ++s) {
          const int64_t target = circular_ ? (start % most + most + s) % most : start + s;
          std::memcpy(out.ptr<char>() + (p * most + target) * step, update.ptr<const char>() + (p * length + s) * step,
                      bytes);
        }
      }
    });
  }

 private:
  void check_positions(const Tensor& at, int64_t batch, int64_t length, int64_t most) const {
    support::require_dtype(at, DType::kI64, "write_indices");
    support::require_shape(at, {batch}, "write_indices");
    for (int64_t b = 0; b < batch && !circular_; ++b) {
      const int64_t start = at.ptr<const int64_t>()[b];
      if (start < 0 || start > most - length) {
        fail("write_indices[" + std::to_string(b) + "] is " + std::to_string(start) + ": " + std::to_string(length) +
             " entries do not fit a cache of " + std::to_string(most));
      }
    }
  }

  int64_t axis_;
  bool circular_ = false;
};

}  // namespace
}  // namespace indexing

std::unique_ptr<Kernel> make_scatter_elements(const Attrs& attrs) {
  return std::make_unique<indexing::ScatterElements>(attrs);
}

std::unique_ptr<Kernel> make_scatter_nd(const Attrs& attrs) { return std::make_unique<indexing::ScatterNd>(attrs); }

std::unique_ptr<Kernel> make_tensor_scatter(const Attrs& attrs) {
  return std::make_unique<indexing::TensorScatter>(attrs);
}

}  // namespace graphopt
