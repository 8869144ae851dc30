"""Ops that read, change or make shapes without moving data: Shape, Reshape, Squeeze, Range, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim, bcast, ceildiv, dim_max, product
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type, static_shape
from graphopt.ops.elementary import Array, computable
from graphopt.ops.infer import (
    MAX_ELEMENTS,
    attr_dtype,
    fresh_shape,
    known,
    known_ints,
    normalize_axes,
    set_known,
)
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["identity_elements", "operand_length", "reshaped"]

_MOVEMENT = frozenset({Trait.MOVEMENT})
_SHAPE_ONLY = frozenset({Trait.SHAPE_ONLY})


def operand_length(ctx: InferContext, index: int) -> int | None:
    """Number of elements of a 1-d operand, where known."""
    shape = ctx.shape(index)
    if shape is None:
        return None
    count = product(shape)
    return count if isinstance(count, int) else None


def identity_elements(ctx: InferContext) -> None:
    """Output 0 has the contents of operand 0, in the same order."""
    elements = ctx.elements(0)
    if elements is None:
        contents = known(ctx, 0)
        elements = None if contents is None else tuple(contents.ravel())
    if elements is not None:
        ctx.set_elements(elements)


# ---- Identity ----


def _infer_identity(ctx: InferContext) -> Type:
    if isinstance(ctx.type(0), TensorType):
        identity_elements(ctx)
    return ctx.type(0)


register(
    OpDef(
        "Identity",
        inputs=("input",),
        outputs=("output",),
        infer=_infer_identity,
        # In a tuple: the operand may be a sequence, which is a list.
        evaluate=lambda ctx, x: (x,),
        traits=_MOVEMENT,
    )
)


# ---- Reshape ----


def reshaped(
    ctx: InferContext | EvalContext,
    shape: Sequence[Dim] | None,
    wanted: Sequence[Dim],
    allow_zero: bool,
) -> list[Dim | None]:
    """Sizes of the output of Reshape; None for one that cannot be known.

    ``shape`` is the operand's (None: unknown). Sizes that stand on both sides cancel before the
    inferred one is computed: a copied size may then be zero or any expression.
    """
    result: list[Dim | None] = []
    rest = None if shape is None else list(shape)
    divisor: list[Dim] = []
    hole: int | None = None
    for axis, dim in enumerate(wanted):
        if dim == -1:
            if hole is not None:
                ctx.fail("its shape has two sizes of -1")
            hole = axis
            result.append(None)
        elif dim == 0 and not allow_zero:
            if shape is None:
                result.append(None)
                continue
            if axis >= len(shape):
                ctx.fail(f"its shape copies size {axis} of an operand of rank {len(shape)}")
            result.append(shape[axis])
            divisor.append(shape[axis])
        else:
            if isinstance(dim, int) and dim < 0:
                ctx.fail(f"its shape has a size of {dim}")
            result.append(dim)
            divisor.append(dim)
    if rest is None:
        return result
    for dim in list(divisor):
        if dim in rest and (hole is not None or dim != 0):
            rest.remove(dim)
            divisor.remove(dim)
    total, share = product(rest), product(divisor)
    if hole is not None:
        if share == 0:
            ctx.fail("a size of -1 beside a size of 0 has no value")
        if isinstance(total, int) and isinstance(share, int) and total % share:
            ctx.fail(f"{total} elements do not divide by {share}")
        result[hole] = total // share
    elif isinstance(total, int) and isinstance(share, int) and total != share:
        ctx.fail(f"a tensor of {product(shape or ())} elements cannot become {list(wanted)}")
    return result


def _infer_reshape(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    wanted = ctx.elements(1)
    if wanted is None:
        return TensorType(data.dtype, fresh_shape(ctx, operand_length(ctx, 1), "reshape"))
    dims = reshaped(ctx, data.shape, wanted, bool(ctx.attr("allowzero")))
    identity_elements(ctx)
    return TensorType(
        data.dtype, tuple(ctx.fresh("reshape") if dim is None else dim for dim in dims)
    )


def _evaluate_reshape(ctx: EvalContext, x: Array, shape: Array) -> Array:
    wanted = [int(dim) for dim in shape.ravel()]
    dims: Any = reshaped(ctx, x.shape, wanted, bool(ctx.attr("allowzero")))
    return x.reshape(dims)


register(
    OpDef(
        "Reshape",
        inputs=("data", "shape"),
        outputs=("reshaped",),
        attrs=attr_specs(allowzero=("i", 0)),
        infer=_infer_reshape,
        evaluate=_evaluate_reshape,
        traits=_MOVEMENT,
    )
)


# ---- Squeeze, Unsqueeze, Flatten ----


def _infer_squeeze(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    identity_elements(ctx)
    if data.shape is None:
        return TensorType(data.dtype, None)
    if not ctx.has(1):
        # A symbolic size may be 1 when the model runs: then not even the rank is known.
        sizes = static_shape(data.shape)
        return TensorType(data.dtype, None if sizes is None else tuple(d for d in sizes if d != 1))
    axes = known_ints(ctx, 1)
    if axes is None:
        return TensorType(data.dtype, None)
    drop = normalize_axes(ctx, axes, len(data.shape))
    for axis in drop:
        size = data.shape[axis]
        if isinstance(size, int) and size != 1:
            ctx.fail(f"axis {axis} has {size} elements: it cannot be dropped")
    kept = tuple(dim for axis, dim in enumerate(data.shape) if axis not in drop)
    return TensorType(data.dtype, kept)


def _evaluate_squeeze(ctx: EvalContext, x: Array, axes: Array | None = None) -> Array:
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple(int(axis) for axis in axes.ravel()))


register(
    OpDef(
        "Squeeze",
        inputs=("data", "axes?"),
        outputs=("squeezed",),
        infer=_infer_squeeze,
        evaluate=_evaluate_squeeze,
        traits=_MOVEMENT,
    )
)


def _infer_unsqueeze(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    identity_elements(ctx)
    axes = known_ints(ctx, 1)
    if data.shape is None:
        return TensorType(data.dtype, None)
    if axes is None:
        length = operand_length(ctx, 1)
        rank = None if length is None else len(data.shape) + length
        return TensorType(data.dtype, fresh_shape(ctx, rank, "unsqueeze"))
    dims: list[Dim] = list(data.shape)
    for axis in normalize_axes(ctx, axes, len(dims) + len(axes)):
        dims.insert(axis, 1)
    return TensorType(data.dtype, tuple(dims))


def _evaluate_unsqueeze(ctx: EvalContext, x: Array, axes: Array) -> Array:
    rank = x.ndim + axes.size
    dims = list(x.shape)
    for axis in sorted(int(axis) % rank if -rank <= axis < rank else -1 for axis in axes.ravel()):
        if axis < 0:
            ctx.fail(f"an axis is out of range for rank {rank}")
        dims.insert(axis, 1)
    return x.reshape(dims)


register(
    OpDef(
        "Unsqueeze",
        inputs=("data", "axes"),
        outputs=("expanded",),
        infer=_infer_unsqueeze,
        evaluate=_evaluate_unsqueeze,
        traits=_MOVEMENT,
    )
)


def _flat_axis(ctx: InferContext | EvalContext, rank: int) -> int:
    axis = int(ctx.attr("axis"))
    if not -rank <= axis <= rank:
        ctx.fail(f"axis {axis} is out of range for rank {rank}")
    return axis + rank if axis < 0 else axis


def _infer_flatten(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    identity_elements(ctx)
    if data.shape is None:
        return TensorType(data.dtype, fresh_shape(ctx, 2, "flatten"))
    axis = _flat_axis(ctx, len(data.shape))
    return TensorType(data.dtype, (product(data.shape[:axis]), product(data.shape[axis:])))


def _evaluate_flatten(ctx: EvalContext, x: Array) -> Array:
    axis = _flat_axis(ctx, x.ndim)
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


register(
    OpDef(
        "Flatten",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(axis=("i", 1)),
        infer=_infer_flatten,
        evaluate=_evaluate_flatten,
        traits=_MOVEMENT,
    )
)


# ---- Shape, Size ----


def _shape_range(ctx: InferContext | EvalContext, rank: int) -> slice:
    start, end = ctx.attr("start") or 0, ctx.attr("end")
    end = rank if end is None else end

    def clamp(value: int) -> int:
        return min(max(value + rank if value < 0 else value, 0), rank)

    return slice(clamp(start), clamp(end))


def _infer_shape(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is None:
        return TensorType(DType.I64, (ctx.fresh("rank"),))
    part = shape[_shape_range(ctx, len(shape))]
    ctx.set_elements(part)
    return TensorType(DType.I64, (len(part),))


def _evaluate_shape(ctx: EvalContext, x: Array) -> Array:
    return np.array(x.shape[_shape_range(ctx, x.ndim)], dtype=np.int64)


register(
    OpDef(
        "Shape",
        inputs=("data",),
        outputs=("shape",),
        attrs=attr_specs(start=("i", 0), end="i"),
        infer=_infer_shape,
        evaluate=_evaluate_shape,
        traits=_SHAPE_ONLY,
    )
)


def _infer_size(ctx: InferContext) -> Type:
    count = ctx.tensor(0).numel
    if count is not None:
        ctx.set_elements((count,))
    return TensorType(DType.I64, ())


register(
    OpDef(
        "Size",
        inputs=("data",),
        outputs=("size",),
        infer=_infer_size,
        evaluate=lambda ctx, x: np.array(x.size, dtype=np.int64),
        traits=_SHAPE_ONLY,
    )
)


# ---- Expand ----


def _infer_expand(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    wanted = ctx.elements(1)
    length = operand_length(ctx, 1) if wanted is None else len(wanted)
    if data.shape is None or length is None:
        return TensorType(data.dtype, None)
    rank = max(len(data.shape), length)
    old = (1,) * (rank - len(data.shape)) + data.shape
    if wanted is None:
        # A size that is neither 1 nor symbolic stays, whatever the run asks for.
        first = rank - length
        dims = tuple(
            dim if axis < first or (isinstance(dim, int) and dim != 1) else ctx.fresh("expand")
            for axis, dim in enumerate(old)
        )
        return TensorType(data.dtype, dims)
    new = (1,) * (rank - length) + wanted
    try:
        dims = tuple(bcast(a, b) for a, b in zip(old, new, strict=True))
    except ValueError:
        ctx.fail(f"{data} does not expand to [{', '.join(map(str, wanted))}]")
    _expand_contents(ctx, dims)
    return TensorType(data.dtype, dims)


def _expand_contents(ctx: InferContext, dims: tuple[Dim, ...]) -> None:
    contents, sizes = known(ctx, 0), static_shape(dims)
    if contents is not None and sizes is not None and int(np.prod(sizes)) <= MAX_ELEMENTS:
        set_known(ctx, np.broadcast_to(contents, sizes), ctx.dtype(0))


def _evaluate_expand(ctx: EvalContext, x: Array, shape: Array) -> Array:
    wanted = tuple(int(dim) for dim in shape.ravel())
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, wanted)).copy()


register(
    OpDef(
        "Expand",
        inputs=("input", "shape"),
        outputs=("output",),
        infer=_infer_expand,
        evaluate=_evaluate_expand,
        traits=_MOVEMENT,
    )
)


# ---- Constant, ConstantOfShape, Range, EyeLike ----


def _constant_array(ctx: InferContext | EvalContext) -> Array:
    given = {name: value for name, value in ctx.attrs.items() if value is not None}
    if len(given) != 1:
        ctx.fail(f"it needs one attribute with the value, not {len(given)}")
    ((name, value),) = given.items()
    if name == "value":
        found: Constant = value
        return found.array
    if name in ("value_string", "value_strings"):
        items = [value] if name == "value_string" else list(value)
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(()) if name == "value_string" else array
    dtype: Any = np.float32 if name.startswith("value_float") else np.int64
    return np.array(value, dtype=dtype)


def _infer_constant(ctx: InferContext) -> Type:
    value = ctx.attrs.get("value")
    if isinstance(value, Constant):
        if value.type.dtype.is_integer and value.numel <= MAX_ELEMENTS:
            ctx.set_elements([int(item) for item in value.array.ravel()])
        return value.type
    array = _constant_array(ctx)
    dtype = DType.from_numpy(array.dtype)
    if dtype is DType.I64 and array.size <= MAX_ELEMENTS:
        ctx.set_elements([int(item) for item in array.ravel()])
    return TensorType(dtype, array.shape)


register(
    OpDef(
        "Constant",
        outputs=("output",),
        attrs=attr_specs(
            value="t",
            value_float="f",
            value_floats="floats",
            value_int="i",
            value_ints="ints",
            value_string="s",
            value_strings="strings",
        ),
        infer=_infer_constant,
        evaluate=lambda ctx: _constant_array(ctx),
        traits=frozenset({Trait.CONSTANT}),
    )
)


def _fill_value(ctx: InferContext | EvalContext) -> Array:
    value: Constant | None = ctx.attr("value")
    if value is None:
        return np.zeros((), dtype=np.float32)
    if value.numel != 1:
        ctx.fail(f"its value has {value.numel} elements, not 1")
    return value.array.reshape(())


def _infer_constant_of_shape(ctx: InferContext) -> Type:
    value = _fill_value(ctx)
    dtype = DType.from_numpy(value.dtype)
    dims = ctx.elements(0)
    if dims is None:
        return TensorType(dtype, fresh_shape(ctx, operand_length(ctx, 0), "fill"))
    sizes = static_shape(dims)
    whole = dtype is DType.BOOL or dtype.is_integer
    if sizes is not None and whole and int(np.prod(sizes)) <= MAX_ELEMENTS:
        set_known(ctx, np.full(sizes, int(value), dtype=object), dtype)
    return TensorType(dtype, dims)


def _evaluate_constant_of_shape(ctx: EvalContext, shape: Array) -> Array:
    value = _fill_value(ctx)
    return np.full(tuple(int(dim) for dim in shape.ravel()), value, dtype=value.dtype)


register(
    OpDef(
        "ConstantOfShape",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(value="t"),
        infer=_infer_constant_of_shape,
        evaluate=_evaluate_constant_of_shape,
    )
)


def _infer_range(ctx: InferContext) -> Type:
    dtype = ctx.dtype(0)
    constants = [ctx.constant(i) for i in range(3)]
    present = [c for c in constants if c is not None]
    if len(present) == 3:
        values = _range(*present)
        if dtype.is_integer and values.size <= MAX_ELEMENTS:
            ctx.set_elements([int(item) for item in values])
        return TensorType(dtype, (values.size,))
    contents = [known(ctx, i) for i in range(3)]
    scalars = [c.item() for c in contents if c is not None and c.size == 1]
    if len(scalars) != 3 or not isinstance(scalars[2], int) or scalars[2] == 0:
        return TensorType(dtype, (ctx.fresh("range"),))
    start, limit, delta = scalars
    span, step = (limit - start, delta) if delta > 0 else (start - limit, -delta)
    count = dim_max(ceildiv(span, step), 0)
    if isinstance(count, int) and count <= MAX_ELEMENTS and dtype.is_integer:
        contents_out = np.empty(count, dtype=object)
        contents_out[:] = [start + i * delta for i in range(count)]
        set_known(ctx, contents_out, dtype)
    return TensorType(dtype, (count,))


def _range(start: Array, limit: Array, delta: Array) -> Array:
    first, last, step = (computable(v).reshape(()) for v in (start, limit, delta))
    if step == 0:
        raise ValueError("a range cannot go in steps of 0")
    if first.dtype.kind == "f":
        count = int(np.ceil((last - first) / step))
    else:
        count = -((int(last) - int(first)) // -int(step))
    steps = np.arange(max(count, 0)).astype(first.dtype)
    return np.asarray(first + steps * step).astype(start.dtype)


register(
    OpDef(
        "Range",
        inputs=("start", "limit", "delta"),
        outputs=("output",),
        attrs=attr_specs(stash_type=("i", 1)),
        infer=_infer_range,
        evaluate=lambda ctx, start, limit, delta: _range(start, limit, delta),
    )
)


def _infer_eye_like(ctx: InferContext) -> Type:
    rank = ctx.rank(0)
    if rank is not None and rank != 2:
        ctx.fail(f"its operand has {rank} axes, not 2")
    shape = ctx.shape(0) or fresh_shape(ctx, 2, "eye")
    return TensorType(attr_dtype(ctx, "dtype", ctx.dtype(0)), shape)


def _evaluate_eye_like(ctx: EvalContext, x: Array) -> Array:
    code = ctx.attr("dtype")
    dtype = x.dtype if not code else DType(code).numpy
    return np.eye(x.shape[0], x.shape[1], k=ctx.attr("k")).astype(dtype)


register(
    OpDef(
        "EyeLike",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(dtype="i", k=("i", 0)),
        infer=_infer_eye_like,
        evaluate=_evaluate_eye_like,
        traits=_SHAPE_ONLY,
    )
)
