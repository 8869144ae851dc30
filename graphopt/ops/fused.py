"""Ops of the domain ``graphopt``: what passes fuse and ONNX has no exact name for."""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.attention import share_heads
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of
from graphopt.ops.softmax import softmax

__all__ = ["ATTENTION"]


def _infer_attention(ctx: InferContext) -> Type:
    q, k, v = ctx.shape(0), ctx.shape(1), ctx.shape(2)
    if q is None or k is None or v is None:
        return TensorType(ctx.dtype(0), None)
    if not len(q) == len(k) == len(v) == 4:
        ctx.fail("query, key and value must all have 4 axes")
    require_equal(ctx, q[0], k[0], "query and key have different batch sizes")
    for axis, what in ((0, "batch sizes"), (1, "numbers of heads"), (2, "lengths")):
        require_equal(ctx, k[axis], v[axis], f"key and value have different {what}")
    require_equal(ctx, q[3], k[3], "query and key have different head sizes")
    if isinstance(q[1], int) and isinstance(k[1], int) and (k[1] < 1 or q[1] % k[1]):
        ctx.fail(f"{q[1]} query heads do not share {k[1]} key heads evenly")
    return TensorType(ctx.dtype(0), (q[0], q[1], q[2], v[3]))


def _evaluate_attention(
    ctx: EvalContext, q: Array, k: Array, v: Array, mask: Array | None = None
) -> Array:
    wide, heads = widen(q), q.shape[1]
    real = wide.dtype.type
    key, value = share_heads(widen(k), heads), share_heads(widen(v), heads)
    scores = wide @ np.swapaxes(key, 2, 3) * real(ctx.attr("scale"))
    if cap := ctx.attr("softcap"):
        scores = real(cap) * np.tanh(scores / real(cap))
    if mask is not None and mask.dtype == np.bool_:
        scores = np.where(mask, scores, real(ctx.attr("fill")))
    elif mask is not None:
        scores = scores + mask
    if ctx.attr("causal"):
        ahead = np.arange(scores.shape[3]) - np.arange(scores.shape[2])[:, None]
        scores = np.where(ahead > ctx.attr("causal_offset"), real(-np.inf), scores)
    weights = softmax(scores)
    if ctx.attr("nan_rows_to_zero"):
        weights = np.where(np.isnan(weights), weights.dtype.type(0), weights)
    return narrow(weights @ value, q.dtype)


def _attention_flops(node: Node) -> Dim | None:
    q, k = node.inputs[0], node.inputs[1]
    out = node.output.tensor.numel
    if q is None or k is None or out is None or q.tensor.numel is None or k.shape is None:
        return None
    return 2 * k.shape[2] * (q.tensor.numel + out)


# softmax(cap(scale * Q K^T) + mask) V over [batch, heads, length, size]; several query heads may
# share a key head. cap(x) is softcap * tanh(x / softcap), x where softcap is 0. A mask of numbers
# is added; where one of bools is false, the score is `fill`. `causal` hides key t from query s
# where t > s + causal_offset. NaN weights read as 0 where `nan_rows_to_zero`. ONNX's Attention
# clears the rows that its mask leaves no key, and no others.
ATTENTION = OpDef(
    "Attention",
    "graphopt",
    inputs=("Q", "K", "V", "mask?"),
    attrs=attr_specs(
        causal=("i", 0),
        causal_offset=("i", 0),
        fill=("f", -math.inf),
        nan_rows_to_zero=("i", 0),
        scale=("f", REQUIRED),
        softcap=("f", 0.0),
    ),
    infer=_infer_attention,
    evaluate=_evaluate_attention,
    cost=cost_of(_attention_flops),
)
register(ATTENTION)
