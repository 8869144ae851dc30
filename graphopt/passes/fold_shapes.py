"""Arithmetic on sizes becomes the fewest reads of shapes.

``Concat(Gather(Shape(x), 0), Gather(Shape(x), 1))  ->  Shape(x, end=2)``,
``Cast(Slice(Cast(Shape(f(x)))))  ->  Shape(x, start, end)``,
``Div(Mul(n, 12), 12)  ->  Gather(Shape(x), 0)``, ``Concat(a, 2, 3)  ->  Concat(a, [2, 3])``. What
is known to be sizes is read from the first tensor in scope that has them, and neighbours are read
together.

Sound: sizes are compared in their canonical form, in which equal ones are equal whatever way they
were computed. What is read of is defined before, so no later tensor is kept for the sake of its
shape. Elements that are all numbers are left to fold-constants.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Dim, DType, Graph, Node, TensorType, Trait, Value
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["FoldShapes"]

# Runs of sizes are looked for in tensors of up to this many axes.
_MAX_RANK = 8
# Axes start to end of a tensor.
_Place = tuple[Value, int, int]
_Places = MutableMapping[tuple[Dim, ...], _Place]


@dataclass(frozen=True)
class FoldShapes(Pass):
    """``Concat(Gather(Shape(x), 0), Gather(Shape(x), 1))  ->  Shape(x, end=2)``."""

    name: ClassVar[str] = "fold-shapes"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when sizes are read in another way than before."""
        return _Folder(ctx, self.name).graph(graph, {})

    def refuses(self, node: Node) -> Refusal | None:
        """Why what ``node`` yields is not read in another way."""
        value = node.output
        if len(node.outputs) != 1 or not isinstance(value.type, TensorType):
            return Refusal("it yields no single tensor", node)
        if value.type.dtype is not DType.I64:
            return Refusal(lambda: f"it yields {value.type}, no 64-bit integers", node)
        if value.elements is None:
            return Refusal("what it yields is not known as sizes", node)
        if not _symbolic(node):
            return Refusal(f"its elements are {_listed(value.elements)}", node)
        if node.is_a("Shape"):
            return Refusal("no tensor before has these sizes", node)
        return Refusal(f"{_listed(value.elements)} takes as many nodes in any other way", node)


class _Folder:
    def __init__(self, ctx: PassContext, name: str) -> None:
        self.ctx = ctx
        self.name = name

    def graph(self, graph: Graph, outer: _Places) -> bool:
        if not any(_reads_shapes(node) for node in graph.walk()):
            return False
        places: _Places = ChainMap({}, outer)
        for value in graph.inputs:
            _note(places, value)
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.graph(region, places)
            if _symbolic(node):
                changed |= self.node(node, places)
            if not node.erased:
                for value in node.outputs:
                    _note(places, value)
        return changed

    def node(self, node: Node, places: _Places) -> bool:
        """Replaces ``node`` when its elements are had for less."""
        elements = node.output.elements
        assert elements is not None
        builder = Builder(node.graph, before=node, origin=node.origin)
        if node.output.tensor.rank == 0:
            new = self.scalar(node, builder, places.get(elements))
        elif elements in places:
            new = self.shape(node, builder, places[elements])
        else:
            new = self.joined(node, builder, elements, places)
        if new is None:
            return False
        record_edit(self.ctx.log, self.name, "FoldShapes", [node], builder.created)
        node.graph.replace(node, [new])
        return True

    def scalar(self, node: Node, builder: Builder, place: _Place | None) -> Value | None:
        source = node.input(0)
        reads = source is not None and source.producer is not None
        if place is None or (reads and source.producer.is_a("Shape")):  # type: ignore[union-attr]
            return None
        value, axis, _ = place
        index = builder.constant(np.array(axis, np.int64), "axis")
        result: Value = builder.Gather(builder.Shape(value), index, axis=0)
        return result

    def shape(self, node: Node, builder: Builder, place: _Place) -> Value | None:
        value = place[0]
        if node.is_a("Shape") and node.input(0) is value:
            return None
        result: Value = builder.Shape(value, **_part(place))
        return result

    def joined(
        self,
        node: Node,
        builder: Builder,
        elements: Sequence[Dim],
        places: _Places,
    ) -> Value | None:
        """A Concat of fewer parts than ``node`` has, or of reads where it has arithmetic."""
        pieces = list(_pieces(elements, places))
        if None in pieces or not node.is_a("Concat") or len(pieces) >= len(node.inputs):
            return None
        parts = [
            builder.constant(list(piece), "sizes")
            if isinstance(piece[0], int)
            else builder.Shape(piece[0], **_part(piece))
            for piece in pieces
            if piece is not None
        ]
        result: Value = builder.Concat(*parts, axis=0)
        return result


def _reads_shapes(node: Node) -> bool:
    return node.op.has(Trait.SHAPE_ONLY) and not node.op.domain


def _symbolic(node: Node) -> bool:
    """True for a node that yields sizes of which one at least is a symbol."""
    if len(node.outputs) != 1 or not isinstance(node.output.type, TensorType):
        return False
    value = node.output
    if value.type.dtype is not DType.I64 or value.elements is None:  # type: ignore[union-attr]
        return False
    if value.tensor.rank not in (0, 1) or len(value.elements) > _MAX_RANK:
        return False
    return not all(isinstance(dim, int) for dim in value.elements)


def _note(places: _Places, value: Value) -> None:
    """Records which runs of sizes ``value`` has that no value before it has."""
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        return
    shape = value.type.shape
    if len(shape) > _MAX_RANK:
        return
    for start in range(len(shape)):
        for end in range(start + 1, len(shape) + 1):
            run = shape[start:end]
            if not all(isinstance(dim, int) for dim in run):
                places.setdefault(run, (value, start, end))


def _part(place: _Place) -> dict[str, int]:
    """Attributes of the Shape that reads ``place``."""
    value, start, end = place
    attrs: dict[str, int] = {}
    if start:
        attrs["start"] = start
    if end != value.tensor.rank:
        attrs["end"] = end
    return attrs


def _pieces(elements: Sequence[Dim], places: _Places) -> Iterator[_Place | tuple[int, ...] | None]:
    """Numbers, and the longest runs of sizes, that make up ``elements``; None for a size that no
    tensor has."""
    at = 0
    while at < len(elements):
        end = at
        while end < len(elements) and isinstance(elements[end], int):
            end += 1
        if end > at:
            yield tuple(dim for dim in elements[at:end] if isinstance(dim, int))
            at = end
            continue
        end = len(elements)
        while end > at and tuple(elements[at:end]) not in places:
            end -= 1
        if end == at:
            yield None
            return
        yield places[tuple(elements[at:end])]
        at = end


def _listed(elements: Sequence[Dim]) -> str:
    return f"<{', '.join(map(str, elements))}>"
