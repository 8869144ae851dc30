// Step kernel `matmul`: products of matrices that are both known at run time only.
//
// float32 runs on the gemm micro-kernels. B is packed block by block into memory that stays in L2, or,
// when few rows use it, read in place.
#include <algorithm>

#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"
#include "kernels/matmul/plain.h"
#include "runtime/cpu.h"

namespace graphopt {
namespace {

constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// The batch axes of Y, and how A and B move along them.
MatmulShape matmul_shape(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  if (a.rank < 2 || b.rank < 2) throw Error("matmul: operands must have at least two dimensions");
  MatmulShape s;
  s.trans_a = trans_a;
  s.trans_b = trans_b;
  s.m = a.dim(trans_a ? -1 : -2);
  s.k = a.dim(trans_a ? -2 : -1);
  s.n = b.dim(trans_b ? -2 : -1);
  if (b.dim(trans_b ? -1 : -2) != s.k) throw Error("matmul: A and B don't agree on K");
  s.batch_rank = std::max(a.rank, b.rank) - 2;
  int64_t a_step = s.m * s.k;
  int64_t b_step = s.k * s.n;
  for (int axis = 0; axis < s.batch_rank; ++axis) {  // counted from the last one
    const int64_t a_dim = axis < a.rank - 2 ? a.dim(-3 - axis) : 1;
    const int64_t b_dim = axis < b.rank - 2 ? b.dim(-3 - axis) : 1;
    if (a_dim != b_dim && a_dim != 1 && b_dim != 1) throw Error("matmul: batch dimensions don't broadcast");
    const auto i = static_cast<size_t>(s.batch_rank - 1 - axis);
    s.batch_dims[i] = a_dim == 1 ? b_dim : a_dim;
    s.a_steps[i] = a_dim == 1 ? 0 : a_step;
    s.b_steps[i] = b_dim == 1 ? 0 : b_step;
    s.batch *= s.batch_dims[i];
    a_step *= a_dim;
    b_step *= b_dim;
  }
  return s;
}

// Products that share B are one product with more rows.
MatmulShape folded(MatmulShape s) {
  if (s.trans_a || s.batch <= 1) return s;
  int64_t step = s.m * s.k;
  for (int axis = s.batch_rank; axis-- > 0;) {
    const auto i = static_cast<size_t>(axis);
    if (s.batch_dims[i] == 1) continue;
    if (s.b_steps[i] != 0 || s.a_steps[i] != step) return s;
    step *= s.batch_dims[i];
  }
  s.m *= s.batch;
  s.batch = 1;
  s.batch_rank = 0;
  return s;
}

// How a float32 product is computed.
struct MatmulPlan {
  GemmShape gemm;  // of one block of columns
  GemmBlocking blocking{};
  GemmGrid grid;
  bool direct = false;      // B in place
  int64_t columns = 0;      // of a block of B
  size_t packed_bytes = 0;  // a thread
  size_t scratch_bytes = 0;
  int64_t transposed = 0;  // matrices of A to transpose, and the bytes for them
  size_t a_bytes = 0;
  [[nodiscard]] size_t bytes(int threads) const {
    return a_bytes + (packed_bytes + scratch_bytes) * static_cast<size_t>(threads);
  }
};

MatmulPlan matmul_plan(const MatmulShape& s, int threads) {
  MatmulPlan plan;
  plan.gemm.m = s.m;
  plan.gemm.n = s.n;
  plan.gemm.depth = s.k;
  plan.grid = gemm_grid(plan.gemm, std::max<int64_t>(s.batch, 1), threads);
  const GemmKernels& kernels = gemm_kernels();
  const int64_t tile_rows = kernels.max_rows[std::min(kernels.main_panels, kMaxDirectPanels) - 1];
  const int64_t rows = (s.m + plan.grid.m - 1) / plan.grid.m;
  // Packing costs about as much as using B for a few rows; rows that collide in the cache are worth it.
  plan.direct = !s.trans_b && rows <= 2 * tile_rows && (rows <= tile_rows || !rows_collide(s.n));
  const int64_t block = static_cast<int64_t>(cache_sizes().l2) / 2 / std::max<int64_t>(s.k * kFloat, 1);
  const int64_t part = round_up((s.n + plan.grid.n - 1) / plan.grid.n, kPanel);
  const int64_t unit = int64_t{kPanel} * kernels.main_panels;
  plan.columns = plan.direct ? part : std::min(std::max(block / unit, int64_t{1}) * unit, part);
  plan.columns = std::max(plan.columns, int64_t{kPanel});
  plan.gemm.n = std::min(plan.columns, s.n);
  plan.gemm.copy_rows = rows > 4 && copies_rows(plan.gemm, s.k);
  if (!plan.direct) plan.packed_bytes = static_cast<size_t>(plan.columns * s.k * kFloat);
  plan.blocking = gemm_blocking(plan.gemm);
  plan.scratch_bytes = gemm_scratch(plan.gemm, plan.blocking).bytes;
  if (s.trans_a) {
    plan.transposed = 1;
    for (int axis = 0; axis < s.batch_rank; ++axis) {
      const auto i = static_cast<size_t>(axis);
      if (s.a_steps[i] != 0) plan.transposed *= s.batch_dims[i];
    }
    plan.a_bytes = static_cast<size_t>(round_up(plan.transposed * s.m * s.k * kFloat, 64));
  }
  return plan;
}

class MatmulRun {
 public:
  MatmulRun(const MatmulShape& shape, const MatmulPlan& plan, const MatmulOperands& operands, float alpha,
            const Epilogue& epilogue, void* workspace)
      : s_(shape),
        plan_(plan),
        alpha_(alpha),
        epilogue_(epilogue),
        a_(operands.a.ptr<float>()),
        b_(operands.b.ptr<float>()),
        bias_(data_or_null(operands.bias)),
        residual_(data_or_null(operands.residual)),
        y_(operands.y.ptr<float>()),
        memory_(static_cast<std::byte*>(workspace)) {}

