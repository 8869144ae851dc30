"""Elementary functions on f64 vectors, to some 1e-15, without a math library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen.tir import Emitter, Val, constant, intrinsic, select

__all__ = ["FUNCTIONS", "PIO2", "ROUND", "TWO_OVER_PI", "narrowed", "power"]

TWO_OVER_PI = 2 / math.pi
ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it leaves the nearest integer in the low bits
# pi/2 in three parts; the first two have 33 bits, so that products with small integers are exact.
PIO2 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_LOG2E = 1.4426950408889634
_LN2_HI = 6.93147180369123816490e-01
_LN2_LO = 1.90821492927058770002e-10
_EXP = tuple(1 / math.factorial(k) for k in range(2, 14))
_LOG = tuple(2.0 / k for k in range(3, 23, 2))
_SIN = tuple((-1) ** (k + 1) / math.factorial(2 * k + 3) for k in range(8))
_COS = tuple((-1) ** k / math.factorial(2 * k + 4) for k in range(7))
_TAN_PIO8 = math.sqrt(2) - 1
_ATAN = (-0.3333333333333333, 0.1999999999999552, -0.14285714284666542, 0.11111111015256361,
         -0.09090904578123903, 0.07692183190826087, -0.06664511447381948, 0.0585814891280221,
         -0.0508544973794026, 0.03923165829558719, -0.01917688711906226)  # fmt: skip
_ERF = (1.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792,
        0.0052239776248180145, -0.000854832698083379, 0.0001205533111164271,
        -1.4925595266831182e-05, 1.6461000484121368e-06, -1.6350312701054695e-07,
        1.4659775274047436e-08, -1.1372848856791674e-09, 5.957176147748911e-11)  # fmt: skip
# erfc(x) * exp(x*x) * (1 + x) for x in [1, 6], in the variable (x - 2) / (x + 2).
_ERFCX = (0.7661870289315172, -0.2599748369998522, 0.03781389831358851, 0.04253634950885492,
          -0.02524355429384884, -0.0005182766715534865, 0.003937755312012104,
          0.00014468096557335598, -0.0007066291581171549, -0.00013998971105702538,
          0.00011694600261519386, 6.172779528962287e-05, -7.73367961473504e-06,
          -1.7500405938546305e-05, -4.901017696824955e-06, 2.3918454164493075e-06,
          2.597286618069596e-06, 5.272177075862042e-07, -9.040152405699551e-07)  # fmt: skip


def _polynomial(x: Val, coefficients: Sequence[float]) -> Val:
    result = constant(coefficients[-1], x.type, x.lanes)
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def _clamp(e: Emitter, x: Val, low: float, high: float) -> Val:
    x = e.let(x)
    x = e.let(select(x > high, high, x))
    return select(x < low, low, x)


def narrowed(x: Val) -> Val:
    """An f64 value as f32; fenced, or LLVM might skip this rounding on the way to f16."""
    return intrinsic("arithmetic.fence", x.cast("float32"))


def _abs(x: Val) -> Val:
    return intrinsic("fabs", x)


def _sqrt(x: Val) -> Val:
    return intrinsic("sqrt", x)


def _copysign(x: Val, sign: Val) -> Val:
    return intrinsic("copysign", x, sign)


def _reduce_exp(e: Emitter, x: Val) -> tuple[Val, Val]:
    shifted = e.let(x * _LOG2E + ROUND)
    n = e.let(shifted - ROUND)
    k = e.let((shifted.bitcast("int64") << 13) >> 13)
    r = e.let((x - n * _LN2_HI) - n * _LN2_LO)
    return r, k


def exp(e: Emitter, x: Val) -> Val:
    """e**x."""
    x = e.let(_clamp(e, x, -746.0, 710.0))
    r, k = _reduce_exp(e, x)
    p = _polynomial(r, _EXP) * (r * r) + r + 1.0
    half = e.let(k >> 1)
    first = ((half + 1023) << 52).bitcast("float64")
    second = (((k - half) + 1023) << 52).bitcast("float64")
    return p * first * second


def expm1(e: Emitter, x: Val) -> Val:
    """e**x - 1, accurate near 0."""
    x = e.let(_clamp(e, x, -746.0, 710.0))
    r, k = _reduce_exp(e, x)
    p = e.let(_polynomial(r, _EXP) * (r * r) + r)
    half = ((k + 1022) << 52).bitcast("float64")
    half = e.let(select(k < -1020, 0.0, half))
    return (half * p + (half - 0.5)) * 2.0


def log(e: Emitter, x: Val) -> Val:
    """The natural logarithm."""
    x = e.let(x)
    tiny = e.let(x < 2.2250738585072014e-308)
    bits = e.let(select(tiny, x * 4503599627370496.0, x).bitcast("int64"))
    # Exponent of the number's multiple in [sqrt(1/2), sqrt(2)).
    k = e.let((bits - 0x3FE6A09E667F3BCD) >> 52)
    f = e.let((bits - (k << 52)).bitcast("float64") - 1.0)
    n = e.let(k.cast("float64") - select(tiny, constant(52.0, "float64"), 0.0))
    s = e.let(f / (f + 2.0))
    z = e.let(s * s)
    half = e.let(f * f * 0.5)
    tail = s * (half + _polynomial(z, _LOG) * z) + n * _LN2_LO
    result = n * _LN2_HI - ((half - tail) - f)
    result = select(x.eq(math.inf), math.inf, result)
    result = select(x.eq(0.0), -math.inf, result)
    return select(x >= 0.0, result, math.nan)


def log1p(e: Emitter, x: Val) -> Val:
    """log(1 + x), accurate near 0."""
    x = e.let(x)
    u = e.let(x + 1.0)
    corrected = log(e, u) + (x - (u - 1.0)) / u
    corrected = select(u.eq(math.inf), math.inf, select(u.eq(0.0), -math.inf, corrected))
    return select(u.eq(1.0), x, corrected)


def tanh(e: Emitter, x: Val) -> Val:
    """The hyperbolic tangent."""
    x = e.let(x)
    t = e.let(expm1(e, _clamp(e, x, -20.0, 20.0) * 2.0))
    # Not t / (t + 2) beyond 20, where it is 1 already.
    return t / (t + 2.0)


def erf(e: Emitter, x: Val) -> Val:
    """The error function."""
    x = e.let(x)
    t = e.let(_clamp(e, _abs(x), 0.0, 6.0))
    z = e.let(t * t)
    small = t * _polynomial(z, _ERF)
    u = e.let((t - 2.0) / (t + 2.0))
    tail = exp(e, z * -1.0) * _polynomial(u, _ERFCX) / (t + 1.0)
    return _copysign(select(t < 1.0, small, 1.0 - tail), x)


def _sin_cos(e: Emitter, x: Val) -> tuple[Val, Val, Val]:
    x = e.let(x)
    shifted = e.let(x * TWO_OVER_PI + ROUND)
    n = e.let(shifted - ROUND)
    r = ((x - n * PIO2[0]) - n * PIO2[1]) - n * PIO2[2]
    # Arguments so large that no digit of the remainder is known still give a sine.
    r = e.let(_clamp(e, r, -math.pi / 4, math.pi / 4))
    z = e.let(r * r)
    sine = e.let(_polynomial(z, _SIN) * (z * r) + r)
    cosine = e.let((_polynomial(z, _COS) * z - 0.5) * z + 1.0)
    return sine, cosine, e.let(shifted.bitcast("int64"))


def _turned(sine: Val, cosine: Val, k: Val) -> Val:
    value = select((k & 1).ne(0), cosine, sine)
    return (value.bitcast("int64") ^ ((k & 2) << 62)).bitcast("float64")


def sin(e: Emitter, x: Val) -> Val:
    """The sine."""
    return _turned(*_sin_cos(e, x))


def cos(e: Emitter, x: Val) -> Val:
    """The cosine."""
    sine, cosine, k = _sin_cos(e, x)
    return _turned(sine, cosine, e.let(k + 1))


def tan(e: Emitter, x: Val) -> Val:
    """The tangent."""
    sine, cosine, k = _sin_cos(e, x)
    odd = e.let((k & 1).ne(0))
    return select(odd, cosine * -1.0, sine) / select(odd, sine, cosine)


def atan(e: Emitter, x: Val) -> Val:
    """The arc tangent."""
    x = e.let(x)
    t = e.let(_abs(x))
    large = e.let(t > 1.0)
    t = e.let(select(large, 1.0 / t, t))
    shifted = e.let(t > _TAN_PIO8)
    t = e.let(select(shifted, (t - 1.0) / (t + 1.0), t))
    z = e.let(t * t)
    angle = _polynomial(z, _ATAN) * (z * t) + t
    angle = e.let(angle + select(shifted, constant(math.pi / 4, "float64"), 0.0))
    return _copysign(select(large, math.pi / 2 - angle, angle), x)


def asin(e: Emitter, x: Val) -> Val:
    """The arc sine."""
    x = e.let(x)
    return atan(e, x / _sqrt((1.0 - x) * (x + 1.0)))


def acos(e: Emitter, x: Val) -> Val:
    """The arc cosine."""
    x = e.let(x)
    return atan(e, _sqrt(1.0 - x) / _sqrt(x + 1.0)) * 2.0


def sinh(e: Emitter, x: Val) -> Val:
    """The hyperbolic sine."""
    x = e.let(x)
    t = e.let(_abs(x))
    m = e.let(expm1(e, t))
    small = (m + m / (m + 1.0)) * 0.5
    # exp(t) / 2 overflows later than exp(t).
    half = e.let(exp(e, t * 0.5))
    return _copysign(select(t > 40.0, (half * 0.5) * half, small), x)


def cosh(e: Emitter, x: Val) -> Val:
    """The hyperbolic cosine."""
    half = e.let(exp(e, e.let(_abs(x)) * 0.5))
    whole = half * half
    return (half * 0.5) * half + 0.5 / whole


def asinh(e: Emitter, x: Val) -> Val:
    """The inverse hyperbolic sine."""
    x = e.let(x)
    t = e.let(_abs(x))
    z = e.let(t * t)
    near = log1p(e, t + z / (_sqrt(z + 1.0) + 1.0))
    far = log(e, t) + math.log(2)
    return _copysign(select(t > 1e8, far, near), x)


def acosh(e: Emitter, x: Val) -> Val:
    """The inverse hyperbolic cosine."""
    x = e.let(x)
    t = e.let(x - 1.0)
    near = log1p(e, t + _sqrt(t * (x + 1.0)))
    result = select(x > 1e8, log(e, x) + math.log(2), near)
    return select(x < 1.0, math.nan, result)


def atanh(e: Emitter, x: Val) -> Val:
    """The inverse hyperbolic tangent."""
    x = e.let(x)
    t = e.let(_abs(x))
    return _copysign(log1p(e, (t + t) / (1.0 - t)) * 0.5, x)


def _log_parts(e: Emitter, x: Val) -> tuple[Val, Val]:
    """log(x) for a positive x as a sum of two numbers, to some 1e-19."""
    bits = e.let(x.bitcast("int64"))
    k = e.let((bits - 0x3FE6A09E667F3BCD) >> 52)
    m = e.let((bits - (k << 52)).bitcast("float64"))
    n = e.let(k.cast("float64"))
    f = e.let(m - 1.0)
    d = e.let(m + 1.0)
    d_low = 1.0 - (d - m)
    s = e.let(f / d)
    # f - s*d, with s and d split in halves so that products are exact.
    s_high = e.let((s.bitcast("int64") & -0x8000000).bitcast("float64"))
    d_high = e.let((d.bitcast("int64") & -0x8000000).bitcast("float64"))
    rest = (f - s_high * d_high) - s_high * ((d - d_high) + d_low) - (s - s_high) * d
    s_low = e.let(rest / d)
    z = e.let(s * s)
    tail = _polynomial(z, _LOG) * (z * s) + s_low * 2.0 + n * _LN2_LO
    head = e.let(n * _LN2_HI)
    double = e.let(s * 2.0)
    high = e.let(head + double)
    # What head + double lost: head is 0 or the larger.
    lost = select(n.eq(0.0), constant(0.0, "float64"), (head - high) + double)
    return high, e.let(lost + tail)


def power(e: Emitter, x: Val, y: Val) -> Val:
    """x**y by the rules of C's pow."""
    x, y = e.let(x), e.let(y)
    t = e.let(_abs(x))
    tiny = e.let(t < 2.2250738585072014e-308)
    scaled = e.let(select(tiny, t * 4503599627370496.0, t))
    high, low = _log_parts(e, scaled)
    shift = select(tiny, constant(52.0, "float64"), 0.0)
    low = e.let(low - shift * _LN2_LO)
    high = e.let(high - shift * _LN2_HI)
    # y * (high + low), the head of the product exact.
    y_high = e.let((y.bitcast("int64") & -0x8000000).bitcast("float64"))
    h_high = e.let((high.bitcast("int64") & -0x8000000).bitcast("float64"))
    head = e.let(y_high * h_high)
    rest = y_high * (high - h_high) + (y - y_high) * high + y * low
    total = e.let(head + rest)
    error = (head - total) + rest
    bounded = e.let(_clamp(e, total, -746.0, 710.0))
    result = exp(e, bounded)
    error = select(total.eq(bounded), error, constant(0.0, "float64"))
    result = e.let(result + result * error)
    result = e.let(select(total >= 710.0, math.inf, result))
    return _power_cases(e, x, y, t, result)


