"""Branches and loops yield only what is read, and carry only what changes.

``y, _ = If(c) {a, b} {d, e}  ->  y = If(c) {a} {d}`` where nobody reads the second output, and so
for what Loop and Scan carry and collect. What a Loop hands on as it got it is read from outside
instead; so is what both branches of an If take from outside as it is.

Sound: what is computed for an output that nobody reads has no effect. A carried value goes only
where neither the condition nor any other output depends on it, however many runs later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node, TensorType, Value, copy_nodes
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["Kept", "TrimRegions", "kept_parts"]


@dataclass(frozen=True)
class Kept:
    """What stays of a node with regions.

    ``inputs`` are operands, of those that match inputs of its body. ``instead`` stands for outputs
    that go though they are read, ``inside`` for inputs of the body.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    instead: dict[int, Value]
    inside: dict[Value, Value]


@dataclass(frozen=True)
class TrimRegions(Pass):
    """``y, _ = If(c) {a, b} {d, e}  ->  y = If(c) {a} {d}``."""

    name: ClassVar[str] = "trim-regions"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node lost outputs."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            kept = kept_parts(node)
            if isinstance(kept, Refusal):
                continue
            new = _rebuilt(node, kept)
            record_edit(ctx.log, self.name, "TrimRegions", [node], [new] if new else [])
            found = iter(() if new is None else new.outputs)
            values = [
                next(found) if i in kept.outputs else kept.instead.get(i)
                for i in range(len(node.outputs))
            ]
            graph.replace(node, values)
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why ``node`` keeps all that it yields."""
        found = kept_parts(node)
        return found if isinstance(found, Refusal) else None


def kept_parts(node: Node) -> Kept | Refusal:
    """What must stay of an If, Loop or Scan, where that is less than all; otherwise why not."""
    if node.is_a("If"):
        return _of_branches(node)
    if node.is_a("Loop"):
        return _of_body(node, states=len(node.inputs) - 2, first_input=2, first_output=1)
    if node.is_a("Scan"):
        return _of_body(
            node,
            states=len(node.inputs) - int(node.attr("num_scan_inputs")),
            first_input=0,
            first_output=0,
        )
    return Refusal("it has no regions", node)


def _of_branches(node: Node) -> Kept | Refusal:
    then, other = node.attrs["then_branch"], node.attrs["else_branch"]
    instead = {
        index: a
        for index, (a, b) in enumerate(zip(then.outputs, other.outputs, strict=True))
        if a is b and node.outputs[index].use_count
    }
    outputs = tuple(i for i, v in enumerate(node.outputs) if v.use_count and i not in instead)
    if len(outputs) == len(node.outputs):
        return Refusal("all of its outputs are read, and differ", node)
    if not outputs and not instead:
        return Refusal("nobody reads it at all", node)
    return Kept((), outputs, instead, {})


def _of_body(node: Node, states: int, first_input: int, first_output: int) -> Kept | Refusal:
    body: Graph = node.attrs["body"]
    given = node.inputs[first_input:]
    inner, yielded = body.inputs[first_input:], body.outputs[first_output:]
    same = {
        i: value
        for i in range(states)
        if yielded[i] is inner[i]
        and (value := given[i]) is not None
        and _may_replace(value, node, i)
    }
    read = {i for i, value in enumerate(node.outputs) if value.use_count and i not in same}
    # Whatever the condition, the outputs that are read, and what these depend on runs later, need.
    needed = _reach([*body.outputs[:first_output], *(yielded[i] for i in read)], body)
    grown = True
    while grown:
        grown = False
        for i in range(states):
            if i not in read and i not in same and inner[i] in needed:
                read.add(i)
                needed |= _reach([yielded[i]], body)
                grown = True
    scanned = range(states, len(given))
    inputs = [i for i in range(states) if i in read]
    inputs += [i for i in scanned if inner[i] in needed] or list(scanned)[:1]
    instead = {i: value for i, value in same.items() if node.outputs[i].use_count}
    if len(inputs) == len(given) and len(read) == len(node.outputs):
        return Refusal("all that it carries and collects is needed", node)
    if not read and not instead:
        return Refusal("nobody reads it at all", node)
    inside = {inner[i]: value for i, value in same.items()}
    return Kept(tuple(inputs), tuple(sorted(read)), instead, inside)


def _may_replace(value: Value, node: Node, index: int) -> bool:
    """True when what is carried says of its type no more than ``value``, which stands for it."""
    a, b = value.type, node.outputs[index].type
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return a == b
    return a.shape is not None and (b.shape is None or len(a.shape) == len(b.shape))


def _reach(values: Iterable[Value], body: Graph) -> set[Value]:
    """All that ``values`` are computed from, inside ``body`` and around it."""
    seen: set[Value] = set()
    left = list(values)
    while left:
        value = left.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer
        if node is not None and value.graph is body:
            left += _read(node)
    return seen


def _read(node: Node) -> list[Value]:
    found = [value for value in node.inputs if value is not None]
    for region in node.regions:
        found += region.outputs
        for inner in region:
            found += _read(inner)
    return found


def _rebuilt(node: Node, kept: Kept) -> Node | None:
    """``node`` with what is kept alone; None where nothing of it is read."""
    if not kept.outputs:
        return None
    attrs = dict(node.attrs)
    skipped = 2 if node.is_a("Loop") else 0
    ahead = 1 if node.is_a("Loop") else 0
    for name, region in node.attrs.items():
        if isinstance(region, Graph):
            inputs = [*range(skipped), *(skipped + i for i in kept.inputs)]
            outputs = [*range(ahead), *(ahead + i for i in kept.outputs)]
            attrs[name] = _copied(region, node.graph, inputs, outputs, kept.inside)
    operands = list(node.inputs)
    if not node.is_a("If"):
        operands = [*operands[:skipped], *(node.inputs[skipped + i] for i in kept.inputs)]
    if node.is_a("Scan"):
        _trim_scan(node, kept, attrs)
    return node.graph.add(
        node.op,
        operands,
        attrs,
        types=[node.outputs[i].type for i in kept.outputs],
        n_outputs=len(kept.outputs),
        name=node.name,
        origin=node.origin,
        before=node,
    )


def _trim_scan(node: Node, kept: Kept, attrs: dict[str, object]) -> None:
    scanned = int(node.attr("num_scan_inputs"))
    states = len(node.inputs) - scanned
    attrs["num_scan_inputs"] = sum(i >= states for i in kept.inputs)
    lists = {"scan_input": kept.inputs, "scan_output": kept.outputs}
    for prefix, indices in lists.items():
        for suffix in ("axes", "directions"):
            given = node.attrs.get(f"{prefix}_{suffix}")
            if given is not None:
                attrs[f"{prefix}_{suffix}"] = tuple(
                    given[i - states] for i in indices if i >= states
                )


def _copied(
    region: Graph,
    home: Graph,
    inputs: Sequence[int],
    outputs: Sequence[int],
    inside: dict[Value, Value],
) -> Graph:
    """A copy of ``region`` with some of its inputs and outputs, and what these need."""
    new = Graph(region.name, home)
    mapping: dict[Value, Value] = dict(inside)
    for index in inputs:
        value = region.inputs[index]
        mapping[value] = new.add_input(value.name, value.type, rename=True)
        mapping[value].set_elements(value.elements)
    wanted = [region.outputs[index] for index in outputs]
    needed = _reach(wanted, region)
    for value in region.constants.values():
        if value in needed:
            assert value.constant is not None
            mapping[value] = new.add_constant(value.constant, value.name)
    copy_nodes((n for n in region if any(v in needed for v in n.outputs)), new, mapping)
    for index, value in zip(outputs, wanted, strict=True):
        new.add_output(mapping.get(value, value), region.output_names[index])
    return new
