"""Sliding windows: the geometry that convolutions and pools share, for numbers and symbols alike.

Sizes are dims, so the same formulas give the output shape at compile time, symbolically, and the
padding at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, ceildiv, dim_max, dim_min
from graphopt.ops.precision import Array

__all__ = [
    "NumericWindow",
    "Window",
    "numbers",
    "offsets",
    "pad_spatial",
    "per_axis",
    "sliding_window",
    "tap",
    "window_views",
]


@dataclass(frozen=True, slots=True)
class Window:
    """Windows over spatial axes: window ``o`` reads ``o*stride - begin + tap*dilation``."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Dim, ...]
    end: tuple[Dim, ...]
    out: tuple[Dim, ...]

    @property
    def numbers(self) -> NumericWindow:
        """The same with every size a number. Raises TypeError for a symbolic one."""
        return NumericWindow(
            numbers(self.kernel), self.strides, self.dilations,
            numbers(self.begin), numbers(self.end), numbers(self.out),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NumericWindow:
    """A :class:`Window` whose sizes are all numbers."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    out: tuple[int, ...]

    def extra(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Elements past the padded end that the last window reads (ceil_mode gives these)."""
        return tuple(
            max(0, (out - 1) * s + (k - 1) * d + 1 - (size + b + e)) if out else 0
            for out, s, k, d, size, b, e in zip(
                self.out, self.strides, self.kernel, self.dilations, spatial, self.begin, self.end,
                strict=True,
            )
        )  # fmt: skip


def numbers(dims: Sequence[Dim]) -> tuple[int, ...]:
    """``dims``, which must all be numbers. Raises TypeError for a symbolic one."""
    for dim in dims:
        if not isinstance(dim, int):
            raise TypeError(f"the size {dim} is not known")
    return tuple(dim for dim in dims if isinstance(dim, int))


def sliding_window(
    spatial: Sequence[Dim],
    kernel: Sequence[Dim],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
) -> Window:
    """The windows that ONNX's attributes describe over ``spatial`` axes.

    With ``ceil_mode`` the last window may run over the end, but starts inside the input or its
    begin padding. ``auto_pad`` fixes the output sizes itself, so ``ceil_mode`` adds nothing there.
    Raises ValueError when attribute lengths do not fit or a window is larger than the input.
    """
    rank = len(spatial)
    steps = per_axis(strides, rank, "strides")
    spread = per_axis(dilations, rank, "dilations")
    if len(kernel) != rank:
        raise ValueError(f"a kernel of {len(kernel)} axes does not fit {rank} spatial axes")
    if any(step < 1 for step in (*steps, *spread)):
        raise ValueError("strides and dilations must be at least 1")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    axes = list(zip(spatial, extents, steps, strict=True))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = [ceildiv(size, step) for size, _, step in axes]
        total = [
            dim_max((o - 1) * step + extent - size, 0)
            for o, (size, extent, step) in zip(out, axes, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad in ("VALID", "NOTSET", ""):
        padding = per_axis(None if auto_pad == "VALID" else pads, 2 * rank, "pads", 0)
        begin, end = [*padding[:rank]], [*padding[rank:]]
        ceil = ceil_mode and auto_pad != "VALID"
        out = [
            _count(size, extent, step, padding[i], padding[rank + i], ceil)
            for i, (size, extent, step) in enumerate(axes)
        ]
    else:
        raise ValueError(f"auto_pad is '{auto_pad}'")
    for size, extent, o in zip(spatial, extents, out, strict=True):
        if isinstance(o, int) and o < 0:
            raise ValueError(f"a window of {extent} is larger than the padded input of {size}")
    return Window(tuple(kernel), steps, spread, tuple(begin), tuple(end), tuple(out))


def per_axis(
    values: Sequence[int] | None, count: int, what: str, default: int = 1
) -> tuple[int, ...]:
    """An attribute with ``count`` elements, each ``default`` when it is absent or empty."""
    if not values:
        return (default,) * count
    if len(values) != count:
        raise ValueError(f"{what} has {len(values)} elements where {count} fit")
    return tuple(values)


def _count(size: Dim, extent: Dim, step: int, begin: int, end: int, ceil: bool) -> Dim:
    room = size + begin + end - extent
    if not ceil:
        return room // step + 1
    count = ceildiv(room, step) + 1
    # No window starts past the input; that can only happen where the end padding leaves room.
    if isinstance(extent, int) and end + step <= extent:
        return count
    return dim_min(count, ceildiv(size + begin, step))


def pad_spatial(x: Array, window: NumericWindow, fill: Any = 0) -> Array:
    """``x`` [N, C, spatial...] padded so that every window lies inside; a copy only if needed."""
    extra = window.extra(x.shape[2:])
    widths = [(b, e + r) for b, e, r in zip(window.begin, window.end, extra, strict=True)]
    if not any(b or e for b, e in widths):
        return x
    shape = [size + b + e for size, (b, e) in zip(x.shape[2:], widths, strict=True)]
    padded = np.full((*x.shape[:2], *shape), fill, dtype=x.dtype)
    inner = tuple(slice(b, b + size) for size, (b, _) in zip(x.shape[2:], widths, strict=True))
    padded[(slice(None), slice(None), *inner)] = x
    return padded


def offsets(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    """Every tap of a kernel, in row-major order."""
    return list(np.ndindex(*kernel))


def tap(padded: Array, window: NumericWindow, offset: Sequence[int]) -> Array:
    """What every window reads at tap ``offset``: a view [N, C, out...] of the padded input."""
    index = tuple(
        slice(k * d, k * d + (o - 1) * s + 1, s) if o else slice(0, 0)
        for k, d, s, o in zip(offset, window.dilations, window.strides, window.out, strict=True)
    )
    return padded[(slice(None), slice(None), *index)]


def window_views(padded: Array, window: NumericWindow) -> Array:
    """All windows as a read-only view [N, C, kernel..., out...]."""
    spatial = padded.strides[2:]
    return np.lib.stride_tricks.as_strided(
        padded,
        (*padded.shape[:2], *window.kernel, *window.out),
        (
            *padded.strides[:2],
            *(s * d for s, d in zip(spatial, window.dilations, strict=True)),
            *(s * t for s, t in zip(spatial, window.strides, strict=True)),
        ),
        writeable=False,
    )