def _power_cases(e: Emitter, x: Val, y: Val, t: Val, result: Val) -> Val:
    floor = intrinsic("floor", y)
    whole = e.let(floor.eq(y))
    halves = e.let(y * 0.5)
    odd = whole & intrinsic("floor", halves).ne(halves)
    result = select(t.eq(0.0), select(y < 0.0, math.inf, constant(0.0, "float64")), result)
    infinite = select(y < 0.0, constant(0.0, "float64"), math.inf)
    result = select(t.eq(math.inf), infinite, result)
    above = e.let(t > 1.0)
    up = y.eq(math.inf)
    grows = (up & above) | (y.eq(-math.inf) & (t < 1.0))
    extreme = select(grows, math.inf, constant(0.0, "float64"))
    result = select(_abs(y).eq(math.inf), select(t.eq(1.0), 1.0, extreme), result)
    negative = e.let(x.bitcast("int64") < 0)
    result = e.let(result)
    result = select(negative & odd, result * -1.0, result)
    finite = _abs(x) < math.inf
    result = select((x < 0.0) & whole.negate() & finite, math.nan, result)
    result = select(x.ne(x) | y.ne(y), math.nan, result)
    return select(y.eq(0.0) | x.eq(1.0), 1.0, result)


FUNCTIONS: dict[str, Callable[[Emitter, Val], Val]] = {
    "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "tanh": tanh, "erf": erf, "sin": sin,
    "cos": cos, "tan": tan, "asin": asin, "acos": acos, "atan": atan, "sinh": sinh, "cosh": cosh,
    "asinh": asinh, "acosh": acosh, "atanh": atanh,
}  # fmt: skip
