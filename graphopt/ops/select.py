"""Choosing elements by value: TopK, NonZero, Unique; and Det."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable, precise
from graphopt.ops.infer import known
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__: list[str] = []


# ---- TopK ----


def _infer_topk(ctx: InferContext) -> tuple[Type, Type]:
    data = ctx.tensor(0)
    if data.shape is None:
        return data, TensorType(DType.I64, None)
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    contents = known(ctx, 1)
    count: Dim = ctx.fresh("k") if contents is None else contents.ravel()[0]
    size = data.shape[axis]
    if isinstance(count, int) and isinstance(size, int) and not 0 <= count <= size:
        ctx.fail(f"it takes {count} of {size} elements")
    dims = (*data.shape[:axis], count, *data.shape[axis + 1 :])
    return TensorType(data.dtype, dims), TensorType(DType.I64, dims)


def _evaluate_topk(ctx: EvalContext, x: Array, k: Array) -> tuple[Array, Array]:
    axis, count = ctx.attr("axis"), int(k.reshape(()))
    if not 0 <= count <= x.shape[axis]:
        ctx.fail(f"it takes {count} of {x.shape[axis]} elements")
    wide = computable(x)
    # Of equal elements the first comes first, whichever way the order goes.
    if ctx.attr("largest"):
        order = np.flip(np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
        order = x.shape[axis] - 1 - order
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    order = np.take(order, np.arange(count), axis=axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


register(
    OpDef(
        "TopK",
        inputs=("X", "K"),
        outputs=("Values", "Indices"),
        attrs=attr_specs(axis=("i", -1), largest=("i", 1), sorted=("i", 1)),
        infer=_infer_topk,
        evaluate=_evaluate_topk,
    )
)


# ---- NonZero ----


def _infer_nonzero(ctx: InferContext) -> Type:
    rank, data = ctx.rank(0), ctx.constant(0)
    rows: Dim = ctx.fresh("rank") if rank is None else rank
    count: Dim = ctx.fresh("nonzero")
    if data is not None:
        count = int(np.count_nonzero(computable(data)))
    return TensorType(DType.I64, (rows, count))


def _evaluate_nonzero(ctx: EvalContext, x: Array) -> Array:
    wide = computable(x)
    if wide.ndim == 0:
        return np.zeros((0, int(wide != 0)), dtype=np.int64)
    return np.array(np.nonzero(wide), dtype=np.int64)


register(
    OpDef("NonZero", inputs=("X",), infer=_infer_nonzero, evaluate=_evaluate_nonzero),
)


# ---- Unique ----


def _infer_unique(ctx: InferContext) -> tuple[Type, Type, Type, Type]:
    data, axis = ctx.tensor(0), ctx.attr("axis")
    count = ctx.fresh("unique")
    indices = TensorType(DType.I64, (count,))
    if axis is None:
        total = data.numel
        whole: Dim = ctx.fresh("numel") if total is None else total
        return TensorType(data.dtype, (count,)), indices, TensorType(DType.I64, (whole,)), indices
    if data.shape is None:
        return data, indices, TensorType(DType.I64, (ctx.fresh("size"),)), indices
    axis = ctx.axis(axis, len(data.shape))
    dims = (*data.shape[:axis], count, *data.shape[axis + 1 :])
    inverse = TensorType(DType.I64, (data.shape[axis],))
    return TensorType(data.dtype, dims), indices, inverse, indices


def _evaluate_unique(ctx: EvalContext, x: Array) -> tuple[Array, ...]:
    axis = ctx.attr("axis")
    wide = computable(x)
    if wide.dtype.kind == "O":
        wide = wide.astype(np.str_)
    _, first, inverse, counts = np.unique(
        wide, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.ravel()
    if not ctx.attr("sorted"):
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    values = x.ravel()[first] if axis is None else np.take(x, first, axis=axis)
    return (values, *(a.astype(np.int64) for a in (first, inverse, counts)))


register(
    OpDef(
        "Unique",
        inputs=("X",),
        outputs=("Y", "indices?", "inverse_indices?", "counts?"),
        attrs=attr_specs(axis="i", sorted=("i", 1)),
        infer=_infer_unique,
        evaluate=_evaluate_unique,
    )
)


# ---- Det ----


def _infer_det(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return data
    if len(data.shape) < 2:
        ctx.fail(f"its operand has {len(data.shape)} axes, fewer than 2")
    rows, columns = data.shape[-2:]
    if isinstance(rows, int) and isinstance(columns, int) and rows != columns:
        ctx.fail(f"matrices of {rows} rows and {columns} columns have no determinant")
    return TensorType(data.dtype, data.shape[:-2])


register(
    OpDef(
        "Det",
        inputs=("X",),
        infer=_infer_det,
        evaluate=lambda ctx, x: np.asarray(np.linalg.det(precise(x))).astype(x.dtype),
    )
)