  void run(const Parallel& parallel) {
    if (s_.trans_a) transpose_a(parallel);
    const int64_t parts = plan_.grid.m * plan_.grid.n;
    const int64_t tasks = s_.batch * parts;
    GemmShape whole = plan_.gemm;
    whole.n = s_.n;
    parallel.for_range(tasks, gemm_grain(whole, tasks, parts), [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        run_part(i / parts, part_of(s_.m, plan_.grid.m, i % parts / plan_.grid.n),
                 part_of(s_.n, plan_.grid.n, i % plan_.grid.n, kPanel), worker);
      }
    });
  }

 private:
  void run_part(int64_t product, Range m, Range n, int worker) const {
    if (m.begin >= m.end) return;
    std::byte* mine =
        memory_ + plan_.a_bytes + (plan_.packed_bytes + plan_.scratch_bytes) * static_cast<size_t>(worker);
    auto* packed = reinterpret_cast<float*>(mine);
    const float* b = b_ + s_.offset(s_.b_steps, product);
    // Transposed copies of A lie one after the other, as A itself does.
    DenseRows rows = {a_ + s_.offset(s_.a_steps, product), s_.k, s_.n};
    GemmShape shape = plan_.gemm;
    for (int64_t column = n.begin; column < n.end; column += plan_.columns) {
      shape.n = std::min(plan_.columns, n.end - column);
      GemmOperands operands;
      operands.direct = plan_.direct;
      operands.alpha = alpha_;
      if (plan_.direct) {
        operands.b = b + column;
        operands.b_step = s_.n;
        operands.b_panel = kPanel;
      } else {
        pack_b(b, column, shape.n, packed);
        operands.b = packed;
        operands.b_panel = s_.k * kPanel;
      }
      const int64_t offset = product * s_.m * s_.n + column;
      operands.c = y_ + offset;
      operands.bias = bias_ == nullptr ? nullptr : bias_ + column;
      operands.residual = residual_ == nullptr ? nullptr : residual_ + offset;
      GemmTask<DenseRows> task(shape, plan_.blocking, operands, epilogue_, rows, mine + plan_.packed_bytes);
      task.run(m, {0, shape.panels()});
    }
  }

