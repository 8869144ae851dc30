#include "kernels/conv/pack.h"

#include <algorithm>

#include "kernels/gemm/tile.h"

namespace graphopt {
namespace {

size_t padded(int64_t n) { return static_cast<size_t>((n + kPanel - 1) / kPanel * kPanel); }

// One group: element (output o, input i, tap t) is w[o * o_step + i * i_step + t].
float* pack_group(const float* w, int64_t cout, int64_t cin, int64_t taps, int64_t o_step, int64_t i_step, float* out) {
  for (int64_t begin = 0; begin < cout; begin += kPanel) {
    const int64_t columns = std::min<int64_t>(kPanel, cout - begin);
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t i = 0; i < cin; ++i, out += kPanel) {
        const float* row = w + begin * o_step + i * i_step + t;
        for (int64_t j = 0; j < columns; ++j) out[j] = row[j * o_step];
        std::fill(out + columns, out + kPanel, 0.0F);
      }
    }
  }
  return out;
}

}  // namespace

size_t packed_conv_size(int64_t cout, int64_t cin_per_group, int64_t taps, int64_t group) {
  if (is_depthwise(cout, cin_per_group, group)) return padded(cout) * static_cast<size_t>(taps * cin_per_group);
  return static_cast<size_t>(group * taps * cin_per_group) * padded(cout / group);
}

void pack_conv(const float* w_oihw, int64_t cout, int64_t cin_per_group, int64_t taps, int64_t group, float* out) {
  if (is_depthwise(cout, cin_per_group, group)) {
    pack_group(w_oihw, cout, cin_per_group, taps, cin_per_group * taps, taps, out);
    return;
  }
  const int64_t some = cout / group;
  for (int64_t g = 0; g < group; ++g) {
    out = pack_group(w_oihw + g * some * cin_per_group * taps, some, cin_per_group, taps, cin_per_group * taps, taps,
                     out);
  }
}

size_t packed_conv_transpose_size(int64_t cin, int64_t cout_per_group, int64_t taps, int64_t group) {
  return static_cast<size_t>(group * taps * (cin / group)) * padded(cout_per_group);
}

void pack_conv_transpose(const float* w_iohw, int64_t cin, int64_t cout_per_group, int64_t taps, int64_t group,
                         float* out) {
  const int64_t some = cin / group;
  for (int64_t g = 0; g < group; ++g) {
    out = pack_group(w_iohw + g * some * cout_per_group * taps, cout_per_group, some, taps, taps, cout_per_group * taps,
                     out);
  }
}

}  // namespace graphopt
