"""Pointwise ops as scalar expressions: one small function an op, named as ONNX names it.

``POINTWISE[name](b, x, attrs)`` gets the operands as expressions of their machine types (absent
ones None) and the node's attributes (schema defaults filled in) and returns the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from graphopt.codegen.expr import (
    BITS,
    Expr,
    ExprBuilder,
    Refusal,
    is_float,
    is_int,
    is_signed,
    literal,
)

__all__ = ["POINTWISE", "erf_gelu", "expm1_branch"]

Operands = Sequence[Expr]
Attrs = Callable[[str], Any]
Emit = Callable[[ExprBuilder, Operands, Attrs], Expr]

POINTWISE: dict[str, Emit] = {}


def _op(*names: str) -> Callable[[Emit], Emit]:
    def add(function: Emit) -> Emit:
        for name in names:
            POINTWISE[name] = function
        return function

    return add


def _floats(name: str, x: Operands) -> None:
    for operand in x:
        if operand is not None and not is_float(operand.type):
            raise Refusal(f"{name} of {operand.type} is not generated")


def _numbers(name: str, x: Operands) -> None:
    for operand in x:
        if operand is not None and not (is_float(operand.type) or is_int(operand.type)):
            raise Refusal(f"{name} of {operand.type} is not generated")


# ---- arithmetic ----


def _arithmetic(name: str, op: str) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        _numbers(name, x)
        return b.binary(op, x[0], x[1])

    POINTWISE[name] = emit


_arithmetic("Add", "add")
_arithmetic("Sub", "sub")
_arithmetic("Mul", "mul")


@_op("Div")
def _div(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Div", x)
    return b.binary("div" if is_float(x[0].type) else "idiv", x[0], x[1])


@_op("Mod")
def _mod(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Mod", x)
    a, n = x
    if is_float(a.type):
        rest = b.binary("fmod", a, n)
        if attr("fmod"):
            return rest
        other = b.binary("ne", rest, 0)
        differ = b.binary("ne", b.binary("lt", rest, 0), b.binary("lt", n, 0))
        return b.select(b.binary("and", other, differ), rest + n, rest)
    rest = b.binary("irem", a, n)
    if attr("fmod") or not is_signed(a.type):
        return rest
    other = b.binary("ne", rest, 0)
    differ = b.binary("lt", b.binary("bitxor", rest, n), 0)
    return b.select(b.binary("and", other, differ), rest + n, rest)


def _fold(name: str, function: Callable[[ExprBuilder, Expr, Expr], Expr]) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        _numbers(name, x)
        return reduce(lambda u, v: function(b, u, v), x)

    POINTWISE[name] = emit


_fold("Sum", lambda b, u, v: u + v)
_fold("Max", lambda b, u, v: b.max(u, v))
_fold("Min", lambda b, u, v: b.min(u, v))


@_op("Mean")
def _mean(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _floats("Mean", x)
    total = reduce(lambda u, v: u + v, x)
    return total if len(x) == 1 else total / float(len(x))


def _unary(name: str, op: str, types: Callable[[str, Operands], None]) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        types(name, x)
        return b.unary(op, x[0])

    POINTWISE[name] = emit


_unary("Neg", "neg", _numbers)
for _name in (
    "Sqrt", "Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh",
    "Tanh", "Asinh", "Acosh", "Atanh",
):  # fmt: skip
    _unary(_name, _name.lower(), _floats)


def _round_op(name: str, op: str) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        _numbers(name, x)
        return b.unary(op, x[0]) if is_float(x[0].type) else x[0]

    POINTWISE[name] = emit


_round_op("Floor", "floor")
_round_op("Ceil", "ceil")
_round_op("Round", "rint")


@_op("Abs")
def _abs(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Abs", x)
    if is_float(x[0].type):
        return b.unary("abs", x[0])
    return b.select(b.binary("lt", x[0], 0), -x[0], x[0]) if is_signed(x[0].type) else x[0]


@_op("Sign")
def _sign(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Sign", x)
    value = x[0]
    below = b.const(-1, value.type) if is_signed(value.type) or is_float(value.type) else value
    result = b.select(b.binary("gt", value, 0), b.const(1, value.type), value)
    # 0 and NaN stand for themselves.
    return b.select(b.binary("lt", value, 0), below, result)


@_op("Reciprocal")
def _reciprocal(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _floats("Reciprocal", x)
    return 1.0 / x[0]


@_op("Pow")
def _pow(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Pow", x)
    base, exponent = x
    if exponent.op == "const" and is_float(base.type):
        power = literal(exponent)
        if power == 0.5:
            # Not sqrt at -inf, where pow gives +inf.
            return b.select(b.binary("eq", base, -math.inf), math.inf, b.unary("sqrt", base))
        if power == int(power if math.isfinite(power) else 0) and 0 <= abs(power) <= 4:
            return _whole_power(b, base, int(power))
    if is_float(base.type):
        return b.binary("pow", base, b.convert(exponent, base.type))
    if is_float(exponent.type):
        wide = b.binary("pow", b.convert(base, "float64"), b.convert(exponent, "float64"))
        # A whole power is a whole number: one last bit short of it would be cut to the one below.
        whole = b.unary("rint", wide)
        close = b.binary("le", b.unary("abs", wide - whole), b.unary("abs", wide) * 2.0**-48)
        return b.convert(b.select(close, whole, wide), base.type)
    result = b.binary("ipow", b.convert(base, "int64"), b.convert(exponent, "int64"))
    return b.convert(result, base.type)


def _whole_power(b: ExprBuilder, base: Expr, power: int) -> Expr:
    if power == 0:
        return b.const(1.0, base.type)
    square = base * base
    result = (base, square, square * base, square * square)[abs(power) - 1]
    return result if power > 0 else 1.0 / result


@_op("Clip")
def _clip(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Clip", [operand for operand in x if operand is not None])
    result = x[0]
    if len(x) > 1 and x[1] is not None:
        result = b.max(result, x[1])
    if len(x) > 2 and x[2] is not None:
        result = b.min(result, x[2])
    return result


# ---- comparison, logic, bits ----


def _comparison(name: str, op: str) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        if x[0].type == "bool":
            if op not in ("eq", "ne"):
                raise Refusal(f"{name} of bool is not generated")
            differ = b.node("xor", "bool", x)
            return differ if op == "ne" else b.unary("not", differ)
        _numbers(name, x)
        return b.binary(op, x[0], x[1])

    POINTWISE[name] = emit


for _name, _code in (
    ("Equal", "eq"),
    ("Less", "lt"),
    ("LessOrEqual", "le"),
    ("Greater", "gt"),
    ("GreaterOrEqual", "ge"),
):
    _comparison(_name, _code)


def _logical(name: str, op: str) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        if any(operand.type != "bool" for operand in x):
            raise Refusal(f"{name} takes bool")
        return b.node(op, "bool", x)

    POINTWISE[name] = emit


for _name in ("And", "Or", "Xor", "Not"):
    _logical(_name, _name.lower())


def _bitwise(name: str, op: str) -> None:
    def emit(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
        if any(not is_int(operand.type) for operand in x):
            raise Refusal(f"{name} takes integers")
        return b.node(op, x[0].type, x)

    POINTWISE[name] = emit


for _name, _code in (
    ("BitwiseAnd", "bitand"),
    ("BitwiseOr", "bitor"),
    ("BitwiseXor", "bitxor"),
    ("BitwiseNot", "bitnot"),
):
    _bitwise(_name, _code)


@_op("BitShift")
def _shift(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    if any(not is_int(operand.type) for operand in x):
        raise Refusal("BitShift takes integers")
    value, amount = x
    bits = BITS[value.type]
    inside = b.binary("lt", amount, bits)
    if is_signed(value.type):
        inside = b.binary("and", inside, b.binary("ge", amount, 0))
    safe = b.select(inside, amount, 0)
    if attr("direction") == "LEFT":
        return b.select(inside, b.binary("shl", value, safe), 0)
    fill: Expr = b.const(0, value.type)
    if is_signed(value.type):
        fill = b.select(b.binary("lt", value, 0), b.const(-1, value.type), fill)
    return b.select(inside, b.binary("shr", value, safe), fill)


@_op("IsNaN")
def _isnan(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _floats("IsNaN", x)
    return b.binary("ne", x[0], x[0])


@_op("IsInf")
def _isinf(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _floats("IsInf", x)
    found = b.const(0, "bool")
    if attr("detect_positive"):
        found = b.binary("eq", x[0], math.inf)
    if attr("detect_negative"):
        low = b.binary("eq", x[0], -math.inf)
        found = low if found.op == "const" else b.binary("or", found, low)
    # A constant result still varies over the operand's shape.
    return found


@_op("Where")
def _where(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return b.select(x[0], x[1], x[2])


# ---- activations ----


def _activation(*names: str) -> Callable[[Emit], Emit]:
    def add(function: Emit) -> Emit:
        for name in names:

            def emit(
                b: ExprBuilder, x: Operands, attr: Attrs, name: str = name, f: Emit = function
            ) -> Expr:
                _floats(name, x)
                return f(b, x, attr)

            POINTWISE[name] = emit
        return function

    return add


@_op("Relu")
def _relu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("Relu", x)
    return b.max(x[0], 0) if is_float(x[0].type) or is_signed(x[0].type) else x[0]


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)): exp overflows to infinity where the result is 0."""
    return 1.0 / (x.b.unary("exp", -x) + 1.0)


