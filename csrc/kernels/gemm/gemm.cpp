// Step kernel `gemm`: Y = activation(A W + bias + residual) with W packed at compile time, in float32 or, with
// the attribute `bf16`, as bfloat16 pairs; sums are of float32 either way. Y and the residual may be bfloat16, and
// so may A beside such W.
#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemm/pairs.h"

namespace graphopt {
namespace {

class GemmKernel final : public Kernel {
 public:
  explicit GemmKernel(const Attrs& attrs)
      : k_(attrs.i("k")),
        n_(attrs.i("n")),
        bf16_(attrs.i("bf16", 0) != 0),
        choice_(parse_gemm_choice(attrs)),
        epilogue_(parse_epilogue(attrs)) {
    if (k_ < 0 || n_ < 0) throw Error("gemm: negative k or n");
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    return gemm_scratch_bytes(shape(inputs, operand(outputs, 0))) * static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& a = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& bias = operand(args.inputs, 2);
    const Tensor& residual = operand(args.inputs, 3);
    const Tensor& y = args.outputs[0];
    require_f32("gemm", {&bias});
    require_weights("gemm", w, bf16_);
    if (a.rank < 1 || a.dim(-1) != k_) throw Error("gemm: the last dimension of A isn't k");
    const GemmShape shape = this->shape(args.inputs, y);
    if (y.numel() != shape.m * n_) throw Error("gemm: Y has the wrong size");
    if (w.numel() != static_cast<int64_t>(packed_gemm_size(shape.depth, n_)))
      throw Error("gemm: W isn't packed for k and n");
    if (bias.present() && bias.numel() != n_) throw Error("gemm: bias must hold n values");
    if (residual.present() && residual.numel() != y.numel()) throw Error("gemm: residual must be as large as Y");
    const bool a_half = a.dtype == DType::kBF16;
    run_gemms<DenseRows>(shape, epilogue_, 1, args.parallel, args.workspace,
                         [&](int64_t, GemmOperands& operands, DenseRows& rows) {
                           operands.b = static_cast<const float*>(w.data);
                           operands.b_panel = shape.depth * kPanel;
                           operands.c = y.data;
                           operands.bias = data_or_null(bias);
                           operands.residual = residual.data;
                           rows = {a.ptr<float>(), a_half ? shape.depth : k_, n_};
                         });
  }

 private:
  [[nodiscard]] GemmShape shape(std::span<const Tensor> inputs, const Tensor& y) const {
    const Tensor& a = operand(inputs, 0);
    const bool a_half = is_half("gemm", a);
    if (a_half && !bf16_) throw Error("gemm: A is bfloat16, W isn't");
    GemmShape shape;
    shape.c_half = is_half("gemm", y);
    shape.residual_half = is_half("gemm", operand(inputs, 3));
    shape.m = 1;
    for (int axis = 0; axis + 1 < a.rank; ++axis) shape.m *= a.dim(axis);
    shape.n = n_;
    shape.choice = choice_;
    shape.depth = bf16_ ? pairs_of(k_) : k_;
    shape.pairs = bf16_;
    shape.rounded = bf16_ && !a_half ? k_ : 0;
    shape.copy_rows = shape.rounded == 0 && copies_rows(shape, shape.depth);
    return shape;
  }

  int64_t k_;
  int64_t n_;
  bool bf16_;  // A is rounded to bfloat16, W holds it: pairs along K
  GemmChoice choice_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm(const Attrs& attrs) { return std::make_unique<GemmKernel>(attrs); }

}  // namespace graphopt
