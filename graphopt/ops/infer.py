"""Type inference that many ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir.dim import Dim, bcast
from graphopt.ir.dtype import DType
from graphopt.ir.op import InferContext
from graphopt.ir.types import TensorType, Type

__all__ = [
    "broadcast",
    "broadcast_shapes",
    "normalize_axes",
    "reduced_shape",
    "same_type",
    "with_dtype",
]


def same_type(ctx: InferContext) -> Type:
    """Output type = type of operand 0; known contents do not carry over."""
    return ctx.type(0)


def with_dtype(dtype: DType) -> Callable[[InferContext], Type]:
    """Shape of operand 0, element type ``dtype``."""
    return lambda ctx: TensorType(dtype, ctx.shape(0))


def broadcast_shapes(
    ctx: InferContext, shapes: Sequence[tuple[Dim, ...] | None]
) -> tuple[Dim, ...] | None:
    """The shape that multidirectional broadcasting gives; None when a rank is unknown."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    rank = max((len(shape) for shape in known), default=0)
    result: list[Dim] = [1] * rank
    for shape in known:
        for axis, dim in enumerate(shape, rank - len(shape)):
            try:
                result[axis] = bcast(result[axis], dim)
            except ValueError:
                listed = " and ".join(f"[{', '.join(map(str, s))}]" for s in known)
                ctx.fail(f"shapes {listed} do not broadcast")
    return tuple(result)


def broadcast(dtype: DType | None = None) -> Callable[[InferContext], Type]:
    """Operands broadcast together; element type ``dtype``, or that of operand 0."""

    def infer(ctx: InferContext) -> Type:
        operands = [ctx.tensor(i) for i in range(len(ctx.inputs)) if ctx.has(i)]
        if dtype is None and any(t.dtype != operands[0].dtype for t in operands):
            ctx.fail(f"operand types differ: {', '.join(map(str, operands))}")
        shape = broadcast_shapes(ctx, [t.shape for t in operands])
        return TensorType(operands[0].dtype if dtype is None else dtype, shape)

    return infer


def normalize_axes(ctx: InferContext, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes as sorted non-negative numbers; fails on one out of range or named twice."""
    result = sorted(ctx.axis(int(axis), rank) for axis in axes)
    if len(set(result)) != len(result):
        ctx.fail(f"axes {list(axes)} name an axis twice")
    return tuple(result)


def reduced_shape(shape: tuple[Dim, ...], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    """``shape`` with ``axes`` folded: to 1 when ``keepdims``, else dropped."""
    if keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)
