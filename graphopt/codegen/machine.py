"""Machine code of scalar operations: from an expression's op to vector values."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.codegen import vmath, vmath64
from graphopt.codegen.expr import Expr, is_float, is_signed, literal
from graphopt.codegen.tir import Emitter, Val, constant, intrinsic, select, wrapping
from graphopt.ir import DType

__all__ = ["TRAPPING", "compute", "decode", "encode", "storage_type"]

# Undefined lanes of a masked vector must not reach these.
TRAPPING = frozenset({"idiv", "irem"})
_STORAGE = {DType.F16: "uint16", DType.BF16: "uint16", DType.BOOL: "uint8"}


def storage_type(dtype: DType, type: str) -> str:
    """The machine type of elements of ``dtype`` in memory; ``type`` is what they compute in."""
    if type.startswith("raw"):
        return f"uint{type[3:]}"
    return _STORAGE.get(dtype, type)


# ---- conversions between memory and registers ----


def decode(e: Emitter, stored: Val, dtype: DType) -> Val:
    """The value of an element as it stands in memory."""
    if dtype is DType.BOOL:
        return stored.ne(0)
    if dtype is DType.BF16:
        return (stored.cast("uint32") << 16).bitcast("float32")
    if dtype is DType.F16:
        if e.isa.f16:
            return stored.bitcast("float16").cast("float32")
        return _decode_f16(e, stored)
    return stored


def encode(e: Emitter, value: Val, dtype: DType) -> Val:
    """The element of memory for a value: narrow floats round to nearest, ties to even."""
    if dtype is DType.BOOL:
        return value.cast("uint8")
    if dtype is DType.BF16:
        return _encode_bf16(e, value)
    if dtype is DType.F16:
        if e.isa.f16:
            return value.cast("float16").bitcast("uint16")
        return _encode_f16(e, value)
    return value


def _encode_bf16(e: Emitter, value: Val) -> Val:
    bits = e.let(value.bitcast("int32"))
    rounded = bits + (((bits >> 16) & 1) + 0x7FFF)
    quiet = bits | 0x400000
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return (select(nan, quiet, rounded) >> 16).cast("uint16")


def _decode_f16(e: Emitter, stored: Val) -> Val:
    bits = e.let(stored.cast("int32"))
    sign = (bits & 0x8000) << 16
    # The product by a power of two moves the exponent and makes subnormals normal.
    shifted = e.let((bits & 0x7FFF) << 13)
    scaled = (shifted.bitcast("float32") * 2.0**112).bitcast("int32")
    special = select(shifted >= 0x0F800000, scaled | 0x7F800000, scaled)
    return (special | sign).bitcast("float32")


def _encode_f16(e: Emitter, value: Val) -> Val:
    bits = e.let(value.bitcast("int32"))
    sign = (bits >> 16) & 0x8000
    size = e.let(bits & 0x7FFFFFFF)
    # Adding 0.5 leaves a subnormal's bits, rounded, at the bottom of the mantissa.
    small = (size.bitcast("float32") + 0.5).bitcast("int32") - 0x3F000000
    normal = ((size + ((size >> 13) & 1)) + (0xFFF - (112 << 23))) >> 13
    special = select(size > 0x7F800000, constant(0x7E00, "int32"), constant(0x7C00, "int32"))
    result = select(size < 0x38800000, small, select(size >= 0x47800000, special, normal))
    return (result | sign).cast("uint16")


def convert(e: Emitter, x: Val, to: str) -> Val:
    """By value: floats to integers saturate and NaN gives 0; integers wrap."""
    if to == "bool":
        return x.ne(0)
    if is_float(x.type) and not is_float(to):
        name = "fptosi.sat" if is_signed(to) else "fptoui.sat"
        return intrinsic(name, x, type=to)
    return vmath64.narrowed(x) if (x.type, to) == ("float64", "float32") else x.cast(to)


# ---- arithmetic ----


def _extreme(largest: bool) -> Callable[[Emitter, Expr, list[Val]], Val]:
    def emit(e: Emitter, expr: Expr, x: list[Val]) -> Val:
        a, b = x
        if not is_float(a.type):
            return select(a > b if largest else a < b, a, b)
        for number, other in ((0, b), (1, a)):
            arg = expr.args[number]
            if arg.op == "const" and not math.isnan(literal(arg)):
                # False with a NaN: then the other operand, the NaN, stays.
                beaten = other < x[number] if largest else other > x[number]
                return select(beaten, x[number], other)
        a, b = e.let(a), e.let(b)
        # False with a NaN in b, which then wins; one in a is put back.
        winner = select(a > b if largest else a < b, a, b)
        return select(a.eq(a), winner, a)

    return emit


def nan_max(e: Emitter, a: Val, b: Val, largest: bool) -> Val:
    """The larger (or smaller) of two values; NaN when either is."""
    a, b = e.let(a), e.let(b)
    winner = select(a > b if largest else a < b, a, b)
    return select(a.eq(a), winner, a) if is_float(a.type) else winner


def _divide(e: Emitter, a: Val, b: Val) -> tuple[Val, Val]:
    """Truncated quotient, 0 for a divisor of 0, and the divisor made safe."""
    a, b = e.let(a), e.let(b)
    zero = e.let(b.eq(0))
    if not is_signed(a.type):
        safe = e.let(select(zero, constant(1, b.type), b))
        return select(zero, constant(0, a.type), a / safe), safe
    # The least number divided by -1 overflows, which traps.
    minus = e.let(b.eq(-1))
    safe = e.let(select(zero | minus, constant(1, b.type), b))
    negated = wrapping("sub", constant(0, a.type), a)
    quotient = select(minus, negated, a / safe)
    return select(zero, constant(0, a.type), quotient), safe


def _idiv(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    return _divide(e, x[0], x[1])[0]


def _irem(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    a, b = e.let(x[0]), e.let(x[1])
    quotient, _ = _divide(e, a, b)
    rest = wrapping("sub", a, wrapping("mul", quotient, b))
    return select(b.eq(0), constant(0, a.type), rest)


def _fmod(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    a, b = e.let(x[0].cast("float64")), e.let(x[1].cast("float64"))
    quotient = e.let(intrinsic("trunc", a / b))
    rest = e.let(a - quotient * b)
    size = e.let(intrinsic("fabs", b))
    # The rounded quotient may be one too large: then the rest has the other sign.
    crossed = (rest * a) < 0.0
    rest = select(crossed, rest + intrinsic("copysign", size, a), rest)
    rest = intrinsic("copysign", rest, a)
    finite = intrinsic("fabs", a) < math.inf
    return convert(e, select(size.eq(math.inf) & finite, a, rest), x[0].type)


def _pow(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    power = vmath64.power(e, x[0].cast("float64"), x[1].cast("float64"))
    return convert(e, power, x[0].type)


def _ipow(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    base, exponent = e.let(x[0]), e.let(x[1])
    result = constant(1, base.type)
    square = base
    for bit in range(8):
        used = ((exponent >> bit) & 1).ne(0)
        result = e.let(select(used, wrapping("mul", result, square), result))
        square = e.let(wrapping("mul", square, square))
    # A negative power is 0 but for 1 and -1, whose inverse is themselves.
    unit = base.eq(1) | base.eq(-1)
    return select((exponent < 0) & unit.negate(), constant(0, base.type), result)


def _neg(e: Emitter, expr: Expr, x: list[Val]) -> Val:
    if is_float(x[0].type):
        return x[0] * -1.0
    return wrapping("sub", constant(0, x[0].type), x[0])


Rule = Callable[[Emitter, Expr, list[Val]], Val]


def _wrapping(op: str) -> Rule:
    return lambda e, expr, x: wrapping(op, x[0], x[1])


def _intrinsic(name: str) -> Rule:
    return lambda e, expr, x: intrinsic(name, x[0])


def _shift(left: bool) -> Rule:
    return lambda e, expr, x: x[0] << x[1] if left else x[0] >> x[1]


def _function(name: str) -> Rule:
    def emit(e: Emitter, expr: Expr, x: list[Val]) -> Val:
        table = vmath.FUNCTIONS if x[0].type == "float32" else vmath64.FUNCTIONS
        return table[name](e, x[0])

    return emit


_RULES: dict[str, Rule] = {
    "add": _wrapping("add"),
    "sub": _wrapping("sub"),
    "mul": _wrapping("mul"),
    "div": lambda e, expr, x: x[0] / x[1],
    "idiv": _idiv,
    "irem": _irem,
    "fmod": _fmod,
    "pow": _pow,
    "ipow": _ipow,
    "neg": _neg,
    "max": _extreme(True),
    "min": _extreme(False),
    "abs": _intrinsic("fabs"),
    "sqrt": _intrinsic("sqrt"),
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "trunc": _intrinsic("trunc"),
    "rint": _intrinsic("nearbyint"),
    "lt": lambda e, expr, x: x[0] < x[1],
    "le": lambda e, expr, x: x[0] <= x[1],
    "gt": lambda e, expr, x: x[0] > x[1],
    "ge": lambda e, expr, x: x[0] >= x[1],
    "eq": lambda e, expr, x: x[0].eq(x[1]),
    "ne": lambda e, expr, x: x[0].ne(x[1]),
    "and": lambda e, expr, x: x[0] & x[1],
    "or": lambda e, expr, x: x[0] | x[1],
    "xor": lambda e, expr, x: x[0] ^ x[1],
    "not": lambda e, expr, x: x[0].negate(),
    "bitand": lambda e, expr, x: x[0] & x[1],
    "bitor": lambda e, expr, x: x[0] | x[1],
    "bitxor": lambda e, expr, x: x[0] ^ x[1],
    "bitnot": lambda e, expr, x: x[0].negate(),
    "shl": _shift(True),
    "shr": _shift(False),
    "select": lambda e, expr, x: select(x[0], x[1], x[2]),
    "convert": lambda e, expr, x: convert(e, x[0], expr.type),
    "bits": lambda e, expr, x: x[0].bitcast(expr.type),
    "round": lambda e, expr, x: decode(e, encode(e, x[0], DType(expr.attr)), DType(expr.attr)),
    **{name: _function(name) for name in vmath64.FUNCTIONS},
}


def compute(e: Emitter, expr: Expr, operands: list[Val]) -> Val:
    """The value of an arithmetic expression from those of its operands."""
    return _RULES[expr.op](e, expr, operands)
