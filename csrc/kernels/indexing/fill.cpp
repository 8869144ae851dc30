// The step kernels one_hot, eye_like, trilu and reverse_sequence.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

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
using support::visit_number;
using support::visit_size;

// Any number as an index: truncated, and what int64 cannot hold is out of every range.
int64_t as_index(const Tensor& tensor, int64_t at) {
  return visit_number(tensor.dtype, "indices", [&](auto tag) -> int64_t {
    const auto value = support::load(tensor.ptr<const typename decltype(tag)::Type>()[at]);
    if constexpr (std::is_floating_point_v<std::remove_cv_t<decltype(value)>>) {
      const auto wide = static_cast<double>(value);
      return std::abs(wide) < 9e18 ? static_cast<int64_t>(wide) : std::numeric_limits<int64_t>::max();
    } else {
      return static_cast<int64_t>(value);
    }
  });
}

class OneHot final : public Kernel {
 public:
  explicit OneHot(const Attrs& attrs) : axis_(attrs.i("axis", -1)) {}

  void run(KernelArgs& args) const override {
    const Tensor& indices = operand(args.inputs, 0, "indices");
    const Tensor& depth_operand = operand(args.inputs, 1, "depth");
    const Tensor& values = operand(args.inputs, 2, "values");
    require(depth_operand.numel() == 1, "one_hot: depth must be one element");
    const int64_t depth = as_index(depth_operand, 0);
    require(depth >= 0, "one_hot: depth is negative");
    require(indices.rank < kMaxRank, "one_hot: indices have too many dimensions");
    const int axis = support::normalize_axis(axis_, indices.rank + 1);
    require(values.rank == 1 && values.dim(0) == 2, "one_hot: values must be two elements");
    std::array<int64_t, kMaxRank> shape{};
    for (int i = 0; i <= indices.rank; ++i) {
      shape[static_cast<size_t>(i)] = i == axis ? depth : indices.dim(i < axis ? i : i - 1);
    }
    const Tensor out = support::shaped_result(
        args, 0, std::span<const int64_t>(shape.data(), static_cast<size_t>(indices.rank) + 1), "output");
    support::require_dtype(out, values.dtype, "output");
    visit_size(values.dtype, "one_hot",
               [&](auto tag) { fill<typename decltype(tag)::Type>(indices, values, out, axis, depth, args.parallel); });
  }

 private:
  template <class T>
  static void fill(const Tensor& indices, const Tensor& values, const Tensor& out, int axis, int64_t depth,
                   const Parallel& parallel) {
    const T off = values.ptr<const T>()[0];
    const T on = values.ptr<const T>()[1];
    const int64_t inner = extent(indices, axis, indices.rank);
    parallel.for_range(extent(indices, 0, axis), grain_for(depth * inner), [&](int64_t begin, int64_t end, int) {
      for (int64_t o = begin; o < end; ++o) {
        T* block = out.ptr<T>() + o * depth * inner;
        std::fill_n(block, depth * inner, off);
        for (int64_t i = 0; i < inner; ++i) {
          int64_t hot = as_index(indices, o * inner + i);
          if (hot < 0) hot += depth;
          if (hot >= 0 && hot < depth) block[hot * inner + i] = on;
        }
      }
    });
  }

  int64_t axis_;
};

class EyeLike final : public Kernel {
 public:
  explicit EyeLike(const Attrs& attrs) : k_(attrs.i("k", 0)) {}

  void run(KernelArgs& args) const override {
    const Tensor& in = operand(args.inputs, 0, "input");
    const Tensor& out = result(args.outputs, 0, "output");
    support::require_rank(in, 2, "input");
    support::require_same_shape(out, in, "output");
    visit_number(out.dtype, "eye_like", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      std::memset(out.data, 0, out.nbytes());
      const int64_t columns = out.dim(1);
      // Diagonals that do not meet the matrix have no element; the bounds keep the sums in range.
      const int64_t k = std::clamp(k_, -out.dim(0), columns);
      for (int64_t i = std::max<int64_t>(0, -k); i < out.dim(0) && i + k < columns; ++i) {
        out.ptr<T>()[i * columns + i + k] = support::store<T>(static_cast<support::Compute<T>>(1));
      }
    });
  }

 private:
  int64_t k_;
};

class Trilu final : public Kernel {
 public:
  explicit Trilu(const Attrs& attrs) : upper_(attrs.i("upper", 1) != 0) {}

