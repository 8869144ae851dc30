"""What differs between two models: their structure, and their numbers on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir import Constant, Graph, Node, Value, print_node
from graphopt.verify.compare import Comparison, compare
from graphopt.verify.execute import execute

__all__ = ["Change", "Numbers", "Structure", "compare_numbers", "compare_structure"]

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is in one model alone (the other side is empty), or not the same in both."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"+ {self.name}: {self.after}"
        if not self.after:
            return f"- {self.name}: {self.before}"
        return f"~ {self.name}: {self.before}  ->  {self.after}"


@dataclass(frozen=True)
class Structure:
    """Differences by kind. Nodes are matched by the value that they yield and their op, then by
    origin and op; weights by contents."""

    inputs: list[Change] = field(default_factory=list)
    outputs: list[Change] = field(default_factory=list)
    metadata: list[Change] = field(default_factory=list)
    nodes_removed: list[str] = field(default_factory=list)
    nodes_added: list[str] = field(default_factory=list)
    nodes_changed: list[Change] = field(default_factory=list)
    weights: list[Change] = field(default_factory=list)
    nodes_same: int = 0
    weights_same: int = 0

    @property
    def same_interface(self) -> bool:
        """True when inputs and outputs agree in name, type and order."""
        return not self.inputs and not self.outputs

    @property
    def same(self) -> bool:
        """True when nothing differs; metadata do not count."""
        nodes = self.nodes_removed or self.nodes_added or self.nodes_changed
        return self.same_interface and not nodes and not self.weights


def compare_structure(a: Graph, b: Graph) -> Structure:
    """How ``b`` differs from ``a``. Reads all weights, whose digests are compared."""
    result = Structure()
    _interface(result.inputs, *([(v.name, v.type) for v in g.inputs] for g in (a, b)))
    _interface(result.outputs, _outputs(a), _outputs(b))
    for key in sorted({*a.metadata, *b.metadata}):
        x, y = a.metadata.get(key, ""), b.metadata.get(key, "")
        if x != y:
            result.metadata.append(Change(key, x, y))
    same, changes = _weights(a, b)
    result.weights.extend(changes)
    pairs, removed, added = _matched(list(a.walk()), list(b.walk()))
    result.nodes_removed.extend(map(print_node, removed))
    result.nodes_added.extend(map(print_node, added))
    equal = 0
    for one, other in pairs:
        found = _difference(one, other)
        if found is None:
            equal += 1
        else:
            result.nodes_changed.append(Change(one.name or one.output.name, *found))
    return Structure(**{**result.__dict__, "nodes_same": equal, "weights_same": same})


def _outputs(graph: Graph) -> list[tuple[str, Any]]:
    return [(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)]


def _interface(
    found: list[Change], a: Sequence[tuple[str, Any]], b: Sequence[tuple[str, Any]]
) -> None:
    before, after = dict(a), dict(b)
    for name in dict.fromkeys([*before, *after]):
        x = str(before[name]) if name in before else ""
        y = str(after[name]) if name in after else ""
        if x != y:
            found.append(Change(name, x, y))
    if not found and list(before) != list(after):
        found.append(Change("order", ", ".join(before), ", ".join(after)))


def _constants(graph: Graph) -> Iterable[Value]:
    yield from graph.constants.values()
    for node in graph.walk():
        for region in node.regions:
            yield from region.constants.values()


def _weights(a: Graph, b: Graph) -> tuple[int, list[Change]]:
    before = {v.name: v.constant for v in _constants(a) if v.constant is not None}
    after = {v.name: v.constant for v in _constants(b) if v.constant is not None}
    left: dict[str, list[str]] = {}
    for name, constant in after.items():
        left.setdefault(constant.digest, []).append(name)
    changes, gone, same = [], [], 0
    for name, constant in before.items():
        names = left.get(constant.digest, [])
        if name in names:
            names.remove(name)
            same += 1
        else:
            gone.append(name)
    for name in gone:
        names = left.get(before[name].digest, [])
        if names:
            other = names.pop(0)
            changes.append(Change(name, name, f"renamed to {other}"))
        elif name in after and name in left.get(after[name].digest, []):
            left[after[name].digest].remove(name)
            changes.append(Change(name, _shown(before[name]), _shown(after[name])))
        else:
            changes.append(Change(name, _shown(before[name]), ""))
    for name in (name for names in left.values() for name in names):
        changes.append(Change(name, "", _shown(after[name])))
    return same, changes


def _shown(constant: Constant) -> str:
    if constant.numel <= 8 and constant.available:
        return f"{constant.type} {constant.array.ravel().tolist()}"
    return f"{constant.type} #{constant.digest[:12]}"


def _matched(
    a: list[Node], b: list[Node]
) -> tuple[list[tuple[Node, Node]], list[Node], list[Node]]:
    pairs: list[tuple[Node, Node]] = []
    keys: tuple[Callable[[Node], Any], ...] = (
        lambda n: (n.output.name, n.op.qualified),
        lambda n: (n.origin, n.op.qualified),
        lambda n: n.output.name,
    )
    for key in keys:
        waiting: dict[Any, list[Node]] = {}
        for node in b:
            waiting.setdefault(key(node), []).append(node)
        left = []
        for node in a:
            others = waiting.get(key(node))
            if others:
                pairs.append((node, others.pop(0)))
            else:
                left.append(node)
        taken = {id(y) for _, y in pairs}
        a, b = left, [node for node in b if id(node) not in taken]
    return pairs, a, b


def _difference(a: Node, b: Node) -> tuple[str, str] | None:
    """What two matched nodes say that is not the same; None when they are alike."""
    if a.op.qualified != b.op.qualified:
        return a.op.qualified, b.op.qualified
    for index in range(max(len(a.inputs), len(b.inputs))):
        x, y = _operand(a.input(index)), _operand(b.input(index))
        if x != y:
            return f"operand {index} is {x}", f"operand {index} is {y}"
    for name in sorted({*a.attrs, *b.attrs}):
        x, y = _attr(a.attr(name)), _attr(b.attr(name))
        if x != y:
            return f"{name} = {x}", f"{name} = {y}"
    for v, w in zip(a.outputs, b.outputs, strict=False):
        if v.type != w.type:
            return str(v.type), str(w.type)
    return None


def _operand(value: Value | None) -> str:
    if value is None:
        return "absent"
    return f"#{value.constant.digest[:12]}" if value.constant is not None else f"%{value.name}"


def _attr(value: Any) -> str:
    if isinstance(value, Graph):
        return "a region"  # its nodes are compared one by one
    if isinstance(value, Constant):
        return f"#{value.digest[:12]}"
    return repr(tuple(value) if isinstance(value, list) else value)


@dataclass(frozen=True)
class Numbers:
    """Outputs compared on the same inputs. ``first`` is the first value, in the order of the first
    model, that both compute under one name and do not agree on: its node, and how far."""

    outputs: list[Comparison]
    first: tuple[str, Comparison] | None = None

    @property
    def same(self) -> bool:
        """True when every output is within its tolerance."""
        return all(c.ok for c in self.outputs)


def compare_numbers(
    a: Graph | Run, b: Graph | Run, inputs: Mapping[str, Any], *, tolerance: float | None = None
) -> Numbers:
    """Runs both on ``inputs``: graphs in the interpreter, anything else by calling it.

    An output that one of them lacks has an infinite error. ``first`` needs two graphs.
    """
    values: list[dict[str, tuple[Node, Any]]] = [{}, {}]
    expected, actual = (
        _run(model, inputs, seen) for model, seen in zip((a, b), values, strict=True)
    )
    known = {n: v for n, v in expected.items() if n in actual}
    found = _bounded(compare(actual, known), tolerance)
    missing = [n for n in (*expected, *actual) if (n in expected) != (n in actual)]
    found += [Comparison(name, float("inf"), 0.0) for name in missing]
    first = None
    if not all(c.ok for c in found):
        first = _first(values[0], values[1], tolerance)
    return Numbers(found, first)


def _bounded(found: list[Comparison], tolerance: float | None) -> list[Comparison]:
    if tolerance is None:
        return found
    return [Comparison(c.name, c.error, tolerance) for c in found]


def _run(
    model: Graph | Run, inputs: Mapping[str, Any], seen: dict[str, tuple[Node, Any]]
) -> dict[str, Any]:
    if not isinstance(model, Graph):
        return model(inputs)

    def look(node: Node, results: Sequence[Any]) -> None:
        for value, array in zip(node.outputs, results, strict=False):
            if value.use_count:
                seen.setdefault(value.name, (node, array))

    return execute(model, inputs, look)


def _first(
    a: Mapping[str, tuple[Node, Any]], b: Mapping[str, tuple[Node, Any]], tolerance: float | None
) -> tuple[str, Comparison] | None:
    for name, (node, x) in a.items():
        if name not in b or not isinstance(x, np.ndarray | np.generic):
            continue
        (found,) = _bounded(compare({name: b[name][1]}, {name: x}), tolerance)
        if not found.ok and np.asarray(x).shape == np.asarray(b[name][1]).shape:
            return print_node(node), found
    return None
