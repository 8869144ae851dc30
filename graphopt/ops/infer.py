"""Type inference that many ops share.

Contents of small tensors are followed as sizes (``Value.elements``), which is what keeps dynamic
shapes symbolic. :func:`known` and :func:`set_known` handle them as object arrays of dims, so that
numpy's own movement functions apply. Beside integers, bools (0 and 1) and f32 and f64 tensors whose
every element is an integer are followed: exporters compute sizes through all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, Expr, bcast, symbols
from graphopt.ir.dtype import DType
from graphopt.ir.op import InferContext
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type, static_shape

__all__ = [
    "MAX_ELEMENTS",
    "Array",
    "attr_dtype",
    "broadcast",
    "broadcast_shapes",
    "fresh_shape",
    "instantiate",
    "known",
    "known_ints",
    "map_known",
    "merge_dims",
    "normalize_axes",
    "reduced_shape",
    "require_equal",
    "same_type",
    "set_known",
    "unify",
    "with_dtype",
]

Array = np.ndarray[Any, Any]
Contents = Callable[..., Dim | None]

# Contents of tensors up to this many elements are followed.
MAX_ELEMENTS = 64
_FOLLOWED_FLOATS = frozenset({DType.F32, DType.F64})


def same_type(ctx: InferContext) -> Type:
    """Output type = type of operand 0; known contents do not carry over."""
    return ctx.type(0)


def with_dtype(dtype: DType) -> Callable[[InferContext], Type]:
    """Shape of operand 0, element type ``dtype``."""
    return lambda ctx: TensorType(dtype, ctx.shape(0))


def attr_dtype(ctx: InferContext, name: str, default: DType) -> DType:
    """The element type that the attribute ``name`` holds as a number; ``default`` when absent."""
    code = ctx.attr(name)
    if not code:
        return default
    try:
        return DType(int(code))
    except ValueError:
        ctx.fail(f"attribute '{name}' is {code}, which is no element type")


# ---- shapes ----


def broadcast_shapes(
    ctx: InferContext, shapes: Sequence[tuple[Dim, ...] | None]
) -> tuple[Dim, ...] | None:
    """The shape that multidirectional broadcasting gives; None when a rank is unknown."""
    known_shapes = [shape for shape in shapes if shape is not None]
    if len(known_shapes) != len(shapes):
        return None
    rank = max((len(shape) for shape in known_shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in known_shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            try:
                result[axis] = bcast(result[axis], dim)
            except ValueError:
                listed = " and ".join(f"[{', '.join(map(str, s))}]" for s in known_shapes)
                ctx.fail(f"shapes {listed} do not broadcast")
    return tuple(result)


def broadcast(
    dtype: DType | None = None, contents: Contents | None = None
) -> Callable[[InferContext], Type]:
    """Operands broadcast together; element type ``dtype``, or that of operand 0.

    ``contents(*dims)`` computes one known element of the output, None where it cannot be known.
    """

    def infer(ctx: InferContext) -> Type:
        operands = [ctx.tensor(i) for i in range(len(ctx.inputs)) if ctx.has(i)]
        if not operands:
            ctx.fail("it takes at least 1 operand")
        if any(t.dtype != operands[0].dtype for t in operands):
            ctx.fail(f"operand types differ: {', '.join(map(str, operands))}")
        shape = broadcast_shapes(ctx, [t.shape for t in operands])
        result = TensorType(operands[0].dtype if dtype is None else dtype, shape)
        if contents is not None:
            map_known(ctx, contents, range(len(ctx.inputs)), result.dtype)
        return result

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


def fresh_shape(ctx: InferContext, rank: int | None, hint: str = "u") -> tuple[Dim, ...] | None:
    """A shape of fresh sizes; None when the rank is unknown."""
    return None if rank is None else tuple(ctx.fresh(hint) for _ in range(rank))


def unify(ctx: InferContext, a: Dim, b: Dim, what: str = "sizes") -> Dim:
    """The size that two sizes which must be equal have: the one that says more."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        ctx.fail(f"{what} {a} and {b} differ")
    return b if isinstance(b, int) else a


