"""Ops of the domain ``graphopt``: what passes fuse and ONNX has no exact name for."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
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
    for axis in (0, 1):
        require_equal(ctx, q[axis], k[axis], f"query and key differ in axis {axis}")
        require_equal(ctx, k[axis], v[axis], f"key and value differ in axis {axis}")
    require_equal(ctx, q[3], k[3], "query and key have different head sizes")
    require_equal(ctx, k[2], v[2], "key and value have different lengths")
    return TensorType(ctx.dtype(0), (q[0], q[1], q[2], v[3]))


def _evaluate_attention(
    ctx: EvalContext, q: Array, k: Array, v: Array, mask: Array | None = None
) -> Array:
    wide = widen(q)
    scores = wide @ np.swapaxes(widen(k), 2, 3) * wide.dtype.type(ctx.attr("scale"))
    if mask is not None:
        scores = scores + mask
    weights = softmax(scores)
    if ctx.attr("nan_rows_to_zero"):
        weights = np.where(np.isnan(weights), weights.dtype.type(0), weights)
    return narrow(weights @ widen(v), q.dtype)


def _attention_flops(node: Node) -> Dim | None:
    q, k = node.inputs[0], node.inputs[1]
    out = node.output.tensor.numel
    if q is None or k is None or out is None or q.tensor.numel is None or k.shape is None:
        return None
    return 2 * k.shape[2] * (q.tensor.numel + out)


# softmax(scale * Q K^T + mask) V over [batch, heads, length, size], NaN weights read as 0 where
# `nan_rows_to_zero`. ONNX's Attention clears the rows that its mask leaves no key, and no others.
ATTENTION = OpDef(
    "Attention",
    "graphopt",
    inputs=("Q", "K", "V", "mask?"),
    attrs=attr_specs(nan_rows_to_zero=("i", 0), scale=("f", REQUIRED)),
    infer=_infer_attention,
    evaluate=_evaluate_attention,
    cost=cost_of(_attention_flops),
)
register(ATTENTION)
