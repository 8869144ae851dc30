"""Softmax, LogSoftmax, Hardmax."""

from __future__ import annotations

import numpy as np

from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import Type
from graphopt.ops.norm import elementwise_cost
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["log_softmax", "softmax"]


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along ``axis`` in the type of ``x``, without overflow."""
    if x.size == 0:
        return x
    y = _shifted(x, axis)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def log_softmax(x: Array, axis: int = -1) -> Array:
    """log(softmax(x)) along ``axis`` in the type of ``x``, exact where softmax underflows."""
    if x.size == 0:
        return x
    y = _shifted(x, axis)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


def _shifted(x: Array, axis: int) -> Array:
    # inf - inf is NaN, as the plain formula also has it.
    with np.errstate(invalid="ignore"):
        return np.asarray(x - x.max(axis=axis, keepdims=True))


def _infer(ctx: InferContext) -> Type:
    rank = ctx.rank(0)
    if rank is not None:
        ctx.axis(ctx.attr("axis"), rank)
    return ctx.type(0)


def _evaluate_softmax(ctx: EvalContext, x: Array) -> Array:
    return narrow(softmax(widen(x), ctx.attr("axis")), x.dtype)


def _evaluate_log(ctx: EvalContext, x: Array) -> Array:
    return narrow(log_softmax(widen(x), ctx.attr("axis")), x.dtype)


def _evaluate_hard(ctx: EvalContext, x: Array) -> Array:
    axis = ctx.attr("axis")
    y = np.zeros_like(x)
    if x.size:
        first = np.expand_dims(np.argmax(x, axis=axis), axis)
        np.put_along_axis(y, first, x.dtype.type(1), axis=axis)
    return y


_ATTRS = attr_specs(axis=("i", -1))
register(
    OpDef(
        "Softmax",
        inputs=("input",),
        outputs=("output",),
        attrs=_ATTRS,
        infer=_infer,
        evaluate=_evaluate_softmax,
        cost=elementwise_cost(12),
    ),
    OpDef(
        "LogSoftmax",
        inputs=("input",),
        outputs=("output",),
        attrs=_ATTRS,
        infer=_infer,
        evaluate=_evaluate_log,
        cost=elementwise_cost(12),
    ),
    OpDef(
        "Hardmax",
        inputs=("input",),
        outputs=("output",),
        attrs=_ATTRS,
        infer=_infer,
        evaluate=_evaluate_hard,
        cost=elementwise_cost(1),
    ),
)
