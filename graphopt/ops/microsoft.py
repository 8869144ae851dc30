"""Fused ops that exporters and optimizers write in the domain com.microsoft: activations, products,
normalisations. Semantics are onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.activations import gelu
from graphopt.ops.elementary import sigmoid
from graphopt.ops.infer import broadcast, require_equal, same_type
from graphopt.ops.linear import matmul_flops, matmul_shape
from graphopt.ops.norm import elementwise_cost
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, cost_of

__all__ = ["MS"]

MS = "com.microsoft"
_POINTWISE = frozenset({Trait.POINTWISE})


# ---- activations ----


def _evaluate_gelu(ctx: EvalContext, x: Array) -> Array:
    return narrow(gelu(widen(x)), x.dtype)


def _evaluate_quick_gelu(ctx: EvalContext, x: Array) -> Array:
    wide = widen(x)
    return narrow(wide * sigmoid(wide * wide.dtype.type(ctx.attr("alpha"))), x.dtype)


def _evaluate_fast_gelu(ctx: EvalContext, x: Array, bias: Array | None = None) -> Array:
    wide = widen(x) if bias is None else widen(x) + widen(bias)
    return narrow(gelu(wide, "tanh"), x.dtype)


def _evaluate_bias_gelu(ctx: EvalContext, x: Array, bias: Array) -> Array:
    return narrow(gelu(widen(x) + widen(bias)), x.dtype)


# ---- products ----


def _oriented(x: Array, batch: bool, swap: bool) -> Array:
    """A batch transposition moves the first axis before the last, a plain one swaps two."""
    x = np.moveaxis(x, 0, -2) if batch and x.ndim > 2 else x
    return np.swapaxes(x, -1, -2) if swap and x.ndim > 1 else x


def _oriented_shape(
    shape: tuple[Dim, ...] | None, batch: bool, swap: bool
) -> tuple[Dim, ...] | None:
    if shape is None or len(shape) < 2:
        return shape
    if batch and len(shape) > 2:
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def _infer_fused_matmul(ctx: InferContext) -> Type:
    a, b = (
        _oriented_shape(ctx.shape(i), ctx.attr(f"transBatch{side}"), ctx.attr(f"trans{side}"))
        for i, side in enumerate("AB")
    )
    return TensorType(ctx.dtype(0), matmul_shape(ctx, a, b))


def _evaluate_fused_matmul(ctx: EvalContext, a: Array, b: Array) -> Array:
    left, right = (
        _oriented(widen(x), ctx.attr(f"transBatch{side}"), ctx.attr(f"trans{side}"))
        for x, side in ((a, "A"), (b, "B"))
    )
    y = np.matmul(left, right)
    return narrow(y * y.dtype.type(ctx.attr("alpha")), a.dtype)


# ---- normalisations ----


def _normal(x: Array, epsilon: float, centre: bool) -> tuple[Array, Array, Array]:
    """Normalised over the last axis, the mean, and the inverse deviation."""
    mean = x.mean(axis=-1, keepdims=True)
    offset = x - mean if centre else x
    square = (offset * offset).mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(square + square.dtype.type(epsilon))
    return offset * inverse, mean, inverse.astype(x.dtype, copy=False)


def _infer_skip(ctx: InferContext) -> tuple[Type, ...]:
    data = ctx.tensor(0)
    if data.shape is None:
        return data, TensorType(DType.F32, None), TensorType(DType.F32, None), data
    gamma = ctx.shape(2)
    if gamma is not None:
        require_equal(ctx, gamma[0], data.shape[-1], "gamma must cover the features")
    kept = TensorType(DType.F32, (*data.shape[:-1], 1))
    return data, kept, kept, data


def _skip(centre: bool) -> Callable[..., tuple[Array, ...]]:
    def evaluate(
        ctx: EvalContext, x: Array, skip: Array, gamma: Array, *rest: Array | None
    ) -> tuple[Array, ...]:
        beta, bias = ((*rest, None, None) if centre else (None, *rest, None))[:2]
        total = widen(x) + widen(skip)
        if bias is not None:
            total = total + widen(bias)
        normal, mean, inverse = _normal(total, ctx.attr("epsilon"), centre)
        y = normal * widen(gamma)
        if beta is not None:
            y = y + widen(beta)
        statistics = (narrow(v, np.dtype(np.float32)) for v in (mean, inverse))
        return (narrow(y, x.dtype), *statistics, narrow(total, x.dtype))

    return evaluate


def _infer_simplified(ctx: InferContext) -> tuple[Type, Type]:
    data = ctx.tensor(0)
    stash = DType(ctx.attr("stash_type"))
    if data.shape is None:
        return data, TensorType(stash, None)
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    kept = (*data.shape[:axis], *(1,) * (len(data.shape) - axis))
    return TensorType(ctx.dtype(1), data.shape), TensorType(stash, kept)


def _evaluate_simplified(ctx: EvalContext, x: Array, scale: Array) -> tuple[Array, Array]:
    axis = ctx.attr("axis") % x.ndim
    stash = DType(ctx.attr("stash_type")).numpy
    wide = x.astype(stash, copy=False).reshape(*x.shape[:axis], -1)
    normal, _, inverse = _normal(wide, ctx.attr("epsilon"), False)
    y = normal.reshape(x.shape) * scale.astype(stash, copy=False)
    kept = (*x.shape[:axis], *(1,) * (x.ndim - axis))
    return narrow(y, scale.dtype), inverse.reshape(kept)


def _infer_embed(ctx: InferContext) -> tuple[Type, ...]:
    ids, words = ctx.shape(0), ctx.shape(2)
    dtype = ctx.dtype(2)
    if ids is None or words is None:
        return TensorType(dtype, None), TensorType(DType.I32, None), TensorType(dtype, None)
    out = TensorType(dtype, (*ids, words[1]))
    return out, TensorType(DType.I32, (ids[0],)), out


def _evaluate_embed(
    ctx: EvalContext,
    ids: Array,
    segments: Array | None,
    words: Array,
    positions: Array,
    segment_table: Array | None,
    gamma: Array,
    beta: Array,
    mask: Array | None = None,
    position_ids: Array | None = None,
) -> tuple[Array, ...]:
    at = np.arange(ids.shape[1])[None] if position_ids is None else position_ids
    total = widen(words[ids]) + widen(positions[at])
    if segments is not None and segment_table is not None:
        total = total + widen(segment_table[segments])
    normal, _, _ = _normal(total, ctx.attr("epsilon"), True)
    y = normal * widen(gamma) + widen(beta)
    lengths = np.zeros(len(ids), np.int32) if mask is None else mask.sum(axis=1).astype(np.int32)
    return narrow(y, words.dtype), lengths, narrow(total, words.dtype)


_EPSILON = ("f", 1e-12)
_SKIP_OUTPUTS = ("output", "mean?", "inv_std_var?", "input_skip_bias_sum?")
_SIMPLIFIED_ATTRS = attr_specs(axis=("i", -1), epsilon=("f", 1e-5), stash_type=("i", 1))

register(
    OpDef(
        "Gelu",
        MS,
        inputs=("X",),
        infer=same_type,
        evaluate=_evaluate_gelu,
        traits=_POINTWISE,
        cost=elementwise_cost(12),
    ),
    OpDef(
        "QuickGelu",
        MS,
        inputs=("X",),
        attrs=attr_specs(alpha=("f", 1.702)),
        infer=same_type,
        evaluate=_evaluate_quick_gelu,
        traits=_POINTWISE,
        cost=elementwise_cost(12),
    ),
    OpDef(
        "FastGelu",
        MS,
        inputs=("X", "bias?"),
        infer=same_type,
        evaluate=_evaluate_fast_gelu,
        traits=_POINTWISE,
        cost=elementwise_cost(14),
    ),
    OpDef(
        "BiasGelu",
        MS,
        inputs=("A", "B"),
        outputs=("C",),
        infer=broadcast(),
        evaluate=_evaluate_bias_gelu,
        traits=_POINTWISE,
        cost=elementwise_cost(13),
    ),
    OpDef(
        "FusedMatMul",
        MS,
        inputs=("A", "B"),
        attrs=attr_specs(
            alpha=("f", 1.0),
            transA=("i", 0),
            transB=("i", 0),
            transBatchA=("i", 0),
            transBatchB=("i", 0),
        ),
        infer=_infer_fused_matmul,
        evaluate=_evaluate_fused_matmul,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "SkipLayerNormalization",
        MS,
        inputs=("input", "skip", "gamma", "beta?", "bias?"),
        outputs=_SKIP_OUTPUTS,
        attrs=attr_specs(epsilon=_EPSILON),
        infer=_infer_skip,
        evaluate=_skip(True),
        cost=elementwise_cost(8),
    ),
    OpDef(
        "SkipSimplifiedLayerNormalization",
        MS,
        inputs=("input", "skip", "gamma", "bias?"),
        outputs=_SKIP_OUTPUTS,
        attrs=attr_specs(epsilon=_EPSILON),
        infer=_infer_skip,
        evaluate=_skip(False),
        cost=elementwise_cost(5),
    ),
    # onnxruntime keeps this one in ONNX's own domain.
    OpDef(
        "SimplifiedLayerNormalization",
        inputs=("X", "scale"),
        outputs=("Y", "inv_std_var?"),
        attrs=_SIMPLIFIED_ATTRS,
        infer=_infer_simplified,
        evaluate=_evaluate_simplified,
        cost=elementwise_cost(4),
    ),
    OpDef(
        "EmbedLayerNormalization",
        MS,
        inputs=(
            "input_ids",
            "segment_ids?",
            "word_embedding",
            "position_embedding",
            "segment_embedding?",
            "gamma",
            "beta",
            "mask?",
            "position_ids?",
        ),
        outputs=("output", "mask_index?", "embedding_sum?"),
        attrs=attr_specs(epsilon=_EPSILON, mask_index_type=("i", 1)),
        infer=_infer_embed,
        evaluate=_evaluate_embed,
    ),
)
