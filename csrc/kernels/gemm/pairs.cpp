#include "kernels/gemm/pairs.h"

#include <algorithm>
#include <string>

#include "kernels/gemm/driver.h"

namespace graphopt {

const float* round_to_pairs(const float* in, int64_t rows, int64_t columns, void* workspace, const Parallel& parallel) {
  constexpr int64_t kWorthAThread = 32'000;  // numbers
  auto* out = static_cast<uint32_t*>(workspace);
  const int64_t step = pairs_step(columns);
  const int64_t grain = kWorthAThread / std::max<int64_t>(columns, 1) + 1;
  parallel.for_range(rows, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    gemm_kernels().round(in + begin * columns, columns, end - begin, columns, out + begin * step, step);
  });
  return static_cast<const float*>(workspace);
}

bool is_half(const char* step, const Tensor& tensor) {
  if (!tensor.present() || tensor.dtype == DType::kF32) return false;
  if (tensor.dtype != DType::kBF16) throw Error(std::string(step) + ": operands must be float32 or bfloat16");
  if (tensor.rank < 1 || tensor.dim(-1) % 2 != 0) throw Error(std::string(step) + ": odd rows of bfloat16");
  return true;
}

void require_weights(const char* step, const Tensor& w, bool pairs) {
  if (w.dtype != (pairs ? DType::kU32 : DType::kF32)) {
    throw Error(std::string(step) + ": W must be " + (pairs ? "uint32, pairs of bfloat16" : "float32"));
  }
}

}  // namespace graphopt
