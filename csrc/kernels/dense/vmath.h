// Elementary functions on vectors, for the activations and softmax. Included after one simd_*.h.
//
// The polynomials are near-minimax fits made for this file; every function stays within 1e-6 of the
// exact value relatively (erf: absolutely), gives NaN for NaN and the limit for an infinity.
#pragma once

#include <cstdint>

namespace graphopt {
namespace {

struct VMath : Simd {
  // p[0] + p[1] x + ...
  template <int N>
  static F poly(F x, const float (&p)[N]) {
    F sum = set1(p[N - 1]);
    for (int i = N - 2; i >= 0; --i) sum = fma(sum, x, set1(p[i]));
    return sum;
  }

  // x = n ln 2 + r with |r| <= ln(2) / 2, clamped to where exp(x) is 0 or infinity but n is small.
  struct Reduced {
    F n;
    F r;
  };
  static Reduced reduce(F x) {
    x = max(set1(-104.0F), min(set1(89.0F), x));
    const F n = round(mul(x, set1(1.44269504F)));
    F r = fma(n, set1(-0.693145751953125F), x);
    r = fma(n, set1(-1.42860677e-6F), r);
    return {n, r};
  }
  // e^r - 1
  static F exp_near_zero(F r) {
    const F tail = poly(r, {4.999923e-01F, 1.6667114e-01F, 4.1890223e-02F, 8.312543e-03F});
    return fma(mul(r, r), tail, r);
  }

  static F exp(F x) {
    const Reduced v = reduce(x);
    return scale(add(exp_near_zero(v.r), set1(1.0F)), v.n);
  }
  // e^x - 1, accurate near 0; for x <= 0
  static F expm1_negative(F x) {
    const Reduced v = reduce(x);
    const F power = scale(set1(1.0F), v.n);
    return fma(power, exp_near_zero(v.r), sub(power, set1(1.0F)));
  }

  static F sigmoid(F x) {
    const F e = exp(sub(zero(), abs(x)));
    const F numerator = select(lt(x, zero()), e, set1(1.0F));
    return div(numerator, add(set1(1.0F), e));
  }

  static F tanh(F x) {
    const F a = abs(x);
    const F s = mul(x, x);
    const F near =
        fma(mul(x, s), poly(s, {-3.3333284e-01F, 1.3331515e-01F, -5.3745143e-02F, 2.0655219e-02F, -5.72163e-03F}), x);
    const F e = exp(mul(a, set1(2.0F)));
    const F far = sub(set1(1.0F), div(set1(2.0F), add(e, set1(1.0F))));
    return select(lt(a, set1(0.625F)), near, copysign(far, x));
  }

  static F erf(F x) {
    const F a = abs(x);
    const F s = mul(x, x);
    const F near = mul(x, poly(s, {1.1283791e+00F, -3.7612626e-01F, 1.12836e-01F, -2.6854444e-02F, 5.189535e-03F,
                                   -8.020841e-04F, 7.889119e-05F}));
    const F t = min(set1(4.0F), a);
    const F log_erfc = poly(t, {1.8804023e-04F, -1.1295785e+00F, -6.332199e-01F, -1.0841858e-01F, 2.5208257e-02F,
                                -4.204562e-03F, 4.4133636e-04F, -2.168685e-05F});
    const F far = sub(set1(1.0F), exp(log_erfc));
    return select(lt(a, set1(1.0F)), near, copysign(far, x));
  }

  // log(1 + e) for e in [0, 1], as 2 atanh(e / (2 + e))
  static F log1p_unit(F e) {
    const F z = div(e, add(e, set1(2.0F)));
    const F s = mul(z, z);
    const F tail = poly(s, {3.3333337e-01F, 1.9999465e-01F, 1.4307806e-01F, 1.0720093e-01F, 1.21287405e-01F});
    return mul(set1(2.0F), fma(mul(z, s), tail, z));
  }
  static F softplus(F x) {
    const F e = exp(sub(zero(), abs(x)));
    return add(max(zero(), x), log1p_unit(e));
  }

  static F gelu(F x) {
    const F half = mul(x, set1(0.5F));
    return fma(half, erf(mul(x, set1(0.70710678F))), half);
  }
  // To 7e-5 absolutely, by one polynomial for erf(x / sqrt(2)) / x: a third of the work.
  static F gelu_rough(F x) {
    const F half = mul(x, set1(0.5F));
    const F near = max(set1(-4.2F), min(set1(4.2F), x));
    const F ratio =
        poly(mul(near, near), {7.97814846e-01F, -1.32720739e-01F, 1.96602605e-02F, -2.22829566e-03F, 1.89148748e-04F,
                               -1.15215325e-05F, 4.68734441e-07F, -1.12666223e-08F, 1.1996118e-10F});
    return fma(half, mul(near, ratio), half);
  }
  // 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
  static F gelu_tanh(F x) {
    const F cube = mul(mul(x, x), x);
    const F u = fma(cube, set1(0.0713548162726F), mul(x, set1(1.5957691216F)));
    return mul(x, sigmoid(u));
  }
  // x tanh(log(1 + e)), e = exp(x): tanh is (e^2 + 2 e) / (e^2 + 2 e + 2)
  static F mish(F x) {
    const F e = exp(min(set1(30.0F), x));
    const F t = fma(e, e, add(e, e));
    return mul(x, div(t, add(t, set1(2.0F))));
  }
};

}  // namespace
}  // namespace graphopt
