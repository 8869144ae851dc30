// The bodies behind kernels.h, compiled once a level. Included by the kernels_<isa>.cpp files only.
#include "kernels/resample/kernels.h"
#include "kernels/support/simd.h"

namespace graphopt::resample {
namespace {

void combine(const float* const* rows, const float* weight, int64_t count, int64_t length, float* out) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= length; i += Vec::kLanes) {
    Vec sum = mul(splat(weight[0]), load(rows[0] + i));
    for (int64_t r = 1; r < count; ++r) sum = fma(splat(weight[r]), load(rows[r] + i), sum);
    store(out + i, sum);
  }
  for (; i < length; ++i) {
    float sum = weight[0] * rows[0][i];
    for (int64_t r = 1; r < count; ++r) sum += weight[r] * rows[r][i];
    out[i] = sum;
  }
}

void interpolate_single(const float* row, const RowTaps& taps, float* out) {
  int64_t x = 0;
  for (; x + Vec::kLanes <= taps.out; x += Vec::kLanes) {
    Vec sum = mul(load(taps.weight + x), gather(row, taps.index + x));
    for (int64_t t = 1; t < taps.taps; ++t) {
      const int64_t at = t * taps.out + x;
      sum = fma(load(taps.weight + at), gather(row, taps.index + at), sum);
    }
    store(out + x, sum);
  }
  for (; x < taps.out; ++x) {
    float sum = 0.0F;
    for (int64_t t = 0; t < taps.taps; ++t) sum += taps.weight[t * taps.out + x] * row[taps.index[t * taps.out + x]];
    out[x] = sum;
  }
}

void interpolate(const float* row, const RowTaps& taps, float* out) {
  if (taps.inner == 1) {
    interpolate_single(row, taps, out);
    return;
  }
  for (int64_t x = 0; x < taps.out; ++x) {
    float* to = out + x * taps.inner;
    int64_t c = 0;
    for (; c + Vec::kLanes <= taps.inner; c += Vec::kLanes) {
      Vec sum = splat(0.0F);
      for (int64_t t = 0; t < taps.taps; ++t) {
        const int64_t at = t * taps.out + x;
        sum = fma(splat(taps.weight[at]), load(row + taps.index[at] * taps.inner + c), sum);
      }
      store(to + c, sum);
    }
    for (; c < taps.inner; ++c) {
      float sum = 0.0F;
      for (int64_t t = 0; t < taps.taps; ++t) {
        const int64_t at = t * taps.out + x;
        sum += taps.weight[at] * row[taps.index[at] * taps.inner + c];
      }
      to[c] = sum;
    }
  }
}

}  // namespace
}  // namespace graphopt::resample

#define GRAPHOPT_RESAMPLE_TABLE(table)          \
  namespace graphopt::resample {                \
  const Kernels table = {combine, interpolate}; \
  }
