"""Reading and writing elements by index: Gather*, Scatter*, TensorScatter, Compress, OneHot."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable
from graphopt.ops.infer import MAX_ELEMENTS, known, known_ints, set_known
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["wrap_index"]

_MOVEMENT = frozenset({Trait.MOVEMENT})


def wrap_index(ctx: EvalContext, indices: Array, size: int) -> Array:
    """``indices`` into an axis of ``size``, negative ones counted from the back; checked."""
    wide = indices.astype(np.int64)
    if wide.size and (wide.min() < -size or wide.max() >= size):
        ctx.fail(f"an index is out of range for an axis of {size} elements")
    return np.where(wide < 0, wide + size, wide)


# ---- Gather ----


def _infer_gather(ctx: InferContext) -> Type:
    data, indices = ctx.tensor(0), ctx.shape(1)
    if data.shape is None or indices is None:
        return TensorType(data.dtype, None)
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    contents, where = known(ctx, 0), known_ints(ctx, 1)
    size = data.shape[axis]
    if where is not None and isinstance(size, int):
        if any(not -size <= i < size for i in where):
            ctx.fail(f"an index of {list(where)} is out of range for an axis of {size} elements")
        if contents is not None:
            numbers = known(ctx, 1)
            assert numbers is not None
            picked = np.take(contents, numbers.astype(np.int64), axis=axis)
            if np.size(picked) <= MAX_ELEMENTS:
                set_known(ctx, _boxed(picked), data.dtype)
    return TensorType(data.dtype, data.shape[:axis] + indices + data.shape[axis + 1 :])


def _boxed(item: Any) -> Array:
    if isinstance(item, np.ndarray):
        return item
    result = np.empty((), dtype=object)
    result[()] = item
    return result


def _evaluate_gather(ctx: EvalContext, x: Array, indices: Array) -> Array:
    axis = ctx.attr("axis") % x.ndim
    where = wrap_index(ctx, indices, x.shape[axis])
    # Not `np.take`, which first copies all of a memory-mapped table that is not aligned.
    result = np.empty((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), dtype=x.dtype)
    result[...] = x[(slice(None),) * axis + (where,)]
    return result


register(
    OpDef(
        "Gather",
        inputs=("data", "indices"),
        outputs=("output",),
        attrs=attr_specs(axis=("i", 0)),
        infer=_infer_gather,
        evaluate=_evaluate_gather,
        traits=_MOVEMENT,
    )
)


# ---- GatherElements ----


def _infer_gather_elements(ctx: InferContext) -> Type:
    rank, other = ctx.rank(0), ctx.rank(1)
    if rank is not None and other is not None:
        if rank != other:
            ctx.fail(f"data of rank {rank} and indices of rank {other} do not fit")
        ctx.axis(ctx.attr("axis"), rank)
    return TensorType(ctx.dtype(0), ctx.shape(1))


def _along(ctx: EvalContext, indices: Array, shape: tuple[int, ...], axis: int) -> tuple[Any, ...]:
    """An index tuple of full grids that replaces the coordinate on ``axis`` by ``indices``."""
    grids: list[Any] = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    grids[axis] = wrap_index(ctx, indices, shape[axis])
    return tuple(grids)


def _evaluate_gather_elements(ctx: EvalContext, x: Array, indices: Array) -> Array:
    if x.ndim == 0:
        return x
    return np.asarray(x[_along(ctx, indices, x.shape, ctx.attr("axis"))])


register(
    OpDef(
        "GatherElements",
        inputs=("data", "indices"),
        outputs=("output",),
        attrs=attr_specs(axis=("i", 0)),
        infer=_infer_gather_elements,
        evaluate=_evaluate_gather_elements,
        traits=_MOVEMENT,
    )
)


# ---- GatherND ----


def _infer_gather_nd(ctx: InferContext) -> Type:
    data, indices = ctx.tensor(0), ctx.shape(1)
    if data.shape is None or indices is None or not indices:
        return TensorType(data.dtype, None)
    batch = ctx.attr("batch_dims")
    depth = indices[-1]
    if not isinstance(depth, int):
        return TensorType(data.dtype, None)
    if batch + depth > len(data.shape):
        ctx.fail(f"indices of {depth} coordinates do not fit {data}")
    return TensorType(data.dtype, indices[:-1] + data.shape[batch + depth :])


def _evaluate_gather_nd(ctx: EvalContext, x: Array, indices: Array) -> Array:
    batch = ctx.attr("batch_dims")
    depth = indices.shape[-1]
    grids = np.ogrid[tuple(slice(n) for n in indices.shape[:batch])] if batch else ()
    lift = (...,) + (None,) * (indices.ndim - 1 - batch)
    head = [np.asarray(grid)[lift] for grid in grids]
    tail = [wrap_index(ctx, indices[..., i], x.shape[batch + i]) for i in range(depth)]
    return np.asarray(x[(*head, *tail)])


register(
    OpDef(
        "GatherND",
        inputs=("data", "indices"),
        outputs=("output",),
        attrs=attr_specs(batch_dims=("i", 0)),
        infer=_infer_gather_nd,
        evaluate=_evaluate_gather_nd,
        traits=_MOVEMENT,
    )
)


# ---- Scatter ----


def _infer_scatter(ctx: InferContext) -> Type:
    if ctx.dtype(0) != ctx.dtype(2):
        ctx.fail(f"operand types differ: {ctx.type(0)} and {ctx.type(2)}")
    return ctx.tensor(0)


_COMBINE: dict[str, Any] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _store(ctx: EvalContext, x: Array, where: tuple[Any, ...], updates: Array) -> Array:
    reduction = ctx.attr("reduction") if "reduction" in ctx.op.attrs else "none"
    if reduction == "none":
        result = x.copy()
        result[where] = updates
        return result
    if reduction not in _COMBINE:
        ctx.fail(f"reduction is '{reduction}'")
    wide = computable(x).copy()
    with np.errstate(all="ignore"):
        _COMBINE[reduction].at(wide, where, computable(updates))
        return np.asarray(wide).astype(x.dtype, copy=False)


def _evaluate_scatter_elements(ctx: EvalContext, x: Array, indices: Array, updates: Array) -> Array:
    if x.ndim == 0:
        return updates
    return _store(ctx, x, _along(ctx, indices, x.shape, ctx.attr("axis")), updates)


def _evaluate_scatter_nd(ctx: EvalContext, x: Array, indices: Array, updates: Array) -> Array:
    depth = indices.shape[-1]
    where = tuple(wrap_index(ctx, indices[..., i], x.shape[i]) for i in range(depth))
    return _store(ctx, x, where or (...,), updates)


register(
    OpDef(
        "ScatterElements",
        inputs=("data", "indices", "updates"),
        outputs=("output",),
        attrs=attr_specs(axis=("i", 0), reduction=("s", "none")),
        infer=_infer_scatter,
        evaluate=_evaluate_scatter_elements,
    ),
    OpDef(
        "Scatter",
        inputs=("data", "indices", "updates"),
        outputs=("output",),
        attrs=attr_specs(axis=("i", 0)),
        infer=_infer_scatter,
        evaluate=_evaluate_scatter_elements,
    ),
    OpDef(
        "ScatterND",
        inputs=("data", "indices", "updates"),
        outputs=("output",),
        attrs=attr_specs(reduction=("s", "none")),
        infer=_infer_scatter,
        evaluate=_evaluate_scatter_nd,
    ),
)


# ---- TensorScatter ----


def _infer_tensor_scatter(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.dtype != ctx.dtype(1):
        ctx.fail(f"operand types differ: {data} and {ctx.type(1)}")
    if data.shape is not None and ctx.axis(ctx.attr("axis"), len(data.shape)) == 0:
        ctx.fail("axis 0 is the batch: it cannot be the sequence")
    return data


def _evaluate_tensor_scatter(
    ctx: EvalContext, cache: Array, update: Array, start: Array | None = None
) -> Array:
    axis = ctx.attr("axis") % cache.ndim
    size, length = cache.shape[axis], update.shape[axis]
    first = np.zeros(cache.shape[0], dtype=np.int64) if start is None else start.astype(np.int64)
    where = first[:, None] + np.arange(length)
    if ctx.attr("mode") == "circular":
        where = where % size
    elif where.size and (where.min() < 0 or where.max() >= size):
        ctx.fail(f"the update leaves a cache of {size} places")
    result = np.moveaxis(cache.copy(), axis, 1)
    result[np.arange(cache.shape[0])[:, None], where] = np.moveaxis(update, axis, 1)
    return np.asarray(np.moveaxis(result, 1, axis))


register(
    OpDef(
        "TensorScatter",
        inputs=("past_cache", "update", "write_indices?"),
        outputs=("present_cache",),
        attrs=attr_specs(axis=("i", -2), mode=("s", "linear")),
        infer=_infer_tensor_scatter,
        evaluate=_evaluate_tensor_scatter,
    )
)


# ---- Compress ----


def _infer_compress(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    axis = ctx.attr("axis")
    condition = ctx.constant(1)
    kept: Dim = ctx.fresh("compress") if condition is None else int(np.count_nonzero(condition))
    if axis is None:
        return TensorType(data.dtype, (kept,))
    if data.shape is None:
        return TensorType(data.dtype, None)
    dims = list(data.shape)
    dims[ctx.axis(axis, len(dims))] = kept
    return TensorType(data.dtype, tuple(dims))


register(
    OpDef(
        "Compress",
        inputs=("input", "condition"),
        outputs=("output",),
        attrs=attr_specs(axis="i"),
        infer=_infer_compress,
        evaluate=lambda ctx, x, condition: np.compress(condition, x, axis=ctx.attr("axis")),
        traits=_MOVEMENT,
    )
)


# ---- OneHot ----


def _infer_one_hot(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is None:
        return TensorType(ctx.dtype(2), None)
    contents = known(ctx, 1)
    depth: Dim = ctx.fresh("depth") if contents is None else contents.ravel()[0]
    dims = list(shape)
    dims.insert(ctx.axis(ctx.attr("axis"), len(shape) + 1), depth)
    return TensorType(ctx.dtype(2), tuple(dims))


def _evaluate_one_hot(ctx: EvalContext, indices: Array, depth: Array, values: Array) -> Array:
    size = int(computable(depth).reshape(())) if depth.size == 1 else -1
    if size < 0:
        ctx.fail("the depth is not one number that is at least 0")
    axis = ctx.attr("axis") % (indices.ndim + 1)
    where = np.expand_dims(computable(indices).astype(np.int64), axis)
    where = np.where((where < 0) & (where >= -size), where + size, where)
    lane = [1] * where.ndim
    lane[axis] = size
    hot = where == np.arange(size).reshape(lane)
    return np.asarray(np.where(hot, values[1], values[0])).astype(values.dtype)


register(
    OpDef(
        "OneHot",
        inputs=("indices", "depth", "values"),
        outputs=("output",),
        attrs=attr_specs(axis=("i", -1)),
        infer=_infer_one_hot,
        evaluate=_evaluate_one_hot,
    )
)
