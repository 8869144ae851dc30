"""Normalisations: over batches, instances, groups, layers, neighbouring channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import Cost, EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import normalize_axes, require_equal, same_type
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of

__all__ = ["elementwise_cost"]


def elementwise_cost(flops: int) -> Callable[[Node], Cost]:
    """``flops`` operations for every element of operand 0."""

    def count(node: Node) -> Dim | None:
        source = node.inputs[0]
        numel = None if source is None else source.tensor.numel
        return None if numel is None else numel * flops

    return cost_of(count)


def _per_channel(v: Array, rank: int) -> Array:
    """A vector over channels, shaped to broadcast over a tensor of that rank."""
    return v.reshape(-1, *(1,) * (rank - 2)) if rank > 1 else v


def _check_channels(ctx: InferContext, first: int) -> None:
    """Operands from ``first`` on must be vectors over the channels of operand 0."""
    shape = ctx.shape(0)
    if shape is None:
        return
    channels = shape[1] if len(shape) > 1 else 1
    for index in range(first, len(ctx.inputs)):
        vector = ctx.shape(index)
        if vector is not None:
            if len(vector) != 1:
                ctx.fail(f"operand {index} must be a vector, not {ctx.type(index)}")
            require_equal(ctx, vector[0], channels, f"operand {index} must cover the channels")


def _infer_batch(ctx: InferContext) -> Any:
    _check_channels(ctx, 1)
    if not ctx.attr("training_mode"):
        if ctx.n_outputs > 1:
            ctx.fail("running statistics are outputs in training mode only")
        return ctx.type(0)
    return ctx.type(0), ctx.type(3), ctx.type(4)


def _evaluate_batch(
    ctx: EvalContext, x: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> Any:
    wide = widen(x)
    running: tuple[Array, ...] = ()
    if ctx.attr("training_mode"):
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        momentum = ctx.attr("momentum")
        now_mean, now_var = wide.mean(axis=axes), wide.var(axis=axes)
        running = tuple(
            narrow(widen(old) * momentum + now * (1 - momentum), old.dtype)
            for old, now in ((mean, now_mean), (var, now_var))
        )
        mean, var = now_mean, now_var
    # One order of operations for training and inference: that of the specification's formula.
    parts = [_per_channel(widen(v), x.ndim) for v in (scale, bias, mean, var)]
    factor, shift, centre, spread = parts
    y = (wide - centre) / np.sqrt(spread + spread.dtype.type(ctx.attr("epsilon"))) * factor + shift
    result = narrow(y, x.dtype)
    return (result, *running) if running else result


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + epsilon), the mean, and the inverse deviation."""
    mean = x.mean(axis=axes, keepdims=True, dtype=x.dtype)
    centred = x - mean
    variance = np.mean(centred * centred, axis=axes, keepdims=True, dtype=x.dtype)
    inverse = 1 / np.sqrt(variance + variance.dtype.type(epsilon))
    return centred * inverse, mean, inverse.astype(x.dtype, copy=False)


def _infer_instance(ctx: InferContext) -> Type:
    _check_channels(ctx, 1)
    return ctx.type(0)


def _evaluate_instance(ctx: EvalContext, x: Array, scale: Array, bias: Array) -> Array:
    y, _, _ = _standardize(widen(x), tuple(range(2, x.ndim)), ctx.attr("epsilon"))
    factor, shift = (_per_channel(widen(v), x.ndim) for v in (scale, bias))
    return narrow(y * factor + shift, x.dtype)


def _infer_group(ctx: InferContext) -> Type:
    _check_channels(ctx, 1)
    groups, shape = ctx.attr("num_groups"), ctx.shape(0)
    channels = shape[1] if shape is not None and len(shape) > 1 else groups
    if isinstance(channels, int) and channels % groups:
        ctx.fail(f"{channels} channels do not split into {groups} groups")
    return ctx.type(0)


def _evaluate_group(ctx: EvalContext, x: Array, scale: Array, bias: Array) -> Array:
    stash = DType(ctx.attr("stash_type")).numpy
    grouped = x.astype(stash, copy=False).reshape(x.shape[0], ctx.attr("num_groups"), -1)
    normal, _, _ = _standardize(grouped, (2,), ctx.attr("epsilon"))
    y = narrow(normal.reshape(x.shape), x.dtype)
    return y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


def _infer_layer(ctx: InferContext) -> tuple[Type, Type, Type]:
    data = ctx.tensor(0)
    stash = DType(ctx.attr("stash_type"))
    if data.shape is None:
        return data, TensorType(stash, None), TensorType(stash, None)
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    _check_suffix(ctx, data.shape)
    kept = (*data.shape[:axis], *(1,) * (len(data.shape) - axis))
    return data, TensorType(stash, kept), TensorType(stash, kept)


def _check_suffix(ctx: InferContext, shape: tuple[Dim, ...]) -> None:
    """Scale and bias must broadcast to ``shape`` without widening it."""
    for index in range(1, len(ctx.inputs)):
        other = ctx.shape(index) if ctx.has(index) else None
        if other is None:
            continue
        if len(other) > len(shape):
            ctx.fail(f"operand {index} has more axes than the input")
        for a, b in zip(reversed(other), reversed(shape), strict=False):
            if a != 1:
                require_equal(ctx, a, b, f"operand {index} must broadcast to the input")


def _evaluate_layer(
    ctx: EvalContext, x: Array, scale: Array, bias: Array | None = None
) -> tuple[Array, ...]:
    axis = ctx.attr("axis") % x.ndim
    stash = DType(ctx.attr("stash_type")).numpy
    axes = tuple(range(axis, x.ndim))
    normal, mean, inverse = _standardize(x.astype(stash, copy=False), axes, ctx.attr("epsilon"))
    y = narrow(normal, x.dtype) * scale
    if bias is not None:
        y = y + bias
    return (narrow(y, x.dtype), mean, inverse)[: ctx.n_outputs]


