// Products of 8-bit integers by VPDPBUSD.
#include <immintrin.h>

#include "kernels/dense/unroll.h"
#include "kernels/int8/tile.h"

namespace graphopt::int8 {
namespace {

constexpr int kBlock = 64;  // channels that a depthwise step takes at a time

inline __mmask16 first16(int64_t lanes) {
  return static_cast<__mmask16>(lanes >= 16 ? 0xffffU : (1U << (lanes < 0 ? 0 : lanes)) - 1U);
}

inline __mmask64 first64(int64_t lanes) { return lanes >= 64 ? ~0ULL : (1ULL << (lanes < 0 ? 0 : lanes)) - 1ULL; }

inline __m512i broadcast4(const uint8_t* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

template <int Rows, int Panels, bool Flip>
[[gnu::always_inline]] inline void run(const Tile& t) {
  __m512i acc[Rows][Panels];
  unroll<Panels>([&](auto p) GRAPHOPT_INLINE_LAMBDA {
    const __m512i start = t.start == nullptr
                              ? _mm512_setzero_si512()
                              : _mm512_maskz_loadu_epi32(first16(t.columns - p * kPanel), t.start + p * kPanel);
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { acc[r][p] = start; });
  });
  const uint8_t* const* rows = t.a_rows;
  const int8_t* b = t.b;
  const int64_t panel = t.b_panel;
  const int64_t bytes = t.groups * 4;
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t s = 0; s < t.segments; ++s, rows += kTableRows) {
    const uint8_t* a[Rows];
    unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA { a[r] = rows[r]; });
    for (int64_t k = 0; k < bytes; k += 4) {
      __m512i column[Panels];
      unroll<Panels>([&](auto p) GRAPHOPT_INLINE_LAMBDA { column[p] = _mm512_loadu_si512(b + p * panel); });
      b += 4 * kPanel;
      unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
        __m512i x = broadcast4(a[r] + k);
        if constexpr (Flip) x = _mm512_xor_si512(x, sign);
        unroll<Panels>([&](auto p)
                           GRAPHOPT_INLINE_LAMBDA { acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, column[p]); });
      });
    }
  }
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<Panels>([&](auto p)
                       GRAPHOPT_INLINE_LAMBDA { _mm512_storeu_si512(t.sums + (r * Panels + p) * kPanel, acc[r][p]); });
  });
}

template <int Rows, int Panels>
void tile(const Tile& t) {
  if (t.flip) {
    run<Rows, Panels, true>(t);
  } else {
    run<Rows, Panels, false>(t);
  }
}

// ---- finishing ----

inline __m128i load_bytes(const void* p, int64_t at, __mmask16 lanes) {
  return _mm_maskz_loadu_epi8(lanes, static_cast<const uint8_t*>(p) + at);
}

inline __m512 widen(__m128i bytes, DType type) {
  return _mm512_cvtepi32_ps(type == DType::kU8 ? _mm512_cvtepu8_epi32(bytes) : _mm512_cvtepi8_epi32(bytes));
}

// RN(a / b) but for quotients that lie nearer than 2^-45 to the middle of two floats, which no byte sees.
inline __m512 quotient(__m512 a, __m512 b, __m512 inverse) {
  const __m512 q = _mm512_mul_ps(a, inverse);
  const __m512 rest = _mm512_fnmadd_ps(q, b, a);
  return _mm512_fmadd_ps(rest, inverse, q);
}

struct Constants {
  __m512 low, high, zero, mid_low, mid_high, mid_scale, residual_scale, residual_zero, out_scale, out_inverse;

  explicit Constants(const Finish& f)
      : low(_mm512_set1_ps(f.low)),
        high(_mm512_set1_ps(f.high)),
        zero(_mm512_set1_ps(f.zero)),
        mid_low(_mm512_set1_ps(f.mid_low)),
        mid_high(_mm512_set1_ps(f.mid_high)),
        mid_scale(_mm512_set1_ps(f.mid_scale)),
        residual_scale(_mm512_set1_ps(f.residual_scale)),
        residual_zero(_mm512_set1_ps(f.residual_zero)),
        out_scale(_mm512_set1_ps(f.out_scale)),
        out_inverse(_mm512_set1_ps(1.0F / f.out_scale)) {}
};

