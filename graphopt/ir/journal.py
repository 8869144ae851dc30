"""The journal: every mutation of a graph in order, to be played again on a copy of its start.

A graph that has one (see :meth:`Graph.journal`) notes each primitive change as a tuple: its kind,
then names. Values are named as they were at that moment, nodes by their first output, graphs by
number: 0 is the root, regions count from 1 in the order in which they are met. What a region holds
while it is being built is noted when a node takes it in. Constants stand by reference.

========  =====================================================================
entry     what it notes
========  =====================================================================
const     graph, name, Constant
add       graph, node it stands before or None, op, outputs (name, type,
          elements), operands, attributes, node name, origin
region    graph number, parent, name, inputs (name, type, elements)
yield     graph, value, interface name: an output was appended
take      graph, name, type: an input was appended
input     node, index, value or None
output    graph, index, value
attr      node, attribute, contents or None
uses      old, new: all readers
erase     node
drop      constant
untake    input that went
move      node, node that it stands before or None
inline    node, region
rename    old name, new name
type      value, type
elements  value, elements or None
origin    node, origin
========  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.ir.node import Node, Value

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

__all__ = ["Entry", "Journal", "Player", "RegionRef", "play"]

Entry = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RegionRef:
    """Stands in an entry for a region among a node's attributes."""

    number: int


class Journal:
    """What happens to a graph from now on, oldest first, in ``entries``."""

    __slots__ = ("entries", "regions", "root")

    def __init__(self, root: Graph) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self.regions: dict[Graph, int] = {}
        for number, graph in enumerate(_graphs(root)):
            self.regions[graph] = number

    def knows(self, graph: Graph | None) -> bool:
        """False for graphs that are still being built, or are no part of the root's."""
        return graph is self.root or graph in self.regions

    def constant(self, value: Value) -> None:
        """Notes a constant just added."""
        self.entries.append(("const", self.regions[value.graph], value.name, value.constant))

    def added(self, node: Node, before: Node | None) -> None:
        """Notes a node just linked, with the regions that it brings."""
        attrs = node.attrs
        if node.regions:
            attrs = {name: self.attribute(value) for name, value in attrs.items()}
        else:
            attrs = dict(attrs)
        self.entries.append(
            (
                "add",
                self.regions[node.graph],
                None if before is None else before.outputs[0].name,
                node.op,
                [(v.name, v.type, v._elements) for v in node.outputs],
                [None if v is None else v.name for v in node._inputs],
                attrs,
                node.name,
                node.origin,
            )
        )

    def attribute(self, value: Any) -> Any:
        """``value`` as an entry holds it: a region is noted as a whole and stands by number."""
        from graphopt.ir.graph import Graph

        if not isinstance(value, Graph):
            return value
        if value not in self.regions:
            self._region(value)
        return RegionRef(self.regions[value])

    def _region(self, region: Graph) -> None:
        assert region.parent is not None
        number = self.regions[region] = len(self.regions)
        inputs = [(v.name, v.type, v._elements) for v in region.inputs]
        parent = self.regions[region.parent]
        self.entries.append(("region", number, parent, region.name, inputs))
        for value in region.constants.values():
            self.constant(value)
        for node in region:
            self.added(node, None)
        for value, name in zip(region.outputs, region.output_names, strict=True):
            self.entries.append(("yield", number, value.name, name))


def _graphs(root: Graph) -> Iterable[Graph]:
    """The root and all regions, those of one node by attribute name."""
    yield root
    for node in root:
        if node.regions:
            for name in sorted(node.attrs):
                region = node.attrs[name]
                if region in node.regions:
                    yield from _graphs(region)


