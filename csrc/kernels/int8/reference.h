// Plain loops that define what the steps on bytes compute, on channels-last tensors and ONNX's weight order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/dense/spatial.h"
#include "kernels/int8/tile.h"

namespace graphopt::int8::reference {

struct Problem {
  int64_t batch = 1;
  Dims3 in{1, 1, 1};
  Dims3 out{1, 1, 1};
  int64_t cin = 1;
  int64_t cout = 1;
  int64_t group = 1;
  Window window;
  uint8_t zero = 0;   // what the padding holds
  bool flip = false;  // x is of signed bytes
};

inline int32_t value_of(uint8_t bits, bool flip) { return flip ? static_cast<uint8_t>(bits ^ 0x80) : bits; }

// The sums of a convolution; w is [cout, cin / group, taps].
inline std::vector<int32_t> sums(const Problem& p, const std::vector<uint8_t>& x, const std::vector<int8_t>& w,
                                 const std::vector<int32_t>& start) {
  const int64_t cin = p.cin / p.group;
  const int64_t cout = p.cout / p.group;
  std::vector<int32_t> y;
  Position position(0, p.out);
  for (int64_t i = 0; i < p.batch * volume(p.out); ++i, position.next(p.out)) {
    for (int64_t o = 0; o < p.cout; ++o) {
      int64_t sum = start.empty() ? 0 : start[static_cast<size_t>(o)];
      Position tap(0, p.window.kernel);
      for (int64_t t = 0; t < p.window.taps(); ++t, tap.next(p.window.kernel)) {
        int64_t at = position.batch;
        bool inside = true;
        for (size_t a = 0; a < 3; ++a) {
          const int64_t v = position.at[a] * p.window.stride[a] - p.window.begin[a] + tap.at[a] * p.window.dilation[a];
          inside = inside && v >= 0 && v < p.in[a];
          at = at * p.in[a] + v;
        }
        for (int64_t c = 0; c < cin; ++c) {
          const uint8_t bits = inside ? x[static_cast<size_t>(at * p.cin + o / cout * cin + c)] : p.zero;
          sum += value_of(bits, p.flip) * w[static_cast<size_t>((o * cin + c) * p.window.taps() + t)];
        }
      }
      y.push_back(static_cast<int32_t>(sum));
    }
  }
  return y;
}

inline float clamp(float x, float low, float high) { return std::min(std::max(x, low), high); }

// One byte of a number.
inline uint8_t byte_of(const Finish& f, float x, const uint8_t* residual) {
  if (residual != nullptr) {
    if (f.mid_scale > 0) x = clamp(std::nearbyint(x), f.mid_low, f.mid_high) * f.mid_scale;
    const int32_t r = f.residual == DType::kU8 ? *residual : static_cast<int8_t>(*residual);
    const float other = (static_cast<float>(r) - f.residual_zero) * f.residual_scale;
    volatile float total = x + other;  // rounded before it is divided
    x = total / f.out_scale;
  }
  const float whole = clamp(std::nearbyint(x), f.low, f.high) + f.zero;
  const auto byte = static_cast<uint8_t>(static_cast<int32_t>(whole));
  return f.table == nullptr ? byte : f.table[byte];
}

}  // namespace graphopt::int8::reference
