// The step kernels gather, gather_elements and gather_nd: any element type, moved by its size.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/indexing/indices.h"

namespace graphopt {

namespace indexing {
namespace {

using support::extent;
using support::fail;
using support::grain_for;
using support::operand;
using support::require;
using support::result;

// Copies of `bytes` bytes; small powers of two become single moves.
template <class F>
void with_copy(size_t bytes, F&& body) {
  const auto fixed = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    body([](char* to, const char* from) { std::memcpy(to, from, sizeof(T)); });
  };
  switch (bytes) {
    case 1:
      return fixed(support::Tag<uint8_t>{});
    case 2:
      return fixed(support::Tag<uint16_t>{});
    case 4:
      return fixed(support::Tag<uint32_t>{});
    case 8:
      return fixed(support::Tag<uint64_t>{});
    case 16:
      return fixed(support::Tag<support::Bytes16>{});
    default:
      body([bytes](char* to, const char* from) { std::memcpy(to, from, bytes); });
  }
}

size_t size_of(const Tensor& tensor) {
  const size_t size = element_size(tensor.dtype);
  if (size == 0) fail("element type " + support::dtype_name(tensor.dtype) + " has no flat memory form");
  return size;
}

class Gather final : public Kernel {
 public:
  explicit Gather(const Attrs& attrs) : axis_(attrs.i("axis", 0)) {}

  void run(KernelArgs& args) const override {
    const Tensor& data = operand(args.inputs, 0, "data");
    const Tensor& indices = operand(args.inputs, 1, "indices");
    const Tensor& out = result(args.outputs, 0, "output");
    const int axis = support::normalize_axis(axis_, data.rank);
    check_shape(data, indices, out, axis);
    support::require_dtype(out, data.dtype, "output");
    const size_t bytes = static_cast<size_t>(extent(data, axis + 1, data.rank)) * size_of(data);
    const int64_t outer = extent(data, 0, axis);
    const int64_t limit = data.dim(axis);
    const int64_t count = indices.numel();
    visit_index(indices, [&](auto tag) {
      using Index = typename decltype(tag)::Type;
      const auto* index = indices.ptr<const Index>();
      check_indices(index, count, 1, limit);
      if (count == 0 || bytes == 0) return;
      with_copy(bytes, [&](auto copy) {
        const auto* from = data.ptr<const char>();
        auto* to = out.ptr<char>();
        const auto step = static_cast<int64_t>(bytes);
        args.parallel.for_range(outer * count, grain_for(1 + step / 16), [&](int64_t begin, int64_t end, int) {
          int64_t block = begin / count;
          int64_t i = begin % count;
          for (int64_t at = begin; at < end; ++at) {
            copy(to + at * step, from + (block * limit + wrapped(index[i], limit)) * step);
            if (++i == count) i = 0, ++block;
          }
        });
      });
    });
  }

 private:
  static void check_shape(const Tensor& data, const Tensor& indices, const Tensor& out, int axis) {
    require(data.rank + indices.rank - 1 <= kMaxRank, "gather: the output has too many dimensions");
    std::array<int64_t, 2 * kMaxRank> shape{};
    size_t rank = 0;
    for (int i = 0; i < axis; ++i) shape[rank++] = data.dim(i);
    for (int i = 0; i < indices.rank; ++i) shape[rank++] = indices.dim(i);
    for (int i = axis + 1; i < data.rank; ++i) shape[rank++] = data.dim(i);
    support::require_shape(out, std::span<const int64_t>(shape.data(), rank), "output");
  }

  int64_t axis_;
};

class GatherElements final : public Kernel {
 public:
  explicit GatherElements(const Attrs& attrs) : axis_(attrs.i("axis", 0)) {}

  void run(KernelArgs& args) const override {
    const Tensor& data = operand(args.inputs, 0, "data");
    const Tensor& indices = operand(args.inputs, 1, "indices");
    const Tensor& out = result(args.outputs, 0, "output");
    const int axis = support::normalize_axis(axis_, data.rank);
    support::require_rank(indices, data.rank, "indices");
    support::require_same_shape(out, indices, "output");
    support::require_dtype(out, data.dtype, "output");
    for (int i = 0; i < data.rank; ++i) {
      if (i == axis || indices.dim(i) <= data.dim(i)) continue;
      fail("indices have shape " + support::shape_text(indices) + ", larger than data " + support::shape_text(data) +
           " beside the axis");
    }
    visit_index(indices, [&](auto index_tag) {
      using Index = typename decltype(index_tag)::Type;
      check_indices(indices.ptr<const Index>(), indices.numel(), 1, data.dim(axis));
      support::visit_size(data.dtype, "gather_elements", [&](auto tag) {
        gather<typename decltype(tag)::Type, Index>(data, indices, out, axis, args.parallel);
      });
    });
  }

