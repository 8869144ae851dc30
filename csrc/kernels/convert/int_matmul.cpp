// The step kernels matmul_integer and q_linear_matmul, with the shapes of numpy.matmul.
#include <array>
#include <cstring>
#include <memory>

#include "kernels/convert/int_gemm.h"

namespace graphopt {

namespace convert {
namespace {

using support::operand;
using support::require;

// A and B as stacks of matrices with broadcast batch axes.
struct Stacks {
  int64_t m, k, n;
  int64_t batches_a, batches_b;
  int rank;  // of the batch axes
  std::array<int64_t, kMaxRank> shape, step_a, step_b;
  int64_t batches;

  // Which matrix of A (or B) belongs to output matrix `batch`.
  [[nodiscard]] int64_t source(int64_t batch, const std::array<int64_t, kMaxRank>& step) const {
    int64_t index = 0;
    for (int i = rank - 1; i >= 0; --i) {
      const auto at = static_cast<size_t>(i);
      index += batch % shape[at] * step[at];
      batch /= shape[at];
    }
    return index;
  }
};

Stacks plan_stacks(const Tensor& a, const Tensor& b, const Tensor& y) {
  require(a.rank >= 1 && b.rank >= 1, "a matrix product has no scalar operands");
  Stacks s{};
  s.m = a.rank == 1 ? 1 : a.dim(-2);
  s.k = a.dim(-1);
  s.n = b.rank == 1 ? 1 : b.dim(-1);
  require(s.k == (b.rank == 1 ? b.dim(0) : b.dim(-2)), "a matrix product: the inner sizes differ");
  const int rank_a = std::max(a.rank - 2, 0);
  const int rank_b = std::max(b.rank - 2, 0);
  s.rank = std::max(rank_a, rank_b);
  s.batches = s.batches_a = s.batches_b = 1;
  std::array<int64_t, kMaxRank + 2> shape{};
  for (int i = s.rank - 1; i >= 0; --i) {
    const int in_a = i - (s.rank - rank_a);
    const int in_b = i - (s.rank - rank_b);
    const int64_t dim_a = in_a >= 0 ? a.dim(in_a) : 1;
    const int64_t dim_b = in_b >= 0 ? b.dim(in_b) : 1;
    require(dim_a == dim_b || dim_a == 1 || dim_b == 1, "a matrix product: the batch sizes do not broadcast");
    const auto at = static_cast<size_t>(i);
    s.shape[at] = shape[at] = dim_a == 1 ? dim_b : dim_a;
    s.step_a[at] = dim_a == 1 ? 0 : s.batches_a;
    s.step_b[at] = dim_b == 1 ? 0 : s.batches_b;
    s.batches_a *= dim_a;
    s.batches_b *= dim_b;
    s.batches *= s.shape[at];
  }
  auto rank = static_cast<size_t>(s.rank);
  if (a.rank > 1) shape[rank++] = s.m;
  if (b.rank > 1) shape[rank++] = s.n;
  support::require_shape(y, std::span<const int64_t>(shape.data(), rank), "Y");
  return s;
}

class IntMatmul : public Kernel {
 public:
  size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor>, int threads) const override {
    const Tensor& a = operand(inputs, 0, "A");
    const int64_t k = a.rank == 0 ? 1 : a.dim(-1);
    return rows_bytes(a, k) + static_cast<size_t>(threads) * IntScratch::bytes(k);
  }

