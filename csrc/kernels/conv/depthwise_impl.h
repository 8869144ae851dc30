// The depthwise micro-kernel, written once. Included after one simd_*.h.
#pragma once

#include <cstdint>

#include "kernels/conv/depthwise.h"
#include "kernels/dense/unroll.h"

namespace graphopt {
namespace {

constexpr int kColumns = 7;  // outputs of a tile: divides the widths of most image networks

// How inputs are stored: float, or bfloat16 as uint16_t.
template <class X>
[[gnu::always_inline]] inline Simd::F load_input(const X* p) {
  if constexpr (sizeof(X) == sizeof(float)) {
    return Simd::load(p);
  } else {
    return Simd::load_half(p);
  }
}
template <class X>
[[gnu::always_inline]] inline Simd::F load_input_n(const X* p, int64_t n) {
  if constexpr (sizeof(X) == sizeof(float)) {
    return Simd::load_n(p, n);
  } else {
    return Simd::load_half_n(p, n);
  }
}

// kColumns outputs of one vector of channels. Kernel and Stride 0: read at run time. Checked: inputs or
// outputs of the tile may lie outside the line. Masked: lanes may lie behind the channels.
template <class X, int Group, int Kernel, int Stride, bool Checked, bool Masked>
void depthwise_tile(const DepthwiseLines& l, int64_t line, int64_t column, int64_t channel, int64_t lanes,
                    const float* weights) {
  using F = Simd::F;
  const auto load = [lanes](const float* p)
                        GRAPHOPT_INLINE_LAMBDA { return Masked ? Simd::load_n(p, lanes) : Simd::load(p); };
  const int64_t stride = Stride > 0 ? Stride : l.stride;
  const int64_t first = column * stride - l.begin;
  const int64_t step = l.x_position;
  // The part-th input of each lane's group, at the offset-th position of the tile.
  const auto load_part = [&](const X* p, int64_t offset, auto part) GRAPHOPT_INLINE_LAMBDA {
    p += offset * step;
    if constexpr (Group > Simd::kLanes) {
      return Simd::set1(p[part - channel % Group]);
    } else {
      return Simd::spread<Group, part>(Masked ? load_input_n(p, lanes) : load_input(p));
    }
  };
  const auto inside = [&](int64_t offset) GRAPHOPT_INLINE_LAMBDA {
    return !Checked || (first + offset >= 0 && first + offset < l.columns_in);
  };
  // Which inputs of the tile lie in the line: tested once, not for every line and part.
  constexpr int kInputs = Kernel > 0 ? (kColumns - 1) * Stride + Kernel : 1;
  uint32_t present = 0;
  if (Checked && Kernel > 0) {
    for (int j = 0; j < kInputs; ++j) present |= static_cast<uint32_t>(inside(j)) << j;
  }
  F acc[kColumns];
  unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA { acc[t] = Simd::zero(); });
  for (int64_t i = l.line_begin[line]; i < l.line_begin[line + 1]; ++i) {
    const X* p = static_cast<const X*>(l.lines[i]) + channel + first * step;
    const float* w = weights + l.taps[i];
    if constexpr (Kernel > 0) {
      unroll<Group>([&](auto part) GRAPHOPT_INLINE_LAMBDA {
        F tap[Kernel];
        unroll<Kernel>([&](auto k) GRAPHOPT_INLINE_LAMBDA { tap[k] = Simd::load(w + (k * Group + part) * 16); });
        unroll<kInputs>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
          if (Checked && (present >> j & 1U) == 0) return;
          const F x = Simd::keep(load_part(p, j, part));
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
            const int64_t offset = t * stride + k * l.dilation;
            if (inside(offset)) acc[t] = Simd::fma(load_part(p, offset, part), tap, acc[t]);
          });
        });
      }
    }
  }
  const F bias = l.bias == nullptr ? Simd::zero() : load(l.bias + channel);
  const F low = Simd::set1(l.low);
  const F high = Simd::set1(l.high);
  const int64_t y_position = l.y_position;
  const int64_t offset = line * l.y_step + column * y_position + channel;
  const float* residual = l.residual == nullptr ? nullptr : l.residual + offset;
  const bool before = residual != nullptr && !l.residual_after;
  const bool after = residual != nullptr && l.residual_after;
  const int64_t columns = l.columns;
  unroll<kColumns>([&](auto t) GRAPHOPT_INLINE_LAMBDA {
    if (Checked && column + t >= columns) return;
    F x = Simd::add(acc[t], bias);
    if (before) x = Simd::add(x, load(residual + t * y_position));
    x = Simd::min(high, Simd::max(low, x));
    if (after) x = Simd::add(x, load(residual + t * y_position));
    if (l.y_half) {
      auto* y = static_cast<uint16_t*>(l.y) + offset + t * y_position;
      Masked ? Simd::store_half_n(y, x, lanes) : Simd::store_half(y, x);
    } else {
      float* y = static_cast<float*>(l.y) + offset + t * y_position;
      Masked ? Simd::store_n(y, x, lanes) : Simd::store(y, x);
    }
  });
}

