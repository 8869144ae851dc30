"""Forming groups of nodes that one generated kernel computes.

Units (single nodes or groups) are merged greedily in topological order. A merge is allowed when the
contracted graph stays acyclic, which is asked of the contracted graph itself: a search backwards
from the other operands that stops at units of lower rank. Ranks are a topological numbering of the
contracted graph; a merge renumbers what lies between its two units (Pearce and Kelly, "A dynamic
topological sort algorithm for directed acyclic graphs", 2006). Positions of nodes would not do: a
path enters a group at one node and may leave it at an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphopt.ir import Graph, Node, Value

__all__ = ["Partition", "Unit"]


class Unit:
    """One node, or several that become one kernel. ``kind`` is None for a node left alone."""

    __slots__ = ("first", "kind", "last", "nodes", "rank")

    def __init__(self, node: Node, index: int, kind: str | None) -> None:
        self.nodes = [node]
        self.first = index
        self.last = index
        self.rank = index
        self.kind = kind

    def external_inputs(self) -> list[Value]:
        """Values read from outside, constants included, each once."""
        inside = set(self.nodes)
        found: dict[Value, None] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and (value.producer is None or value.producer not in inside):
                    found.setdefault(value)
        return list(found)

    def external_outputs(self) -> list[Value]:
        """Values that somebody outside reads, or that are graph outputs."""
        inside = set(self.nodes)
        return [
            value
            for node in self.nodes
            for value in node.outputs
            if value.is_output or any(user not in inside for user in value.users)
        ]


class Partition:
    """The units of a graph, while they merge."""

    def __init__(self, graph: Graph, classify: Callable[[Node], str | None]) -> None:
        self.graph = graph
        self.unit: dict[Node, Unit] = {}
        self.order: list[Unit] = []
        self.position: dict[Node, int] = {}
        self.readers: dict[Node, list[Node]] = {}
        for index, node in enumerate(graph):
            self.position[node] = index
            unit = Unit(node, index, classify(node))
            self.unit[node] = unit
            self.order.append(unit)
            for value in _reads(node):
                if value.producer in self.unit and value.producer is not node:
                    self.readers.setdefault(value.producer, []).append(node)

    def producer(self, value: Value | None) -> Unit | None:
        """The unit that computes ``value``; None for inputs, constants and outer values."""
        if value is None or value.producer is None:
            return None
        return self.unit.get(value.producer)

    def can_merge(self, upper: Unit, lower: Unit) -> bool:
        """True when no path leads from ``upper`` to ``lower`` through a third unit."""
        if upper is lower:
            return False
        start = [p for p in self._producers(lower) if p is not upper and p is not lower]
        return not self._reaches(start, upper)

    def merge(self, upper: Unit, lower: Unit, kind: str | None) -> Unit:
        """Makes one unit of two, as :meth:`can_merge` allows; ``lower`` survives."""
        self._renumber(upper, lower)
        lower.nodes = upper.nodes + lower.nodes
        lower.nodes.sort(key=self.position.__getitem__)
        lower.first = min(upper.first, lower.first)
        lower.last = max(upper.last, lower.last)
        lower.kind = kind
        for node in upper.nodes:
            self.unit[node] = lower
        return lower

    def units(self) -> list[Unit]:
        """Units in a topological order of the contracted graph, earliest nodes first."""
        alive = list(dict.fromkeys(self.unit[unit.nodes[0]] for unit in self.order))
        alive.sort(key=lambda unit: unit.last)
        done: set[int] = set()
        result: list[Unit] = []
        for root in alive:
            stack: list[tuple[Unit, bool]] = [(root, False)]
            while stack:
                unit, ready = stack.pop()
                if id(unit) in done:
                    continue
                if ready:
                    done.add(id(unit))
                    result.append(unit)
                    continue
                stack.append((unit, True))
                inputs = [p for p in self._producers(unit) if id(p) not in done and p is not unit]
                inputs.sort(key=lambda p: -p.last)
                stack.extend((p, False) for p in inputs)
        return result

    # ---- inside ----

    def _producers(self, unit: Unit) -> Iterable[Unit]:
        found: dict[int, Unit] = {}
        for node in unit.nodes:
            for value in _reads(node):
                producer = self.producer(value)
                if producer is not None:
                    found[id(producer)] = producer
        return found.values()

    def _consumers(self, unit: Unit) -> Iterable[Unit]:
        found: dict[int, Unit] = {}
        for node in unit.nodes:
            for reader in self.readers.get(node, ()):
                consumer = self.unit[reader]
                found[id(consumer)] = consumer
        return found.values()

    def _renumber(self, upper: Unit, lower: Unit) -> None:
        """Ranks for a merge: ancestors of ``lower`` come before it, descendants of ``upper`` after
        it; only units ranked between the two move."""
        low, high = upper.rank, lower.rank
        before = _closure(self._producers, lower, lambda unit: unit.rank > low)
        after = _closure(self._consumers, upper, lambda unit: unit.rank < high)
        slots = sorted([low, high, *(unit.rank for unit in (*before, *after))])
        for slot, unit in zip(slots, before, strict=False):
            unit.rank = slot
        lower.rank = slots[len(before)]
        for slot, unit in zip(reversed(slots), reversed(after), strict=False):
            unit.rank = slot

    def _reaches(self, start: list[Unit], goal: Unit) -> bool:
        """True when ``goal`` is among the ancestors of ``start`` in the contracted graph."""
        seen: set[int] = set()
        stack = list(start)
        while stack:
            unit = stack.pop()
            if unit is goal:
                return True
            if id(unit) in seen or unit.rank < goal.rank:
                continue
            seen.add(id(unit))
            stack.extend(self._producers(unit))
        return False


def _closure(
    step: Callable[[Unit], Iterable[Unit]], start: Unit, within: Callable[[Unit], bool]
) -> list[Unit]:
    """Units that ``step`` leads to from ``start`` through units ``within``, by rank."""
    found: dict[int, Unit] = {}
    stack = [start]
    while stack:
        for unit in step(stack.pop()):
            if unit is not start and id(unit) not in found and within(unit):
                found[id(unit)] = unit
                stack.append(unit)
    return sorted(found.values(), key=lambda unit: unit.rank)


def _reads(node: Node) -> Iterable[Value]:
    """Operands of a node, and values of the same graph that its regions capture."""
    for value in node.inputs:
        if value is not None:
            yield value
    for region in node.regions:
        for inner in region.walk():
            for value in inner.inputs:
                if value is not None:
                    yield value
        for inner_region in [region, *(r for n in region.walk() for r in n.regions)]:
            yield from inner_region.outputs
