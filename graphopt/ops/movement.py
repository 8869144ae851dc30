"""Moving elements by position: Transpose, Concat, Split, Slice, Tile, Pad, blocks, Trilu, ..."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, ceildiv, dim_max, dim_min, is_nonnegative
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array
from graphopt.ops.infer import (
    MAX_ELEMENTS,
    fresh_shape,
    known,
    known_ints,
    set_known,
    unify,
)
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs
from graphopt.ops.shape import operand_length

__all__ = ["joined_shape", "slice_length", "split_sizes"]

_MOVEMENT = frozenset({Trait.MOVEMENT})
# Exporters write "to the end" as the largest i32 or i64.
_END = (1 << 31) - 1


# ---- Transpose ----


def _permutation(ctx: InferContext | EvalContext, rank: int) -> tuple[int, ...]:
    perm = ctx.attr("perm")
    if perm is None:
        return tuple(reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        ctx.fail(f"perm {list(perm)} is no permutation of {rank} axes")
    return tuple(perm)


def _infer_transpose(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        perm = ctx.attr("perm")
        rank = None if perm is None else len(perm)
        return TensorType(data.dtype, fresh_shape(ctx, rank, "transpose"))
    perm = _permutation(ctx, len(data.shape))
    contents = known(ctx, 0)
    if contents is not None:
        set_known(ctx, contents.transpose(perm), data.dtype)
    return TensorType(data.dtype, tuple(data.shape[axis] for axis in perm))


register(
    OpDef(
        "Transpose",
        inputs=("data",),
        outputs=("transposed",),
        attrs=attr_specs(perm="ints"),
        infer=_infer_transpose,
        evaluate=lambda ctx, x: np.asarray(x.transpose(_permutation(ctx, x.ndim)), order="C"),
        traits=_MOVEMENT,
    )
)


# ---- Concat ----


def joined_shape(
    ctx: InferContext, shapes: Sequence[tuple[Dim, ...] | None], axis: int
) -> tuple[Dim, ...] | None:
    """The shape of tensors of these shapes joined along ``axis``; None where no rank is known."""
    present = [shape for shape in shapes if shape is not None]
    if not present:
        return None
    rank = len(present[0])
    if any(len(shape) != rank for shape in present):
        ctx.fail(f"it joins tensors of ranks {', '.join(str(len(s)) for s in present)}")
    axis = ctx.axis(axis, rank)
    result = list(present[0])
    for shape in present[1:]:
        for i, dim in enumerate(shape):
            if i == axis:
                result[i] = result[i] + dim
            else:
                result[i] = unify(ctx, result[i], dim, f"along axis {i} the sizes")
    if len(present) < len(shapes):
        result[axis] = ctx.fresh("concat")
    return tuple(result)


def _infer_concat(ctx: InferContext) -> Type:
    operands = [ctx.tensor(i) for i in range(len(ctx.inputs))]
    if not operands:
        ctx.fail("it takes at least 1 operand")
    dtype = operands[0].dtype
    if any(t.dtype != dtype for t in operands):
        ctx.fail(f"operand types differ: {', '.join(map(str, operands))}")
    axis = ctx.attr("axis")
    shape = joined_shape(ctx, [t.shape for t in operands], axis)
    contents = [known(ctx, i) for i in range(len(operands))]
    present = [c for c in contents if c is not None]
    if len(present) == len(contents) and sum(c.size for c in present) <= MAX_ELEMENTS:
        set_known(ctx, np.concatenate(present, axis=axis), dtype)
    return TensorType(dtype, shape)


register(
    OpDef(
        "Concat",
        inputs=("inputs*",),
        outputs=("concat_result",),
        attrs=attr_specs(axis=("i", REQUIRED)),
        infer=_infer_concat,
        evaluate=lambda ctx, *operands: np.concatenate(operands, axis=ctx.attr("axis")),
    )
)


# ---- Split ----


def split_sizes(size: Dim, count: int) -> tuple[Dim, ...]:
    """Sizes of ``count`` parts of ``size``: equal ones, of which the last may be smaller."""
    if size % count == 0:
        return (size // count,) * count
    chunk = ceildiv(size, count)
    if count == 2:
        return (chunk, size - chunk)
    return tuple(dim_max(dim_min(chunk, size - chunk * i), 0) for i in range(count))


def _infer_split(ctx: InferContext) -> Sequence[Type]:
    data = ctx.tensor(0)
    count = ctx.n_outputs
    if data.shape is None:
        return (TensorType(data.dtype, None),) * count
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    sizes: Sequence[Dim]
    if ctx.has(1):
        found = ctx.elements(1)
        sizes = tuple(ctx.fresh("split") for _ in range(count)) if found is None else found
        total = sum(sizes, start=0)
        if isinstance(total, int) and isinstance(data.shape[axis], int):
            unify(ctx, total, data.shape[axis], "the parts and the whole of sizes")
    else:
        sizes = split_sizes(data.shape[axis], ctx.attr("num_outputs") or count)
    if len(sizes) < count:
        ctx.fail(f"it has {count} outputs but gives {len(sizes)} parts")
    _split_contents(ctx, sizes, axis)
    head, tail = data.shape[:axis], data.shape[axis + 1 :]
    return tuple(TensorType(data.dtype, (*head, sizes[i], *tail)) for i in range(count))


def _split_contents(ctx: InferContext, sizes: Sequence[Dim], axis: int) -> None:
    contents = known(ctx, 0)
    numbers = [size for size in sizes if isinstance(size, int)]
    if contents is None or len(numbers) != len(sizes):
        return
    parts = np.split(contents, np.cumsum(numbers)[:-1], axis=axis)
    for index, part in enumerate(parts[: ctx.n_outputs]):
        set_known(ctx, part, ctx.dtype(0), index)


def _evaluate_split(ctx: EvalContext, x: Array, split: Array | None = None) -> tuple[Array, ...]:
    axis = ctx.attr("axis")
    sizes: Any
    if split is not None:
        sizes = [int(size) for size in split.ravel()]
        if sum(sizes) != x.shape[axis]:
            ctx.fail(f"parts of sizes {sizes} do not make up {x.shape[axis]}")
    else:
        sizes = split_sizes(x.shape[axis], ctx.attr("num_outputs") or ctx.n_outputs)
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


register(
    OpDef(
        "Split",
        inputs=("input", "split?"),
        outputs=("outputs*",),
        attrs=attr_specs(axis=("i", 0), num_outputs="i"),
        infer=_infer_split,
        evaluate=_evaluate_split,
        traits=_MOVEMENT,
    )
)


# ---- Slice ----


def _wrapped(position: Dim, size: Dim) -> Dim:
    """A position as counted from the front: negative ones count from the back."""
    if is_nonnegative(position):
        return position
    if is_nonnegative(-position - 1):
        return position + size
    # 1 where the position turns out negative, else 0.
    return position + size * dim_min(dim_max(-position, 0), 1)


def slice_length(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements ``start:end:step`` takes of ``size``, exactly, for any symbols."""
    if step > 0:
        to_end = end == size or (isinstance(end, int) and end >= _END)
        if to_end and isinstance(start, int) and start < 0:
            span = dim_min(size, -start)
        else:
            # An end beyond the size, which may be symbolic, counts as the size.
            stop = size if to_end else _stop(end, size)
            span = stop - dim_max(_wrapped(start, size), 0)
        return dim_max(ceildiv(span, step), 0)
    first = size - 1 if isinstance(start, int) and (start >= _END or start == -1) else None
    if first is None:
        first = dim_min(dim_max(_wrapped(start, size), 0), size - 1)
    last: Dim = -1
    if not (isinstance(end, int) and end <= -_END):
        last = dim_min(dim_max(_wrapped(end, size), -1), size - 1)
    return dim_max(ceildiv(first - last, -step), 0)


