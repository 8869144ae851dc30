"""Losses: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss."""

from __future__ import annotations

import numpy as np

from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.norm import elementwise_cost
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs
from graphopt.ops.softmax import log_softmax

__all__ = ["negative_log_likelihood"]


def negative_log_likelihood(
    log_prob: Array, target: Array, weight: Array | None, ignored: int | None, reduction: str
) -> Array:
    """The loss of ``target`` [N, ...] under ``log_prob`` [N, C, ...], reduced.

    Samples whose target is ``ignored`` count neither in the sum nor in the mean.
    Raises ValueError on an unknown reduction and on targets that are no class.
    """
    classes = log_prob.shape[1]
    index = target.astype(np.int64)
    live = np.ones(index.shape, dtype=bool) if ignored is None else index != ignored
    index = np.where(live, index, 0)
    if index.size and (index.min() < 0 or index.max() >= classes):
        raise ValueError(f"a target is not one of the {classes} classes")
    picked = np.take_along_axis(log_prob, index[:, None], axis=1)[:, 0]
    factor = live.astype(log_prob.dtype)
    if weight is not None:
        factor = factor * weight.astype(log_prob.dtype)[index]
    loss: Array = np.where(live, -picked * factor, log_prob.dtype.type(0))
    if reduction == "none":
        return loss
    if reduction == "sum":
        return np.asarray(loss.sum())
    if reduction == "mean":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(loss.sum() / factor.sum())
    raise ValueError(f"reduction is '{reduction}'")


def _loss_type(ctx: InferContext) -> TensorType:
    data, target = ctx.tensor(0), ctx.shape(1)
    if data.shape is not None and target is not None:
        if len(data.shape) != len(target) + 1:
            ctx.fail(f"scores {data} and targets of rank {len(target)} do not fit")
        for a, b in zip((data.shape[0], *data.shape[2:]), target, strict=True):
            require_equal(ctx, a, b, "scores and targets have different shapes")
    if data.shape is not None and ctx.has(2):
        weight = ctx.shape(2)
        if weight is not None and len(weight) == 1:
            require_equal(ctx, weight[0], data.shape[1], "there must be a weight for every class")
    if ctx.attr("reduction") != "none":
        return TensorType(data.dtype, ())
    return TensorType(data.dtype, target)


def _infer_nll(ctx: InferContext) -> Type:
    return _loss_type(ctx)


def _evaluate_nll(ctx: EvalContext, x: Array, target: Array, weight: Array | None = None) -> Array:
    loss = negative_log_likelihood(
        widen(x), target, weight, ctx.attr("ignore_index"), ctx.attr("reduction")
    )
    return narrow(loss, x.dtype)


def _infer_cross_entropy(ctx: InferContext) -> tuple[Type, Type]:
    return _loss_type(ctx), ctx.type(0)


def _evaluate_cross_entropy(
    ctx: EvalContext, scores: Array, labels: Array, weight: Array | None = None
) -> tuple[Array, Array]:
    log_prob = log_softmax(widen(scores), 1)
    loss = negative_log_likelihood(
        log_prob, labels, weight, ctx.attr("ignore_index"), ctx.attr("reduction")
    )
    return narrow(loss, scores.dtype), narrow(log_prob, scores.dtype)


_ATTRS = attr_specs(ignore_index="i", reduction=("s", "mean"))
register(
    OpDef(
        "NegativeLogLikelihoodLoss",
        inputs=("input", "target", "weight?"),
        outputs=("loss",),
        attrs=_ATTRS,
        infer=_infer_nll,
        evaluate=_evaluate_nll,
    ),
    OpDef(
        "SoftmaxCrossEntropyLoss",
        inputs=("scores", "labels", "weights?"),
        outputs=("output", "log_prob?"),
        attrs=_ATTRS,
        infer=_infer_cross_entropy,
        evaluate=_evaluate_cross_entropy,
        cost=elementwise_cost(12),
    ),
)
