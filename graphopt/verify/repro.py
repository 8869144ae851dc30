"""The few nodes around one edit, before and after it, with the arrays that reach them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Node, TensorType, Value, copy_nodes
from graphopt.ir.journal import Entry, Player
from graphopt.verify.compare import Comparison, compare
from graphopt.verify.execute import execute

__all__ = ["MAX_NODES", "Repro", "cut_out"]

# Nodes in each of the two graphs, at most.
MAX_NODES = 10
# Entries whose first name is a node that they change, and those that name a value that goes.
_CHANGES = frozenset({"input", "attr", "erase", "inline"})


@dataclass(frozen=True)
class Repro:
    """Two graphs that should compute the same of ``inputs``, and how far they differ."""

    before: Graph
    after: Graph
    inputs: Mapping[str, Any]
    worst: Comparison

    @property
    def shows(self) -> bool:
        """True when the two differ by more than rounding."""
        return not self.worst.ok


def cut_out(
    graph: Graph, player: Player, entries: Sequence[Entry], inputs: Mapping[str, Any]
) -> Repro | None:
    """The change that ``entries`` make to ``graph``, which ``player`` plays, alone.

    ``graph`` is changed. ``inputs`` are those of the whole graph. What changes inside a region is
    cut out of the region, with the values of its first run. None when the change touches no node,
    or when what it touches does not run alone.
    """
    arrays = _capture(graph, inputs)
    changed = _touched(player, entries)
    homes = {node.graph for node in changed}
    tries = [*(home for home in homes if len(homes) == 1), graph]
    for home in dict.fromkeys(tries):
        touched = {_in_graph(node, home) for node in changed}
        nodes = [node for node in home if node in touched]
        read = _read_by_others(home, touched, player, entries)
        outside = _outside(home, touched)
        needed = {v for node in nodes for v in _operands(node)} & outside
        if read and all(value.name in arrays for value in needed):
            break
    else:
        return None
    before = _extract(nodes, read, outside, [value.name for value in read])
    probes = len(home.outputs)
    for index, value in enumerate(read):
        home.add_output(value, f"probe {index}")
    player.play(entries)
    found = home.outputs[probes:]
    after = _extract(_cone(home, found, outside), found, outside, before.output_names)
    return _smallest(before, after, arrays)


def _touched(player: Player, entries: Iterable[Entry]) -> set[Node]:
    """Nodes that the entries change or replace."""
    names: set[str] = set()
    created: set[str] = set()
    for kind, *rest in entries:
        if kind == "add":
            created.update(name for name, _, _ in rest[3])
        elif kind == "const":
            created.add(rest[1])
        elif kind in _CHANGES or kind == "uses":
            names.add(rest[0])
    values = [player.values.get(name) for name in names - created]
    return {v.producer for v in values if v is not None and v.producer is not None}


def _owner(region: Graph) -> Node:
    """The node that holds a region."""
    assert region.parent is not None
    return next(node for node in region.parent if region in node.regions)


def _in_graph(node: Node, home: Graph) -> Node:
    """The node of ``home`` that holds ``node``, or is it."""
    while node.graph is not home:
        node = _owner(node.graph)
    return node


def _read_by_others(
    home: Graph, touched: set[Node], player: Player, entries: Iterable[Entry]
) -> list[Value]:
    """Values that touched nodes yield to others; also values that are replaced without a node."""
    replaced = [player.values.get(rest[0]) for kind, *rest in entries if kind == "uses"]
    read = [v for v in replaced if v is not None and v.producer is None and v.graph is home]
    for node in touched:
        for value in node.outputs:
            users = [_in_graph(user, home) for user in value.users]
            if value.is_output or any(user not in touched for user in users):
                read.append(value)
    return list(dict.fromkeys(read))


def _outside(home: Graph, touched: set[Node]) -> set[Value]:
    """Values in scope that the touched nodes do not make."""
    found: set[Value] = set()
    graph: Graph | None = home
    while graph is not None:
        found.update(graph.inputs)
        for node in graph:
            if node not in touched:
                found.update(node.outputs)
        graph = graph.parent
    return found


def _capture(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Every value in a run, by name; those of regions in their first run."""
    arrays = dict(inputs)

    def look(node: Node, results: Sequence[Any]) -> None:
        for value, array in zip(node.outputs, results, strict=False):
            arrays.setdefault(value.name, array)

    def enter(region: Graph, given: Sequence[Any]) -> None:
        for value, array in zip(region.inputs, given, strict=True):
            arrays.setdefault(value.name, array)

    execute(graph, inputs, look, enter)
    return arrays


