"""Graph attributes as regions: If, Loop, Scan, SequenceMap, and those of unknown ops.

The type of a value that a loop carries must hold in every iteration. The body is first built for
the type that the loop starts with; sizes that come out different are then replaced by symbols of
their own (a different rank by an unknown one) and the body is built anew, until it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.errors import ModelError, OperandError
from graphopt.frontends.onnx_attrs import Subgraph
from graphopt.frontends.onnx_draft import Draft
from graphopt.frontends.onnx_tensor import text
from graphopt.frontends.onnx_types import convert_type, symbol_name
from graphopt.ir import (
    Dim,
    DType,
    Expr,
    Graph,
    OpDef,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    Value,
)
from graphopt.ops.control import IMPOSSIBLE

if TYPE_CHECKING:
    from graphopt.frontends.onnx_import import Frame, Importer

__all__ = ["control_flow", "declared_regions"]

_ATTEMPTS = 5


def control_flow(importer: Importer, op: OpDef, draft: Draft) -> Sequence[Value]:
    """Adds an op whose regions take their input types from its operands."""
    if draft.op == "If":
        _branches(importer, draft)
    elif draft.op == "Loop":
        carried = [_type(draft, i) for i in range(2, len(draft.inputs))]
        fixed: list[Type] = [TensorType(DType.I64, ()), TensorType(DType.BOOL, ())]
        _loop_body(importer, draft, fixed, carried, [], first=1)
    elif draft.op == "Scan":
        count = draft.attrs["num_scan_inputs"]
        if not 0 <= count <= len(draft.inputs):
            draft.fail(f"num_scan_inputs is {count}, but it has {len(draft.inputs)} operands")
        states = len(draft.inputs) - count
        axes = draft.attrs.get("scan_input_axes") or (0,) * count
        if len(axes) != count:
            draft.fail(f"it has {count} scan inputs but {len(axes)} scan_input_axes")
        slices = [_slice(draft, states + k, axis) for k, axis in enumerate(axes)]
        carried = [_type(draft, i) for i in range(states)]
        _loop_body(importer, draft, [], carried, slices, first=0)
    else:
        elements = []
        for index in range(len(draft.inputs)):
            found = _type(draft, index)
            elements.append(found.element if isinstance(found, SequenceType) else found)
        draft.attrs["body"] = _region(importer, draft, "body", elements)
    return importer.add(op, draft)


def _branches(importer: Importer, draft: Draft) -> None:
    """Builds both branches of an If.

    One whose nodes cannot take the sizes at hand is no error of the model: often it is there for
    other sizes. It keeps its outputs, and the reason why it cannot run.
    """
    names = ("then_branch", "else_branch")
    failed: dict[str, OperandError] = {}
    for name in names:
        sub = draft.attrs.get(name)
        try:
            draft.attrs[name] = _region(importer, draft, name, [])
        except OperandError as error:
            failed[name] = error
            draft.attrs[name] = sub
    if len(failed) == 2:
        raise failed["then_branch"]
    for name, why in failed.items():
        other: Graph = draft.attrs[names[1 - names.index(name)]]
        proto = draft.attrs[name].proto
        if len(proto.output) != len(other.outputs):
            raise why
        region = Graph(text(proto.name) or name, draft.build.graph)
        types = [value.type for value in other.outputs]
        origin = draft.build.origin
        node = region.add(
            IMPOSSIBLE, [], {"reason": str(why)}, types=types, n_outputs=len(types), origin=origin
        )
        for value, info in zip(node.outputs, proto.output, strict=True):
            region.add_output(value, text(info.name))
        draft.attrs[name] = region


def declared_regions(importer: Importer, draft: Draft) -> None:
    """Builds graph attributes whose inputs have the types that they declare."""
    for name, value in draft.attrs.items():
        if not isinstance(value, Subgraph):
            continue
        types = []
        for info in value.proto.input:
            found = convert_type(info.type, text(info.name), importer.symbols, importer.label)
            if found is None:
                draft.fail(f"input '{text(info.name)}' of its graph '{name}' has no type")
            types.append(found)
        draft.attrs[name] = _region(importer, draft, name, types)


def _type(draft: Draft, index: int) -> Type:
    return draft.value(index).type


def _slice(draft: Draft, index: int, axis: int) -> Type:
    found = draft.tensor(index)
    if found.shape is None:
        return found
    axis = draft.axis(axis, len(found.shape))
    return TensorType(found.dtype, found.shape[:axis] + found.shape[axis + 1 :])


def _region(importer: Importer, draft: Draft, name: str, types: Sequence[Type]) -> Graph:
    """The region of a graph attribute, its inputs of ``types``."""
    sub = draft.attrs.get(name)
    if not isinstance(sub, Subgraph):
        draft.fail(f"its graph '{name}' is missing")
    proto = sub.proto
    region = Graph(text(proto.name) or name, draft.build.graph)
    frame = replace(
        sub.frame, scope=type(sub.frame.scope)(sub.frame.scope), hints=importer.hints(proto)
    )
    if len(proto.input) != len(types):
        draft.fail(f"its graph '{name}' takes {len(proto.input)} inputs, not {len(types)}")
    try:
        _fill(importer, draft, name, region, frame, types)
    except ModelError:
        region._drop()
        raise
    return region


def _fill(
    importer: Importer,
    draft: Draft,
    name: str,
    region: Graph,
    frame: Frame,
    types: Sequence[Type],
) -> None:
    proto = draft.attrs[name].proto
    importer.initializers(proto, region, frame.scope, {})
    for info, given in zip(proto.input, types, strict=True):
        wanted = text(info.name)
        if not wanted:
            draft.fail(f"an input of its graph '{name}' has no name")
        if isinstance(given, TensorType) and given.shape is None:
            declared = convert_type(info.type, wanted, importer.symbols, importer.label)
            if isinstance(declared, TensorType) and declared.dtype is given.dtype:
                given = declared
        frame.scope.define(wanted, region.add_input(_free(region, wanted), given))
    importer.body(proto, region, frame)
    importer.outputs(proto, region, frame)


def _free(region: Graph, wanted: str) -> str:
    name = region.fresh_name(wanted)
    # `add_input` claims it again.
    del region.root._names[name]
    return name


def _loop_body(
    importer: Importer,
    draft: Draft,
    fixed: Sequence[Type],
    carried: list[Type],
    slices: Sequence[Type],
    first: int,
) -> None:
    """Builds ``body`` with types for the carried values that hold in every iteration."""
    sub = draft.attrs.get("body")
    tops: set[Dim] = set()
    for attempt in range(_ATTEMPTS):
        with _rollback(importer, draft) as keep:
            draft.attrs["body"] = sub
            region = _region(importer, draft, "body", [*fixed, *carried, *slices])
            results = region.outputs[first : first + len(carried)]
            if len(results) < len(carried):
                draft.fail(f"its body yields {len(region.outputs)} values, too few")
            names = [v.name for v in region.inputs[len(fixed) : len(fixed) + len(carried)]]
            last = attempt == _ATTEMPTS - 2
            merge = _Merge(draft, tops, unknown=last)
            general = [merge(a, b.type, n) for a, b, n in zip(carried, results, names, strict=True)]
            if general == carried:
                draft.attrs["body"] = region
                keep()
                return
            region._drop()
            carried = general
        for dim in _dims(carried):
            for name in sorted(_names_of(dim) & merge.fresh):
                draft.build.graph.reserve_symbol(name)
    draft.fail("the types of the values that its body carries do not settle")


class _Merge:
    """The most special type that covers two."""

    def __init__(self, draft: Draft, tops: set[Dim], unknown: bool) -> None:
        self.draft = draft
        self.tops = tops
        self.unknown = unknown
        self.fresh: set[str] = set()

    def __call__(self, a: Type, b: Type, name: str) -> Type:
        if isinstance(a, TensorType) and isinstance(b, TensorType):
            return self.tensors(a, b, name)
        if isinstance(a, SequenceType) and isinstance(b, SequenceType):
            return SequenceType(self(a.element, b.element, name))
        if isinstance(a, OptionalType):
            inner = b.element if isinstance(b, OptionalType) else b
            return OptionalType(self(a.element, inner, name))
        if isinstance(b, OptionalType):
            return OptionalType(self(a, b.element, name))
        return self.draft.fail(f"its body takes '{name}' as {a} but yields {b}")

    def tensors(self, a: TensorType, b: TensorType, name: str) -> TensorType:
        if a.dtype is not b.dtype:
            self.draft.fail(f"its body takes '{name}' as {a} but yields {b}")
        if a.shape is None or a == b:
            return a
        if b.shape is None or len(a.shape) != len(b.shape) or self.unknown:
            return TensorType(a.dtype, None)
        dims: list[Dim] = []
        for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)):
            if x == y or x in self.tops:
                dims.append(x)
                continue
            symbol = self.draft.build.graph.fresh_symbol(symbol_name(f"{name}_{axis}"))
            self.fresh |= _names_of(symbol)
            self.tops.add(symbol)
            dims.append(symbol)
        return TensorType(a.dtype, tuple(dims))


def _names_of(dim: Dim) -> set[str]:
    return {str(dim)} if isinstance(dim, Expr) and dim.is_symbol else set()


def _dims(types: Sequence[Type]) -> Iterator[Dim]:
    for found in types:
        while isinstance(found, SequenceType | OptionalType):
            found = found.element
        if found.shape is not None:
            yield from found.shape


@contextmanager
def _rollback(importer: Importer, draft: Draft) -> Iterator[Any]:
    """Names, symbols and counters as they were, unless the block calls what it is given."""
    root = draft.build.graph.root
    before = (dict(root._names), dict(root._node_names), dict(root._symbols))
    known, imported = dict(importer.symbols._known), importer.imported
    kept: list[bool] = []
    try:
        yield lambda: kept.append(True)
    except ModelError:
        kept.append(True)
        raise
    finally:
        if not kept:
            root._names, root._node_names, root._symbols = before
            importer.symbols._known = known
            importer.imported = imported
