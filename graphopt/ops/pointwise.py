"""Pointwise arithmetic: ops of one and of two operands, of any number, and Clip."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from graphopt.ir.dim import Dim, dim_max, dim_min, is_nonnegative, product
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable, erf, precise
from graphopt.ops.infer import Contents, broadcast, broadcast_shapes, map_known
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, pointwise_cost

__all__ = ["POINTWISE", "unary"]

POINTWISE = frozenset({Trait.POINTWISE})
_COMMUTATIVE = frozenset({Trait.POINTWISE, Trait.COMMUTATIVE})
# Work of one element, in multiply-adds or the like; transcendental functions take some ten.
_CHEAP = 1
_COSTLY = 10


def unary(
    function: Callable[[Array], Array], *, exact: bool = False
) -> Callable[[EvalContext, Array], Array]:
    """Evaluation by ``function``: in f64 for floats, unless ``exact`` says that f32 is as good."""

    def evaluate(ctx: EvalContext, x: Array) -> Array:
        with np.errstate(all="ignore"):
            wide = computable(x) if exact else precise(x)
            return np.asarray(function(wide)).astype(x.dtype, copy=False)

    return evaluate


def _unary(
    name: str,
    function: Callable[[Array], Array],
    *,
    exact: bool = False,
    contents: Contents | None = None,
) -> None:
    def infer(ctx: InferContext) -> Type:
        if contents is not None:
            map_known(ctx, contents, (0,), ctx.dtype(0))
        return ctx.tensor(0)

    register(
        OpDef(
            name,
            inputs=("X",),
            infer=infer,
            evaluate=unary(function, exact=exact),
            traits=POINTWISE,
            cost=pointwise_cost(_CHEAP if exact else _COSTLY),
        )
    )


def _keep(a: Dim) -> Dim:
    return a


def _known_sign(a: Dim) -> Dim | None:
    if isinstance(a, int):
        return (a > 0) - (a < 0)
    return 1 if is_nonnegative(a - 1) else None


_unary("Abs", np.abs, exact=True, contents=lambda a: a if is_nonnegative(a) else None)
_unary("Neg", np.negative, exact=True)
_unary("Sign", np.sign, exact=True, contents=_known_sign)
# Known contents are integers: rounding leaves them.
_unary("Floor", np.floor, exact=True, contents=_keep)
_unary("Ceil", np.ceil, exact=True, contents=_keep)
_unary("Round", np.rint, exact=True, contents=_keep)
_unary("Sqrt", np.sqrt, exact=True)
_unary("Reciprocal", lambda x: 1 / x, exact=True)
_unary("Exp", np.exp)
_unary("Log", np.log)
_unary("Erf", erf)
_unary("Sin", np.sin)
_unary("Cos", np.cos)
_unary("Tan", np.tan)
_unary("Asin", np.arcsin)
_unary("Acos", np.arccos)
_unary("Atan", np.arctan)
_unary("Sinh", np.sinh)
_unary("Cosh", np.cosh)
_unary("Tanh", np.tanh)
_unary("Asinh", np.arcsinh)
_unary("Acosh", np.arccosh)
_unary("Atanh", np.arctanh)


# ---- two operands ----


def _binary(
    name: str,
    function: Callable[[Array, Array], Array],
    contents: Contents | None = None,
    commutes: bool = False,
) -> None:
    def evaluate(ctx: EvalContext, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(computable(a), computable(b))).astype(a.dtype, copy=False)

    register(
        OpDef(
            name,
            inputs=("A", "B"),
            outputs=("C",),
            infer=broadcast(contents=contents),
            evaluate=evaluate,
            traits=_COMMUTATIVE if commutes else POINTWISE,
            cost=pointwise_cost(_CHEAP),
        )
    )


def _known_product(a: Dim, b: Dim) -> Dim | None:
    # In a float tensor 0 * -1 would be a negative zero.
    return a * b if (is_nonnegative(a) and is_nonnegative(b)) or _nonzero(a, b) else None


def _nonzero(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a != 0 and b != 0


def _known_quotient(a: Dim, b: Dim) -> Dim | None:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else truncated_quotient(a, b)
    return a // b if is_nonnegative(a) and is_nonnegative(b) and b != 0 else None


def truncated_quotient(a: int, b: int) -> int:
    """``a / b`` rounded toward zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def divide(a: Array, b: Array) -> Array:
    """Division as ONNX defines it: of integers, it truncates toward zero."""
    if a.dtype.kind == "f":
        return np.true_divide(a, b)
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    inexact = quotient * b != a
    return np.where(inexact & ((a < 0) != (b < 0)) & (b != 0), quotient + 1, quotient)


_binary("Add", np.add, lambda a, b: a + b, commutes=True)
_binary("Sub", np.subtract, lambda a, b: a - b)
_binary("Mul", np.multiply, _known_product, commutes=True)


def _infer_div(ctx: InferContext) -> Type:
    # The quotient of whole numbers in a float tensor need not be whole.
    whole = ctx.dtype(0).is_integer
    return broadcast(contents=_known_quotient if whole else _exact_quotient)(ctx)


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    quotient = _known_quotient(a, b)
    if quotient is None or quotient * b != a:
        return None
    return quotient if is_nonnegative(a) and is_nonnegative(b) else None


