"""Resize: nearest, linear and cubic interpolation, one axis after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.precision import Array, narrow
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, cost_of
from graphopt.ops.window import numbers

__all__ = [
    "AxisPlan",
    "keys_cubic",
    "plan_axis",
    "saturated",
    "scale_fraction",
    "scaled_size",
]


def scale_fraction(scale: float) -> tuple[int, int]:
    """The simplest fraction that rounds to ``scale`` in f32, so that 0.7f means 7/10."""
    exact = Fraction(float(np.float32(scale)))
    for bound in (10, 100, 1000, 10000):
        near = exact.limit_denominator(bound)
        if np.float32(near.numerator / near.denominator) == np.float32(scale):
            return near.numerator, near.denominator
    return exact.numerator, exact.denominator


def scaled_size(size: Dim, scale: float) -> Dim:
    """floor(size * scale), exact for the fraction that ``scale`` stands for."""
    numerator, denominator = scale_fraction(scale)
    return size * numerator // denominator


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """One axis: output i = sum over j of weights[i, j] * input[index[i, j]].

    ``outside`` marks outputs that take the extrapolation value instead (None: there are none).
    """

    index: Array
    weights: Array
    outside: Array | None


def _coordinates(
    mode: str, size: int, out: int, scale: Any, roi: tuple[float, float], real: Any
) -> Array:
    """Where every output element lies in the input, in the float type ``real``."""
    x: Array = np.arange(out).astype(real)
    scale = real(scale)
    width = scale * real(size)
    half = real(0.5)
    match mode:
        case "align_corners":
            return np.asarray(x * 0 if width == 1 else x * real(size - 1) / (width - 1))
        case "asymmetric":
            return np.asarray(x / scale)
        case "tf_crop_and_resize":
            start, end = real(roi[0]), real(roi[1])
            if width == 1:
                return np.asarray(x * 0 + half * (start + end) * real(size - 1))
            step = (end - start) * real(size - 1) / (width - 1)
            return np.asarray(start * real(size - 1) + x * step)
        case "pytorch_half_pixel":
            return np.asarray((x + half) / scale - half if out > 1 else x * 0)
        case "half_pixel":
            return np.asarray((x + half) / scale - half)
        case "half_pixel_symmetric":
            offset = real(size) / 2 * (1 - real(out) / width)
            return np.asarray(offset + (x + half) / scale - half)
    raise ValueError(f"coordinate_transformation_mode is '{mode}'")


def _nearest(x: Array, mode: str) -> Array:
    match mode:
        case "round_prefer_floor":
            return np.asarray(np.ceil(x - x.dtype.type(0.5)))
        case "round_prefer_ceil":
            return np.asarray(np.floor(x + x.dtype.type(0.5)))
        case "floor":
            return np.asarray(np.floor(x))
        case "ceil":
            return np.asarray(np.ceil(x))
    raise ValueError(f"nearest_mode is '{mode}'")


def keys_cubic(distance: Array, a: float) -> Array:
    """The cubic convolution kernel of Keys (IEEE 1163711, equation 4)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _weights(x: Array, mode: str, scale: float, antialias: bool, a: float) -> tuple[Array, Array]:
    """Indices (not clamped) and weights [out, taps]; antialias widens the filter by 1/scale."""
    shrink = min(scale, 1.0) if antialias else 1.0
    reach = 1 if mode == "linear" else 2
    first = int(np.floor(-reach / shrink)) + 1
    taps = np.arange(first, 2 - first)
    base = np.floor(x)
    # The pixel on the left of x is preferred: an x on a pixel counts as its right neighbour's left.
    base = np.where(x == base, base - 1, base)
    index = base.astype(np.int64)[:, None] + taps
    distance = (index - x[:, None]) * shrink
    if mode == "linear":
        weights = np.clip(1 - np.abs(distance), 0, 1)
    else:
        weights = keys_cubic(distance, a)
    if antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return index, weights


