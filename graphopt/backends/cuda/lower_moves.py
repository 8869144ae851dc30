"""Resampling to the nearest element, and transposed convolutions whose windows do not overlap.

``Resize(x)  ->  Gather(x, places)`` along each axis that changes;
``ConvTranspose(x, w)  ->  product``, whose columns are the taps, and a transpose that puts every
window in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Builder, Node, Value, static_shape
from graphopt.ops.conv import transpose_window
from graphopt.ops.resize import plan_axis

__all__ = ["resize", "resize_reason", "transposed_reason"]


def resize_reason(node: Node) -> str | None:
    """Why a Resize is no lookup; None when it is."""
    if node.attr("mode") != "nearest":
        return f"it resamples in mode {node.attr('mode')}"
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "it crops"
    if node.attr("keep_aspect_ratio_policy") != "stretch":
        return "it keeps the aspect ratio"
    scales = node.input(2)
    if scales is not None and scales.shape != (0,) and scales.constant is None:
        return "its scales are not constant"
    return None


def resize(builder: Builder, node: Node) -> Value:
    """Lookups in place of a Resize to the nearest element."""
    x = node.inputs[0]
    assert x is not None
    old, new = static_shape(x.shape), static_shape(node.output.shape)
    assert old is not None and new is not None
    given = node.attr("axes")
    axes = [int(a) % len(old) for a in given] if given is not None else list(range(len(old)))
    scales = node.input(2)
    factors: list[Any] = [new[axis] / old[axis] for axis in axes]
    if scales is not None and scales.constant is not None and scales.constant.numel:
        factors = [float(s) for s in scales.constant.array.ravel()]
    result = x
    for axis, factor in zip(axes, factors, strict=True):
        if new[axis] == old[axis] and factor == 1:
            continue
        plan = plan_axis(
            old[axis],
            new[axis],
            factor,
            mode="nearest",
            coordinates=node.attr("coordinate_transformation_mode"),
            nearest_mode=node.attr("nearest_mode"),
        )
        places = builder.constant(np.ascontiguousarray(plan.index.ravel(), np.int64))
        result = builder.Gather(result, places, axis=axis)
    return result


def transposed_reason(node: Node) -> str | None:
    """Why a ConvTranspose is no plain product; None when it is."""
    x, w = node.inputs[:2]
    assert x is not None and w is not None
    sizes, kernel = static_shape(x.shape), static_shape(w.shape)
    if sizes is None or kernel is None or len(sizes) != 4 or not w.is_constant:
        return "it has not two axes, or its weights are not constant"
    window, out = transpose_window(sizes[2:], kernel[2:], node.attrs)
    whole = tuple(size * k for size, k in zip(sizes[2:], kernel[2:], strict=True))
    steps = window.strides == kernel[2:] and window.dilations == (1, 1)
    if not steps or tuple(out) != whole or int(node.attr("group")) != 1:
        return "its windows overlap, leave gaps or come in groups"
    return None
