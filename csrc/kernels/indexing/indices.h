// Index operands: checked once, then read without branches on their type.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "graphopt/kernel.h"
#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt::indexing {

// f(Tag<int32_t>{}) or f(Tag<int64_t>{}).
template <class F>
decltype(auto) visit_index(const Tensor& indices, F&& f) {
  switch (indices.dtype) {
    case DType::kI32:
      return f(support::Tag<int32_t>{});
    case DType::kI64:
      return f(support::Tag<int64_t>{});
    default:
      support::fail("indices have element type " + support::dtype_name(indices.dtype) + ", expected i32 or i64");
  }
}

// Throws unless every `step`-th index from the first on is in [-limit, limit).
template <class Index>
void check_indices(const Index* indices, int64_t count, int64_t step, int64_t limit) {
  if (count == 0) return;
  Index low = indices[0];
  Index high = indices[0];
  for (int64_t i = 0; i < count; ++i) {
    const Index index = indices[i * step];
    low = index < low ? index : low;
    high = index > high ? index : high;
  }
  if (low >= -limit && high < limit) return;
  support::fail("index " + std::to_string(high >= limit ? high : low) + " is out of range for an axis of size " +
                std::to_string(limit));
}

template <class Index>
inline int64_t wrapped(Index index, int64_t limit) {
  return index < 0 ? index + limit : index;
}

// out = in, unless the plan gave both the same memory.
inline void copy_all(const Tensor& in, const Tensor& out, const Parallel& parallel) {
  if (in.data == out.data) return;
  constexpr int64_t kGrain = int64_t{1} << 18;
  parallel.for_range(static_cast<int64_t>(in.nbytes()), kGrain, [&](int64_t begin, int64_t end, int) {
    std::memcpy(out.ptr<char>() + begin, in.ptr<const char>() + begin, static_cast<size_t>(end - begin));
  });
}

// The offset of row-major position `linear` of dims [0, rank), each dim counted with its own stride.
inline int64_t strided_offset(int64_t linear, const int64_t* dims, const int64_t* strides, int rank) {
  int64_t offset = 0;
  for (int i = rank - 1; i >= 0; --i) {
    offset += linear % dims[i] * strides[i];
    linear /= dims[i];
  }
  return offset;
}

}  // namespace graphopt::indexing
