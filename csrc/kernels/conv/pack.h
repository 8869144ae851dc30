// Packing of convolution weights at compile time, into one layout for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace graphopt {

// Whether a convolution runs on the depthwise kernels: groups of one, two, four or eight channels that
// make as many.
inline bool is_depthwise(int64_t cout, int64_t cin_per_group, int64_t group) {
  const int64_t size = cin_per_group;
  return group > 1 && cout == group * size && (size == 1 || size == 2 || size == 4 || size == 8);
}

// Depthwise: [ceil(cout / 16)][taps][cin_per_group][16]. Else a packed matrix a group, K counting channels fastest:
// [group][ceil(cout / group / 16)][taps][cin_per_group][16]. Zero padded.
size_t packed_conv_size(int64_t cout, int64_t cin_per_group, int64_t taps, int64_t group);
void pack_conv(const float* w_oihw, int64_t cout, int64_t cin_per_group, int64_t taps, int64_t group, float* out);

// From weights [cin, cout_per_group, taps]: [group][ceil(cout_per_group / 16)][taps][cin / group][16].
size_t packed_conv_transpose_size(int64_t cin, int64_t cout_per_group, int64_t taps, int64_t group);
void pack_conv_transpose(const float* w_iohw, int64_t cin, int64_t cout_per_group, int64_t taps, int64_t group,
                         float* out);

}  // namespace graphopt
