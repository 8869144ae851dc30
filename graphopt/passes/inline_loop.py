"""A Loop that runs once is its body, and one that never runs is its initial values.

``y = Loop(1, v) {body}  ->  y = body(0, v)``, ``y = Loop(0, v) {body}  ->  y = v``. A body that
says after its first run that it is over runs once too. What it collects gets an axis of one
element; of no runs it is empty.

Sound: the limit is a constant, or the condition is, so that the count is known. Types of what
follows are inferred anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Node, Value, copy_nodes, static_shape
from graphopt.ops.control import certain, impossible
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.refine import refine

__all__ = ["InlineLoop", "trip_count"]


@dataclass(frozen=True)
class InlineLoop(Pass):
    """``Loop(1, v) {body}  ->  body(0, v)``."""

    name: ClassVar[str] = "inline-loop"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a Loop went."""
        changed = False
        for node in list(graph.walk()):
            if node.erased or not node.is_a("Loop"):
                continue
            count = trip_count(node)
            if isinstance(count, Refusal):
                continue
            home = node.graph
            builder = Builder(home, before=node, origin=node.origin)
            values = _once(node, builder) if count else _never(node, builder)
            record_edit(ctx.log, self.name, "InlineLoop", [node], [], f"it runs {count} times")
            home.replace(node, values)
            refine(home.root, [value for value in values if value.graph is home])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why a Loop stays."""
        if not node.is_a("Loop"):
            return Refusal("it is no Loop", node)
        found = trip_count(node)
        return found if isinstance(found, Refusal) else None


def trip_count(node: Node) -> int | Refusal:
    """0 or 1 when a Loop runs that often; otherwise why that is not known."""
    body: Graph = node.attrs["body"]
    limit, condition = node.input(0), node.input(1)
    goes = True if condition is None else certain(condition)
    most = None if limit is None else static_shape(limit.elements)
    if goes is False or (most is not None and most[0] <= 0):
        return _empty(node, body)
    if goes is None:
        return Refusal("whether it runs at all is not known", condition)
    if impossible(body):
        return Refusal("its body cannot run", node)
    if most is not None and most[0] == 1:
        return 1
    if most is None and limit is not None:
        return Refusal("how often it runs at most is not known", limit)
    if condition is not None and certain(body.outputs[0]) is False:
        return 1
    return Refusal("it has no limit" if most is None else f"it runs up to {most[0]} times", node)


def _empty(node: Node, body: Graph) -> int | Refusal:
    """0 where what no run collects has a known shape."""
    carried = len(body.inputs) - 2
    for old, value in zip(node.outputs[carried:], body.outputs[1 + carried :], strict=True):
        if old.use_count and static_shape(value.tensor.shape) is None:
            return Refusal(f"the shape of what is collected as %{value.name} is not known", node)
    return 0


def _never(node: Node, builder: Builder) -> Sequence[Value]:
    body: Graph = node.attrs["body"]
    carried = len(body.inputs) - 2
    values = [value for value in node.inputs[2:] if value is not None]
    for value in body.outputs[1 + carried :]:
        shape = static_shape(value.tensor.shape) or ()
        values.append(builder.constant(np.zeros((0, *shape), value.tensor.dtype.numpy)))
    return values


def _once(node: Node, builder: Builder) -> Sequence[Value]:
    body: Graph = node.attrs["body"]
    given = [
        builder.constant(np.array(0, np.int64), body.inputs[0].name),
        builder.constant(np.array(True), body.inputs[1].name),
        *(value for value in node.inputs[2:] if value is not None),
    ]
    mapping = dict(zip(body.inputs, given, strict=True))
    for value in body.constants.values():
        assert value.constant is not None
        mapping[value] = builder.graph.add_constant(value.constant, value.name)
    copy_nodes(body, builder.graph, mapping, before=node, origin=node.origin)
    carried = len(body.inputs) - 2
    results = [mapping.get(value, value) for value in body.outputs[1:]]
    refine(builder.graph.root, _typed(given, body))
    return [
        value if index < carried else builder.Unsqueeze(value, [0])
        for index, value in enumerate(results)
    ]


def _typed(given: Sequence[Value], body: Graph) -> list[Value]:
    """Those of ``given`` that say more than the inputs of the body, which stand for any run."""
    pairs = zip(given, body.inputs, strict=True)
    return [a for a, b in pairs if a.type != b.type or a.is_constant or a.elements is not None]