def _evaluate_div(ctx: EvalContext, a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(divide(computable(a), computable(b))).astype(a.dtype, copy=False)


register(
    OpDef(
        "Div",
        inputs=("A", "B"),
        outputs=("C",),
        infer=_infer_div,
        evaluate=_evaluate_div,
        traits=POINTWISE,
        cost=pointwise_cost(_CHEAP),
    )
)


def _known_remainder(a: Dim, b: Dim) -> Dim | None:
    # Where both are sizes, floor and truncation agree.
    if not is_nonnegative(a) or not is_nonnegative(b) or b == 0:
        return None
    return a % b


def _evaluate_mod(ctx: EvalContext, a: Array, b: Array) -> Array:
    function = np.fmod if ctx.attr("fmod") else np.mod
    with np.errstate(all="ignore"):
        return np.asarray(function(computable(a), computable(b))).astype(a.dtype, copy=False)


register(
    OpDef(
        "Mod",
        inputs=("A", "B"),
        outputs=("C",),
        attrs=attr_specs(fmod=("i", 0)),
        infer=broadcast(contents=_known_remainder),
        evaluate=_evaluate_mod,
        traits=POINTWISE,
        cost=pointwise_cost(_CHEAP),
    )
)


def _infer_pow(ctx: InferContext) -> Type:
    # The exponent may be of another type; the result has the base's.
    shape = broadcast_shapes(ctx, [ctx.shape(0), ctx.shape(1)])
    map_known(ctx, _known_power, (0, 1), ctx.dtype(0))
    return TensorType(ctx.dtype(0), shape)


def _known_power(a: Dim, b: Dim) -> Dim | None:
    if not isinstance(b, int) or not 0 <= b <= 8:
        return None
    return product([a] * b)


def _evaluate_pow(ctx: EvalContext, x: Array, y: Array) -> Array:
    base, exponent = computable(x), computable(y)
    with np.errstate(all="ignore"):
        if base.dtype.kind == "f" or exponent.dtype.kind == "f" or (exponent < 0).any():
            result = np.power(precise(base), precise(exponent))
        else:
            result = np.power(base.astype(np.int64), exponent.astype(np.int64))
        return np.asarray(result).astype(x.dtype)


register(
    OpDef(
        "Pow",
        inputs=("X", "Y"),
        outputs=("Z",),
        infer=_infer_pow,
        evaluate=_evaluate_pow,
        traits=POINTWISE,
        cost=pointwise_cost(_COSTLY),
    )
)


# ---- any number of operands ----


def _variadic(
    name: str,
    function: Callable[[Array, Array], Array],
    contents: Callable[[Dim, Dim], Dim | None] | None = None,
    mean: bool = False,
) -> None:
    def evaluate(ctx: EvalContext, *operands: Array) -> Array:
        with np.errstate(all="ignore"):
            result = reduce(function, [computable(x) for x in operands])
            if mean:
                result = result / np.asarray(len(operands), dtype=result.dtype)
            return np.asarray(result).astype(operands[0].dtype)

    def fold(*dims: Dim) -> Dim | None:
        result: Dim | None = dims[0]
        for dim in dims[1:]:
            if result is None or contents is None:
                return None
            result = contents(result, dim)
        return result

    register(
        OpDef(
            name,
            inputs=("data_0*",),
            outputs=(name.lower(),),
            infer=broadcast(contents=fold if contents is not None else None),
            evaluate=evaluate,
            traits=_COMMUTATIVE,
            cost=pointwise_cost(_CHEAP, per_operand=True),
        )
    )


_variadic("Sum", np.add, lambda a, b: a + b)
_variadic("Mean", np.add, mean=True)
_variadic("Max", np.maximum, dim_max)
_variadic("Min", np.minimum, dim_min)


# ---- Clip ----


def _infer_clip(ctx: InferContext) -> Type:
    for index in (1, 2):
        if ctx.has(index) and ctx.dtype(index) != ctx.dtype(0):
            ctx.fail(f"a bound is {ctx.type(index)}, the data {ctx.type(0)}")
    bounds = [i for i in (1, 2) if ctx.has(i)]

    def clip(value: Dim, *limits: Dim) -> Dim:
        for index, limit in zip(bounds, limits, strict=True):
            value = dim_max(value, limit) if index == 1 else dim_min(value, limit)
        return value

    if all(ctx.rank(i) == 0 for i in bounds):
        map_known(ctx, clip, (0, *bounds), ctx.dtype(0))
    return ctx.tensor(0)


def _evaluate_clip(
    ctx: EvalContext, x: Array, low: Array | None = None, high: Array | None = None
) -> Array:
    # Min(max, Max(x, min)): where the bounds cross, the upper one wins.
    result = computable(x)
    if low is not None:
        result = np.maximum(result, computable(low).reshape(()))
    if high is not None:
        result = np.minimum(result, computable(high).reshape(()))
    return np.asarray(result).astype(x.dtype)


register(
    OpDef(
        "Clip",
        inputs=("input", "min?", "max?"),
        outputs=("output",),
        infer=_infer_clip,
        evaluate=_evaluate_clip,
        traits=POINTWISE,
        cost=pointwise_cost(_CHEAP),
    )
)