def _cone(graph: Graph, values: Iterable[Value], outside: set[Value]) -> list[Node]:
    """Nodes that ``values`` need, down to values from outside, in topological order."""
    wanted: set[Node] = set()
    stack = [v.producer for v in values if v not in outside]
    while stack:
        node = stack.pop()
        if node is None or node in wanted:
            continue
        wanted.add(node)
        stack.extend(v.producer for v in _operands(node) if v not in outside)
    return [node for node in graph if node in wanted]


def _operands(node: Node) -> Iterable[Value]:
    """What a node reads, its regions included, from outside of these."""
    yield from (v for v in node.inputs if v is not None)
    if not node.regions:
        return
    inside = {graph for region in node.regions for graph in _nested(region)}
    for graph in inside:
        read = [v for inner in graph for v in inner.inputs if v is not None]
        yield from (v for v in (*read, *graph.outputs) if v.graph not in inside)


def _nested(region: Graph) -> Iterable[Graph]:
    yield region
    for node in region:
        for inner in node.regions:
            yield from _nested(inner)


def _extract(
    nodes: Sequence[Node], outputs: Sequence[Value], outside: set[Value], names: Sequence[str]
) -> Graph:
    """A graph of copies of ``nodes``: values from outside are inputs, constants stay."""
    result = Graph("repro")
    mapping: dict[Value, Value] = {}
    needed = [v for node in nodes for v in _operands(node)]
    for value in dict.fromkeys((*needed, *outputs)):
        if value.constant is not None:
            mapping[value] = result.add_constant(value.constant, value.name)
        elif value in outside:
            mapping[value] = result.add_input(value.name, value.type)
            mapping[value].set_elements(value.elements)
    copy_nodes(nodes, result, mapping)
    for value, name in zip(outputs, names, strict=True):
        result.add_output(mapping[value], name)
    return result


def _smallest(before: Graph, after: Graph, arrays: Mapping[str, Any]) -> Repro | None:
    """The output that differs most, of graphs cut to the size that people look at."""
    worst = _worst(before, after, arrays)
    if worst is None:
        return None
    before, after = (_alone(graph, worst.name) for graph in (before, after))
    values = dict(arrays)
    for graph in (before, after):
        _shrink(graph, values)
    before, after = _same_inputs(before, after)
    inputs = {v.name: values[v.name] for v in before.inputs}
    again = _worst(before, after, inputs)
    return None if again is None else Repro(before, after, inputs, again)


def _worst(before: Graph, after: Graph, arrays: Mapping[str, Any]) -> Comparison | None:
    try:
        expected, actual = execute(before, arrays), execute(after, arrays)
    except GraphoptError:
        return None
    found = compare(actual, expected)
    return max(found, key=lambda c: (not c.ok, c.error), default=None)


def _alone(graph: Graph, output: str) -> Graph:
    """A copy that yields that output alone."""
    value = graph.outputs[graph.output_names.index(output)]
    inputs = set(graph.inputs)
    return _extract(_cone(graph, [value], inputs), [value], inputs, [output])


def _shrink(graph: Graph, arrays: dict[str, Any]) -> None:
    """Replaces first nodes by inputs that hold what they yield, until few are left."""
    if len(graph) <= MAX_NODES:
        return
    computed: dict[Node, Sequence[Any]] = {}
    execute(graph, arrays, lambda node, results: computed.__setitem__(node, results))
    for node in graph.nodes[: len(graph) - MAX_NODES]:
        for value, array in zip(node.outputs, computed[node], strict=False):
            if not value.use_count:
                continue
            held = np.asarray(array)
            assert isinstance(value.type, TensorType)
            name = graph.fresh_name(f"{value.name}.held")
            fresh = Graph.add_input(graph, name, value.type, rename=True)
            arrays[fresh.name] = held
            graph.replace_all_uses(value, fresh)
        graph.erase(node)


def _same_inputs(before: Graph, after: Graph) -> tuple[Graph, Graph]:
    """Both with the inputs of either, in one order."""
    names = {v.name: v.type for graph in (before, after) for v in graph.inputs}
    result = []
    for graph in (before, after):
        fresh = Graph("repro")
        mapping: dict[Value, Value] = {}
        own = {v.name: v for v in graph.inputs}
        for name, type in names.items():
            value = fresh.add_input(name, type)
            if name in own:
                mapping[own[name]] = value
                value.set_elements(own[name].elements)
        for value in graph.constants.values():
            if value.constant is not None and value.use_count:
                mapping[value] = fresh.add_constant(value.constant, value.name)
        copy_nodes(graph.nodes, fresh, mapping)
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            fresh.add_output(mapping[value], name)
        result.append(fresh)
    return result[0], result[1]
