// Products of 8-bit integers on AVX2. VPMADDUBSW would saturate: both operands become 16 bits wide, B once
// for all rows of a tile, and VPMADDWD adds pairs exactly. The two pairs of a group of four meet at the end.
#include <immintrin.h>

#include "kernels/dense/unroll.h"
#include "kernels/int8/plain_impl.h"

namespace graphopt::int8 {
namespace {

constexpr int kParts = 4;  // of a panel: four columns of two pairs each

// Pairs of neighbours added: columns 4 q .. 4 q + 3 of the q-th part, of two parts.
inline __m256i fold(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8); }

template <int Rows>
[[gnu::always_inline]] inline void panel(const Tile& t, int index, int panels) {
  __m256i acc[Rows][kParts];
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<kParts>([&](auto q) GRAPHOPT_INLINE_LAMBDA { acc[r][q] = _mm256_setzero_si256(); });
  });
  const int8_t* b = t.b + index * t.b_panel;
  const __m128i sign = _mm_set1_epi8(static_cast<char>(t.flip ? 0x80 : 0));
  const uint8_t* const* rows = t.a_rows;
  for (int64_t s = 0; s < t.segments; ++s, rows += kTableRows) {
    for (int64_t k = 0; k < t.groups * 4; k += 4, b += 4 * kPanel) {
      __m256i column[kParts];
      unroll<kParts>([&](auto q) GRAPHOPT_INLINE_LAMBDA {
        column[q] = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + q * 16)));
      });
      unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
        int word;
        __builtin_memcpy(&word, rows[r] + k, sizeof word);
        const __m128i bytes = _mm_xor_si128(_mm_set1_epi32(word), sign);
        const __m256i x = _mm256_cvtepu8_epi16(bytes);
        unroll<kParts>([&](auto q) GRAPHOPT_INLINE_LAMBDA {
          acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(x, column[q]));
        });
      });
    }
  }
  int32_t start[kPanel];
  Tile own = t;
  own.start = t.start == nullptr ? nullptr : t.start + index * kPanel;
  own.columns = t.columns - index * kPanel;
  start_columns(own, 1, start);
  unroll<Rows>([&](auto r) GRAPHOPT_INLINE_LAMBDA {
    unroll<2>([&](auto half) GRAPHOPT_INLINE_LAMBDA {
      const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(start + half * 8));
      const __m256i sums = _mm256_add_epi32(first, fold(acc[r][half * 2], acc[r][half * 2 + 1]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.sums + (r * panels + index) * kPanel + half * 8), sums);
    });
  });
}

template <int Rows, int Panels>
void tile(const Tile& t) {
  for (int p = 0; p < Panels; ++p) panel<Rows>(t, p, Panels);
}

}  // namespace
}  // namespace graphopt::int8

// The kernels come first.
#include "kernels/int8/make_kernels.h"

namespace graphopt::int8 {

extern const Kernels kernels_avx2;
constinit const Kernels kernels_avx2 = make_kernels<1, 2, 2, 2, 2>();

}  // namespace graphopt::int8
