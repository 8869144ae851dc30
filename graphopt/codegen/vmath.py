"""Elementary functions on f32 vectors, without a math library.

Polynomials and rationals are minimax fits (relative error below 2**-25 before rounding); reductions
are Cody and Waite's. Conventions: infinities, zeros and NaN behave as in IEEE 754; results below
the smallest normal number are exact to their last place only where that is free. Functions that are
rare in networks are computed in f64 by :mod:`graphopt.codegen.vmath64` and rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen import vmath64
from graphopt.codegen.tir import (
    Emitter,
    Val,
    concat,
    constant,
    intrinsic,
    raw_intrinsic,
    select,
    shuffle,
)

__all__ = ["FUNCTIONS"]

_LOG2E = 1.4426950408889634
_LN2_HI = 0.693359375  # 9 bits: products with an exponent are exact
_LN2_LO = -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
_EXP = (0.4999999403953552, 0.1666651964187622, 0.04166839271783829, 0.00836878176778555,
        0.0013814459089189768)  # fmt: skip
_LOG = (0.3333333134651184, -0.250008225440979, 0.20001226663589478, -0.16623352468013763,
        0.14201773703098297, -0.13160239160060883, 0.12761491537094116,
        -0.07634241133928299)  # fmt: skip
_ERF_P = (1.1283791065216064, 0.1904003918170929, 0.052747711539268494, 0.0037652943283319473,
          0.0002848649164661765, 2.0499985566857504e-06)  # fmt: skip
_ERF_Q = (1.0, 0.5020707249641418, 0.11410640925168991, 0.014968587085604668,
          0.0011624371400102973, 3.808986002695747e-05)  # fmt: skip
_TANH_P = (1.0, 0.13379743695259094, 0.0034940640907734632, 2.0583900550263934e-05,
           1.3319535696609819e-08)  # fmt: skip
_TANH_Q = (1.0, 0.4671306014060974, 0.025871189311146736, 0.00032831382122822106,
           7.762233735775226e-07)  # fmt: skip
_SIN = (-0.16666655242443085, 0.008332173340022564, -0.00019516650354489684)
_COS = (0.04166664555668831, -0.001388736185617745, 2.4437720639980398e-05)


def polynomial(x: Val, coefficients: Sequence[float]) -> Val:
    """``c[0] + c[1]*x + ...`` by Horner's rule."""
    result = constant(coefficients[-1], x.type, x.lanes)
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def clamp(e: Emitter, x: Val, low: float, high: float) -> Val:
    """``x`` forced into [low, high]; NaN stays."""
    x = e.let(x)
    x = e.let(select(x > high, high, x))
    return select(x < low, low, x)


def exp(e: Emitter, x: Val) -> Val:
    """e**x."""
    # Beyond these bounds the result is infinite or zero all the same.
    x = e.let(clamp(e, x, -104.0, 89.0))
    if e.isa.masks and x.lanes % 16 == 0:
        n = e.let(intrinsic("nearbyint", x * _LOG2E))
        return _scale(e, _exp_reduced(e, x, n), n)
    shifted = e.let(x * _LOG2E + _ROUND)
    n = e.let(shifted - _ROUND)
    k = e.let((shifted.bitcast("int32") << 10) >> 10)
    # 2**k may not be representable where the result is: it takes two steps.
    half = e.let(k >> 1)
    first = ((half + 127) << 23).bitcast("float32")
    second = (((k - half) + 127) << 23).bitcast("float32")
    return _exp_reduced(e, x, n) * first * second


def _exp_reduced(e: Emitter, x: Val, n: Val) -> Val:
    r = e.let((x - n * _LN2_HI) - n * _LN2_LO)
    return polynomial(r, _EXP) * (r * r) + r + 1.0


def _scale(e: Emitter, x: Val, n: Val) -> Val:
    """``x * 2**n`` by the AVX-512 instruction, 16 lanes at a time."""
    x = e.let(x)
    parts = []
    for start in range(0, x.lanes, 16):
        a, b = (v if v.lanes == 16 else shuffle([v], range(start, start + 16)) for v in (x, n))
        mask = constant(-1, "int16")
        # 4: round as the control register says.
        parts.append(
            raw_intrinsic("x86.avx512.mask.scalef.ps.512", "float32", 16, a, b, a, mask, 4)
        )
    return concat(parts)


def expm1(e: Emitter, x: Val) -> Val:
    """e**x - 1, accurate near 0."""
    x = e.let(clamp(e, x, -104.0, 89.0))
    shifted = e.let(x * _LOG2E + _ROUND)
    n = e.let(shifted - _ROUND)
    k = e.let((shifted.bitcast("int32") << 10) >> 10)
    r = e.let((x - n * _LN2_HI) - n * _LN2_LO)
    p = e.let(polynomial(r, _EXP) * (r * r) + r)
    # 2**k * (1 + p) - 1, in halves so that k = 128 does not overflow.
    half = e.let(((k + 126) << 23).bitcast("float32"))
    half = e.let(select(k < -125, 0.0, half))
    return (half * p + (half - 0.5)) * 2.0