 private:
  template <class T, class Index>
  static void gather(const Tensor& data, const Tensor& indices, const Tensor& out, int axis, const Parallel& parallel) {
    auto strides = support::strides_of(data);
    const int64_t axis_stride = strides[static_cast<size_t>(axis)];
    strides[static_cast<size_t>(axis)] = 0;
    const int last = indices.rank - 1;
    const int64_t width = indices.dim(last);
    const int64_t column = axis == last ? 0 : 1;
    const int64_t limit = data.dim(axis);
    if (indices.numel() == 0) return;
    parallel.for_range(extent(indices, 0, last), grain_for(width), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const T* from = data.ptr<const T>() + strided_offset(row, indices.shape.data(), strides.data(), last);
        const auto* index = indices.ptr<const Index>() + row * width;
        T* to = out.ptr<T>() + row * width;
        for (int64_t j = 0; j < width; ++j) to[j] = from[wrapped(index[j], limit) * axis_stride + j * column];
      }
    });
  }

  int64_t axis_;
};

class GatherNd final : public Kernel {
 public:
  explicit GatherNd(const Attrs& attrs) : batch_dims_(attrs.i("batch_dims", 0)) {}

  void run(KernelArgs& args) const override {
    const Tensor& data = operand(args.inputs, 0, "data");
    const Tensor& indices = operand(args.inputs, 1, "indices");
    const Tensor& out = result(args.outputs, 0, "output");
    support::require_dtype(out, data.dtype, "output");
    require(data.rank >= 1 && indices.rank >= 1, "gather_nd: data and indices must not be scalars");
    require(batch_dims_ >= 0 && batch_dims_ < std::min(data.rank, indices.rank),
            "gather_nd: batch_dims must be less than both ranks");
    const auto batch_dims = static_cast<int>(batch_dims_);
    const int64_t depth = indices.dim(-1);
    require(depth >= 1 && depth <= data.rank - batch_dims, "gather_nd: index tuples are longer than data has axes");
    check_shape(data, indices, out, batch_dims, static_cast<int>(depth));
    const int first = batch_dims + static_cast<int>(depth);
    const size_t bytes = static_cast<size_t>(extent(data, first, data.rank)) * size_of(data);
    const int64_t batch = extent(data, 0, batch_dims);
    const int64_t tuples = extent(indices, batch_dims, indices.rank - 1);
    if (batch * tuples == 0 || bytes == 0) return;
    visit_index(indices, [&](auto tag) {
      using Index = typename decltype(tag)::Type;
      const auto* index = indices.ptr<const Index>();
      for (int64_t k = 0; k < depth; ++k) {
        check_indices(index + k, batch * tuples, depth, data.dim(batch_dims + static_cast<int>(k)));
      }
      const auto step = static_cast<int64_t>(bytes);
      with_copy(bytes, [&](auto copy) {
        args.parallel.for_range(batch * tuples, grain_for(depth + step / 16), [&](int64_t begin, int64_t end, int) {
          for (int64_t at = begin; at < end; ++at) {
            int64_t position = at / tuples;
            for (int64_t k = 0; k < depth; ++k) {
              const int64_t limit = data.shape[static_cast<size_t>(batch_dims_ + k)];
              position = position * limit + wrapped(index[at * depth + k], limit);
            }
            copy(out.ptr<char>() + at * step, data.ptr<const char>() + position * step);
          }
        });
      });
    });
  }

 private:
  static void check_shape(const Tensor& data, const Tensor& indices, const Tensor& out, int batch_dims, int depth) {
    for (int i = 0; i < batch_dims; ++i) {
      require(data.dim(i) == indices.dim(i), "gather_nd: batch dimensions of data and indices differ");
    }
    std::array<int64_t, 2 * kMaxRank> shape{};
    size_t rank = 0;
    for (int i = 0; i < indices.rank - 1; ++i) shape[rank++] = indices.dim(i);
    for (int i = batch_dims + depth; i < data.rank; ++i) shape[rank++] = data.dim(i);
    support::require_shape(out, std::span<const int64_t>(shape.data(), rank), "output");
  }

  int64_t batch_dims_;
};

}  // namespace
}  // namespace indexing

std::unique_ptr<Kernel> make_gather(const Attrs& attrs) { return std::make_unique<indexing::Gather>(attrs); }

std::unique_ptr<Kernel> make_gather_elements(const Attrs& attrs) {
  return std::make_unique<indexing::GatherElements>(attrs);
}

std::unique_ptr<Kernel> make_gather_nd(const Attrs& attrs) { return std::make_unique<indexing::GatherNd>(attrs); }

}  // namespace graphopt