class Player:
    """Makes noted changes in ``root``, which is to equal the graph that they were noted of."""

    def __init__(self, root: Graph) -> None:
        self.root = root
        self.graphs = dict(enumerate(_graphs(root)))
        self.values: dict[str, Value] = {}
        for graph in self.graphs.values():
            for value in (*graph.inputs, *graph.constants.values()):
                self.values[value.name] = value
            for node in graph:
                for value in node.outputs:
                    self.values[value.name] = value

    def play(self, entries: Iterable[Entry]) -> None:
        """Makes further changes. Raises KeyError, ValueError or ModelError when the graph is
        another one."""
        for kind, *arguments in entries:
            getattr(self, "yield_" if kind == "yield" else kind)(*arguments)

    def value(self, name: str | None) -> Value | None:
        return None if name is None else self.values[name]

    def node(self, name: str) -> Node:
        producer = self.values[name].producer
        if producer is None:
            raise KeyError(f"no node yields %{name}")
        return producer

    def attribute(self, value: Any) -> Any:
        return self.graphs[value.number] if isinstance(value, RegionRef) else value

    def free(self, names: Iterable[str]) -> None:
        """Names of values that are gone may be taken again."""
        for name in names:
            self.root._names.pop(name, None)

    def know(self, values: Iterable[Value]) -> None:
        for value in values:
            self.values[value.name] = value

    # ---- one method a kind of entry ----

    def const(self, graph: int, name: str, constant: Any) -> None:
        self.free([name])
        self.know([self.graphs[graph].add_constant(constant, name)])

    def add(
        self,
        graph: int,
        before: str | None,
        op: Any,
        outputs: list[tuple[str, Any, Any]],
        inputs: list[str | None],
        attrs: Mapping[str, Any],
        name: str,
        origin: Iterable[str],
    ) -> None:
        names = [n for n, _, _ in outputs]
        self.free(names)
        node = self.graphs[graph].add(
            op,
            [self.value(v) for v in inputs],
            {k: self.attribute(v) for k, v in attrs.items()},
            types=[t for _, t, _ in outputs],
            names=names,
            name=name,
            origin=origin,
            before=None if before is None else self.node(before),
        )
        for value, (_, _, elements) in zip(node.outputs, outputs, strict=True):
            value.set_elements(elements)
        self.know(node.outputs)

    def region(self, number: int, parent: int, name: str, inputs: list[Any]) -> None:
        from graphopt.ir.graph import Graph

        region = self.graphs[number] = Graph(name, self.graphs[parent])
        self.free(n for n, _, _ in inputs)
        for value_name, type, elements in inputs:
            region.add_input(value_name, type).set_elements(elements)
        self.know(region.inputs)

    def yield_(self, graph: int, value: str, name: str) -> None:
        self.graphs[graph].add_output(self.values[value], name)

    def take(self, graph: int, name: str, type: Any) -> None:
        self.free([name])
        self.know([self.graphs[graph].add_input(name, type)])

    def input(self, node: str, index: int, value: str | None) -> None:
        self.root.set_input(self.node(node), index, self.value(value))

    def output(self, graph: int, index: int, value: str) -> None:
        self.graphs[graph].set_output(index, self.values[value])

    def attr(self, node: str, name: str, value: Any) -> None:
        found = self.node(node)
        found.graph.set_attr(found, name, self.attribute(value))

    def uses(self, old: str, new: str) -> None:
        self.root.replace_all_uses(self.values[old], self.values[new])

    def erase(self, node: str) -> None:
        self.root.erase(self.node(node))

    def drop(self, constant: str) -> None:
        value = self.values[constant]
        value.graph.erase_constant(value)

    def untake(self, name: str) -> None:
        value = self.values[name]
        value.graph.erase_input(value)

    def move(self, node: str, anchor: str | None) -> None:
        found = self.node(node)
        found.graph.move_before(found, None if anchor is None else self.node(anchor))

    def inline(self, node: str, region: int) -> None:
        found = self.node(node)
        found.graph.inline(found, self.graphs[region])

    def rename(self, old: str, new: str) -> None:
        self.free([new])
        self.root.rename(self.values[old], new)
        self.values[new] = self.values[old]

    def type(self, value: str, type: Any) -> None:
        self.values[value].type = type

    def elements(self, value: str, elements: Any) -> None:
        self.values[value].set_elements(elements)

    def origin(self, node: str, origin: Iterable[str]) -> None:
        self.node(node).origin = frozenset(origin)


def play(root: Graph, entries: Iterable[Entry]) -> None:
    """Makes the changes that ``entries`` note, in ``root``: a graph equal to the one that they
    were noted of. Raises what :meth:`Player.play` does.
    """
    Player(root).play(entries)