template <class X, int Group, int Kernel, int Stride>
void depthwise_channels(const DepthwiseLines& l) {
  const int64_t reach = (kColumns - 1) * l.stride + l.dilation * (l.kernel - 1);  // last input of a tile
  constexpr int kMaskedKernel = Group == 1 ? Kernel : 0;
  constexpr int kMaskedStride = Group == 1 ? Stride : 0;
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += Simd::kLanes) {
    const int64_t lanes = l.channel_end - channel;
    const float* weights = l.weights + channel / 16 * l.panel + channel % 16;
    for (int64_t line = 0; line < l.count; ++line) {
      for (int64_t begin = 0; begin < l.columns; begin += kColumns) {
        // The last tile overlaps the one before it: some outputs twice cost less than a tile with checks.
        int64_t column = begin;
        if (begin + kColumns > l.columns && begin > 0) column = l.columns - kColumns;
        const int64_t first = column * l.stride - l.begin;
        const bool inside = first >= 0 && first + reach < l.columns_in && column + kColumns <= l.columns;
        if (lanes < Simd::kLanes) {
          depthwise_tile<X, Group, kMaskedKernel, kMaskedStride, true, true>(l, line, column, channel, lanes, weights);
        } else if (inside) {
          depthwise_tile<X, Group, Kernel, Stride, false, false>(l, line, column, channel, lanes, weights);
        } else {
          depthwise_tile<X, Group, Kernel, Stride, true, false>(l, line, column, channel, lanes, weights);
        }
      }
    }
  }
}

// The sizes that networks use most have tiles of their own, where those are worth their code.
constexpr bool kSpecialised = Simd::kLanes > 4;

template <class X>
void depthwise_single(const DepthwiseLines& l) {
  const int64_t kernel = kSpecialised && l.dilation == 1 ? l.kernel : 0;
  if constexpr (kSpecialised) {
    if (kernel == 3 && l.stride == 1) return depthwise_channels<X, 1, 3, 1>(l);
    if (kernel == 3 && l.stride == 2) return depthwise_channels<X, 1, 3, 2>(l);
    if (kernel == 5 && l.stride == 1) return depthwise_channels<X, 1, 5, 1>(l);
    if (kernel == 5 && l.stride == 2) return depthwise_channels<X, 1, 5, 2>(l);
    if (kernel == 7 && l.stride == 1) return depthwise_channels<X, 1, 7, 1>(l);
  }
  return depthwise_channels<X, 1, 0, 0>(l);
}

void depthwise_lines(const DepthwiseLines& l) {
  switch (l.group_size) {
    case 1:
      return depthwise_single<float>(l);
    case 2:
      return depthwise_channels<float, 2, 0, 0>(l);
    case 4:
      if constexpr (kSpecialised) {
        if (l.dilation == 1 && l.kernel == 3 && l.stride == 1) return depthwise_channels<float, 4, 3, 1>(l);
      }
      return depthwise_channels<float, 4, 0, 0>(l);
    default:
      return depthwise_channels<float, 8, 0, 0>(l);
  }
}

void depthwise_half_lines(const DepthwiseLines& l) { depthwise_single<uint16_t>(l); }

}  // namespace
}  // namespace graphopt
