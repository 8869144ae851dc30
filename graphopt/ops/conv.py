"""Convolutions: Conv, ConvTranspose, CausalConvWithState."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, dim_max, product
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, accumulator, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, cost_of
from graphopt.ops.window import (
    NumericWindow,
    Window,
    numbers,
    offsets,
    pad_spatial,
    per_axis,
    sliding_window,
    tap,
    window_views,
)

__all__ = [
    "CONV_ATTRS",
    "conv_flops",
    "conv_shape",
    "conv_window",
    "convolve",
    "transpose_window",
]

CONV_ATTRS = attr_specs(
    auto_pad=("s", "NOTSET"),
    dilations="ints",
    group=("i", 1),
    kernel_shape="ints",
    pads="ints",
    strides="ints",
)


def conv_window(spatial: Sequence[Dim], kernel: Sequence[Dim], attrs: Mapping[str, Any]) -> Window:
    """The windows of a convolution with these attributes (any schema with Conv's names)."""
    return sliding_window(
        spatial,
        kernel,
        strides=attrs.get("strides"),
        dilations=attrs.get("dilations"),
        pads=attrs.get("pads"),
        auto_pad=attrs.get("auto_pad") or "NOTSET",
    )


def conv_shape(ctx: InferContext, x: int = 0, w: int = 1) -> tuple[Dim, ...] | None:
    """Output shape of a convolution whose operands ``x`` and ``w`` hold input and weights."""
    data, weight = ctx.shape(x), ctx.shape(w)
    if data is None or weight is None:
        return None
    if len(data) < 3 or len(data) != len(weight):
        ctx.fail(f"input of rank {len(data)} and weights of rank {len(weight)} do not fit")
    group = ctx.attr("group")
    require_equal(
        ctx, weight[1] * group, data[1], "weight channels times groups must be input channels"
    )
    kernel = ctx.attrs.get("kernel_shape")
    if kernel is not None:
        for given, found in zip(kernel, weight[2:], strict=True):
            require_equal(ctx, found, given, "kernel_shape must be that of the weights")
    window = conv_window(data[2:], kernel or weight[2:], ctx.attrs)
    return (data[0], weight[0], *window.out)


def convolve(x: Array, w: Array, window: NumericWindow, group: int) -> Array:
    """Cross-correlation of x [N, C, ...] and w [M, C/group, ...] in the type of ``x``.

    Pads with zeros. Groups of one channel run tap by tap, all else as im2col and a matrix product.
    """
    batch, channels = x.shape[:2]
    padded = pad_spatial(x, window)
    y = np.zeros((batch, w.shape[0], *window.out), dtype=x.dtype)
    if y.size == 0 or w.size == 0:
        return y
    if w.shape[1] == 1 and group == channels and group > 1:
        split = (batch, group, w.shape[0] // group, *window.out)
        out = y.reshape(split)
        for offset, column in zip(offsets(window.kernel), w.reshape(len(w), -1).T, strict=True):
            weight = column.reshape(group, -1, *(1,) * len(window.out))
            out += tap(padded, window, offset)[:, :, None] * weight
        return y
    views = window_views(padded, window)
    columns = int(np.prod(window.out))
    rows = w.reshape(group, w.shape[0] // group, -1)
    for n in range(batch):
        block = views[n].reshape(group, rows.shape[2], columns)
        y[n] = np.matmul(rows, block).reshape(y.shape[1:])
    return y


def _bias(y: Array, bias: Array | None) -> Array:
    if bias is not None:
        y += widen(bias).reshape(1, -1, *(1,) * (y.ndim - 2))
    return y


def _infer_conv(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(0), conv_shape(ctx))


def _evaluate_conv(ctx: EvalContext, x: Array, w: Array, bias: Array | None = None) -> Array:
    window = conv_window(x.shape[2:], w.shape[2:], ctx.attrs).numbers
    return narrow(_bias(convolve(widen(x), widen(w), window, ctx.attr("group")), bias), x.dtype)


def conv_flops(weight: int = 1) -> Callable[[Node], Dim | None]:
    """Two operations for every product, where operand ``weight`` holds the weights."""

    def count(node: Node) -> Dim | None:
        w, out = node.inputs[weight], node.output.tensor.numel
        if w is None or w.shape is None or out is None:
            return None
        return 2 * out * product(w.shape[1:])

    return count


def transpose_window(
    spatial: Sequence[Dim], kernel: Sequence[Dim], attrs: Mapping[str, Any]
) -> tuple[Window, tuple[Dim, ...]]:
    """Window and output sizes of a transposed convolution.

    The window is that of the convolution it transposes: ``begin`` says how much of the full
    output is cut off in front. ``out`` of the window counts the *input*'s elements.
    """
    rank = len(spatial)
    strides = per_axis(attrs.get("strides"), rank, "strides")
    dilations = per_axis(attrs.get("dilations"), rank, "dilations")
    more = attrs.get("output_padding") or (0,) * rank
    full = [
        (size - 1) * step + (k - 1) * spread + 1 + extra
        for size, k, step, spread, extra in zip(
            spatial, kernel, strides, dilations, more, strict=True
        )
    ]
    auto_pad = attrs.get("auto_pad") or "NOTSET"
    wanted: Sequence[Dim] | None = attrs.get("output_shape")
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(spatial, strides, strict=True)]
    if wanted is None:
        pads = attrs.get("pads") if auto_pad == "NOTSET" else None
        pads = per_axis(pads, 2 * rank, "pads", 0)
        begin: list[Dim] = list(pads[:rank])
        end: list[Dim] = list(pads[rank:])
        out = [f - b - e for f, b, e in zip(full, begin, end, strict=True)]
    else:
        # The last `rank` sizes: some exporters list batch and channels too.
        out = list(wanted[-rank:])
        total = [dim_max(f - o, 0) for f, o in zip(full, out, strict=True)]
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    window = Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end), tuple(spatial))
    return window, tuple(out)


