// Step kernel `gemm_int8`: Y = finish(X W) with X of bytes, W of signed bytes packed at compile time.
#include "kernels/dense/operands.h"
#include "kernels/int8/driver.h"

namespace graphopt {
namespace {

class GemmInt8 final : public Kernel {
 public:
  explicit GemmInt8(const Attrs& attrs) : k_(attrs.i("k")), n_(attrs.i("n")), plan_(attrs) {
    if (k_ < 0 || n_ < 0) throw Error("gemm_int8: negative k or n");
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> /*outputs*/,
                                       int threads) const override {
    const Tensor& x = operand(inputs, 0);
    return int8::readable_bytes(x, k_) + int8::blocking_of(shape(x)).bytes * static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& y = args.outputs[0];
    const bool flip = int8::is_signed_byte("gemm_int8", x);
    if (x.rank < 1 || x.dim(-1) != k_) throw Error("gemm_int8: the last dimension of X isn't k");
    const int8::Shape shape = this->shape(x);
    if (y.numel() != shape.m * n_) throw Error("gemm_int8: Y has the wrong size");
    if (w.dtype != DType::kI8 || w.numel() != shape.panels() * shape.panel_bytes()) {
      throw Error("gemm_int8: W isn't packed for k and n");
    }
    int8::Columns columns;
    const int8::Finish finish = plan_.complete("gemm_int8", args.inputs, y, n_, columns);
    const uint8_t* rows_of_x = int8::readable(x, k_, args.workspace);
    auto* scratch = static_cast<std::byte*>(args.workspace) + int8::readable_bytes(x, k_);
    int8::run_products<int8::DenseRows>(shape, finish, plan_, 1, args.parallel, scratch,
                                        [&](int64_t, int8::Operands& operands, int8::DenseRows& rows) {
                                          operands.b = w.ptr<const int8_t>();
                                          operands.columns = columns;
                                          operands.c = y.data;
                                          operands.flip = flip;
                                          rows = {rows_of_x, k_, n_};
                                        });
  }

 private:
  [[nodiscard]] int8::Shape shape(const Tensor& x) const {
    int8::Shape shape;
    shape.m = 1;
    for (int axis = 0; axis + 1 < x.rank; ++axis) shape.m *= x.dim(axis);
    shape.n = n_;
    shape.depth = k_;
    return shape;
  }

  int64_t k_;
  int64_t n_;
  int8::FinishPlan plan_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_int8(const Attrs& attrs) { return std::make_unique<GemmInt8>(attrs); }

}  // namespace graphopt