inline __m512 rounded(__m512 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// A NaN becomes the lower bound; or stays one.
inline __m512 clamp(__m512 x, __m512 low, __m512 high) { return _mm512_min_ps(_mm512_max_ps(x, low), high); }
inline __m512 bounded(__m512 x, __m512 low, __m512 high) { return _mm512_min_ps(high, _mm512_max_ps(low, x)); }

inline void store_bytes(const Finish& f, uint8_t* to, __m512i whole, __mmask16 lanes) {
  if (f.table == nullptr) {
    _mm512_mask_cvtepi32_storeu_epi8(to, lanes, whole);
    return;
  }
  uint8_t bytes[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(whole));
  for (int i = 0; i < 16; ++i) {
    if ((lanes >> i & 1U) != 0) to[i] = f.table[bytes[i]];
  }
}

// Sixteen sums to bytes.
inline void finish_bytes(const Finish& f, const Constants& c, __m512 x, const void* residual, uint8_t* to, int64_t at,
                         __mmask16 lanes) {
  if (residual != nullptr) {
    if (f.mid_scale > 0) x = _mm512_mul_ps(rounded(clamp(x, c.mid_low, c.mid_high)), c.mid_scale);
    const __m512 other = _mm512_sub_ps(widen(load_bytes(residual, at, lanes), f.residual), c.residual_zero);
    x = _mm512_add_ps(x, _mm512_mul_ps(other, c.residual_scale));
    x = quotient(x, c.out_scale, c.out_inverse);
  }
  // The bounds are whole: it is the same to round first.
  x = _mm512_add_ps(rounded(clamp(x, c.low, c.high)), c.zero);
  store_bytes(f, to + at, _mm512_cvtps_epi32(x), lanes);
}

inline void finish_floats(const Finish& f, const Constants& c, __m512 x, const void* residual, float* to, int64_t at,
                          __mmask16 lanes) {
  if (residual != nullptr) {
    const __m512 other = _mm512_maskz_loadu_ps(lanes, static_cast<const float*>(residual) + at);
    x = f.residual_after ? _mm512_add_ps(bounded(x, c.low, c.high), other)
                         : bounded(_mm512_add_ps(x, other), c.low, c.high);
  } else {
    x = bounded(x, c.low, c.high);
  }
  _mm512_mask_storeu_ps(to + at, lanes, x);
}

// Two rows of 32 columns, of the common form: bytes, whatever their bounds, and nothing else.
template <bool Signed>
void finish_pairs(const Finish& f, const FinishTile& t) {
  const __m512 scale0 = _mm512_loadu_ps(t.scale);
  const __m512 scale1 = _mm512_loadu_ps(t.scale + 16);
  const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(f.zero));
  const __m512i low = _mm512_set1_epi8(static_cast<char>(static_cast<int>(f.low + f.zero)));
  const __m512i high = _mm512_set1_epi8(static_cast<char>(static_cast<int>(f.high + f.zero)));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto whole = [](const int32_t* sums, __m512 scale) GRAPHOPT_INLINE_LAMBDA {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums)), scale));
  };
  auto* to = static_cast<uint8_t*>(t.c);
  for (int64_t r = 0; r < t.rows; r += 2) {
    const int32_t* one = t.sums + r * t.sums_step;
    const int64_t next = r + 1 < t.rows ? r + 1 : r;
    const int32_t* two = t.sums + next * t.sums_step;
    const __m512i a = _mm512_packs_epi32(whole(one, scale0), whole(one + 16, scale1));
    const __m512i b = _mm512_packs_epi32(whole(two, scale0), whole(two + 16, scale1));
    const __m512i a_zero = _mm512_adds_epi16(a, zero);
    const __m512i b_zero = _mm512_adds_epi16(b, zero);
    __m512i bytes = Signed ? _mm512_packs_epi16(a_zero, b_zero) : _mm512_packus_epi16(a_zero, b_zero);
    bytes = Signed ? _mm512_min_epi8(high, _mm512_max_epi8(low, bytes))
                   : _mm512_min_epu8(high, _mm512_max_epu8(low, bytes));
    bytes = _mm512_permutexvar_epi32(order, bytes);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + t.c_rows[r]), _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + t.c_rows[next]), _mm512_extracti64x4_epi64(bytes, 1));
  }
}

// Whether sums become bytes by their scale and bounds alone; `t` is a FinishTile or a DepthwiseLine.
template <class T>
bool is_common(const Finish& f, const T& t) {
  return f.out != DType::kF32 && !f.huge && f.table == nullptr && t.residual == nullptr && t.offset == nullptr;
}

void finish(const Finish& f, const FinishTile& t) {
  if (t.columns == 2 * kPanel && t.row_sums == nullptr && is_common(f, t)) {
    return f.out == DType::kU8 ? finish_pairs<false>(f, t) : finish_pairs<true>(f, t);
  }
  const Constants c(f);
  for (int64_t j = 0; j < t.columns; j += 16) {
    const __mmask16 lanes = first16(t.columns - j);
    const __m512 scale = _mm512_maskz_loadu_ps(lanes, t.scale + j);
    const __m512 offset = t.offset == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, t.offset + j);
    const __m512i factor =
        t.row_sums == nullptr ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi32(lanes, t.row_factors + j);
    for (int64_t r = 0; r < t.rows; ++r) {
      __m512i sum = _mm512_loadu_si512(t.sums + r * t.sums_step + j);
      if (t.row_sums != nullptr) {
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(factor, _mm512_set1_epi32(t.row_sums[r])));
      }
      const __m512 number = _mm512_cvtepi32_ps(sum);
      const __m512 x = t.offset == nullptr ? _mm512_mul_ps(number, scale) : _mm512_fmadd_ps(number, scale, offset);
      const int64_t at = t.c_rows[r] + j;
      if (f.out == DType::kF32) {
        finish_floats(f, c, x, t.residual, static_cast<float*>(t.c), at, lanes);
      } else {
        finish_bytes(f, c, x, t.residual, static_cast<uint8_t*>(t.c), at, lanes);
      }
    }
  }
}

