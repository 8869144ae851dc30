"""Pools: MaxPool, AveragePool, LpPool, their global forms, MaxUnpool, MaxRoiPool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, product
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of
from graphopt.ops.window import (
    NumericWindow,
    Window,
    numbers,
    offsets,
    pad_spatial,
    per_axis,
    sliding_window,
    tap,
)

__all__ = ["pool_window"]

_ATTRS: dict[str, Any] = {
    "auto_pad": ("s", "NOTSET"),
    "ceil_mode": ("i", 0),
    "dilations": "ints",
    "kernel_shape": ("ints", REQUIRED),
    "pads": "ints",
    "strides": "ints",
}


def pool_window(spatial: Sequence[Dim], attrs: Mapping[str, Any]) -> Window:
    """The windows of a pool with these attributes."""
    return sliding_window(
        spatial,
        attrs["kernel_shape"],
        strides=attrs.get("strides"),
        dilations=attrs.get("dilations"),
        pads=attrs.get("pads"),
        auto_pad=attrs.get("auto_pad") or "NOTSET",
        ceil_mode=bool(attrs.get("ceil_mode")),
    )


def _pooled(ctx: InferContext) -> TensorType:
    data = ctx.tensor(0)
    ctx.attr("kernel_shape")
    if data.shape is None:
        return data
    if len(data.shape) < 3:
        ctx.fail(f"its input has rank {len(data.shape)}, but needs batch, channels, space")
    window = pool_window(data.shape[2:], ctx.attrs)
    return TensorType(data.dtype, (*data.shape[:2], *window.out))


def _infer_max(ctx: InferContext) -> tuple[Type, Type]:
    pooled = _pooled(ctx)
    return pooled, TensorType(DType.I64, pooled.shape)


def _lowest(dtype: np.dtype[Any]) -> Any:
    found = DType.from_numpy(dtype)
    if found.is_integer:
        return 0 if not found.is_signed else -(1 << (found.bits - 1))
    return -np.inf


def _evaluate_max(ctx: EvalContext, x: Array) -> Any:
    window = pool_window(x.shape[2:], ctx.attrs).numbers
    padded = pad_spatial(x, window, _lowest(x.dtype))
    shape = (*x.shape[:2], *window.out)
    if ctx.n_outputs == 1:
        y = np.full(shape, _lowest(x.dtype), dtype=x.dtype)
        for offset in offsets(window.kernel):
            np.maximum(y, tap(padded, window, offset), out=y)
        return y
    return _max_with_indices(x, padded, window, ctx.attr("storage_order") == 1)


def _max_with_indices(
    x: Array, padded: Array, window: NumericWindow, column_major: bool
) -> tuple[Array, Array]:
    """Maxima and where they are in ``x`` taken as one flat tensor; the first of equals wins."""
    spatial = x.shape[2:]
    image = int(np.prod(spatial))
    order = range(len(spatial)) if column_major else reversed(range(len(spatial)))
    places = np.zeros(spatial, dtype=np.int64)
    step = 1
    for axis in order:
        shape = [-1 if i == axis else 1 for i in range(len(spatial))]
        places += np.arange(spatial[axis], dtype=np.int64).reshape(shape) * step
        step *= spatial[axis]
    images = np.arange(x.shape[0] * x.shape[1], dtype=np.int64).reshape(*x.shape[:2])
    starts = images.reshape(*x.shape[:2], *(1,) * len(spatial)) * image
    index = pad_spatial(places[None, None], window, -1)
    best = np.full((*x.shape[:2], *window.out), _lowest(x.dtype), dtype=x.dtype)
    found = np.full((1, 1, *window.out), -1, dtype=np.int64)
    where = np.broadcast_to(found, best.shape).copy()
    for offset in offsets(window.kernel):
        candidate, place = tap(padded, window, offset), tap(index, window, offset)
        better = ((candidate > best) | (where < 0)) & (place >= 0)
        best = np.where(better, candidate, best)
        where = np.where(better, place, where)
    return best, where + starts


def _sums(x: Array, window: NumericWindow) -> Array:
    padded = pad_spatial(x, window)
    total = np.zeros((*x.shape[:2], *window.out), dtype=x.dtype)
    for offset in offsets(window.kernel):
        total += tap(padded, window, offset)
    return total


def _counts(spatial: Sequence[int], window: NumericWindow, padding: bool) -> Array:
    """How many elements each window averages over: those of the input, or also its padding."""
    result = np.ones((), dtype=np.int64)
    for axis, size in enumerate(spatial):
        begin, end = window.begin[axis], window.end[axis]
        starts = np.arange(window.out[axis]) * window.strides[axis] - begin
        reads = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        low, high = (-begin, size + end) if padding else (0, size)
        inside = ((reads >= low) & (reads < high)).sum(axis=1)
        result = result[..., None] * inside
    return result


def _evaluate_average(ctx: EvalContext, x: Array) -> Array:
    window = pool_window(x.shape[2:], ctx.attrs).numbers
    counts = _counts(x.shape[2:], window, bool(ctx.attr("count_include_pad")))
    total = _sums(widen(x), window)
    with np.errstate(invalid="ignore", divide="ignore"):
        return narrow(total / counts.astype(total.dtype), x.dtype)


def _evaluate_lp(ctx: EvalContext, x: Array) -> Array:
    window = pool_window(x.shape[2:], ctx.attrs).numbers
    p = ctx.attr("p")
    return narrow(_root(_sums(_power(x, p), window), p), x.dtype)


def _power(x: Array, p: int) -> Array:
    wide = np.abs(widen(x))
    return wide if p == 1 else wide * wide if p == 2 else wide**p


def _root(total: Array, p: int) -> Array:
    return total if p == 1 else np.sqrt(total) if p == 2 else total ** (1.0 / p)


def _infer_global(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return data
    if len(data.shape) < 2:
        ctx.fail(f"its input has rank {len(data.shape)}, but needs batch and channels")
    return TensorType(data.dtype, (*data.shape[:2], *(1,) * (len(data.shape) - 2)))


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _evaluate_global_average(ctx: EvalContext, x: Array) -> Array:
    return narrow(widen(x).mean(axis=_space(x), keepdims=True), x.dtype)


def _evaluate_global_max(ctx: EvalContext, x: Array) -> Array:
    return np.asarray(x.max(axis=_space(x), keepdims=True))


def _evaluate_global_lp(ctx: EvalContext, x: Array) -> Array:
    p = ctx.attr("p")
    return narrow(_root(_power(x, p).sum(axis=_space(x), keepdims=True), p), x.dtype)


def _unpooled(spatial: Sequence[Dim], attrs: Mapping[str, Any]) -> list[Dim]:
    rank = len(spatial)
    kernel = attrs["kernel_shape"]
    strides = per_axis(attrs.get("strides"), rank, "strides")
    pads = per_axis(attrs.get("pads"), 2 * rank, "pads", 0)
    return [
        (size - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i]
        for i, size in enumerate(spatial)
    ]


def _infer_unpool(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    ctx.attr("kernel_shape")
    if data.shape is None:
        return data
    if not ctx.has(2):
        return TensorType(data.dtype, (*data.shape[:2], *_unpooled(data.shape[2:], ctx.attrs)))
    wanted = ctx.elements(2)
    if wanted is None:
        wanted = tuple(ctx.fresh("unpool") for _ in data.shape)
    return TensorType(data.dtype, wanted)


def _evaluate_unpool(ctx: EvalContext, x: Array, index: Array, shape: Array | None = None) -> Array:
    # Indices count elements of the shape that the attributes give; output_shape enlarges that.
    inferred = (*x.shape[:2], *numbers(_unpooled(x.shape[2:], ctx.attrs)))
    flat = np.zeros(int(np.prod(inferred)), dtype=x.dtype)
    flat[index.ravel()] = x.ravel()
    y = flat.reshape(inferred)
    if shape is None:
        return y
    wanted = tuple(int(size) for size in shape)
    result = np.zeros(wanted, dtype=x.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(inferred, wanted, strict=True))
    result[common] = y[common]
    return result


def _infer_roi(ctx: InferContext) -> Type:
    data, rois = ctx.tensor(0), ctx.shape(1)
    pooled = ctx.attr("pooled_shape")
    count = rois[0] if rois is not None else ctx.fresh("rois")
    channels = data.shape[1] if data.shape is not None else ctx.fresh("channels")
    return TensorType(data.dtype, (count, channels, *pooled))


def _evaluate_roi(ctx: EvalContext, x: Array, rois: Array) -> Array:
    pooled = ctx.attr("pooled_shape")
    scale = np.float32(ctx.attr("spatial_scale"))
    y = np.zeros((rois.shape[0], x.shape[1], *pooled), dtype=x.dtype)
    for n, (batch, *corners) in enumerate(widen(rois)):
        x1, y1, x2, y2 = (int(np.floor(c * scale + np.float32(0.5))) for c in corners)
        rows = _bins(y1, y2, pooled[0], x.shape[2])
        columns = _bins(x1, x2, pooled[1], x.shape[3])
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if bottom > top and right > left:
                    y[n, :, i, j] = x[int(batch), :, top:bottom, left:right].max(axis=(1, 2))
    return y


def _bins(start: int, stop: int, count: int, size: int) -> list[tuple[int, int]]:
    """Rounded-out shares of the closed range [start, stop], clipped to the input."""
    step = np.float32(max(stop - start + 1, 1)) / np.float32(count)
    bounds = []
    for i in range(count):
        low = int(np.floor(np.float32(i) * step)) + start
        high = int(np.ceil(np.float32(i + 1) * step)) + start
        bounds.append((min(max(low, 0), size), min(max(high, 0), size)))
    return bounds


def _pool_flops(node: Node) -> Dim | None:
    out = node.output.tensor.numel
    return None if out is None else out * product(node.attr("kernel_shape"))


def _global_flops(node: Node) -> Dim | None:
    source = node.inputs[0]
    return None if source is None else source.tensor.numel


_pool_cost, _global_cost = cost_of(_pool_flops), cost_of(_global_flops)

register(
    OpDef(
        "MaxPool",
        inputs=("X",),
        outputs=("Y", "Indices?"),
        attrs=attr_specs(**_ATTRS, storage_order=("i", 0)),
        infer=_infer_max,
        evaluate=_evaluate_max,
        cost=_pool_cost,
    ),
    OpDef(
        "AveragePool",
        inputs=("X",),
        attrs=attr_specs(**_ATTRS, count_include_pad=("i", 0)),
        infer=_pooled,
        evaluate=_evaluate_average,
        cost=_pool_cost,
    ),
    OpDef(
        "LpPool",
        inputs=("X",),
        attrs=attr_specs(**_ATTRS, p=("i", 2)),
        infer=_pooled,
        evaluate=_evaluate_lp,
        cost=_pool_cost,
    ),
    OpDef(
        "GlobalAveragePool",
        inputs=("X",),
        infer=_infer_global,
        evaluate=_evaluate_global_average,
        cost=_global_cost,
    ),
    OpDef(
        "GlobalMaxPool",
        inputs=("X",),
        infer=_infer_global,
        evaluate=_evaluate_global_max,
        cost=_global_cost,
    ),
    OpDef(
        "GlobalLpPool",
        inputs=("X",),
        attrs=attr_specs(p=("i", 2)),
        infer=_infer_global,
        evaluate=_evaluate_global_lp,
        cost=_global_cost,
    ),
    OpDef(
        "MaxUnpool",
        inputs=("X", "I", "output_shape?"),
        outputs=("output",),
        attrs=attr_specs(kernel_shape=("ints", REQUIRED), pads="ints", strides="ints"),
        infer=_infer_unpool,
        evaluate=_evaluate_unpool,
    ),
    OpDef(
        "MaxRoiPool",
        inputs=("X", "rois"),
        attrs=attr_specs(pooled_shape=("ints", REQUIRED), spatial_scale=("f", 1.0)),
        infer=_infer_roi,
        evaluate=_evaluate_roi,
    ),
)