def plan_axis(
    size: int,
    out: int,
    scale: float,
    *,
    mode: str,
    coordinates: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool = False,
    roi: tuple[float, float] = (0.0, 1.0),
) -> AxisPlan:
    """Indices and weights along one axis of ``size`` elements that becomes ``out`` elements.

    Nearest works in f32 as onnxruntime does: there, output k of scale 1.1f lies exactly on input
    k/1.1 where that is whole, which f64 misses. The weights of linear and cubic are f64.
    """
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode is '{mode}'")
    real = np.float32 if mode == "nearest" else np.float64
    x = _coordinates(coordinates, size, out, scale, roi, real)
    outside = None
    if coordinates == "tf_crop_and_resize":
        outside = (x < 0) | (x > size - 1)
    if mode == "nearest":
        index = _nearest(x, nearest_mode).astype(np.int64)[:, None]
        return AxisPlan(np.clip(index, 0, size - 1), np.ones((out, 1)), outside)
    index, weights = _weights(x, mode, float(scale), antialias, cubic_a)
    if exclude_outside:
        weights = np.where((index < 0) | (index >= size), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return AxisPlan(np.clip(index, 0, size - 1), weights, outside)


def _axes(ctx: InferContext | EvalContext, rank: int) -> list[int]:
    axes = ctx.attr("axes")
    if axes is None:
        return list(range(rank))
    for axis in axes:
        if not -rank <= axis < rank:
            ctx.fail(f"axis {axis} is out of range for rank {rank}")
    return [axis % rank for axis in axes]


def _infer(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return data
    axes = _axes(ctx, len(data.shape))
    shape = list(data.shape)
    # An empty `scales` is how older exporters leave it out.
    if ctx.has(2) and ctx.shape(2) != (0,):
        sizes = _sizes_from_scales(ctx, [shape[axis] for axis in axes])
    else:
        sizes = _sizes_from_sizes(ctx, [shape[axis] for axis in axes])
    for i, axis in enumerate(axes):
        shape[axis] = ctx.fresh("resized") if sizes is None else sizes[i]
    return TensorType(data.dtype, tuple(shape))


def _sizes_from_scales(ctx: InferContext, old: list[Dim]) -> list[Dim] | None:
    scales = ctx.constant(2)
    if scales is not None:
        if scales.size != len(old):
            ctx.fail(f"scales has {scales.size} elements for {len(old)} axes")
        return [scaled_size(d, float(s)) for d, s in zip(old, scales.ravel(), strict=True)]
    whole = ctx.elements(2)
    if whole is None or len(whole) != len(old):
        return None
    return [d * s for d, s in zip(old, whole, strict=True)]


def _sizes_from_sizes(ctx: InferContext, old: list[Dim]) -> list[Dim] | None:
    if not ctx.has(3):
        ctx.fail("it needs scales or sizes")
    sizes = ctx.elements(3)
    if sizes is None:
        return None
    if len(sizes) != len(old):
        ctx.fail(f"sizes has {len(sizes)} elements for {len(old)} axes")
    policy = ctx.attr("keep_aspect_ratio_policy")
    if policy == "stretch":
        return list(sizes)
    before = [d for d in old if isinstance(d, int)]
    after = [s for s in sizes if isinstance(s, int)]
    if len(before) != len(old) or len(after) != len(old):
        return None
    return list(_keep_aspect(policy, before, after)[1])


def _keep_aspect(
    policy: str, old: Sequence[int], sizes: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Scales and sizes of the resized axes under a ``keep_aspect_ratio_policy``."""
    ratios = [Fraction(s, d) if d else Fraction(1) for s, d in zip(sizes, old, strict=True)]
    if policy == "stretch":
        return [float(r) for r in ratios], list(sizes)
    if policy not in ("not_larger", "not_smaller"):
        raise ValueError(f"keep_aspect_ratio_policy is '{policy}'")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    half = Fraction(1, 2)
    return [float(scale)] * len(old), [int(scale * d + half) for d in old]


def _evaluate(
    ctx: EvalContext,
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
) -> Array:
    axes = _axes(ctx, x.ndim)
    old = [x.shape[axis] for axis in axes]
    if scales is not None and scales.size:
        factors = [float(s) for s in scales.ravel()]
        outs = list(numbers([scaled_size(d, s) for d, s in zip(old, factors, strict=True)]))
    elif sizes is not None:
        wanted = [int(s) for s in sizes.ravel()]
        factors, outs = _keep_aspect(ctx.attr("keep_aspect_ratio_policy"), old, wanted)
    else:
        ctx.fail("it needs scales or sizes")
    mode, coordinates = ctx.attr("mode"), ctx.attr("coordinate_transformation_mode")
    crop = coordinates == "tf_crop_and_resize"
    if crop and roi is None:
        ctx.fail("tf_crop_and_resize needs roi")
    y = x if mode == "nearest" else x.astype(np.float64, copy=False)
    for i, axis in enumerate(axes):
        ends = (
            (float(roi[i]), float(roi[len(axes) + i])) if crop and roi is not None else (0.0, 1.0)
        )
        if outs[i] == old[i] and factors[i] == 1 and ends == (0.0, 1.0):
            continue
        plan = plan_axis(
            old[i],
            outs[i],
            factors[i],
            mode=mode,
            coordinates=coordinates,
            nearest_mode=ctx.attr("nearest_mode"),
            cubic_a=ctx.attr("cubic_coeff_a"),
            antialias=bool(ctx.attr("antialias")),
            exclude_outside=bool(ctx.attr("exclude_outside")),
            roi=ends,
        )
        y = _apply(y, axis, plan, ctx.attr("extrapolation_value"))
    return saturated(y, x.dtype)


def _apply(x: Array, axis: int, plan: AxisPlan, extrapolation: float) -> Array:
    shape = [1] * x.ndim
    shape[axis] = -1
    y = np.take(x, plan.index[:, 0], axis=axis)
    if plan.index.shape[1] > 1:
        y = y * plan.weights[:, 0].reshape(shape)
        for k in range(1, plan.index.shape[1]):
            y += np.take(x, plan.index[:, k], axis=axis) * plan.weights[:, k].reshape(shape)
    if plan.outside is not None and plan.outside.any():
        y = np.where(plan.outside.reshape(shape), np.array(extrapolation).astype(x.dtype), y)
    return y


def saturated(y: Array, dtype: np.dtype[Any]) -> Array:
    """``y`` in the storage type; for integers rounded to nearest even and clamped."""
    if y.dtype == dtype:
        return y
    found = DType.from_numpy(dtype)
    if found.is_integer:
        low = -(1 << (found.bits - 1)) if found.is_signed else 0
        high = low + (1 << found.bits) - 1
        return np.clip(np.rint(y), low, high).astype(dtype)
    return narrow(y, dtype)


def _flops(node: Node) -> Dim | None:
    out = node.output.tensor.numel
    taps = {"nearest": 0, "linear": 4, "cubic": 16}[node.attr("mode")]
    return None if out is None else out * taps * 2


register(
    OpDef(
        "Resize",
        inputs=("X", "roi?", "scales?", "sizes?"),
        attrs=attr_specs(
            antialias=("i", 0),
            axes="ints",
            coordinate_transformation_mode=("s", "half_pixel"),
            cubic_coeff_a=("f", -0.75),
            exclude_outside=("i", 0),
            extrapolation_value=("f", 0.0),
            keep_aspect_ratio_policy=("s", "stretch"),
            mode=("s", "nearest"),
            nearest_mode=("s", "round_prefer_floor"),
        ),
        infer=_infer,
        evaluate=_evaluate,
        cost=cost_of(_flops),
    ),
)
