// What the instruction sets without kernels of their own share: plain loops, that the compiler makes vectors
// of. Everything has internal linkage.
#pragma once

#include "kernels/int8/tile.h"

namespace graphopt::int8 {
namespace {

// To the nearest integer, ties to even, for |x| < 2^22.
inline float rounded(float x) { return (x + 12582912.0F) - 12582912.0F; }
// A NaN becomes the lower bound.
inline float clamp(float x, float low, float high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}

inline float byte_at(const void* p, DType type, int64_t at) {
  return type == DType::kU8 ? static_cast<float>(static_cast<const uint8_t*>(p)[at])
                            : static_cast<float>(static_cast<const int8_t*>(p)[at]);
}

inline uint8_t byte_of(const Finish& f, float x) {
  const float whole = rounded(clamp(x, f.low, f.high)) + f.zero;
  const auto byte = static_cast<uint8_t>(static_cast<int32_t>(whole));
  return f.table == nullptr ? byte : f.table[byte];
}

inline float with_residual(const Finish& f, float x, const void* residual, int64_t at) {
  if (f.mid_scale > 0) x = rounded(clamp(x, f.mid_low, f.mid_high)) * f.mid_scale;
  const float other = (byte_at(residual, f.residual, at) - f.residual_zero) * f.residual_scale;
  return (x + other) / f.out_scale;
}

// A NaN stays one.
inline float bounded(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

inline float float_of(const Finish& f, float x, const float* residual, int64_t at) {
  if (residual == nullptr) return bounded(x, f.low, f.high);
  return f.residual_after ? bounded(x, f.low, f.high) + residual[at] : bounded(x + residual[at], f.low, f.high);
}

void finish(const Finish& f, const FinishTile& t) {
  const bool floats = f.out == DType::kF32;
  const bool common =
      !floats && f.table == nullptr && t.residual == nullptr && t.offset == nullptr && t.row_sums == nullptr;
  for (int64_t r = 0; r < t.rows; ++r) {
    const int32_t* sums = t.sums + r * t.sums_step;
    const int64_t at = t.c_rows[r];
    auto* bytes = static_cast<uint8_t*>(t.c) + (floats ? 0 : at);
    if (common) {
      for (int64_t j = 0; j < t.columns; ++j) {
        const float x = static_cast<float>(sums[j]) * t.scale[j];
        bytes[j] = static_cast<uint8_t>(static_cast<int32_t>(rounded(clamp(x, f.low, f.high)) + f.zero));
      }
      continue;
    }
    for (int64_t j = 0; j < t.columns; ++j) {
      uint32_t sum = static_cast<uint32_t>(sums[j]);  // wraps around
      if (t.row_sums != nullptr) sum += static_cast<uint32_t>(t.row_sums[r]) * static_cast<uint32_t>(t.row_factors[j]);
      const auto number = static_cast<float>(static_cast<int32_t>(sum));
      float x = t.offset == nullptr ? number * t.scale[j] : __builtin_fmaf(number, t.scale[j], t.offset[j]);
      if (floats) {
        static_cast<float*>(t.c)[at + j] = float_of(f, x, static_cast<const float*>(t.residual), at + j);
      } else {
        if (t.residual != nullptr) x = with_residual(f, x, t.residual, at + j);
        bytes[j] = byte_of(f, x);
      }
    }
  }
}

void quantize(const Finish& f, const QuantizeTile& t) {
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* in = t.in + r * t.in_step;
    uint8_t* to = static_cast<uint8_t*>(t.c) + t.c_rows[r];
    for (int64_t j = 0; j < t.columns; ++j) to[j] = byte_of(f, in[j] / f.out_scale);
  }
}

void row_sums(const uint8_t* const* rows, int64_t n, int64_t count, bool flip, int32_t* out) {
  const uint8_t sign = flip ? 0x80 : 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t* row = rows[i];
    int32_t sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += static_cast<int32_t>(static_cast<uint8_t>(row[k] ^ sign));
    out[i] += sum;
  }
}

void depthwise(const Finish& f, const DepthwiseLine& l) {
  constexpr int64_t kBlock = 64;
  const uint8_t sign = l.flip ? 0x80 : 0;
  const auto pad = static_cast<int32_t>(static_cast<uint8_t>(l.zero ^ sign));
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += kBlock) {
    const int64_t count = l.channel_end - channel < kBlock ? l.channel_end - channel : kBlock;
    const int8_t* weights = l.weights + channel / kBlock * (l.line_groups * l.kernel * 256);
    for (int64_t column = 0; column < l.columns; ++column) {
      int32_t sums[kBlock];
      for (int64_t c = 0; c < count; ++c) sums[c] = l.start == nullptr ? 0 : l.start[channel + c];
      for (int64_t line = 0; line < l.line_groups * 4; ++line) {
        for (int64_t k = 0; k < l.kernel; ++k) {
          const int64_t position = column * l.stride - l.begin + k * l.dilation;
          const bool inside = position >= 0 && position < l.columns_in;
          const uint8_t* x = inside ? l.lines[line] + position * l.channels + channel : nullptr;
          const int8_t* w = weights + (line / 4 * l.kernel + k) * 256 + line % 4;
          for (int64_t c = 0; c < count; ++c) {
            const int8_t weight = w[c % 16 / 4 * 64 + c / 16 * 16 + c % 4 * 4];
            const int32_t value = inside ? static_cast<int32_t>(static_cast<uint8_t>(x[c] ^ sign)) : pad;
            sums[c] += value * static_cast<int32_t>(weight);
          }
        }
      }
      const int64_t at = column * l.channels + channel;
      finish(f, position_tile(l, sums, channel, kBlock, &at));
    }
  }
}

// The columns' first sums, as many as `panels` panels hold.
inline void start_columns(const Tile& t, int panels, int32_t* start) {
  for (int j = 0; j < panels * kPanel; ++j) start[j] = t.start != nullptr && j < t.columns ? t.start[j] : 0;
}

}  // namespace
}  // namespace graphopt::int8
