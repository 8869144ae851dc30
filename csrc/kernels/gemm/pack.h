// Packing of constant weights at compile time, into one layout for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace graphopt {

// Panels of 16 columns: [ceil(n / 16)][k][16], zero padded.
size_t packed_gemm_size(int64_t k, int64_t n);
void pack_gemm(const float* w_kn, int64_t k, int64_t n, float* out);

// The same from a matrix whose element (k, n) is w[k * k_step + n * n_step].
void pack_panels(const float* w, int64_t k, int64_t n, int64_t k_step, int64_t n_step, float* out);

}  // namespace graphopt