def _infer_rms(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is not None:
        ctx.axis(ctx.attr("axis"), len(data.shape))
        _check_suffix(ctx, data.shape)
    return TensorType(ctx.dtype(1), data.shape)


def _evaluate_rms(ctx: EvalContext, x: Array, scale: Array) -> Array:
    axes = tuple(range(ctx.attr("axis") % x.ndim, x.ndim))
    wide = x.astype(DType(ctx.attr("stash_type")).numpy, copy=False)
    square = np.mean(wide * wide, axis=axes, keepdims=True, dtype=wide.dtype)
    normal = wide / np.sqrt(square + square.dtype.type(ctx.attr("epsilon")))
    return narrow(narrow(normal, x.dtype).astype(scale.dtype, copy=False) * scale, scale.dtype)


def _infer_axis(ctx: InferContext) -> Type:
    rank = ctx.rank(0)
    if rank is not None:
        ctx.axis(ctx.attr("axis"), rank)
    return ctx.type(0)


def _evaluate_lp(ctx: EvalContext, x: Array) -> Array:
    axis, p = ctx.attr("axis"), ctx.attr("p")
    if p not in (1, 2):
        ctx.fail(f"p is {p}, but must be 1 or 2")
    wide = np.asarray(widen(x))
    if p == 1:
        norm = np.abs(wide).sum(axis=axis, keepdims=True)
    else:
        norm = np.sqrt((wide * wide).sum(axis=axis, keepdims=True))
    # Where the norm is 0, so are the elements: the result is defined to be 0.
    return narrow(wide / np.where(norm == 0, norm.dtype.type(1), norm), x.dtype)


def _evaluate_lrn(ctx: EvalContext, x: Array) -> Array:
    size = ctx.attr("size")
    wide = widen(x)
    channels = x.shape[1]
    below, above = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = wide * wide
    total = np.zeros_like(wide)
    for shift in range(-below, above + 1):
        low, high = max(0, -shift), min(channels, channels - shift)
        if high > low:
            total[:, low:high] += squares[:, low + shift : high + shift]
    kind = wide.dtype.type
    base = kind(ctx.attr("bias")) + kind(ctx.attr("alpha") / size) * total
    return narrow(wide / base ** kind(ctx.attr("beta")), x.dtype)


def _infer_mean_variance(ctx: InferContext) -> Type:
    rank = ctx.rank(0)
    if rank is not None:
        normalize_axes(ctx, ctx.attr("axes"), rank)
    return ctx.type(0)


def _evaluate_mean_variance(ctx: EvalContext, x: Array) -> Array:
    axes = tuple(ctx.attr("axes"))
    wide = widen(x)
    deviation = wide.std(axis=axes, keepdims=True)
    # ONNX's function body adds this to the deviation, which keeps constant input at 0.
    epsilon = deviation.dtype.type(1e-9)
    return narrow((wide - wide.mean(axis=axes, keepdims=True)) / (deviation + epsilon), x.dtype)


register(
    OpDef(
        "BatchNormalization",
        inputs=("X", "scale", "B", "input_mean", "input_var"),
        outputs=("Y", "running_mean?", "running_var?"),
        attrs=attr_specs(epsilon=("f", 1e-5), momentum=("f", 0.9), training_mode=("i", 0)),
        infer=_infer_batch,
        evaluate=_evaluate_batch,
        cost=elementwise_cost(2),
    ),
    OpDef(
        "InstanceNormalization",
        inputs=("input", "scale", "B"),
        outputs=("output",),
        attrs=attr_specs(epsilon=("f", 1e-5)),
        infer=_infer_instance,
        evaluate=_evaluate_instance,
        cost=elementwise_cost(7),
    ),
    OpDef(
        "GroupNormalization",
        inputs=("X", "scale", "bias"),
        attrs=attr_specs(
            epsilon=("f", 1e-5), num_groups=("i", REQUIRED), stash_type=("i", int(DType.F32))
        ),
        infer=_infer_group,
        evaluate=_evaluate_group,
        cost=elementwise_cost(7),
    ),
    OpDef(
        "LayerNormalization",
        inputs=("X", "Scale", "B?"),
        outputs=("Y", "Mean?", "InvStdDev?"),
        attrs=attr_specs(axis=("i", -1), epsilon=("f", 1e-5), stash_type=("i", int(DType.F32))),
        infer=_infer_layer,
        evaluate=_evaluate_layer,
        cost=elementwise_cost(7),
    ),
    OpDef(
        "RMSNormalization",
        inputs=("X", "scale"),
        attrs=attr_specs(axis=("i", -1), epsilon=("f", 1e-5), stash_type=("i", int(DType.F32))),
        infer=_infer_rms,
        evaluate=_evaluate_rms,
        cost=elementwise_cost(4),
    ),
    OpDef(
        "LpNormalization",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(axis=("i", -1), p=("i", 2)),
        infer=_infer_axis,
        evaluate=_evaluate_lp,
        cost=elementwise_cost(3),
    ),
    OpDef(
        "LRN",
        inputs=("X",),
        attrs=attr_specs(
            alpha=("f", 1e-4), beta=("f", 0.75), bias=("f", 1.0), size=("i", REQUIRED)
        ),
        infer=same_type,
        evaluate=_evaluate_lrn,
        cost=elementwise_cost(20),
    ),
    OpDef(
        "MeanVarianceNormalization",
        inputs=("X",),
        attrs=attr_specs(axes=("ints", (0, 2, 3))),
        infer=_infer_mean_variance,
        evaluate=_evaluate_mean_variance,
        cost=elementwise_cost(6),
    ),
)