def _stop(end: Dim, size: Dim) -> Dim:
    # Below 0 it need not be cut off: what starts at 0 or later then has no elements either way.
    if is_nonnegative(-end - 1):
        return end + size
    if end == size - 1:
        # Of size 0 that is -1, which wraps around to what counts as nothing too.
        return end
    return dim_min(_wrapped(end, size), size)


def _slice_axes(ctx: InferContext, rank: int) -> tuple[int, ...] | None:
    """The axes that are sliced, None when only the run knows."""
    length = operand_length(ctx, 1)
    if not ctx.has(3):
        return None if length is None else tuple(range(min(length, rank)))
    axes = known_ints(ctx, 3)
    return None if axes is None else tuple(ctx.axis(axis, rank) for axis in axes)


def _infer_slice(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return TensorType(data.dtype, None)
    axes = _slice_axes(ctx, len(data.shape))
    if axes is None:
        return TensorType(data.dtype, fresh_shape(ctx, len(data.shape), "slice"))
    starts, ends = ctx.elements(1), ctx.elements(2)
    steps = known_ints(ctx, 4) if ctx.has(4) else (1,) * len(axes)
    dims = list(data.shape)
    if starts is None or ends is None or steps is None:
        for axis in axes:
            dims[axis] = ctx.fresh("slice")
        return TensorType(data.dtype, tuple(dims))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        ctx.fail("starts, ends, axes and steps are not of one length")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 0:
            ctx.fail("a step is 0")
        if isinstance(end, int) and step > 0 and _beyond_memory(data, axis, end):
            end = dims[axis]
        dims[axis] = slice_length(dims[axis], start, end, step)
    _slice_contents(ctx, axes, steps)
    return TensorType(data.dtype, tuple(dims))


def _beyond_memory(data: TensorType, axis: int, end: int) -> bool:
    """True when a tensor that reaches ``end`` along ``axis`` would not fit an address space of 48
    bits: exporters write "through the last" as some large number."""
    assert data.shape is not None
    if isinstance(data.shape[axis], int) or end <= 0:
        return False
    others = [dim for i, dim in enumerate(data.shape) if i != axis and isinstance(dim, int)]
    return end * math.prod(others) * data.dtype.nbytes >= 1 << 48


def _slice_contents(ctx: InferContext, axes: Sequence[int], steps: Sequence[int]) -> None:
    contents, starts, ends = known(ctx, 0), known_ints(ctx, 1), known_ints(ctx, 2)
    if contents is None or starts is None or ends is None:
        return
    index = [slice(None)] * contents.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = _bounds(start, end, step, contents.shape[axis])
    set_known(ctx, contents[tuple(index)], ctx.dtype(0))


def _bounds(start: int, end: int, step: int, size: int) -> slice:
    """The slice as the specification clamps it. A start too far in front counts as 0, also when
    stepping backward: there Python would take nothing."""
    start = start + size if start < 0 else start
    if step > 0:
        return slice(max(start, 0), max(end + size if end < 0 else end, 0), step)
    start = min(max(start, 0), size - 1)
    end = max(end + size if end < 0 else end, -1)
    # An end of -1 means "through the first": Python writes that as None.
    return slice(max(start, 0), None if end == -1 else end, step)


def _evaluate_slice(
    ctx: EvalContext,
    x: Array,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    count = starts.size
    where = range(count) if axes is None else axes.ravel().tolist()
    stride = [1] * count if steps is None else steps.ravel().tolist()
    index = [slice(None)] * x.ndim
    bounds = zip(where, starts.ravel().tolist(), ends.ravel().tolist(), stride, strict=True)
    for axis, start, end, step in bounds:
        index[axis] = _bounds(start, end, step, x.shape[axis])
    return x[tuple(index)].copy()


register(
    OpDef(
        "Slice",
        inputs=("data", "starts", "ends", "axes?", "steps?"),
        outputs=("output",),
        infer=_infer_slice,
        evaluate=_evaluate_slice,
        traits=_MOVEMENT,
    )
)


# ---- Tile ----


def _infer_tile(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    repeats = ctx.elements(1)
    if data.shape is None:
        return TensorType(data.dtype, fresh_shape(ctx, operand_length(ctx, 1), "tile"))
    if repeats is None:
        return TensorType(data.dtype, fresh_shape(ctx, len(data.shape), "tile"))
    if len(repeats) != len(data.shape):
        ctx.fail(f"{len(repeats)} repeats do not fit {data}")
    counts = known_ints(ctx, 1)
    contents = known(ctx, 0)
    if contents is not None and counts is not None:
        total = contents.size * int(np.prod(counts))
        if total <= MAX_ELEMENTS:
            set_known(ctx, np.tile(contents, counts), data.dtype)
    pairs = zip(data.shape, repeats, strict=True)
    return TensorType(data.dtype, tuple(dim * count for dim, count in pairs))


register(
    OpDef(
        "Tile",
        inputs=("input", "repeats"),
        outputs=("output",),
        infer=_infer_tile,
        evaluate=lambda ctx, x, repeats: np.tile(x, [int(count) for count in repeats]),
        traits=_MOVEMENT,
    )
)


# ---- blocks ----


def _block_modes(ctx: EvalContext, dcr: Callable[[], Array], crd: Callable[[], Array]) -> Array:
    mode = ctx.attr("mode")
    if mode not in ("DCR", "CRD"):
        ctx.fail(f"mode is '{mode}', neither DCR nor CRD")
    return dcr() if mode == "DCR" else crd()


def _block_shape(ctx: InferContext) -> tuple[Dim, Dim, Dim, Dim] | None:
    shape = ctx.shape(0)
    if shape is None:
        return None
    if len(shape) != 4:
        ctx.fail(f"its operand has {len(shape)} axes, not 4")
    return shape[0], shape[1], shape[2], shape[3]


def _infer_depth_to_space(ctx: InferContext) -> Type:
    shape, block = _block_shape(ctx), ctx.attr("blocksize")
    if shape is None:
        return TensorType(ctx.dtype(0), fresh_shape(ctx, 4, "block"))
    n, c, h, w = shape
    if isinstance(c, int) and c % (block * block):
        ctx.fail(f"{c} channels do not divide by {block * block}")
    return TensorType(ctx.dtype(0), (n, c // (block * block), h * block, w * block))


def _evaluate_depth_to_space(ctx: EvalContext, x: Array) -> Array:
    n, c, h, w = x.shape
    b = ctx.attr("blocksize")
    depth = c // (b * b)
    moved = _block_modes(
        ctx,
        lambda: x.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2),
        lambda: x.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3),
    )
    return moved.reshape(n, depth, h * b, w * b)


def _infer_space_to_depth(ctx: InferContext) -> Type:
    shape, block = _block_shape(ctx), ctx.attr("blocksize")
    if shape is None:
        return TensorType(ctx.dtype(0), fresh_shape(ctx, 4, "block"))
    n, c, h, w = shape
    for size in (h, w):
        if isinstance(size, int) and size % block:
            ctx.fail(f"a size of {size} does not divide by {block}")
    return TensorType(ctx.dtype(0), (n, c * block * block, h // block, w // block))


def _evaluate_space_to_depth(ctx: EvalContext, x: Array) -> Array:
    n, c, h, w = x.shape
    b = ctx.attr("blocksize")
    split = x.reshape(n, c, h // b, b, w // b, b)
    moved = _block_modes(
        ctx,
        lambda: split.transpose(0, 3, 5, 1, 2, 4),
        lambda: split.transpose(0, 1, 3, 5, 2, 4),
    )
    return moved.reshape(n, c * b * b, h // b, w // b)


for _name, _infer, _evaluate in (
    ("DepthToSpace", _infer_depth_to_space, _evaluate_depth_to_space),
    ("SpaceToDepth", _infer_space_to_depth, _evaluate_space_to_depth),
):
    register(
        OpDef(
            _name,
            inputs=("input",),
            outputs=("output",),
            attrs=attr_specs(blocksize=("i", REQUIRED), mode=("s", "DCR")),
            infer=_infer,
            evaluate=_evaluate,
            traits=_MOVEMENT,
        )
    )


# ---- Trilu, ReverseSequence ----


def _infer_same(ctx: InferContext) -> Type:
    return ctx.tensor(0)


def _evaluate_trilu(ctx: EvalContext, x: Array, k: Array | None = None) -> Array:
    offset = 0 if k is None else int(k.reshape(()))
    rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    keep = columns - rows >= offset if ctx.attr("upper") else columns - rows <= offset
    return np.where(keep, x, np.zeros((), dtype=x.dtype))


register(
    OpDef(
        "Trilu",
        inputs=("input", "k?"),
        outputs=("output",),
        attrs=attr_specs(upper=("i", 1)),
        infer=_infer_same,
        evaluate=_evaluate_trilu,
    )
)


def _evaluate_reverse_sequence(ctx: EvalContext, x: Array, lengths: Array) -> Array:
    batch, time = ctx.attr("batch_axis"), ctx.attr("time_axis")
    if {batch, time} != {0, 1}:
        ctx.fail(f"batch_axis {batch} and time_axis {time} are not 0 and 1")
    moved = np.moveaxis(x, (batch, time), (0, 1))
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= moved.shape[1]:
        ctx.fail(f"a length is not within the {moved.shape[1]} steps")
    result = moved.copy()
    for index, length in enumerate(lengths.tolist()):
        result[index, :length] = moved[index, :length][::-1]
    return np.moveaxis(result, (0, 1), (batch, time))


register(
    OpDef(
        "ReverseSequence",
        inputs=("input", "sequence_lens"),
        attrs=attr_specs(batch_axis=("i", 1), time_axis=("i", 0)),
        infer=_infer_same,
        evaluate=_evaluate_reverse_sequence,
        traits=_MOVEMENT,
    )
)