  void pack_b(const float* b, int64_t column, int64_t columns, float* packed) const {
    const int64_t panel = s_.k * kPanel;
    if (!s_.trans_b) {
      gemm_kernels().pack(b + column, s_.n, s_.k, columns, packed, panel);
      return;
    }
    for (int64_t j = 0; j < columns; j += kPanel, packed += panel) {
      gemm_kernels().transpose(b + (column + j) * s_.k, s_.k, std::min<int64_t>(kPanel, columns - j), s_.k, packed,
                               kPanel, kPanel);
    }
  }

  // Every matrix of A, [K, M], as [M, K] in the workspace.
  void transpose_a(const Parallel& parallel) {
    auto* to = reinterpret_cast<float*>(memory_);
    const float* from = a_;
    const int64_t size = s_.m * s_.k;
    if (size == 0) return;
    const int64_t blocks = (s_.m + kPanel - 1) / kPanel;
    constexpr int64_t kWorthAThread = 50'000;
    parallel.for_range(plan_.transposed * blocks, std::max<int64_t>(1, kWorthAThread / (kPanel * s_.k + 1)),
                       [&](int64_t begin, int64_t end, int /*worker*/) {
                         for (int64_t i = begin; i < end; ++i) {
                           const int64_t row = i % blocks * kPanel;
                           const int64_t offset = i / blocks * size;
                           gemm_kernels().transpose(from + offset + row, s_.m, s_.k,
                                                    std::min<int64_t>(kPanel, s_.m - row), to + offset + row * s_.k,
                                                    s_.k, s_.k);
                         }
                       });
    a_ = to;
  }

  const MatmulShape& s_;
  const MatmulPlan& plan_;
  float alpha_;
  const Epilogue& epilogue_;
  const float* a_;
  const float* b_;
  const float* bias_;
  const float* residual_;
  float* y_;
  std::byte* memory_;
};

// Products with a vector whose matrix has its rows in memory one after the other: every result is a sum
// along a row, and all results of a product lie side by side.
class VectorRun {
 public:
  static bool fits(const MatmulShape& s) { return (s.n == 1 && !s.trans_a) || (s.m == 1 && s.trans_b); }

  VectorRun(const MatmulShape& shape, const MatmulOperands& operands, float alpha, const Epilogue& epilogue)
      : s_(shape), o_(operands), alpha_(alpha), epilogue_(epilogue) {}

  void run(const Parallel& parallel) const {
    constexpr int64_t kWorthAThread = 30'000;  // multiply-adds
    const int64_t count = s_.m * s_.n;
    const int64_t threads = parallel.threads();
    const int64_t parts =
        std::clamp<int64_t>(count * s_.k / kWorthAThread, 1, std::max<int64_t>(threads / s_.batch, 1));
    const int64_t work = std::max<int64_t>(count * s_.k / parts, 1);
    const int64_t grain = std::clamp<int64_t>(kWorthAThread / work, 1, s_.batch * parts);
    parallel.for_range(s_.batch * parts, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) run_part(i / parts, part_of(count, parts, i % parts, kPanel));
    });
  }

 private:
  void run_part(int64_t product, Range part) const {
    const bool column = s_.n == 1 && !s_.trans_a;  // else M is 1 and the rows are B's
    const float* a = o_.a.ptr<float>() + s_.offset(s_.a_steps, product);
    const float* b = o_.b.ptr<float>() + s_.offset(s_.b_steps, product);
    const int64_t at = product * s_.m * s_.n + part.begin;
    const int64_t count = part.end - part.begin;
    float* y = o_.y.ptr<float>() + at;
    gemm_kernels().dot((column ? a : b) + part.begin * s_.k, s_.k, count, column ? b : a, s_.k, y);
    const float* bias = data_or_null(o_.bias);
    const float* residual = o_.residual.present() ? o_.residual.ptr<float>() + at : nullptr;
    const float low = epilogue_.low();
    const float high = epilogue_.high();
    const bool after = epilogue_.residual_after;
    for (int64_t i = 0; i < count; ++i) {
      float x = y[i] * alpha_ + (bias == nullptr ? 0.0F : bias[s_.n == 1 ? 0 : part.begin + i]);
      if (residual != nullptr && !after) x += residual[i];
      x = x < low ? low : x;
      x = x > high ? high : x;
      if (residual != nullptr && after && epilogue_.is_clamp()) x += residual[i];
      y[i] = x;
    }
    if (epilogue_.is_clamp()) return;
    constexpr int64_t kRow = 0;
    gemm_kernels().activate(epilogue_.activation, epilogue_.alpha, epilogue_.beta, y, after ? residual : nullptr, &kRow,
                            1, count);
  }

  const MatmulShape& s_;
  const MatmulOperands& o_;
  float alpha_;
  const Epilogue& epilogue_;
};

