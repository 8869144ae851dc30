// Step kernel `gemm_int4`: Y = X dequantize(W) + bias, of floats but for W, whose four-bit codes become numbers in
// registers: they are read once, where few rows make reading them the work.
#include <algorithm>

#include "kernels/dense/operands.h"
#include "kernels/int8/int4.h"
#include "runtime/cpu.h"

namespace graphopt {
namespace {

constexpr int64_t kColumns = 16;

int8::NibbleKernel nibble_kernel() {
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return int8::nibble_kernel_avx512;
    case Isa::kAvx2:
      return int8::nibble_kernel_avx2;
    case Isa::kPortable:
      break;
  }
  return int8::nibble_kernel_portable;
}

class GemmInt4 final : public Kernel {
 public:
  explicit GemmInt4(const Attrs& attrs) : k_(attrs.i("k")), n_(attrs.i("n")), block_(attrs.i("block")) {
    if (k_ < 0 || n_ < 0 || k_ % 2 != 0 || block_ < 2 || block_ % 2 != 0) {
      throw Error("gemm_int4: k and block must be even");
    }
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& scale = operand(args.inputs, 2);
    const Tensor& zero = operand(args.inputs, 3);
    const Tensor& bias = operand(args.inputs, 4);
    const Tensor& y = args.outputs[0];
    require_f32("gemm_int4", {&x, &scale, &zero, &bias, &y});
    if (x.rank < 1 || x.dim(-1) != k_) throw Error("gemm_int4: the last dimension of X isn't k");
    const int64_t rows = k_ == 0 ? 0 : x.numel() / k_;
    if (y.numel() != rows * n_) throw Error("gemm_int4: Y has the wrong size");
    const int64_t panels = (n_ + kColumns - 1) / kColumns;
    const int64_t blocks = (k_ + block_ - 1) / block_;
    const int64_t parameters = panels * blocks * kColumns;
    if (w.dtype != DType::kU8 || w.numel() != panels * (k_ / 2) * kColumns || scale.numel() != parameters ||
        zero.numel() != parameters || bias.numel() != panels * kColumns) {
      throw Error("gemm_int4: W isn't packed for k, n and block");
    }
    constexpr int64_t kWorthAThread = 100'000;  // multiply-adds
    const int64_t grain = kWorthAThread / std::max<int64_t>(k_ * kColumns * rows, 1) + 1;
    const int8::NibbleKernel kernel = nibble_kernel();
    args.parallel.for_range(panels, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t p = begin; p < end; ++p) {
        int8::NibbleTile t{};
        t.weights = w.ptr<const uint8_t>() + p * (k_ / 2) * kColumns;
        t.scale = scale.ptr<const float>() + p * blocks * kColumns;
        t.zero = zero.ptr<const float>() + p * blocks * kColumns;
        t.depth = k_;
        t.block = block_;
        t.x = x.ptr<const float>();
        t.x_step = k_;
        t.rows = rows;
        t.bias = bias.ptr<const float>() + p * kColumns;
        t.y = y.ptr<float>() + p * kColumns;
        t.y_step = n_;
        t.columns = std::min(kColumns, n_ - p * kColumns);
        kernel(t);
      }
    });
  }

 private:
  int64_t k_;
  int64_t n_;
  int64_t block_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_int4(const Attrs& attrs) { return std::make_unique<GemmInt4>(attrs); }

}  // namespace graphopt
