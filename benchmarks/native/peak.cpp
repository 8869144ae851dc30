// The multiply-add rate of this machine: what the kernels' GFLOP/s are compared with.
#include "peak.h"

#include <chrono>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace graphopt::bench {
namespace {

#if defined(__AVX512F__)
using Vector = __m512;
constexpr int kLanes = 16;
inline Vector set(float x) { return _mm512_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
using Vector = __m256;
constexpr int kLanes = 8;
inline Vector set(float x) { return _mm256_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
typedef float Vector __attribute__((vector_size(16)));
constexpr int kLanes = 4;
inline Vector set(float x) { return Vector{x, x, x, x}; }
inline Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
#endif

}  // namespace

double fma_flops(int64_t steps) {
  Vector a0 = set(1), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0, a9 = a0;
  // Opaque, so that the compiler doesn't see ten times the same chain.
  asm volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4), "+x"(a5), "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9));
  Vector b = set(0.999F);
  Vector c = set(1e-9F);
  for (int64_t i = 0; i < steps; ++i) {
    a0 = fma(a0, b, c), a1 = fma(a1, b, c), a2 = fma(a2, b, c), a3 = fma(a3, b, c), a4 = fma(a4, b, c);
    a5 = fma(a5, b, c), a6 = fma(a6, b, c), a7 = fma(a7, b, c), a8 = fma(a8, b, c), a9 = fma(a9, b, c);
    asm volatile("" : "+x"(b), "+x"(c));
  }
  asm volatile("" ::"x"(a0), "x"(a1), "x"(a2), "x"(a3), "x"(a4), "x"(a5), "x"(a6), "x"(a7), "x"(a8), "x"(a9));
  return static_cast<double>(steps) * 10 * kLanes * 2;
}

}  // namespace graphopt::bench