  void run(KernelArgs& args) const override {
    const Tensor& in = operand(args.inputs, 0, "input");
    const Tensor diagonal = support::optional_operand(args.inputs, 1);
    const Tensor& out = result(args.outputs, 0, "output");
    require(in.rank >= 2, "trilu: the input must be a matrix or a batch of matrices");
    support::require_same_shape(out, in, "output");
    support::require_dtype(out, in.dtype, "output");
    const int64_t rows = in.dim(-2);
    const int64_t columns = in.dim(-1);
    int64_t k = diagonal.present() ? support::integer_scalar(diagonal, "k") : 0;
    k = std::clamp(k, -rows - 1, columns + 1);
    const size_t size = element_size(in.dtype);
    require(size != 0, "trilu: this element type has no flat memory form");
    const auto bytes = [size](int64_t count) { return static_cast<size_t>(count) * size; };
    args.parallel.for_range(extent(in, 0, in.rank - 1), grain_for(1 + columns / 4),
                            [&](int64_t begin, int64_t end, int) {
                              for (int64_t row = begin; row < end; ++row) {
                                // Columns [split, columns) are kept above, [0, split) below.
                                const int64_t at = row % rows + k + (upper_ ? 0 : 1);
                                const int64_t split = std::clamp<int64_t>(at, 0, columns);
                                char* to = out.ptr<char>() + bytes(row * columns);
                                const char* from = in.ptr<const char>() + bytes(row * columns);
                                const int64_t keep = upper_ ? split : 0;
                                const int64_t keep_end = upper_ ? columns : split;
                                if (to != from)
                                  std::memcpy(to + bytes(keep), from + bytes(keep), bytes(keep_end - keep));
                                std::memset(to, 0, bytes(keep));
                                std::memset(to + bytes(keep_end), 0, bytes(columns - keep_end));
                              }
                            });
  }

 private:
  bool upper_;
};

class ReverseSequence final : public Kernel {
 public:
  explicit ReverseSequence(const Attrs& attrs)
      : batch_axis_(attrs.i("batch_axis", 1)), time_axis_(attrs.i("time_axis", 0)) {
    require((batch_axis_ == 0 && time_axis_ == 1) || (batch_axis_ == 1 && time_axis_ == 0),
            "reverse_sequence: batch_axis and time_axis must be 0 and 1, one each");
  }

  void run(KernelArgs& args) const override {
    const Tensor& in = operand(args.inputs, 0, "input");
    const Tensor& lengths = operand(args.inputs, 1, "sequence_lens");
    const Tensor& out = result(args.outputs, 0, "Y");
    require(in.rank >= 2, "reverse_sequence: the input must have a time and a batch axis");
    support::require_same_shape(out, in, "Y");
    support::require_dtype(out, in.dtype, "Y");
    const int64_t batch = in.dim(static_cast<int>(batch_axis_));
    const int64_t time = in.dim(static_cast<int>(time_axis_));
    support::require_shape(lengths, {batch}, "sequence_lens");
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t length = support::integer_at(lengths, b);
      if (length < 0 || length > time) {
        fail("sequence_lens[" + std::to_string(b) + "] is " + std::to_string(length) + ", expected 0 to " +
             std::to_string(time));
      }
    }
    const size_t bytes = static_cast<size_t>(extent(in, 2, in.rank)) * element_size(in.dtype);
    if (bytes == 0) return;
    const auto step = static_cast<int64_t>(bytes);
    const int64_t columns = in.dim(1);
    args.parallel.for_range(in.dim(0) * columns, grain_for(2 + step / 16), [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        int64_t place[2] = {at / columns, at % columns};
        const int64_t length = support::integer_at(lengths, place[batch_axis_]);
        int64_t& t = place[time_axis_];
        if (t < length) t = length - 1 - t;
        std::memcpy(out.ptr<char>() + at * step, in.ptr<const char>() + (place[0] * columns + place[1]) * step, bytes);
      }
    });
  }

 private:
  int64_t batch_axis_;
  int64_t time_axis_;
};

}  // namespace
}  // namespace indexing

std::unique_ptr<Kernel> make_one_hot(const Attrs& attrs) { return std::make_unique<indexing::OneHot>(attrs); }

std::unique_ptr<Kernel> make_eye_like(const Attrs& attrs) { return std::make_unique<indexing::EyeLike>(attrs); }

std::unique_ptr<Kernel> make_trilu(const Attrs& attrs) { return std::make_unique<indexing::Trilu>(attrs); }

std::unique_ptr<Kernel> make_reverse_sequence(const Attrs& attrs) {
  return std::make_unique<indexing::ReverseSequence>(attrs);
}

}  // namespace graphopt
