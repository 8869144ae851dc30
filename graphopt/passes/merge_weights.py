"""Large constants that hold the same become one.

``w = const; v = const  ->  w = const`` where both are of one type and hold the same bytes: tied
weights that an exporter wrote twice, tables of every layer. Small constants are merged by
merge-common.

Sound: all bytes are compared, NaN by its bits. Few are read of those that differ: a piece at the
begin, in the middle and at the end tells most weights apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Constant, DType, Graph, Value
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, record_edit

__all__ = ["MergeWeights"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
# Bytes of a piece that is compared before all are.
_PIECE = 1024


@dataclass(frozen=True)
class MergeWeights(Pass):
    """``w = const; v = const  ->  w = const`` where both hold the same."""

    name: ClassVar[str] = "merge-weights"
    numerics: ClassVar[Numerics] = EXACT

    # Smaller constants are left to merge-common.
    min_bytes: int = 1 << 16

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when constants were merged."""
        groups: dict[str, list[Value]] = {}
        for value in self._large(graph):
            groups.setdefault(str(value.type), []).append(value)
        changed = False
        for group in groups.values():
            if len(group) > 1:
                changed |= self._merge(group, ctx)
        return changed

    def _large(self, graph: Graph) -> Iterator[Value]:
        """Constants to look at; those around a region before those in it."""
        for value in list(graph.constants.values()):
            constant = value.constant
            if constant is None or not constant.available or constant.nbytes <= self.min_bytes:
                continue
            if constant.type.dtype is not DType.STRING:
                yield value
        for node in graph:
            for region in node.regions:
                yield from self._large(region)

    def _merge(self, group: list[Value], ctx: PassContext) -> bool:
        changed = False
        seen: dict[bytes, list[Value]] = {}
        for value in group:
            alike = seen.setdefault(_pieces(value), [])
            first = next((v for v in alike if _in_scope(v, value) and _equal(v, value)), None)
            if first is None:
                alike.append(value)
                continue
            reason = f"%{value.name} holds what %{first.name} does"
            record_edit(ctx.log, self.name, "MergeWeights", [], [], reason)
            value.graph.replace_all_uses(value, first)
            value.graph.erase_constant(value)
            changed = True
        return changed


def _in_scope(outer: Value, inner: Value) -> bool:
    """True when what can read ``inner`` can read ``outer``."""
    graph: Graph | None = inner.graph
    while graph is not None and graph is not outer.graph:
        graph = graph.parent
    return graph is not None


def _bytes(value: Value) -> Bytes:
    constant = value.constant
    assert isinstance(constant, Constant)
    return np.ascontiguousarray(constant.read()).reshape(-1).view(np.uint8)


def _pieces(value: Value) -> bytes:
    data = _bytes(value)
    middle = len(data) // 2
    pieces = (data[:_PIECE], data[middle : middle + _PIECE], data[-_PIECE:])
    return b"".join(piece.tobytes() for piece in pieces)


def _equal(a: Value, b: Value) -> bool:
    equal = bool(np.array_equal(_bytes(a), _bytes(b)))
    for value in (a, b):
        if value.constant is not None:
            value.constant.forget()
    return equal
