"""Sequences and optionals. Sequences are python lists, an empty optional is None.

Elements of a sequence may differ in shape. A size in which they do is a symbol called ``item``
(numbered), which every reading of an element replaces by a fresh one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type
from graphopt.ops.control import outward, region_attr
from graphopt.ops.elementary import Array
from graphopt.ops.infer import attr_dtype, instantiate, known_ints, merge_dims
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__ = ["sequence_element"]

_ITEM = "item"
_ITEM_NAME = re.compile(r"item(\.\d+)?\Z")


def _varies(name: str) -> bool:
    return _ITEM_NAME.match(name) is not None


def _stored_element(ctx: InferContext, index: int) -> Type:
    """The element type of operand ``index``, sizes in which elements differ as ``item``."""
    found = ctx.type(index)
    if not isinstance(found, SequenceType):
        ctx.fail(f"operand {index} is {found}, not a sequence")
    value = ctx.value(index)
    if value.is_input and value.graph.parent is None:
        # Symbols in the type of a model's input say nothing about the single element.
        return instantiate(ctx, found.element, lambda name: True, _ITEM)
    return found.element


def sequence_element(ctx: InferContext, index: int) -> Type:
    """The type of one element of the sequence that operand ``index`` is."""
    return instantiate(ctx, _stored_element(ctx, index), _varies, "element")


def _position(ctx: EvalContext, position: Array | None, size: int, default: int) -> int:
    """An index below ``size``, negative ones counted from the back; ``default`` when absent."""
    if position is None:
        return default
    index = int(position.reshape(()))
    if not -size <= index < size:
        ctx.fail(f"position {index} is out of range for {size} elements")
    return index + size if index < 0 else index


# ---- making sequences ----


def _infer_construct(ctx: InferContext) -> Type:
    if not ctx.inputs:
        ctx.fail("it takes at least 1 operand")
    element = ctx.type(0)
    for index in range(1, len(ctx.inputs)):
        element = merge_dims(ctx, element, ctx.type(index), _ITEM)
    return SequenceType(element)


register(
    OpDef(
        "SequenceConstruct",
        inputs=("inputs*",),
        outputs=("output_sequence",),
        infer=_infer_construct,
        evaluate=lambda ctx, *items: list(items),
    )
)


def _infer_empty(ctx: InferContext) -> Type:
    return SequenceType(TensorType(attr_dtype(ctx, "dtype", DType.F32), None))


register(
    OpDef(
        "SequenceEmpty",
        outputs=("output",),
        attrs=attr_specs(dtype="i"),
        infer=_infer_empty,
        evaluate=lambda ctx: [],
    )
)


def _infer_insert(ctx: InferContext) -> Type:
    producer = ctx.value(0).producer
    if producer is not None and producer.is_a("SequenceEmpty"):
        return SequenceType(ctx.type(1))
    return SequenceType(merge_dims(ctx, _stored_element(ctx, 0), ctx.type(1), _ITEM))


def _evaluate_insert(
    ctx: EvalContext, items: list[Any], item: Any, position: Array | None = None
) -> list[Any]:
    # One more than the elements: an item may come after the last.
    index = len(items)
    if position is not None:
        index = int(position.reshape(()))
        if not -len(items) <= index <= len(items):
            ctx.fail(f"position {index} is out of range for {len(items)} elements")
        index = index + len(items) if index < 0 else index
    return [*items[:index], item, *items[index:]]


register(
    OpDef(
        "SequenceInsert",
        inputs=("input_sequence", "tensor", "position?"),
        outputs=("output_sequence",),
        infer=_infer_insert,
        evaluate=_evaluate_insert,
    )
)


def _evaluate_erase(ctx: EvalContext, items: list[Any], position: Array | None = None) -> list[Any]:
    if not items:
        ctx.fail("an empty sequence has nothing to erase")
    index = _position(ctx, position, len(items), len(items) - 1)
    return items[:index] + items[index + 1 :]


register(
    OpDef(
        "SequenceErase",
        inputs=("input_sequence", "position?"),
        outputs=("output_sequence",),
        infer=lambda ctx: SequenceType(_stored_element(ctx, 0)),
        evaluate=_evaluate_erase,
    )
)


# ---- reading sequences ----


def _evaluate_at(ctx: EvalContext, items: list[Any], position: Array) -> tuple[Any]:
    return (items[_position(ctx, position, len(items), 0)],)


register(
    OpDef(
        "SequenceAt",
        inputs=("input_sequence", "position"),
        outputs=("tensor",),
        infer=lambda ctx: sequence_element(ctx, 0),
        evaluate=_evaluate_at,
    ),
    OpDef(
        "SequenceLength",
        inputs=("input_sequence",),
        outputs=("length",),
        infer=lambda ctx: TensorType(DType.I64, ()),
        evaluate=lambda ctx, items: np.array(len(items), dtype=np.int64),
    ),
)


def _infer_concat(ctx: InferContext) -> Type:
    element = sequence_element(ctx, 0)
    if not isinstance(element, TensorType):
        ctx.fail(f"the elements are {element}, not tensors")
    if element.shape is None:
        return element
    axis = ctx.attr("axis")
    dims = list(element.shape)
    if ctx.attr("new_axis"):
        dims.insert(ctx.axis(axis, len(dims) + 1), ctx.fresh("length"))
    else:
        dims[ctx.axis(axis, len(dims))] = ctx.fresh("concat")
    return TensorType(element.dtype, tuple(dims))


def _evaluate_concat(ctx: EvalContext, items: list[Array]) -> Array:
    if not items:
        ctx.fail("an empty sequence has nothing to join")
    join = np.stack if ctx.attr("new_axis") else np.concatenate
    return np.asarray(join(items, axis=ctx.attr("axis")))


register(
    OpDef(
        "ConcatFromSequence",
        inputs=("input_sequence",),
        outputs=("concat_result",),
        attrs=attr_specs(axis=("i", REQUIRED), new_axis=("i", 0)),
        infer=_infer_concat,
        evaluate=_evaluate_concat,
    )
)


def _part_size(ctx: InferContext, size: Dim) -> Dim:
    """The size of every part of a split of ``size``, ``item`` where parts differ."""
    if not ctx.has(1):
        return 1
    split = known_ints(ctx, 1)
    if split and ctx.rank(1) == 0 and split[0] > 0 and size % split[0] == 0:
        return split[0]
    if split and ctx.rank(1) == 1 and len(set(split)) == 1:
        return split[0]
    return ctx.fresh(_ITEM)


def _infer_split(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return SequenceType(data)
    axis = ctx.axis(ctx.attr("axis"), len(data.shape))
    dims = list(data.shape)
    if not ctx.has(1) and not ctx.attr("keepdims"):
        del dims[axis]
    else:
        dims[axis] = _part_size(ctx, dims[axis])
    return SequenceType(TensorType(data.dtype, tuple(dims)))


def _evaluate_split(ctx: EvalContext, x: Array, split: Array | None = None) -> list[Array]:
    axis = ctx.attr("axis")
    size = x.shape[axis]
    if split is None:
        parts = np.split(x, range(1, size), axis=axis) if size else []
        return parts if ctx.attr("keepdims") else [part.squeeze(axis) for part in parts]
    if split.ndim == 0:
        if split <= 0:
            ctx.fail(f"parts of {int(split)} elements do not cover anything")
        cuts = range(int(split), size, int(split))
        return np.split(x, cuts, axis=axis)
    if int(split.sum()) != size:
        ctx.fail(f"parts of sizes {split.tolist()} do not make up {size}")
    return np.split(x, np.cumsum(split)[:-1], axis=axis)


register(
    OpDef(
        "SplitToSequence",
        inputs=("input", "split?"),
        outputs=("output_sequence",),
        attrs=attr_specs(axis=("i", 0), keepdims=("i", 1)),
        infer=_infer_split,
        evaluate=_evaluate_split,
    )
)


# ---- SequenceMap ----


def _infer_map(ctx: InferContext) -> Sequence[Type]:
    body = region_attr(ctx, "body")
    if len(body.inputs) != len(ctx.inputs):
        ctx.fail(f"its body takes {len(body.inputs)} inputs, not {len(ctx.inputs)}")
    inner = [instantiate(ctx, v.type, _varies, "element") for v in body.outputs]
    outer = outward(ctx, (body,), inner)
    # What differs from outside, or comes from an element, may differ from element to element.
    result = []
    for found, seen in zip((v.type for v in body.outputs), outer, strict=True):
        result.append(SequenceType(merge_dims(ctx, found, seen, _ITEM)))
    return result


def _evaluate_map(ctx: EvalContext, items: list[Any], *others: Any) -> tuple[list[Any], ...]:
    body = region_attr(ctx, "body")
    for other in others:
        if isinstance(other, list) and len(other) != len(items):
            ctx.fail(f"it maps sequences of {len(items)} and {len(other)} elements")
    results: list[list[Any]] = [[] for _ in body.outputs]
    for index, item in enumerate(items):
        more = [other[index] if isinstance(other, list) else other for other in others]
        for column, value in zip(results, ctx.run_region(body, [item, *more]), strict=True):
            column.append(value)
    return tuple(results)


register(
    OpDef(
        "SequenceMap",
        inputs=("input_sequence", "additional_inputs*"),
        outputs=("out_sequence*",),
        attrs=attr_specs(body=("g", REQUIRED)),
        infer=_infer_map,
        evaluate=_evaluate_map,
        traits=frozenset({Trait.CONTROL_FLOW}),
    )
)


# ---- optionals ----


def _infer_optional(ctx: InferContext) -> Type:
    if ctx.has(0):
        return OptionalType(ctx.type(0))
    element = ctx.attr("type")
    if element is None:
        ctx.fail("it has neither an operand nor the attribute 'type'")
    return element if isinstance(element, OptionalType) else OptionalType(element)


def _infer_get_element(ctx: InferContext) -> Type:
    found = ctx.type(0)
    return found.element if isinstance(found, OptionalType) else found


def _evaluate_get_element(ctx: EvalContext, x: Any) -> tuple[Any]:
    if x is None:
        ctx.fail("the optional holds nothing")
    return (x,)


register(
    OpDef(
        "Optional",
        inputs=("input?",),
        outputs=("output",),
        attrs=attr_specs(type="type"),
        infer=_infer_optional,
        evaluate=lambda ctx, x=None: (x,),
    ),
    OpDef(
        "OptionalGetElement",
        inputs=("input",),
        outputs=("output",),
        infer=_infer_get_element,
        evaluate=_evaluate_get_element,
    ),
    OpDef(
        "OptionalHasElement",
        inputs=("input?",),
        outputs=("output",),
        infer=lambda ctx: TensorType(DType.BOOL, ()),
        evaluate=lambda ctx, x=None: np.array(x is not None),
    ),
)