void quantize(const Finish& f, const QuantizeTile& t) {
  const __m512 low = _mm512_set1_ps(f.low);
  const __m512 high = _mm512_set1_ps(f.high);
  const __m512 scale = _mm512_set1_ps(f.out_scale);
  const __m512 zero = _mm512_set1_ps(f.zero);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* in = t.in + r * t.in_step;
    uint8_t* to = static_cast<uint8_t*>(t.c) + t.c_rows[r];
    for (int64_t j = 0; j < t.columns; j += 16) {
      const __mmask16 lanes = first16(t.columns - j);
      const __m512 x = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, in + j), scale);
      const __m512 whole = _mm512_add_ps(rounded(clamp(x, low, high)), zero);
      store_bytes(f, to + j, _mm512_cvtps_epi32(whole), lanes);
    }
  }
}

void row_sums(const uint8_t* const* rows, int64_t n, int64_t count, bool flip, int32_t* out) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(flip ? 0x80 : 0));
  for (int64_t i = 0; i < n; ++i) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < count; k += 64) {
      const __mmask64 lanes = first64(count - k);
      const __m512i bytes = _mm512_maskz_loadu_epi8(lanes, rows[i] + k);
      sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_mov_epi8(lanes, _mm512_xor_si512(bytes, sign)), ones);
    }
    out[i] += _mm512_reduce_add_epi32(sum);
  }
}

// ---- depthwise ----

constexpr int kOutputs = 4;  // of a line, done together

struct Quads {
  __m512i part[4];
};

// Four lines of 64 channels at one position, a channel's four bytes side by side; part j has channels
// 16 L + 4 j .. 16 L + 4 j + 3.
inline Quads interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
  const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
  const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
  return {{_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
           _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)}};
}

// Numbers of 64 channels in their order, as the parts of Quads have them.
template <class T>
inline __m512i spread(const T* values, int part, int64_t lanes) {
  T some[16];
  for (int i = 0; i < 16; ++i) {
    const int channel = i / 4 * 16 + part * 4 + i % 4;
    some[i] = channel < lanes ? values[channel] : T{0};
  }
  return _mm512_loadu_si512(some);
}

// The common finish: 64 channels of one position to bytes.
template <bool Signed>
inline void store_position(const Finish& f, const __m512i (&acc)[4], const __m512 (&scale)[4], uint8_t* to,
                           __mmask64 lanes) {
  __m512i whole[4];
  for (int j = 0; j < 4; ++j) whole[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), scale[j]));
  const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(f.zero));
  const __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(whole[0], whole[1]), zero);
  const __m512i b = _mm512_adds_epi16(_mm512_packs_epi32(whole[2], whole[3]), zero);
  const __m512i low = _mm512_set1_epi8(static_cast<char>(static_cast<int>(f.low + f.zero)));
  const __m512i high = _mm512_set1_epi8(static_cast<char>(static_cast<int>(f.high + f.zero)));
  __m512i bytes = Signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
  bytes =
      Signed ? _mm512_min_epi8(high, _mm512_max_epi8(low, bytes)) : _mm512_min_epu8(high, _mm512_max_epu8(low, bytes));
  _mm512_mask_storeu_epi8(to, lanes, bytes);
}

// Any other finish, by way of memory.
void store_any(const Finish& f, const DepthwiseLine& l, const __m512i (&acc)[4], int64_t channel, int64_t column) {
  int32_t sums[kBlock];
  int32_t some[16];
  for (int j = 0; j < 4; ++j) {
    _mm512_storeu_si512(some, acc[j]);
    for (int i = 0; i < 16; ++i) sums[i / 4 * 16 + j * 4 + i % 4] = some[i];
  }
  const int64_t at = column * l.channels + channel;
  finish(f, position_tile(l, sums, channel, kBlock, &at));
}