def log(e: Emitter, x: Val) -> Val:
    """The natural logarithm."""
    x = e.let(x)
    tiny = e.let(x < 1.1754943508222875e-38)
    normal = select(tiny, x * 8388608.0, x)
    bits = e.let(normal.bitcast("int32"))
    # Exponent of the number's multiple in [sqrt(1/2), sqrt(2)).
    k = e.let((bits - 0x3F3504F3) >> 23)
    f = e.let((bits - (k << 23)).bitcast("float32") - 1.0)
    n = e.let(k.cast("float32") - select(tiny, constant(23.0, "float32"), 0.0))
    z = e.let(f * f)
    tail = polynomial(f, _LOG) * (z * f) + n * _LN2_LO - z * 0.5
    result = (f + tail) + n * _LN2_HI
    result = select(x.eq(math.inf), math.inf, result)
    result = select(x.eq(0.0), -math.inf, result)
    # NaN and negative numbers give NaN.
    return select(x >= 0.0, result, math.nan)


def log1p(e: Emitter, x: Val) -> Val:
    """log(1 + x), accurate near 0."""
    x = e.let(x)
    u = e.let(x + 1.0)
    lost = x - (u - 1.0)
    corrected = log(e, u) + lost / u
    # What is lost is lost at infinity and at -1 too, where it means nothing.
    corrected = select(u.eq(math.inf), math.inf, select(u.eq(0.0), -math.inf, corrected))
    return select(u.eq(1.0), x, corrected)


def tanh(e: Emitter, x: Val) -> Val:
    """The hyperbolic tangent."""
    return clamp(e, e.let(_rational(e, x, 9.02, _TANH_P, _TANH_Q)), -1.0, 1.0)


def erf(e: Emitter, x: Val) -> Val:
    """The error function."""
    return clamp(e, e.let(_rational(e, x, 3.92, _ERF_P, _ERF_Q)), -1.0, 1.0)


def _rational(e: Emitter, x: Val, bound: float, p: Sequence[float], q: Sequence[float]) -> Val:
    x = e.let(clamp(e, x, -bound, bound))
    z = e.let(x * x)
    return (x * polynomial(z, p)) / polynomial(z, q)


def _quadrant(e: Emitter, x: Val) -> tuple[Val, Val]:
    """``x`` less the nearest multiple of pi/2, and that multiple's number."""
    # In f64 two parts of pi/2 are exact enough for any f32 that has a meaningful sine.
    wide = e.let(x.cast("float64"))
    shifted = e.let(wide * vmath64.TWO_OVER_PI + vmath64.ROUND)
    n = e.let(shifted - vmath64.ROUND)
    r = (wide - n * vmath64.PIO2[0]) - n * vmath64.PIO2[1]
    k = shifted.bitcast("int64").cast("int32")
    # Arguments so large that no digit of the remainder is known still give a sine.
    return e.let(clamp(e, r.cast("float32"), -math.pi / 4, math.pi / 4)), e.let(k)


def _sin_cos(e: Emitter, x: Val) -> tuple[Val, Val, Val]:
    r, k = _quadrant(e, x)
    z = e.let(r * r)
    sine = e.let(polynomial(z, _SIN) * (z * r) + r)
    cosine = e.let((polynomial(z, _COS) * z - 0.5) * z + 1.0)
    return sine, cosine, k


def _turned(sine: Val, cosine: Val, k: Val) -> Val:
    odd = (k & 1).ne(0)
    value = select(odd, cosine, sine)
    return (value.bitcast("int32") ^ ((k & 2) << 30)).bitcast("float32")


def sin(e: Emitter, x: Val) -> Val:
    """The sine."""
    return _turned(*_sin_cos(e, x))


def cos(e: Emitter, x: Val) -> Val:
    """The cosine."""
    sine, cosine, k = _sin_cos(e, x)
    return _turned(sine, cosine, e.let(k + 1))


def _wide(name: str) -> Callable[[Emitter, Val], Val]:
    def function(e: Emitter, x: Val) -> Val:
        return vmath64.narrowed(vmath64.FUNCTIONS[name](e, x.cast("float64")))

    return function


FUNCTIONS: dict[str, Callable[[Emitter, Val], Val]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "erf": erf,
    "sin": sin,
    "cos": cos,
    **{
        name: _wide(name)
        for name in (
            "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
        )
    },
}  # fmt: skip