def expm1_branch(x: Expr) -> Expr:
    """exp(min(x, 0)) - 1, exactly 0 for x >= 0."""
    return x.b.unary("expm1", x.b.min(x, 0.0))


@_activation("Sigmoid")
def _sigmoid(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return sigmoid(x[0])


@_activation("Swish")
def _swish(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    alpha = attr("alpha")
    return x[0] * sigmoid(x[0] if alpha == 1.0 else x[0] * alpha)


@_activation("SwiGLU")
def _swiglu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return _swish(b, x[:1], attr) * x[1]


@_activation("LeakyRelu")
def _leaky(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return b.select(b.binary("lt", x[0], 0.0), x[0] * attr("alpha"), x[0])


@_op("PRelu")
def _prelu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    _numbers("PRelu", x)
    return b.select(b.binary("lt", x[0], 0), x[0] * x[1], x[0])


@_activation("Elu")
def _elu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return b.select(b.binary("lt", x[0], 0.0), expm1_branch(x[0]) * attr("alpha"), x[0])


@_activation("Selu")
def _selu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    low = expm1_branch(x[0]) * attr("alpha")
    return b.select(b.binary("le", x[0], 0.0), low, x[0]) * float(attr("gamma"))


@_activation("Celu")
def _celu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    alpha = attr("alpha")
    low = b.min(b.unary("expm1", x[0] / alpha) * alpha, 0.0)
    return b.max(x[0], 0.0) + low


@_activation("ThresholdedRelu")
def _thresholded(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return b.select(b.binary("gt", x[0], attr("alpha")), x[0], 0.0)


def _hard(b: ExprBuilder, x: Expr, alpha: float, beta: float) -> Expr:
    return b.max(b.min(x * alpha + beta, 1.0), 0.0)


@_activation("HardSigmoid")
def _hard_sigmoid(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return _hard(b, x[0], attr("alpha"), attr("beta"))


@_activation("HardSwish")
def _hard_swish(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return x[0] * _hard(b, x[0], 1 / 6, 0.5)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)) without overflow, accurate for very negative x too."""
    b = x.b
    return b.max(x, 0.0) + b.unary("log1p", b.unary("exp", -b.unary("abs", x)))


@_activation("Softplus")
def _softplus(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return softplus(x[0])


@_activation("Mish")
def _mish(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return x[0] * b.unary("tanh", softplus(x[0]))


@_activation("Softsign")
def _softsign(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    return x[0] / (b.unary("abs", x[0]) + 1.0)


def erf_gelu(x: Expr) -> Expr:
    """x * (1 + erf(x / sqrt(2))) / 2."""
    return (x * 0.5) * (x.b.unary("erf", x * math.sqrt(0.5)) + 1.0)


@_activation("Gelu")
def _gelu(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    value = x[0]
    if attr("approximate") != "tanh":
        return erf_gelu(value)
    inner = (value + value * value * value * 0.044715) * math.sqrt(2 / math.pi)
    return (value * 0.5) * (b.unary("tanh", inner) + 1.0)


@_activation("Shrink")
def _shrink(b: ExprBuilder, x: Operands, attr: Attrs) -> Expr:
    lambd, bias = float(attr("lambd")), float(attr("bias"))
    high = b.select(b.binary("gt", x[0], lambd), x[0] - bias, 0.0)
    return b.select(b.binary("lt", x[0], -lambd), x[0] + bias, high)