def merge_dims(ctx: InferContext, a: Type, b: Type, hint: str) -> Type:
    """The type that covers both: sizes that differ become fresh, ranks that differ unknown."""
    if a == b:
        return a
    # Where one side is optional, so is the whole.
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        left = a.element if isinstance(a, OptionalType) else a
        right = b.element if isinstance(b, OptionalType) else b
        return OptionalType(merge_dims(ctx, left, right, hint))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(merge_dims(ctx, a.element, b.element, hint))
    if isinstance(a, SequenceType) or isinstance(b, SequenceType) or a.dtype != b.dtype:
        ctx.fail(f"the types {a} and {b} differ")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(a.dtype, None)
    pairs = zip(a.shape, b.shape, strict=True)
    return TensorType(a.dtype, tuple(x if x == y else ctx.fresh(hint) for x, y in pairs))


# ---- contents ----


def known(ctx: InferContext, index: int) -> Array | None:
    """Contents of operand ``index`` as an object array of dims, None when they are not known."""
    if not ctx.has(index):
        return None
    value = ctx.value(index)
    if not isinstance(value.type, TensorType):
        return None
    elements = value.elements
    constant = value.constant
    small = constant is not None and constant.available and constant.numel <= MAX_ELEMENTS
    if elements is None and constant is not None and small:
        elements = _whole_numbers(value.type.dtype, constant.array)
    if elements is None:
        return None
    shape = static_shape(value.type.shape)
    if shape is None or len(elements) != math.prod(shape):
        return None
    result = np.empty(len(elements), dtype=object)
    result[:] = elements
    return result.reshape(shape)


def _whole_numbers(dtype: DType, array: Array) -> tuple[Dim, ...] | None:
    if dtype is DType.BOOL:
        return tuple(int(x) for x in array.ravel())
    if dtype not in _FOLLOWED_FLOATS or not np.isfinite(array).all():
        return None
    # A negative zero is no integer: it would come back as a positive one.
    if (array != np.floor(array)).any() or (np.signbit(array) & (array == 0)).any():
        return None
    return tuple(int(x) for x in array.ravel())


def known_ints(ctx: InferContext, index: int) -> tuple[int, ...] | None:
    """Contents of operand ``index`` when all of them are numbers."""
    return static_shape(ctx.elements(index))


def set_known(ctx: InferContext, contents: Array, dtype: DType, index: int = 0) -> None:
    """Declares the contents of output ``index``, of type ``dtype``, where they can be followed."""
    if contents.size > MAX_ELEMENTS:
        return
    if dtype.is_integer:
        low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
        high = (1 << (dtype.bits - dtype.is_signed)) - 1
    elif dtype is DType.BOOL:
        low, high = 0, 1
    elif dtype in _FOLLOWED_FLOATS:
        # Integers up to here are exact in f32.
        low, high = -(1 << 24), 1 << 24
    else:
        return
    dims = list(contents.ravel())
    if all(isinstance(dim, Expr) or low <= dim <= high for dim in dims):
        ctx.set_elements(dims, index)


def map_known(ctx: InferContext, function: Contents, operands: Sequence[int], dtype: DType) -> None:
    """Declares output contents ``function(*elements)``, operands being broadcast together."""
    arrays = [known(ctx, i) for i in operands]
    present = [a for a in arrays if a is not None]
    if len(present) != len(arrays):
        return
    spread = np.broadcast_arrays(*present)
    if spread[0].size > MAX_ELEMENTS:
        return
    result = np.empty(spread[0].size, dtype=object)
    for i, dims in enumerate(zip(*(a.ravel() for a in spread), strict=True)):
        element = function(*dims)
        if element is None:
            return
        result[i] = element
    set_known(ctx, result, dtype)


def require_equal(ctx: InferContext, a: Dim, b: Dim, what: str) -> None:
    """Fails when ``a`` and ``b`` are numbers that differ; symbols are left to the run."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        ctx.fail(f"{what}: {a} is not {b}")


# ---- types that leave a scope ----


def instantiate(ctx: InferContext, found: Type, stale: Callable[[str], bool], hint: str) -> Type:
    """``found`` with a fresh size for every size that reads a symbol which is ``stale`` here."""
    if isinstance(found, SequenceType):
        return SequenceType(instantiate(ctx, found.element, stale, hint))
    if isinstance(found, OptionalType):
        return OptionalType(instantiate(ctx, found.element, stale, hint))
    if found.shape is None:
        return found
    dims = tuple(
        ctx.fresh(hint) if any(stale(name) for name in symbols(dim)) else dim for dim in found.shape
    )
    return TensorType(found.dtype, dims)
