// The depthwise micro-kernel, written once. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/conv/depthwise.h"
#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

constexpr int kColumns = 7;  // outputs of a tile: divides the widths of most image networks

// kColumns outputs of one vector of channels. Kernel and Stride 0: read at run time. Checked: inputs or
// outputs of the tile may lie outside the line, lanes may lie behind the channels.
template <int Group, int Kernel, int Stride, bool Checked>
void depthwise_tile(const DepthwiseLine& l, int64_t column, int64_t channel, int64_t lanes, const float* weights) {
  using F = Simd::F;
  const auto load = [lanes](const float* p) GRAPHOPT_INLINE_LAMBDA { return Checked ? Simd::load_n(p, lanes) : Simd::load(p); };
  const int64_t stride = Stride > 0 ? Stride : l.stride;
  const int64_t first = column * stride - l.begin;
  const int64_t step = l.channels;
  // The part-th input of each lane's group, at the offset-th position of the tile.
  const auto at = [&](const float* p, int64_t offset, auto part) GRAPHOPT_INLINE_LAMBDA {
    if (Checked && (first + offset < 0 || first + offset >= l.columns_in)) return Simd::zero();
    p += offset * step;
    if constexpr (Group > Simd::kLanes) {
      return Simd::set1(p[part - channel % Group]);
    } else {
      return Simd::spread<Group, part>(load(p));
    }
  };
  F acc[kColumns];
  unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA { acc[t] = Simd::zero(); });
  for (int64_t i = 0; i < l.line_count; ++i) {
    const float* p = l.lines[i] + channel + first * step;
    const float* w = weights + l.taps[i];
    if constexpr (Kernel > 0) {
      unroll<Group>([&](auto part) GRAPHOPT_INLINE_LAMBDA {
        F tap[Kernel];
        unroll<Kernel>([&](auto k) GRAPHOPT_INLINE_LAMBDA { tap[k] = Simd::load(w + (k * Group + part) * 16); });
        unroll<(kColumns - 1) * Stride + Kernel>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
          const F x = at(p, j, part);
          unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
            constexpr int k = j - t * Stride;
            if constexpr (k >= 0 && k < Kernel) acc[t] = Simd::fma(x, tap[k], acc[t]);
          });
        });
      });
    } else {
      for (int64_t k = 0; k < l.kernel; ++k) {
        unroll<Group>([&](auto part) GRAPHOPT_INLINE_LAMBDA {
          const F tap = Simd::load(w);
          w += 16;
          unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
            acc[t] = Simd::fma(at(p, t * stride + k * l.dilation, part), tap, acc[t]);
          });
        });
      }
    }
  }
  const F bias = l.bias == nullptr ? Simd::zero() : load(l.bias + channel);
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
    if constexpr (Checked) {
      Simd::store_n(l.y + offset, x, lanes);
    } else {
      Simd::store(l.y + offset, x);
    }
  });
}

template <int Group, int Kernel, int Stride>
void depthwise_channels(const DepthwiseLine& l) {
  const int64_t reach = (kColumns - 1) * l.stride + l.dilation * (l.kernel - 1);  // last input of a tile
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += Simd::kLanes) {
    const int64_t lanes = l.channel_end - channel;
    const float* weights = l.weights + channel / 16 * l.panel + channel % 16;
    for (int64_t column = 0; column < l.columns; column += kColumns) {
      const int64_t first = column * l.stride - l.begin;
      const bool inside = first >= 0 && first + reach < l.columns_in && column + kColumns <= l.columns;
      if (inside && lanes >= Simd::kLanes) {
        depthwise_tile<Group, Kernel, Stride, false>(l, column, channel, lanes, weights);
      } else {
        depthwise_tile<Group, Kernel, Stride, true>(l, column, channel, lanes, weights);
      }
    }
  }
}

// The sizes that networks use most have tiles of their own, where those are worth their code.
constexpr bool kSpecialised = Simd::kLanes > 4;

void depthwise_line(const DepthwiseLine& l) {
  const int64_t kernel = kSpecialised && l.dilation == 1 ? l.kernel : 0;
  switch (l.group_size) {
    case 1:
      if constexpr (kSpecialised) {
        if (kernel == 3 && l.stride == 1) return depthwise_channels<1, 3, 1>(l);
        if (kernel == 3 && l.stride == 2) return depthwise_channels<1, 3, 2>(l);
        if (kernel == 5 && l.stride == 1) return depthwise_channels<1, 5, 1>(l);
        if (kernel == 5 && l.stride == 2) return depthwise_channels<1, 5, 2>(l);
        if (kernel == 7 && l.stride == 1) return depthwise_channels<1, 7, 1>(l);
      }
      return depthwise_channels<1, 0, 0>(l);
    case 2:
      return depthwise_channels<2, 0, 0>(l);
    case 4:
      if constexpr (kSpecialised) {
        if (kernel == 3 && l.stride == 1) return depthwise_channels<4, 3, 1>(l);
      }
      return depthwise_channels<4, 0, 0>(l);
    default:
      return depthwise_channels<8, 0, 0>(l);
  }
}

}  // namespace
}  // namespace graphopt
