// Packing of constant weights at compile time, into one layout for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace graphopt {

// Number of floats that pack_winograd writes.
size_t packed_winograd_size(int64_t cout, int64_t cin);

// Weights [Cout, Cin, 3, 3] at the 36 points, each in panels of 16 output channels:
// [36][ceil(Cout / 16)][Cin][16], zero padded. Computed in double.
void pack_winograd(const float* w_oihw, int64_t cout, int64_t cin, float* out);

}  // namespace graphopt
