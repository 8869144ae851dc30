// The depthwise micro-kernel, written once. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/conv/depthwise.h"
#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

constexpr int kColumns = 7;  // outputs of a tile: divides the widths of most image networks

// kColumns outputs of one vector of channels. Kernel and Stride 0: read at run time. Full: all lanes are
// channels. Checked: inputs or outputs of the tile may lie outside the line.
template <int Kernel, int Stride, bool Full, bool Checked>
void depthwise_tile(const DepthwiseLine& l, int64_t column, int64_t channel, int64_t lanes, const float* weights) {
  using F = Simd::F;
  const auto load = [lanes](const float* p) GRAPHOPT_INLINE_LAMBDA { return Full ? Simd::load(p) : Simd::load_n(p, lanes); };
  const int64_t stride = Stride > 0 ? Stride : l.stride;
  const int64_t first = column * stride - l.begin;
  const int64_t step = l.channels;
  const auto at = [&](const float* p, int64_t offset) GRAPHOPT_INLINE_LAMBDA {
    if (Checked && (first + offset < 0 || first + offset >= l.columns_in)) return Simd::zero();
    return load(p + offset * step);
  };
  F acc[kColumns];
  unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA { acc[t] = Simd::zero(); });
  for (int64_t i = 0; i < l.line_count; ++i) {
    const float* p = l.lines[i] + channel + first * step;
    const float* w = weights + l.taps[i];
    if constexpr (Kernel > 0) {
      F tap[Kernel];
      unroll<Kernel>([&](auto k) GRAPHOPT_INLINE_LAMBDA { tap[k] = Simd::load(w + k * 16); });
      unroll<(kColumns - 1) * Stride + Kernel>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
        const F x = at(p, j);
        unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
          constexpr int k = j - t * Stride;
          if constexpr (k >= 0 && k < Kernel) acc[t] = Simd::fma(x, tap[k], acc[t]);
        });
      });
    } else {
      for (int64_t k = 0; k < l.kernel; ++k, w += 16) {
        const F tap = Simd::load(w);
        unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
          acc[t] = Simd::fma(at(p, t * stride + k * l.dilation), tap, acc[t]);
        });
      }
    }
  }
  const F bias = l.bias == nullptr ? Simd::zero() : (Full ? Simd::load(l.bias + channel) : Simd::load_n(l.bias + channel, lanes));
  const F low = Simd::set1(l.low);
  const F high = Simd::set1(l.high);
  unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
    if (Checked && column + t >= l.columns) return;
    const int64_t offset = (column + t) * step + channel;
    F x = Simd::add(acc[t], bias);
    const F residual = l.residual == nullptr ? Simd::zero() : load(l.residual + offset);
    if (l.residual != nullptr && !l.residual_after) x = Simd::add(x, residual);
    x = Simd::min(high, Simd::max(low, x));
    if (l.residual != nullptr && l.residual_after) x = Simd::add(x, residual);
    if constexpr (Full) {
      Simd::store(l.y + offset, x);
    } else {
      Simd::store_n(l.y + offset, x, lanes);
    }
  });
}

template <int Kernel, int Stride, bool Full>
void depthwise_columns(const DepthwiseLine& l, int64_t channel, int64_t lanes, const float* weights) {
  const int64_t reach = (kColumns - 1) * l.stride + l.dilation * (l.kernel - 1);  // last input of a tile
  for (int64_t column = 0; column < l.columns; column += kColumns) {
    const int64_t first = column * l.stride - l.begin;
    if (first >= 0 && first + reach < l.columns_in && column + kColumns <= l.columns) {
      depthwise_tile<Kernel, Stride, Full, false>(l, column, channel, lanes, weights);
    } else {
      depthwise_tile<Kernel, Stride, Full, true>(l, column, channel, lanes, weights);
    }
  }
}

template <int Kernel, int Stride>
void depthwise_channels(const DepthwiseLine& l) {
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += Simd::kLanes) {
    const int64_t lanes = l.channel_end - channel;
    const float* weights = l.weights + channel / 16 * l.panel + channel % 16;
    if (lanes >= Simd::kLanes) {
      depthwise_columns<Kernel, Stride, true>(l, channel, lanes, weights);
    } else {
      depthwise_columns<Kernel, Stride, false>(l, channel, lanes, weights);
    }
  }
}

void depthwise_line(const DepthwiseLine& l) {
  if (l.dilation == 1 || l.kernel == 1) {
    if (l.kernel == 3 && l.stride == 1) return depthwise_channels<3, 1>(l);
    if (l.kernel == 3 && l.stride == 2) return depthwise_channels<3, 2>(l);
    if (l.kernel == 5 && l.stride == 1) return depthwise_channels<5, 1>(l);
    if (l.kernel == 5 && l.stride == 2) return depthwise_channels<5, 2>(l);
    if (l.kernel == 7 && l.stride == 1) return depthwise_channels<7, 1>(l);
  }
  depthwise_channels<0, 0>(l);
}

}  // namespace
}  // namespace graphopt
