"""Growing and shrinking: Pad, CenterCropPad, Col2Im, Upsample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from graphopt.ir.dim import Dim, product
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable
from graphopt.ops.infer import fresh_shape, known_ints
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["padded"]

_MODES = ("constant", "reflect", "edge", "wrap")


# ---- Pad ----


def _infer_pad(ctx: InferContext) -> Type:
    data, pads = ctx.tensor(0), ctx.elements(1)
    if data.shape is None:
        return data
    rank = len(data.shape)
    axes = known_ints(ctx, 3) if ctx.has(3) else tuple(range(rank))
    if axes is None:
        return TensorType(data.dtype, fresh_shape(ctx, rank, "pad"))
    axes = tuple(ctx.axis(axis, rank) for axis in axes)
    dims = list(data.shape)
    if pads is not None and len(pads) != 2 * len(axes):
        ctx.fail(f"{len(pads)} pads do not fit {len(axes)} axes")
    for k, axis in enumerate(axes):
        if pads is None:
            dims[axis] = ctx.fresh("pad")
            continue
        size = dims[axis] + pads[k] + pads[k + len(axes)]
        if isinstance(size, int) and size < 0:
            ctx.fail(f"its pads leave {size} elements along axis {axis}")
        dims[axis] = size
    return TensorType(data.dtype, tuple(dims))


def padded(x: Array, pads: Sequence[tuple[int, int]], mode: str, value: Array) -> Array:
    """``x`` with (begin, end) elements added along each axis; negative numbers crop, first."""
    crop = tuple(
        slice(max(-begin, 0), size - max(-end, 0))
        for size, (begin, end) in zip(x.shape, pads, strict=True)
    )
    x = x[crop]
    grow = [(max(begin, 0), max(end, 0)) for begin, end in pads]
    if mode == "constant":
        sizes = zip(x.shape, grow, strict=True)
        result = np.full([begin + size + end for size, (begin, end) in sizes], value, x.dtype)
        inner = zip(x.shape, grow, strict=True)
        result[tuple(slice(begin, begin + size) for size, (begin, _) in inner)] = x
        return result
    for axis, width in enumerate(grow):
        if width != (0, 0):
            if mode == "reflect":
                source = np.pad(np.arange(x.shape[axis]), width, mode="reflect")
            elif mode == "edge":
                source = np.pad(np.arange(x.shape[axis]), width, mode="edge")
            else:
                source = np.pad(np.arange(x.shape[axis]), width, mode="wrap")
            x = np.take(x, source, axis=axis)
    return x.copy()


def _evaluate_pad(
    ctx: EvalContext,
    x: Array,
    pads: Array,
    value: Array | None = None,
    axes: Array | None = None,
) -> Array:
    mode = ctx.attr("mode")
    if mode not in _MODES:
        ctx.fail(f"mode is '{mode}'")
    where = list(range(x.ndim)) if axes is None else [int(a) % x.ndim for a in axes.ravel()]
    widths = [(0, 0)] * x.ndim
    for k, axis in enumerate(where):
        widths[axis] = (int(pads[k]), int(pads[k + len(where)]))
    if value is None or value.size == 0:
        value = np.array("", object) if x.dtype.kind == "O" else np.zeros((), x.dtype)
    return padded(x, widths, mode, value.reshape(()))


register(
    OpDef(
        "Pad",
        inputs=("data", "pads", "constant_value?", "axes?"),
        outputs=("output",),
        attrs=attr_specs(mode=("s", "constant")),
        infer=_infer_pad,
        evaluate=_evaluate_pad,
    )
)


# ---- CenterCropPad ----


def _infer_center_crop_pad(ctx: InferContext) -> Type:
    data, wanted = ctx.tensor(0), ctx.elements(1)
    if data.shape is None:
        return data
    rank = len(data.shape)
    axes = ctx.attr("axes")
    axes = range(rank) if axes is None else [ctx.axis(axis, rank) for axis in axes]
    dims = list(data.shape)
    if wanted is not None and len(wanted) != len(axes):
        ctx.fail(f"{len(wanted)} sizes do not fit {len(axes)} axes")
    for k, axis in enumerate(axes):
        dims[axis] = ctx.fresh("crop") if wanted is None else wanted[k]
    return TensorType(data.dtype, tuple(dims))


def _evaluate_center_crop_pad(ctx: EvalContext, x: Array, shape: Array) -> Array:
    axes = ctx.attr("axes")
    widths = [(0, 0)] * x.ndim
    for k, axis in enumerate(range(x.ndim) if axes is None else axes):
        size, wanted = x.shape[axis], int(shape[k])
        # The odd element is cropped from, or added to, the end.
        before = abs(wanted - size) // 2
        after = abs(wanted - size) - before
        widths[axis] = (before, after) if wanted > size else (-before, -after)
    value = np.array("", object) if x.dtype.kind == "O" else np.zeros((), x.dtype)
    return padded(x, widths, "constant", value)


register(
    OpDef(
        "CenterCropPad",
        inputs=("input_data", "shape"),
        outputs=("output_data",),
        attrs=attr_specs(axes="ints"),
        infer=_infer_center_crop_pad,
        evaluate=_evaluate_center_crop_pad,
    )
)


# ---- Col2Im ----


def _infer_col2im(ctx: InferContext) -> Type:
    data, image, block = ctx.tensor(0), ctx.elements(1), ctx.elements(2)
    if data.shape is not None and len(data.shape) != 3:
        ctx.fail(f"its operand has {len(data.shape)} axes, not 3")
    batch: Dim = ctx.fresh("batch") if data.shape is None else data.shape[0]
    channels: Dim = ctx.fresh("channels")
    if data.shape is not None and block is not None:
        channels = data.shape[1] // product(block)
    if image is None:
        sizes = ctx.shape(1)
        count = None if sizes is None or not isinstance(sizes[0], int) else sizes[0]
        image = fresh_shape(ctx, count, "image")
    if image is None:
        return TensorType(data.dtype, None)
    return TensorType(data.dtype, (batch, channels, *image))


def _evaluate_col2im(ctx: EvalContext, x: Array, image: Array, block: Array) -> Array:
    kernel = [int(k) for k in block]
    sizes = [int(n) for n in image]
    rank = len(sizes)
    strides = ctx.attr("strides") or (1,) * rank
    dilations = ctx.attr("dilations") or (1,) * rank
    pads = ctx.attr("pads") or (0,) * (2 * rank)
    full = [sizes[a] + pads[a] + pads[a + rank] for a in range(rank)]
    count = [(full[a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1 for a in range(rank)]
    channels = x.shape[1] // int(np.prod(kernel))
    columns = computable(x).reshape(x.shape[0], channels, *kernel, *count)
    result = np.zeros((x.shape[0], channels, *full), dtype=columns.dtype)
    every = (slice(None), slice(None))
    for offset in itertools.product(*map(range, kernel)):
        where = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(offset, dilations, count, strides, strict=True)
        )
        result[every + where] += columns[every + offset]
    inner = tuple(slice(pads[a], pads[a] + sizes[a]) for a in range(rank))
    return np.asarray(result[every + inner], x.dtype, order="C")


register(
    OpDef(
        "Col2Im",
        inputs=("input", "image_shape", "block_shape"),
        outputs=("output",),
        attrs=attr_specs(dilations="ints", pads="ints", strides="ints"),
        infer=_infer_col2im,
        evaluate=_evaluate_col2im,
    )
)


# ---- Upsample ----


def _infer_upsample(ctx: InferContext) -> Type:
    data, scales = ctx.tensor(0), ctx.constant(1)
    if data.shape is None:
        return data
    if scales is None:
        return TensorType(data.dtype, fresh_shape(ctx, len(data.shape), "upsample"))
    if scales.size != len(data.shape):
        ctx.fail(f"{scales.size} scales do not fit {data}")
    dims: list[Dim] = []
    for dim, scale in zip(data.shape, scales.ravel().tolist(), strict=True):
        if isinstance(dim, int):
            dims.append(int(np.floor(dim * scale)))
        else:
            dims.append(dim * int(scale) if scale == int(scale) else ctx.fresh("upsample"))
    return TensorType(data.dtype, tuple(dims))


def _evaluate_upsample(ctx: EvalContext, x: Array, scales: Array) -> Array:
    mode = ctx.attr("mode")
    if mode not in ("nearest", "linear"):
        ctx.fail(f"mode is '{mode}', neither nearest nor linear")
    result = computable(x)
    for axis, scale in enumerate(scales.ravel().tolist()):
        size = x.shape[axis]
        place = np.arange(int(np.floor(size * scale))) / scale
        low = np.minimum(np.floor(place).astype(np.int64), size - 1)
        if mode == "nearest" or scale == 1:
            result = np.take(result, low, axis=axis)
            continue
        high = np.minimum(low + 1, size - 1)
        lane = [1] * result.ndim
        lane[axis] = -1
        weight = (place - low).reshape(lane)
        wide = result.astype(np.float64)
        result = np.take(wide, low, axis) * (1 - weight) + np.take(wide, high, axis) * weight
    return result.astype(x.dtype)


register(
    OpDef(
        "Upsample",
        inputs=("X", "scales"),
        attrs=attr_specs(mode=("s", "nearest")),
        infer=_infer_upsample,
        evaluate=_evaluate_upsample,
    )
)