def _infer_transpose(ctx: InferContext) -> Type:
    data, weight = ctx.shape(0), ctx.shape(1)
    if data is None or weight is None:
        return TensorType(ctx.dtype(0), None)
    if len(data) < 3 or len(data) != len(weight):
        ctx.fail(f"input of rank {len(data)} and weights of rank {len(weight)} do not fit")
    require_equal(ctx, weight[0], data[1], "weights must have a row for every input channel")
    _, out = transpose_window(data[2:], ctx.attrs.get("kernel_shape") or weight[2:], ctx.attrs)
    for dim in out:
        if isinstance(dim, int) and dim < 0:
            ctx.fail(f"its padding leaves an output size of {dim}")
    return TensorType(ctx.dtype(0), (data[0], weight[1] * ctx.attr("group"), *out))


def _evaluate_transpose(ctx: EvalContext, x: Array, w: Array, bias: Array | None = None) -> Array:
    geometry, sizes = transpose_window(x.shape[2:], w.shape[2:], ctx.attrs)
    window = geometry.numbers
    out = numbers(sizes)
    group = ctx.attr("group")
    acc = accumulator(x.dtype)
    channels = w.shape[1] * group
    # The full output, large enough for the crop below even where output_shape exceeds it.
    full = [
        max((size - 1) * s + (k - 1) * d + 1, begin + want, 0)
        for size, k, s, d, begin, want in zip(
            x.shape[2:], window.kernel, window.strides, window.dilations, window.begin, out,
            strict=True,
        )
    ]  # fmt: skip
    y = np.zeros((x.shape[0], channels, *full), dtype=acc)
    spatial = x.shape[2:]
    data = widen(x).reshape(x.shape[0], group, x.shape[1] // group, -1)
    weight = widen(w).reshape(1, group, w.shape[0] // group, w.shape[1], *w.shape[2:])
    if data.size and weight.size:
        for offset in offsets(window.kernel):
            rows = np.swapaxes(weight[(slice(None),) * 4 + offset], 2, 3)
            part = np.matmul(rows, data).reshape(x.shape[0], channels, *spatial)
            view = tap(y, window, offset)
            view += part
    crop = tuple(slice(b, b + o) for b, o in zip(window.begin, out, strict=True))
    return narrow(_bias(y[(slice(None), slice(None), *crop)], bias), x.dtype)


def _transpose_flops(node: Node) -> Dim | None:
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or weight.shape is None or data.tensor.numel is None:
        return None
    return 2 * data.tensor.numel * product(weight.shape[1:])


def _infer_causal(ctx: InferContext) -> tuple[Type, Type]:
    data, weight = ctx.tensor(0), ctx.shape(1)
    if data.shape is None or weight is None:
        return data, TensorType(data.dtype, None)
    if len(data.shape) != 3 or len(weight) != 3:
        ctx.fail("input and weights must have 3 axes")
    batch, channels, _ = data.shape
    require_equal(ctx, weight[0], channels, "weights must have a row for every channel")
    return data, TensorType(data.dtype, (batch, channels, weight[2] - 1))


def _evaluate_causal(
    ctx: EvalContext,
    x: Array,
    w: Array,
    bias: Array | None = None,
    past: Array | None = None,
) -> tuple[Array, Array]:
    keep = w.shape[2] - 1
    if past is None:
        past = np.zeros((*x.shape[:2], keep), dtype=x.dtype)
    joined = np.concatenate([past.astype(x.dtype, copy=False), x], axis=2)
    window = conv_window(joined.shape[2:], w.shape[2:], {}).numbers
    y = _bias(convolve(widen(joined), widen(w), window, max(x.shape[1], 1)), bias)
    activation = ctx.attr("activation")
    if activation in ("silu", "swish"):
        y = y / (1 + np.exp(-y))
    elif activation != "none":
        ctx.fail(f"activation is '{activation}'")
    return narrow(y, x.dtype), joined[:, :, joined.shape[2] - keep :]


register(
    OpDef(
        "Conv",
        inputs=("X", "W", "B?"),
        attrs=CONV_ATTRS,
        infer=_infer_conv,
        evaluate=_evaluate_conv,
        cost=cost_of(conv_flops()),
    ),
    OpDef(
        "ConvTranspose",
        inputs=("X", "W", "B?"),
        attrs=attr_specs(
            auto_pad=("s", "NOTSET"),
            dilations="ints",
            group=("i", 1),
            kernel_shape="ints",
            output_padding="ints",
            output_shape="ints",
            pads="ints",
            strides="ints",
        ),
        infer=_infer_transpose,
        evaluate=_evaluate_transpose,
        cost=cost_of(_transpose_flops),
    ),
    OpDef(
        "CausalConvWithState",
        inputs=("input", "weight", "bias?", "past_state?"),
        outputs=("output", "present_state"),
        attrs=attr_specs(activation=("s", "none")),
        infer=_infer_causal,
        evaluate=_evaluate_causal,
        cost=cost_of(conv_flops()),
    ),
)