class MatmulKernel final : public Kernel {
 public:
  explicit MatmulKernel(const Attrs& attrs)
      : trans_a_(attrs.i("trans_a", 0) != 0), trans_b_(attrs.i("trans_b", 0) != 0), epilogue_(parse_epilogue(attrs)) {
    // `alpha` scales the product where the activation has no use for it.
    const bool taken = epilogue_.activation == Activation::kClip || epilogue_.activation == Activation::kLeakyRelu ||
                       epilogue_.activation == Activation::kHardSigmoid || epilogue_.activation == Activation::kElu;
    scale_ = attrs.has("scale") || taken ? attrs.f("scale", 1) : attrs.f("alpha", 1);
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> /*outputs*/,
                                       int threads) const override {
    const Tensor& a = operand(inputs, 0);
    if (a.dtype != DType::kF32) return 0;
    const MatmulShape shape = folded(matmul_shape(a, operand(inputs, 1), trans_a_, trans_b_));
    return VectorRun::fits(shape) ? 0 : matmul_plan(shape, threads).bytes(threads);
  }

  void run(KernelArgs& args) const override {
    const MatmulOperands operands = {operand(args.inputs, 0), operand(args.inputs, 1), operand(args.inputs, 2),
                                     operand(args.inputs, 3), args.outputs[0]};
    const MatmulShape shape = matmul_shape(operands.a, operands.b, trans_a_, trans_b_);
    check(shape, operands);
    if (operands.y.numel() == 0) return;
    if (operands.y.dtype != DType::kF32) {
      run_plain_matmul(shape, operands, scale_, epilogue_, args.parallel);
      return;
    }
    const MatmulShape folded_shape = folded(shape);
    if (VectorRun::fits(folded_shape)) {
      VectorRun(folded_shape, operands, static_cast<float>(scale_), epilogue_).run(args.parallel);
      return;
    }
    const MatmulPlan plan = matmul_plan(folded_shape, args.parallel.threads());
    MatmulRun(folded_shape, plan, operands, static_cast<float>(scale_), epilogue_, args.workspace).run(args.parallel);
  }

 private:
  static void check(const MatmulShape& shape, const MatmulOperands& operands) {
    const DType dtype = operands.y.dtype;
    if (operands.a.dtype != dtype || operands.b.dtype != dtype ||
        (operands.bias.present() && operands.bias.dtype != dtype) ||
        (operands.residual.present() && operands.residual.dtype != dtype)) {
      throw Error("matmul: operands must have one element type");
    }
    if (operands.y.numel() != shape.batch * shape.m * shape.n) throw Error("matmul: Y has the wrong size");
    if (operands.bias.present() && operands.bias.numel() != shape.n) throw Error("matmul: bias must hold N values");
    if (operands.residual.present() && operands.residual.numel() != operands.y.numel()) {
      throw Error("matmul: residual must be as large as Y");
    }
  }

  bool trans_a_;
  bool trans_b_;
  double scale_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_matmul(const Attrs& attrs) { return std::make_unique<MatmulKernel>(attrs); }

}  // namespace graphopt
