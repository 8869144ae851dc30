"""Affine quantization: ``x  ~  (q - zero) * scale``, and how scale and zero point follow from a
range.

Zero is a number of every grid, so that padding and ReLU lose nothing. Weights are symmetric about
zero, activations use the whole range. After Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference" (2018), section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import DType
from graphopt.ops.quantize import integer_range

__all__ = ["Grid", "activation_grid", "bias_grid", "block_grid", "channel_grid"]

Array = np.ndarray[Any, Any]
# Scales below this leave the normal range of f32 once they are multiplied by another.
_SMALLEST = 2.0**-60


@dataclass(frozen=True)
class Grid:
    """The numbers that a tensor may take: ``(q - zero) * scale`` for the integers of ``dtype``.

    ``scale`` (f32) and ``zero`` (of ``dtype``) are scalars, vectors along ``axis``, or, where
    ``block`` is not 0, one for each ``block`` elements along ``axis``.
    """

    scale: Array
    zero: Array
    dtype: DType
    axis: int = 0
    block: int = 0

    def _spread(self, values: Array, shape: tuple[int, ...]) -> Array:
        if values.ndim == 0:
            return values
        if self.block:
            repeated = np.repeat(values, self.block, axis=self.axis)
            cut = (slice(None),) * self.axis + (slice(0, shape[self.axis]),)
            return np.asarray(repeated[cut])
        return values.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])

    def spread_scale(self, shape: tuple[int, ...]) -> Array:
        """Scales that broadcast over a tensor of that shape."""
        return self._spread(self.scale, shape)

    def spread_zero(self, shape: tuple[int, ...]) -> Array:
        """Zero points, as f32, that broadcast over a tensor of that shape."""
        return self._spread(self.zero.astype(np.float32), shape)

    def codes(self, x: Array) -> Array:
        """The nearest integers, ties to even, clamped; as QuantizeLinear computes them."""
        low, high = integer_range(self.dtype)
        # A f32 does not hold every i32.
        real = np.float64 if self.dtype is DType.I32 else np.float32
        quotient = x.astype(real, copy=False) / self.spread_scale(x.shape)
        whole = np.rint(quotient) + self.spread_zero(x.shape)
        return np.asarray(np.clip(whole, low, high), self.dtype.numpy)

    def values(self, codes: Array) -> Array:
        """What the integers stand for, f32, as DequantizeLinear computes it."""
        centred = codes.astype(np.float32) - self.spread_zero(codes.shape)
        return np.asarray(centred * self.spread_scale(codes.shape), dtype=np.float32)

    def rounded(self, x: Array) -> Array:
        """``x`` on the grid."""
        return self.values(self.codes(x))


def activation_grid(
    low: float, high: float, dtype: DType = DType.U8, *, symmetric: bool = False
) -> Grid:
    """The grid of one scale over ``[low, high]``, widened to hold zero.

    A symmetric grid of a range that has no negative numbers uses all of an unsigned type with the
    zero point 0.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    least, most = integer_range(dtype)
    if symmetric:
        if dtype.is_signed:
            scale, zero = max(-low, high) / most, 0
        elif low == 0.0:
            scale, zero = high / most, 0
        else:
            zero = (most + 1) // 2
            scale = max(-low, high) / (most - zero)
    else:
        scale = (high - low) / (most - least)
        zero = 0
        if scale > 0:
            zero = int(np.clip(np.rint(least - low / scale), least, most))
    if not scale > _SMALLEST:
        scale, zero = 1.0, 0
    return Grid(np.array(scale, np.float32), np.array(zero, dtype.numpy), dtype)


def channel_grid(weight: Array, axis: int | None, bits: int = 8) -> Grid:
    """The symmetric grid of a weight, of i8: a scale for each index of ``axis``, or one for all of
    it; of the integers, those that ``bits`` (2 to 8) hold are used.

    A channel of zeros, for which any scale does, gets one as large as the others have. Integers
    keep to ``[-most, most]``, so that negation is exact.
    """
    most = (1 << (bits - 1)) - 1
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    limit = np.abs(weight).max(axis=others, initial=0.0)
    scale = np.asarray(limit, np.float64) / most
    usual = float(np.median(scale[scale > _SMALLEST])) if np.any(scale > _SMALLEST) else 1.0
    scale = np.where(scale > _SMALLEST, scale, usual).astype(np.float32)
    return Grid(scale, np.zeros(scale.shape, np.int8), DType.I8, axis or 0)


def block_grid(weight: Array, axis: int, block: int, dtype: DType, *, symmetric: bool) -> Grid:
    """The grid of a weight with a scale for each ``block`` elements along ``axis``.

    A symmetric one reaches as far below zero as above, an asymmetric one is of an unsigned type and
    has zero points.
    """
    least, most = integer_range(dtype)
    starts = np.arange(0, weight.shape[axis], block)
    low = np.minimum(np.minimum.reduceat(weight, starts, axis=axis), 0).astype(np.float64)
    high = np.maximum(np.maximum.reduceat(weight, starts, axis=axis), 0).astype(np.float64)
    if symmetric:
        middle = 0 if dtype.is_signed else (most + 1) // 2
        scale = np.maximum(-low, high) / (most - middle)
        zero = np.full(scale.shape, middle)
    else:
        scale = (high - low) / (most - least)
        safe = np.where(scale > _SMALLEST, scale, 1.0)
        zero = np.clip(np.rint(least - low / safe), least, most)
    scale = np.where(np.abs(scale) > _SMALLEST, scale, 1.0).astype(np.float32)
    return Grid(scale, zero.astype(dtype.numpy), dtype, axis, block)


def bias_grid(bias: Array, input_scale: float, grid: Grid) -> tuple[Grid, Grid]:
    """Grids of an i32 bias and of the weight whose products it joins, whose scales must multiply to
    the bias' own.

    Where a channel's weights are so small that the bias would leave i32, or all zero so that any
    scale does, the channel's scale is chosen to hold the bias. Returns (bias grid, weight grid).
    """
    size = np.abs(bias.astype(np.float64))
    scale = np.broadcast_to(grid.scale.astype(np.float64), size.shape)
    least = size / (float(input_scale) * 2.0**30)
    scale = np.maximum(scale, least).astype(np.float32)
    if grid.scale.ndim == 0:
        scale = np.asarray(scale.max(initial=np.float32(grid.scale)), np.float32)
    chosen = Grid(scale, np.zeros(scale.shape, grid.dtype.numpy), grid.dtype, grid.axis)
    product = (np.float32(input_scale) * scale).astype(np.float32)
    return Grid(product, np.zeros(product.shape, np.int32), DType.I32, 0), chosen
