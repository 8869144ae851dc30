"""What follows a product, window or attention runs before its sums are stored.

``y = product(x, w); z = group{f}(y, b)  ->  z = product{tail f}(x, w, b)``: a bias, an activation,
a residual sum, any pointwise group over the same elements.

Sound: the group reads each sum at its own place only, nobody else reads the sums, and the same
operations run on the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.groups import tail_text
from graphopt.backends.cuda.ops import OPERANDS, dense, is_group, is_view
from graphopt.codegen import Refusal
from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir.clone import copy_nodes
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["FuseTails"]


@dataclass(frozen=True)
class FuseTails(Pass):
    """``group{f}(product(x, w), b)  ->  product{tail f}(x, w, b)``."""

    name: ClassVar[str] = "cuda-fuse-tails"
    follows: ClassVar[tuple[str, ...]] = ("cuda-lower-dense", "cpu-fuse-groups")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a group was taken in."""
        position = {node: i for i, node in enumerate(graph)}
        changed = False
        for node in graph:
            found = _found(node, position)
            if found is None:
                continue
            self._fuse(graph, node, *found, ctx)
            changed = True
        return changed

    def _fuse(
        self, graph: Graph, group: Node, sums: Node, path: list[Node], body: Graph, ctx: PassContext
    ) -> None:
        operands = [v for v in group.inputs if v is not None and v is not _last(path, sums)]
        own = [sums.input(i) for i in range(OPERANDS[sums.op.name])]
        new = graph.add(
            sums.op,
            [*own, *operands],
            {**sums.attrs, "tail": body},
            types=[group.output.type],
            names=[group.output.name],
            origin=sums.origin | group.origin,
            before=group,
        )
        record_edit(ctx.log, self.name, "FuseTails", [sums, *path, group], [new])
        graph.replace(group, [new.output])
        for node in (*reversed(path), sums):
            graph.erase(node)


def _last(path: list[Node], sums: Node) -> Value:
    return path[-1].output if path else sums.output


def _found(node: Node, position: dict[Node, int]) -> tuple[Node, list[Node], Graph] | None:
    """The node whose sums a group finishes, views between them, and the tail it becomes."""
    if not is_group(node) or len(node.outputs) != 1:
        return None
    if node.attrs.get("kind") != "pointwise":
        return None
    candidates: list[tuple[int, Node, list[Node], Value]] = []
    for value in dict.fromkeys(node.inputs):
        if value is None:
            continue
        path: list[Node] = []
        at = value
        while is_view(at.producer) and _alone(at):
            assert at.producer is not None
            path.insert(0, at.producer)
            source = at.producer.inputs[0]
            assert source is not None
            at = source
        sums = at.producer
        if sums is None or not dense(sums) or "tail" in sums.attrs or not _alone(at):
            continue
        candidates.append((position.get(sums, -1), sums, path, value))
    # The last one: what it reads is there by then.
    for _, sums, path, value in sorted(candidates, key=lambda c: -c[0]):
        body = _tail(node, value)
        if body is not None:
            return sums, path, body
    return None


def _alone(value: Value) -> bool:
    return value.use_count == 1 and not value.is_output


def _tail(group: Node, value: Value) -> Graph | None:
    """The group's body with ``value`` as its first input; None where that is no tail."""
    body = group.attrs["body"]
    if value.tensor.dtype is not DType.F32 or value.tensor.numel != group.output.tensor.numel:
        return None
    first = group.inputs.index(value)
    order = [first, *(i for i in range(len(group.inputs)) if i != first)]
    tail = Graph("tail", group.graph)
    mapping: dict[Value, Value] = {}
    for i in order:
        old = body.inputs[i]
        mapping[old] = tail.add_input(old.name, old.type, rename=True)
        mapping[old].set_elements(old.elements)
    for constant in body.constants.values():
        assert constant.constant is not None
        mapping[constant] = tail.add_constant(constant.constant, constant.name)
    copy_nodes(list(body), tail, mapping)
    for output in body.outputs:
        tail.add_output(mapping[output])
    try:
        tail_text(tail)
    except Refusal:
        return None
    return tail
