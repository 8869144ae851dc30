"""Folding axes: Reduce*, ArgMax, ArgMin, CumSum, CumProd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, dim_max, dim_min, product
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable, precise
from graphopt.ops.infer import (
    fresh_shape,
    known,
    known_ints,
    normalize_axes,
    reduced_shape,
    set_known,
)
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, cost_of

__all__ = ["reduction_axes"]

_REDUCTION = frozenset({Trait.REDUCTION})


def _input_flops(node: Node) -> Dim | None:
    data = node.input(0)
    return None if data is None else data.tensor.numel


_COST = cost_of(_input_flops)


def reduction_axes(ctx: InferContext, rank: int) -> tuple[int, ...] | None:
    """The axes that a Reduce op folds; None when only the run knows."""
    axes = known_ints(ctx, 1) if ctx.has(1) else ()
    if axes is None:
        return None
    if not axes:
        return () if ctx.attr("noop_with_empty_axes") else tuple(range(rank))
    return normalize_axes(ctx, axes, rank)


def _reduce(
    name: str,
    fold: Callable[..., Any],
    contents: Callable[[list[Dim]], Dim] | None = None,
) -> None:
    """``fold(x, axes, keepdims)`` computes in f64 or integers."""

    def infer(ctx: InferContext) -> Type:
        data = ctx.tensor(0)
        if data.shape is None:
            return TensorType(data.dtype, None)
        axes = reduction_axes(ctx, len(data.shape))
        keepdims = bool(ctx.attr("keepdims"))
        if axes is None:
            rank = len(data.shape)
            count = ctx.shape(1)
            if not keepdims:
                given = None if count is None else product(count)
                empty = 0 if ctx.attr("noop_with_empty_axes") else rank
                kept = rank - (given or empty) if isinstance(given, int) else None
                return TensorType(data.dtype, fresh_shape(ctx, kept, "reduce"))
            return TensorType(data.dtype, fresh_shape(ctx, rank, "reduce"))
        values = known(ctx, 0)
        if contents is not None and values is not None and len(axes) == len(data.shape):
            folded = np.empty((1,) * len(axes) if keepdims else (), dtype=object)
            if values.size:
                folded[...] = contents(list(values.ravel()))
                set_known(ctx, folded, data.dtype)
        return TensorType(data.dtype, reduced_shape(data.shape, axes, keepdims))

    def evaluate(ctx: EvalContext, x: Array, axes: Array | None = None) -> Array:
        where: tuple[int, ...] = () if axes is None else tuple(int(a) for a in axes.ravel())
        if not where and not ctx.attr("noop_with_empty_axes"):
            where = tuple(range(x.ndim))
        wide = precise(x) if DType.from_numpy(x.dtype).is_float else computable(x)
        with np.errstate(all="ignore"):
            result = fold(wide, where, bool(ctx.attr("keepdims")))
            return np.asarray(result).astype(x.dtype)

    register(
        OpDef(
            name,
            inputs=("data", "axes?"),
            outputs=("reduced",),
            attrs=attr_specs(keepdims=("i", 1), noop_with_empty_axes=("i", 0)),
            infer=infer,
            evaluate=evaluate,
            traits=_REDUCTION,
            cost=_COST,
        )
    )


def _sum(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    if all(x.shape[axis] == 1 for axis in axes):
        # One element is its own sum. Numpy's begins with +0, which makes +0 of -0.
        return x if keepdims else np.squeeze(x, axis=axes)
    # Integers wrap around in their own type.
    return np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


def _mean(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if x.dtype.kind == "f":
        return np.asarray(_sum(x, axes, keepdims)) / count
    total = np.sum(x, axis=axes, keepdims=keepdims, dtype=np.int64)
    return np.trunc(np.asarray(total) / count)


def _log_sum_exp(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    x = precise(x)
    peak = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(peak), peak, 0)
    total = np.log(np.sum(np.exp(x - shift), axis=axes, keepdims=True)) + shift
    return total if keepdims else np.squeeze(total, axis=axes)


def _extreme(largest: bool) -> Callable[..., Any]:
    def fold(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        # The neutral element is what an empty set gives.
        initial: Any
        if x.dtype.kind == "b":
            initial = not largest
        elif x.dtype.kind == "f":
            initial = -np.inf if largest else np.inf
        else:
            info = np.iinfo(x.dtype)
            initial = info.min if largest else info.max
        function = np.max if largest else np.min
        return function(x, axis=axes, keepdims=keepdims, initial=initial)

    return fold


def _l1(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    return _sum(np.abs(x), axes, keepdims)


def _sum_square(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    return _sum(x * x, axes, keepdims)


def _l2(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    return np.sqrt(_sum(precise(x) ** 2, axes, keepdims))


def _prod(x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    return np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


def _fold_dims(function: Callable[[Dim, Dim], Dim]) -> Callable[[list[Dim]], Dim]:
    def fold(dims: list[Dim]) -> Dim:
        result = dims[0]
        for dim in dims[1:]:
            result = function(result, dim)
        return result

    return fold


_reduce("ReduceSum", _sum, _fold_dims(lambda a, b: a + b))
_reduce("ReduceProd", _prod, product)
_reduce("ReduceMax", _extreme(True), _fold_dims(dim_max))
_reduce("ReduceMin", _extreme(False), _fold_dims(dim_min))
_reduce("ReduceMean", _mean)
_reduce("ReduceL1", _l1)
_reduce("ReduceL2", _l2)
_reduce("ReduceSumSquare", _sum_square)
_reduce("ReduceLogSum", lambda x, axes, keepdims: np.log(_sum(x, axes, keepdims)))
_reduce("ReduceLogSumExp", _log_sum_exp)


# ---- ArgMax, ArgMin ----


def _infer_arg(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is None:
        return TensorType(DType.I64, None)
    axis = ctx.axis(ctx.attr("axis"), len(shape))
    return TensorType(DType.I64, reduced_shape(shape, (axis,), bool(ctx.attr("keepdims"))))


def _arg(name: str, function: Callable[..., Any]) -> None:
    def evaluate(ctx: EvalContext, x: Array) -> Array:
        axis = ctx.attr("axis") % x.ndim
        wide = computable(x)
        if ctx.attr("select_last_index"):
            last = function(np.flip(wide, axis), axis=axis)
            result = x.shape[axis] - 1 - np.asarray(last)
        else:
            result = np.asarray(function(wide, axis=axis))
        if ctx.attr("keepdims"):
            result = np.expand_dims(result, axis)
        return np.asarray(result).astype(np.int64)

    register(
        OpDef(
            name,
            inputs=("data",),
            outputs=("reduced",),
            attrs=attr_specs(axis=("i", 0), keepdims=("i", 1), select_last_index=("i", 0)),
            infer=_infer_arg,
            evaluate=evaluate,
            cost=_COST,
        )
    )


_arg("ArgMax", np.argmax)
_arg("ArgMin", np.argmin)


# ---- CumSum, CumProd ----


def _infer_cumulative(ctx: InferContext) -> Type:
    return ctx.tensor(0)


def _cumulative(name: str, function: Callable[..., Any], neutral: int) -> None:
    def evaluate(ctx: EvalContext, x: Array, axis: Array) -> Array:
        where = int(axis.reshape(()))
        if not -x.ndim <= where < x.ndim:
            ctx.fail(f"axis {where} is out of range for rank {x.ndim}")
        wide = precise(x) if DType.from_numpy(x.dtype).is_float else computable(x)
        if ctx.attr("reverse"):
            wide = np.flip(wide, where)
        if ctx.attr("exclusive"):
            head = [slice(None)] * x.ndim
            head[where] = slice(0, -1)
            first = [slice(None)] * x.ndim
            first[where] = slice(0, 1)
            start = np.full_like(wide[tuple(first)], neutral)
            wide = np.concatenate([start, wide[tuple(head)]], axis=where)
        with np.errstate(all="ignore"):
            result = function(wide, axis=where, dtype=wide.dtype)
            if ctx.attr("reverse"):
                result = np.flip(result, where)
            return np.asarray(result).astype(x.dtype)

    register(
        OpDef(
            name,
            inputs=("x", "axis"),
            outputs=("y",),
            attrs=attr_specs(exclusive=("i", 0), reverse=("i", 0)),
            infer=_infer_cumulative,
            evaluate=evaluate,
            cost=_COST,
        )
    )


_cumulative("CumSum", np.cumsum, 0)
_cumulative("CumProd", np.cumprod, 1)
