"""Comparisons, logic, bits, and Where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.dim import Dim, is_nonnegative
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable
from graphopt.ops.infer import (
    Contents,
    broadcast,
    broadcast_shapes,
    map_known,
    same_type,
    with_dtype,
)
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, pointwise_cost

__all__ = ["shift"]

_POINTWISE = frozenset({Trait.POINTWISE})
_COMMUTATIVE = frozenset({Trait.POINTWISE, Trait.COMMUTATIVE})
_COST = pointwise_cost(1)


def _known_less(a: Dim, b: Dim) -> Dim | None:
    if is_nonnegative(b - a - 1):
        return 1
    return 0 if is_nonnegative(a - b) else None


def _known_less_or_equal(a: Dim, b: Dim) -> Dim | None:
    if is_nonnegative(b - a):
        return 1
    return 0 if is_nonnegative(a - b - 1) else None


def _known_equal(a: Dim, b: Dim) -> Dim | None:
    if a == b:
        return 1
    difference = a - b
    if isinstance(difference, int):
        return 0
    apart = is_nonnegative(difference - 1) or is_nonnegative(-difference - 1)
    return 0 if apart else None


def _binary(
    name: str,
    function: Callable[[Array, Array], Array],
    contents: Contents | None,
    *,
    commutes: bool = False,
    dtype: DType | None = DType.BOOL,
) -> None:
    def evaluate(ctx: EvalContext, a: Array, b: Array) -> Array:
        result = np.asarray(function(computable(a), computable(b)))
        return result.astype(np.bool_ if dtype is DType.BOOL else a.dtype, copy=False)

    register(
        OpDef(
            name,
            inputs=("A", "B"),
            outputs=("C",),
            infer=broadcast(dtype, contents),
            evaluate=evaluate,
            traits=_COMMUTATIVE if commutes else _POINTWISE,
            cost=_COST,
        )
    )


def _known_and(a: Dim, b: Dim) -> Dim | None:
    return a * b


def _known_or(a: Dim, b: Dim) -> Dim | None:
    return a + b - a * b


def _known_xor(a: Dim, b: Dim) -> Dim | None:
    return a + b - 2 * a * b


_binary("Equal", np.equal, _known_equal, commutes=True)
_binary("Less", np.less, _known_less)
_binary("LessOrEqual", np.less_equal, _known_less_or_equal)
_binary("Greater", np.greater, lambda a, b: _known_less(b, a))
_binary("GreaterOrEqual", np.greater_equal, lambda a, b: _known_less_or_equal(b, a))
_binary("And", np.logical_and, _known_and, commutes=True)
_binary("Or", np.logical_or, _known_or, commutes=True)
_binary("Xor", np.logical_xor, _known_xor, commutes=True)
_binary("BitwiseAnd", np.bitwise_and, None, commutes=True, dtype=None)
_binary("BitwiseOr", np.bitwise_or, None, commutes=True, dtype=None)
_binary("BitwiseXor", np.bitwise_xor, None, commutes=True, dtype=None)


def _unary(
    name: str, function: Callable[[Array], Array], infer: Callable[[InferContext], Type]
) -> None:
    def evaluate(ctx: EvalContext, x: Array) -> Array:
        return np.asarray(function(computable(x)))

    register(
        OpDef(name, inputs=("X",), infer=infer, evaluate=evaluate, traits=_POINTWISE, cost=_COST)
    )


def _infer_not(ctx: InferContext) -> Type:
    map_known(ctx, lambda a: 1 - a, (0,), DType.BOOL)
    return ctx.tensor(0)


_unary("Not", np.logical_not, _infer_not)
_unary("BitwiseNot", np.bitwise_not, same_type)
_unary("IsNaN", np.isnan, with_dtype(DType.BOOL))


def _evaluate_isinf(ctx: EvalContext, x: Array) -> Array:
    wide = computable(x)
    result = np.zeros(x.shape, dtype=np.bool_)
    if ctx.attr("detect_positive"):
        result |= wide == np.inf
    if ctx.attr("detect_negative"):
        result |= wide == -np.inf
    return result


register(
    OpDef(
        "IsInf",
        inputs=("X",),
        attrs=attr_specs(detect_negative=("i", 1), detect_positive=("i", 1)),
        infer=with_dtype(DType.BOOL),
        evaluate=_evaluate_isinf,
        traits=_POINTWISE,
        cost=_COST,
    )
)


# ---- BitShift ----


def shift(x: Array, amount: Array, left: bool) -> Array:
    """``x`` shifted; amounts outside [0, bits) leave only what sign extension gives."""
    x, amount = np.broadcast_arrays(x, amount)
    bits = 8 * x.dtype.itemsize
    inside = (amount >= 0) & (amount < bits)
    count = np.where(inside, amount, 0).astype(x.dtype)
    if left:
        unsigned = np.dtype(f"u{x.dtype.itemsize}")
        moved = np.left_shift(x.astype(unsigned), count.astype(unsigned)).astype(x.dtype)
        return np.where(inside, moved, np.zeros_like(x))
    fill = np.where(x < 0, -1, 0).astype(x.dtype) if x.dtype.kind == "i" else np.zeros_like(x)
    return np.where(inside, np.right_shift(x, count), fill)


def _evaluate_shift(ctx: EvalContext, x: Array, amount: Array) -> Array:
    direction = ctx.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        ctx.fail(f"direction is '{direction}', neither LEFT nor RIGHT")
    return np.asarray(shift(x, amount, direction == "LEFT"))


register(
    OpDef(
        "BitShift",
        inputs=("X", "Y"),
        outputs=("Z",),
        attrs=attr_specs(direction=("s", REQUIRED)),
        infer=broadcast(),
        evaluate=_evaluate_shift,
        traits=_POINTWISE,
        cost=_COST,
    )
)


# ---- Where ----


def _infer_where(ctx: InferContext) -> Type:
    if ctx.dtype(0) is not DType.BOOL:
        ctx.fail(f"the condition is {ctx.type(0)}, not bool")
    if ctx.dtype(1) != ctx.dtype(2):
        ctx.fail(f"operand types differ: {ctx.type(1)} and {ctx.type(2)}")
    map_known(ctx, _known_choice, (0, 1, 2), ctx.dtype(1))
    shape = broadcast_shapes(ctx, [ctx.shape(i) for i in range(3)])
    return TensorType(ctx.dtype(1), shape)


def _known_choice(condition: Dim, x: Dim, y: Dim) -> Dim | None:
    if isinstance(condition, int):
        return x if condition else y
    return x if x == y else None


def _evaluate_where(ctx: EvalContext, condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y).astype(x.dtype, copy=False)


register(
    OpDef(
        "Where",
        inputs=("condition", "X", "Y"),
        outputs=("output",),
        infer=_infer_where,
        evaluate=_evaluate_where,
        traits=_POINTWISE,
        cost=_COST,
    )
)
