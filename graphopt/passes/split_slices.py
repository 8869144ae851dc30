"""Slices that together take all of an axis become one Split.

``Slice(x, 0:a), Slice(x, a:n)  ->  Split(x, [a, n - a])``, whatever the order in which they stand.

Sound: each part has the elements of its slice. All of the axis is taken, each element once, so that
nothing is copied which nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from graphopt.ir import Builder, Graph, Node, Value
from graphopt.passes.cuts import Cut, read_cuts
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["SplitSlices", "parts_of"]


@dataclass(frozen=True)
class SplitSlices(Pass):
    """``Slice(x, 0:a), Slice(x, a:n)  ->  Split(x, [a, n - a])``."""

    name: ClassVar[str] = "split-slices"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when slices were replaced."""
        changed = False
        seen: set[Value] = set()
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            source = node.input(0) if node.is_a("Slice") else None
            if source is None or source in seen:
                continue
            seen.add(source)
            for axis in range(source.tensor.rank or 0):
                found = parts_of(graph, source, axis)
                if isinstance(found, Refusal):
                    continue
                self._split(node, source, axis, found, ctx)
                changed = True
                break
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why the slices of what ``node`` slices are no Split."""
        source = node.input(0)
        if not node.is_a("Slice") or source is None:
            return Refusal("it is no Slice", node)
        cuts = read_cuts(node)
        if cuts is not None and len(cuts) > 1:
            return Refusal(lambda: f"it cuts {len(cuts)} axes at once", node)
        last: Refusal | None = Refusal("the rank is not known", source)
        for axis in range(source.tensor.rank or 0):
            found = parts_of(node.graph, source, axis)
            if not isinstance(found, Refusal):
                return None
            if axis == 0 or (cuts and any(c.axis == axis for c in cuts)):
                last = found
        return last

    def _split(
        self,
        first: Node,
        source: Value,
        axis: int,
        parts: Sequence[tuple[Node, Cut]],
        ctx: PassContext,
    ) -> None:
        slices = [node for node, _ in parts]
        origin = frozenset().union(*(node.origin for node in slices))
        builder = Builder(first.graph, before=first, origin=origin)
        sizes = builder.constant([c.length for _, c in parts], "sizes")
        pieces = builder.Split(source, sizes, axis=axis, _outputs=len(parts))
        record_edit(ctx.log, self.name, "SplitSlices", slices, builder.created)
        for node, piece in zip(slices, pieces, strict=True):
            node.graph.replace(node, [piece])


def parts_of(graph: Graph, source: Value, axis: int) -> list[tuple[Node, Cut]] | Refusal:
    """The slices of ``source`` in ``graph`` that take all of ``axis``, in order; otherwise why they
    do not."""
    size = source.shape[axis] if source.shape is not None else None
    if not isinstance(size, int):
        return Refusal(lambda: f"axis {axis} has {size} elements: that is no number", source)
    found: dict[int, tuple[Node, Cut]] = {}
    for user in source.users:
        if not user.is_a("Slice") or user.graph is not graph or user.input(0) is not source:
            continue
        cuts = read_cuts(user)
        if cuts is None or len(cuts) != 1 or cuts[0].axis != axis or cuts[0].step != 1:
            continue
        if cuts[0].length:
            found.setdefault(cuts[0].start, (user, cuts[0]))
    parts = [found[start] for start in sorted(found)]
    ends = [0, *(c.end for _, c in parts)]
    if len(parts) < 2 or ends[-1] != size:
        return Refusal(lambda: f"slices of axis {axis} end at {ends[-1]} of {size}", source)
    for (_, before), (_, after) in pairwise(parts):
        if before.end != after.start:
            met = f"{before.start}:{before.end} and {after.start}:{after.end}"
            return Refusal(f"{met} do not meet", source)
    if parts[0][1].start:
        return Refusal(lambda: f"elements before {parts[0][1].start} are not taken", source)
    return parts