 protected:
  // emit(output matrix, row, first column, columns, sums, scales of the columns)
  template <class Emit>
  static void multiply(KernelArgs& args, const Tensor& a, const Tensor& b, const Stacks& s, const PerLine& zero_a,
                       const PerLine& zero_b, const PerLine& scale_b, Emit&& emit) {
    if (s.batches * s.m * s.n == 0) return;
    auto* memory = static_cast<std::byte*>(args.workspace);
    auto* rows = reinterpret_cast<int16_t*>(memory);
    memory += rows_bytes(a, s.k);
    const int64_t width = 2 * pairs_of(s.k);
    visit_byte(a.dtype, "A", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      args.parallel.for_range(s.batches_a * s.m, support::grain_for(s.k), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) {
          const int32_t zero = zero_a.integer(row / s.m, row % s.m);
          const T* from = a.ptr<const T>() + row * s.k;
          int16_t* to = rows + row * width;
          for (int64_t k = 0; k < s.k; ++k) to[k] = static_cast<int16_t>(from[k] - zero);
          if (s.k < width) to[s.k] = 0;
        }
      });
    });
    const int64_t panels = (s.n + kIntColumns - 1) / kIntColumns;
    visit_byte(b.dtype, "B", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      args.parallel.for_range(
          s.batches * panels, support::grain_for(s.m * s.k), [&](int64_t begin, int64_t end, int worker) {
            const IntScratch scratch(memory + static_cast<size_t>(worker) * IntScratch::bytes(s.k));
            for (int64_t i = begin; i < end; ++i) {
              const int64_t batch = i / panels;
              const int64_t first = i % panels * kIntColumns;
              const int64_t count = std::min(kIntColumns, s.n - first);
              const int64_t from_b = s.source(batch, s.step_b);
              fill_panel(b.ptr<const T>() + from_b * s.k * s.n, s, from_b, first, count, zero_b, scratch.panel);
              float scales[kIntColumns];
              for (int64_t c = 0; c < count; ++c) scales[c] = scale_b.real(from_b, first + c);
              const IntRows left{rows + s.source(batch, s.step_a) * s.m * width, s.m, s.k};
              multiply_panel(left, scratch,
                             [&](int64_t row, const int32_t* sums) { emit(batch, row, first, count, sums, scales); });
            }
          });
    });
  }

 private:
  static size_t rows_bytes(const Tensor& a, int64_t k) {
    const int64_t rows = k == 0 ? 0 : a.numel() / k;
    return (static_cast<size_t>(rows * 2 * pairs_of(k)) * sizeof(int16_t) + 63) / 64 * 64;
  }

  template <class T>
  static void fill_panel(const T* b, const Stacks& s, int64_t batch, int64_t first, int64_t count,
                         const PerLine& zero_b, int16_t* panel) {
    int32_t zero[kIntColumns];
    for (int64_t c = 0; c < count; ++c) zero[c] = zero_b.integer(batch, first + c);
    std::memset(panel, 0, static_cast<size_t>(pairs_of(s.k) * kIntColumns * 2) * sizeof(int16_t));
    for (int64_t k = 0; k < s.k; ++k) {
      const T* row = b + k * s.n + first;
      for (int64_t c = 0; c < count; ++c) panel[panel_place(k, c)] = static_cast<int16_t>(row[c] - zero[c]);
    }
  }
};

class MatmulInteger final : public IntMatmul {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& a = operand(args.inputs, 0, "A");
    const Tensor& b = operand(args.inputs, 1, "B");
    const Tensor& y = support::result(args.outputs, 0, "Y");
    support::require_dtype(y, DType::kI32, "Y");
    const Stacks s = plan_stacks(a, b, y);
    const PerLine zero_a(support::optional_operand(args.inputs, 2), s.m, s.batches_a, "a_zero_point");
    const PerLine zero_b(support::optional_operand(args.inputs, 3), s.n, s.batches_b, "b_zero_point");
    auto* to = y.ptr<int32_t>();
    multiply(args, a, b, s, zero_a, zero_b, PerLine({}, s.n, 1, ""),
             [&](int64_t batch, int64_t row, int64_t first, int64_t count, const int32_t* sums, const float*) {
               std::copy_n(sums, count, to + (batch * s.m + row) * s.n + first);
             });
  }
};

class QLinearMatmul final : public IntMatmul {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& a = operand(args.inputs, 0, "a");
    const Tensor& b = operand(args.inputs, 3, "b");
    const Tensor& y = support::result(args.outputs, 0, "y");
    const Stacks s = plan_stacks(a, b, y);
    const PerLine scale_a(operand(args.inputs, 1, "a_scale"), s.m, s.batches_a, "a_scale");
    const PerLine zero_a(support::optional_operand(args.inputs, 2), s.m, s.batches_a, "a_zero_point");
    const PerLine scale_b(operand(args.inputs, 4, "b_scale"), s.n, s.batches_b, "b_scale");
    const PerLine zero_b(support::optional_operand(args.inputs, 5), s.n, s.batches_b, "b_zero_point");
    const PerLine scale_y(operand(args.inputs, 6, "y_scale"), s.m, s.batches, "y_scale");
    const PerLine zero_y(support::optional_operand(args.inputs, 7), s.m, s.batches, "y_zero_point");
    visit_byte(y.dtype, "y", [&](auto tag) {
      using T = typename decltype(tag)::Type;
      multiply(args, a, b, s, zero_a, zero_b, scale_b,
               [&](int64_t batch, int64_t row, int64_t first, int64_t count, const int32_t* sums, const float* scales) {
                 const float scale_of_row = scale_a.real(s.source(batch, s.step_a), row);
                 const float scale_out = scale_y.real(batch, row);
                 const int32_t zero_out = zero_y.integer(batch, row);
                 T* to = y.ptr<T>() + (batch * s.m + row) * s.n + first;
                 for (int64_t c = 0; c < count; ++c) {
                   to[c] = requantize<T>(sums[c], scale_of_row * scales[c] / scale_out, zero_out);
                 }
               });
    });
  }
};

}  // namespace
}  // namespace convert

std::unique_ptr<Kernel> make_matmul_integer(const Attrs&) { return std::make_unique<convert::MatmulInteger>(); }

std::unique_ptr<Kernel> make_q_linear_matmul(const Attrs&) { return std::make_unique<convert::QLinearMatmul>(); }

}  // namespace graphopt