template <int Kernel, int Stride>
void depthwise_block(const Finish& f, const DepthwiseLine& l, int64_t channel) {
  const int64_t lanes = l.channel_end - channel;
  const __mmask64 mask = first64(lanes);
  const int64_t kernel = Kernel > 0 ? Kernel : l.kernel;
  const int64_t stride = Stride > 0 ? Stride : l.stride;
  const int64_t dilation = Kernel > 0 ? 1 : l.dilation;
  const int8_t* weights = l.weights + channel / kBlock * (l.line_groups * kernel * 4 * 64);
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(l.flip ? 0x80 : 0));
  const __m512i pad = _mm512_xor_si512(_mm512_set1_epi8(static_cast<char>(l.zero)), sign);
  __m512i start[4];
  __m512 scale[4];
  for (int j = 0; j < 4; ++j) {
    start[j] = l.start == nullptr ? _mm512_setzero_si512() : spread(l.start + channel, j, lanes);
    scale[j] = _mm512_castsi512_ps(spread(l.scale + channel, j, lanes));
  }
  const bool common = is_common(f, l);
  const auto at = [&](const uint8_t* line, int64_t position) GRAPHOPT_INLINE_LAMBDA {
    return _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, line + position * l.channels + channel), sign);
  };
  for (int64_t column = 0; column < l.columns; column += kOutputs) {
    const int64_t outputs = l.columns - column < kOutputs ? l.columns - column : kOutputs;
    const int64_t first = column * stride - l.begin;
    __m512i acc[kOutputs][4];
    unroll<kOutputs>([&](auto o) GRAPHOPT_INLINE_LAMBDA {
      for (int j = 0; j < 4; ++j) acc[o][j] = start[j];
    });
    for (int64_t v = 0; v < l.line_groups; ++v) {
      const uint8_t* const* lines = l.lines + v * 4;
      const int8_t* w = weights + v * kernel * 256;
      const auto quads = [&](int64_t position) GRAPHOPT_INLINE_LAMBDA {
        if (position < 0 || position >= l.columns_in) return Quads{{pad, pad, pad, pad}};
        return interleave(at(lines[0], position), at(lines[1], position), at(lines[2], position),
                          at(lines[3], position));
      };
      if constexpr (Kernel > 0) {
        constexpr int kInputs = (kOutputs - 1) * Stride + Kernel;
        unroll<kInputs>([&](auto i) GRAPHOPT_INLINE_LAMBDA {
          const Quads x = quads(first + i);
          unroll<kOutputs>([&](auto o) GRAPHOPT_INLINE_LAMBDA {
            constexpr int k = i - o * Stride;
            if constexpr (k >= 0 && k < Kernel) {
              unroll<4>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
                acc[o][j] = _mm512_dpbusd_epi32(acc[o][j], x.part[j], _mm512_loadu_si512(w + (k * 4 + j) * 64));
              });
            }
          });
        });
      } else {
        for (int64_t k = 0; k < kernel; ++k) {
          unroll<kOutputs>([&](auto o) GRAPHOPT_INLINE_LAMBDA {
            const Quads x = quads(first + o * stride + k * dilation);
            unroll<4>([&](auto j) GRAPHOPT_INLINE_LAMBDA {
              acc[o][j] = _mm512_dpbusd_epi32(acc[o][j], x.part[j], _mm512_loadu_si512(w + (k * 4 + j) * 64));
            });
          });
        }
      }
    }
    unroll<kOutputs>([&](auto o) GRAPHOPT_INLINE_LAMBDA {
      if (o >= outputs) return;
      if (!common) {
        store_any(f, l, acc[o], channel, column + o);
        return;
      }
      uint8_t* to = static_cast<uint8_t*>(l.c) + (column + o) * l.channels + channel;
      if (f.out == DType::kU8) {
        store_position<false>(f, acc[o], scale, to, mask);
      } else {
        store_position<true>(f, acc[o], scale, to, mask);
      }
    });
  }
}

void depthwise(const Finish& f, const DepthwiseLine& l) {
  const bool dense = l.dilation == 1;
  for (int64_t channel = l.channel_begin; channel < l.channel_end; channel += kBlock) {
    if (dense && l.kernel == 3 && l.stride == 1) {
      depthwise_block<3, 1>(f, l, channel);
    } else if (dense && l.kernel == 3 && l.stride == 2) {
      depthwise_block<3, 2>(f, l, channel);
    } else if (dense && l.kernel == 5 && l.stride == 1) {
      depthwise_block<5, 1>(f, l, channel);
    } else if (dense && l.kernel == 5 && l.stride == 2) {
      depthwise_block<5, 2>(f, l, channel);
    } else {
      depthwise_block<0, 0>(f, l, channel);
    }
  }
}

}  // namespace
}  // namespace graphopt::int8

// The kernels come first.
#include "kernels/int8/make_kernels.h"

namespace graphopt::int8 {

extern const Kernels kernels_avx512_vnni;
constinit const Kernels kernels_avx512_vnni = make_kernels<2, 12, 12, 8, 6>();

}  // namespace graphopt::int8
