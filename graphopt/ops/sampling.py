"""Reading tensors between their elements: GridSample, AffineGrid, DeformConv."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.conv import conv_flops
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.resize import keys_cubic, saturated
from graphopt.ops.schema import attr_specs, cost_of
from graphopt.ops.window import offsets, sliding_window

__all__ = ["sample"]

# Coordinates beyond this are as far outside as any.
_FAR = 1e9


def sample(
    x: Array,
    at: Array,
    mode: str,
    padding: str = "zeros",
    borders: Sequence[tuple[float, float]] = (),
) -> Array:
    """Values of x [N, C, d1..dr] at places ``at`` [N, P, r] (in elements): [N, C, P].

    ``mode`` is nearest, linear or cubic; ``padding`` zeros, border or reflection (between
    ``borders``, a pair an axis). Weighted sums are in the type of ``x``.
    """
    rank = at.shape[2]
    axes = []
    for axis in range(rank):
        index, weights = _taps(at[:, :, axis], mode)
        size = x.shape[2 + axis]
        inside = (index >= 0) & (index < size)
        if padding == "reflection":
            index = _reflect(index.astype(np.float64), *borders[axis]).astype(np.int64)
        axes.append((np.clip(index, 0, max(size - 1, 0)), weights, inside))
    total = np.zeros((x.shape[0], x.shape[1], at.shape[1]), dtype=x.dtype)
    if x.size == 0:
        return total
    batch = np.arange(x.shape[0])[:, None]
    channels_last = np.moveaxis(x, 1, -1)
    for taps in itertools.product(*(range(index.shape[2]) for index, _, _ in axes)):
        places = tuple(index[:, :, t] for (index, _, _), t in zip(axes, taps, strict=True))
        value = np.moveaxis(channels_last[(batch, *places)], -1, 1)
        keep = np.ones(at.shape[:2], dtype=bool)
        factor = np.ones(at.shape[:2], dtype=at.dtype)
        for (_, weights, inside), t in zip(axes, taps, strict=True):
            factor = factor * weights[:, :, t]
            keep &= inside[:, :, t]
        if padding == "zeros":
            value = np.where(keep[:, None], value, np.zeros((), dtype=x.dtype))
        total = value if mode == "nearest" else total + value * factor[:, None].astype(x.dtype)
    return total


def _taps(at: Array, mode: str) -> tuple[Array, Array]:
    """Indices and weights [N, P, taps] along one axis."""
    if mode == "nearest":
        index = np.rint(at).astype(np.int64)[:, :, None]
        return index, np.ones(index.shape, dtype=at.dtype)
    base = np.floor(at)
    first, count = (0, 2) if mode == "linear" else (-1, 4)
    steps = np.arange(first, first + count)
    distance = np.abs((at - base)[:, :, None] - steps.astype(at.dtype))
    weights = 1 - distance if mode == "linear" else keys_cubic(distance, -0.75)
    return base.astype(np.int64)[:, :, None] + steps, weights.astype(at.dtype)


def _reflect(x: Array, low: float, high: float) -> Array:
    """``x`` folded into [low, high] by mirrors at both ends."""
    span = high - low
    if span <= 0:
        return np.full_like(x, max(low, 0))
    past = np.where(x < low, low - x, x - high)
    turns = np.floor(past / span)
    rest = past - turns * span
    from_low = (turns % 2 == 0) == (x < low)
    folded = np.where(from_low, low + rest, high - rest)
    return np.where((x < low) | (x > high), folded, x)


def _infer_grid_sample(ctx: InferContext) -> Type:
    data, grid = ctx.tensor(0), ctx.shape(1)
    if data.shape is None or grid is None:
        return TensorType(data.dtype, None)
    if len(grid) != len(data.shape) or len(grid) < 3:
        ctx.fail(f"input {data} and a grid of rank {len(grid)} do not fit")
    require_equal(ctx, grid[-1], len(grid) - 2, "the grid must have a coordinate for every axis")
    require_equal(ctx, grid[0], data.shape[0], "input and grid have different batch sizes")
    return TensorType(data.dtype, (*data.shape[:2], *grid[1:-1]))


def _evaluate_grid_sample(ctx: EvalContext, x: Array, grid: Array) -> Array:
    mode, padding = ctx.attr("mode"), ctx.attr("padding_mode")
    if mode not in ("linear", "nearest", "cubic"):
        ctx.fail(f"mode is '{mode}'")
    if padding not in ("zeros", "border", "reflection"):
        ctx.fail(f"padding_mode is '{padding}'")
    corners = bool(ctx.attr("align_corners"))
    spatial = x.shape[2:]
    # The grid names the innermost axis first.
    at = widen(grid).reshape(grid.shape[0], -1, len(spatial))[:, :, ::-1]
    sizes = np.array(spatial, dtype=at.dtype)
    two = at.dtype.type(2)
    at = (at + 1) / two * (sizes - 1) if corners else ((at + 1) * sizes - 1) / two
    at = np.clip(np.nan_to_num(at, nan=-_FAR), -_FAR, _FAR)
    if mode == "nearest":
        at = np.rint(at)
    borders = [(0.0, d - 1.0) if corners else (-0.5, d - 0.5) for d in spatial]
    # Cubic pads every pixel it reads and leaves the place as it is, as PyTorch does.
    if mode == "cubic":
        pass
    elif padding == "border":
        at = np.clip(at, 0, np.maximum(sizes - 1, 0))
    elif padding == "reflection":
        folded = [_reflect(at[:, :, i], *borders[i]) for i in range(len(spatial))]
        at = np.stack(folded, axis=-1).astype(at.dtype)
    data = x if mode == "nearest" else _real(x)
    y = sample(data, at, mode, padding, borders)
    return saturated(y.reshape(*x.shape[:2], *grid.shape[1:-1]), x.dtype)


def _real(x: Array) -> Array:
    """``x`` in a type that interpolates: floats and complex as they are, the rest as f64."""
    found = DType.from_numpy(x.dtype)
    return widen(x) if found.is_float or found.is_complex else x.astype(np.float64)


def _grid_flops(node: Node) -> Dim | None:
    data, out = node.inputs[0], node.output.tensor.numel
    if data is None or data.shape is None or out is None:
        return None
    taps: int = {"nearest": 0, "linear": 2, "cubic": 4}.get(node.attr("mode"), 2)
    per_element: int = 2 * taps ** (len(data.shape) - 2)
    return out * per_element


def _infer_affine_grid(ctx: InferContext) -> Type:
    theta = ctx.tensor(0)
    size = ctx.elements(1)
    if size is None:
        count, matrix = ctx.shape(1), theta.shape
        rank: Dim | None = matrix[1] if matrix is not None else None
        if not isinstance(rank, int) and count is not None:
            rank = count[0] - 2
        if not isinstance(rank, int):
            return TensorType(theta.dtype, None)
        batch = ctx.fresh("batch") if matrix is None else matrix[0]
        size = (batch, *(ctx.fresh("grid") for _ in range(rank + 1)))
    if len(size) not in (4, 5):
        ctx.fail(f"size must have 4 or 5 elements, not {len(size)}")
    return TensorType(theta.dtype, (size[0], *size[2:], len(size) - 2))


def _evaluate_affine_grid(ctx: EvalContext, theta: Array, size: Array) -> Array:
    spatial = [int(d) for d in size[2:]]
    axes = []
    for d in spatial:
        if ctx.attr("align_corners"):
            axes.append(np.linspace(-1, 1, d) if d > 1 else np.zeros(d))
        else:
            axes.append((np.arange(d) * 2 + 1) / max(d, 1) - 1)
    places = np.meshgrid(*axes, indexing="ij")
    # Coordinates from the innermost axis outwards, then the homogeneous 1.
    base = np.stack([*reversed(places), np.ones(spatial)], axis=-1).reshape(-1, len(spatial) + 1)
    grid = base @ np.swapaxes(theta.astype(np.float64), 1, 2)
    return narrow(grid.reshape(theta.shape[0], *spatial, len(spatial)), theta.dtype)


def _infer_deform(ctx: InferContext) -> Type:
    data, weight, offset = ctx.tensor(0), ctx.shape(1), ctx.shape(2)
    if data.shape is None or weight is None or offset is None:
        return TensorType(data.dtype, None)
    if not len(data.shape) == len(weight) == len(offset) or len(weight) < 3:
        ctx.fail("input, weights and offsets must have the same number of axes, at least 3")
    groups = ctx.attr("group")
    require_equal(ctx, weight[1] * groups, data.shape[1], "weights and input channels do not fit")
    window = sliding_window(
        data.shape[2:],
        ctx.attrs.get("kernel_shape") or weight[2:],
        strides=ctx.attrs.get("strides"),
        dilations=ctx.attrs.get("dilations"),
        pads=ctx.attrs.get("pads"),
    )
    for a, b in zip(window.out, offset[2:], strict=True):
        require_equal(ctx, a, b, "the offsets do not have the output's size")
    return TensorType(data.dtype, (data.shape[0], weight[0], *window.out))


def _evaluate_deform(
    ctx: EvalContext,
    x: Array,
    w: Array,
    offset: Array,
    bias: Array | None = None,
    mask: Array | None = None,
) -> Array:
    window = sliding_window(
        x.shape[2:],
        w.shape[2:],
        strides=ctx.attrs.get("strides"),
        dilations=ctx.attrs.get("dilations"),
        pads=ctx.attrs.get("pads"),
    ).numbers
    rank, batch, channels = len(window.kernel), x.shape[0], x.shape[1]
    groups, shared = ctx.attr("group"), ctx.attr("offset_group")
    taps, outs = int(np.prod(window.kernel)), int(np.prod(window.out))
    data = widen(x)
    # Where every tap of every window lies before it is moved: [taps, rank, outputs].
    starts = np.stack(
        np.meshgrid(
            *(
                np.arange(o) * s - b
                for o, s, b in zip(window.out, window.strides, window.begin, strict=True)
            ),
            indexing="ij",
        )
    ).reshape(1, rank, outs)
    steps = np.array(offsets(window.kernel)).reshape(taps, rank, 1) * np.array(
        window.dilations
    ).reshape(1, rank, 1)
    moved = widen(offset).reshape(batch * shared, taps, rank, outs) + (starts + steps)
    at = np.clip(moved, -_FAR, _FAR).transpose(0, 1, 3, 2).reshape(batch * shared, -1, rank)
    split = data.reshape(batch * shared, channels // shared, *x.shape[2:])
    values = sample(split, at.astype(data.dtype), "linear")
    if mask is not None:
        values = values * widen(mask).reshape(batch * shared, 1, taps * outs)
    columns = values.reshape(batch, groups, (channels // groups) * taps, outs)
    rows = widen(w).reshape(groups, w.shape[0] // groups, -1)
    y = np.matmul(rows, columns).reshape(batch, w.shape[0], *window.out)
    if bias is not None:
        y = y + widen(bias).reshape(-1, *(1,) * rank)
    return narrow(y, x.dtype)


register(
    OpDef(
        "GridSample",
        inputs=("X", "grid"),
        attrs=attr_specs(align_corners=("i", 0), mode=("s", "linear"), padding_mode=("s", "zeros")),
        infer=_infer_grid_sample,
        evaluate=_evaluate_grid_sample,
        cost=cost_of(_grid_flops),
    ),
    OpDef(
        "AffineGrid",
        inputs=("theta", "size"),
        outputs=("grid",),
        attrs=attr_specs(align_corners=("i", 0)),
        infer=_infer_affine_grid,
        evaluate=_evaluate_affine_grid,
    ),
    OpDef(
        "DeformConv",
        inputs=("X", "W", "offset", "B?", "mask?"),
        attrs=attr_specs(
            dilations="ints",
            group=("i", 1),
            kernel_shape="ints",
            offset_group=("i", 1),
            pads="ints",
            strides="ints",
        ),
        infer=_infer_deform,
        evaluate=_evaluate_deform,
        cost=cost_of(conv_flops()),
    ),
)
