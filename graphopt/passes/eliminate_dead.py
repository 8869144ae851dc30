"""Dead code: nodes and constants whose results nobody reads go.

Sound: an op without readers has no effect; ONNX ops have no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["EliminateDead"]


@dataclass(frozen=True)
class EliminateDead(Pass):
    """``y = f(x)  ->  (nothing)`` where nobody reads ``y``."""

    name: ClassVar[str] = "eliminate-dead"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node or a constant went."""
        nodes = list(graph.walk())
        constants, start = _constants(graph), ctx.log.mark
        graph.remove_dead()
        gone = [node for node in nodes if node.erased]
        unread = constants - _constants(graph)
        if gone or unread:
            reason = "nobody reads them" + (f"; {unread} constants go, too" if unread else "")
            record_edit(ctx.log, self.name, "EliminateDead", gone, [], reason, start=start)
        return bool(gone or unread)

    def refuses(self, node: Node) -> Refusal | None:
        """Who reads the node."""
        for value in node.outputs:
            if value.is_output:
                return Refusal(f"%{value.name} is an output of the graph", node)
            if value.users:
                return Refusal(f"%{value.name} is read by {value.users[0]!r}", node)
        return None


def _constants(graph: Graph) -> int:
    """How many constants a graph and its regions hold."""
    regions = [graph, *(region for node in graph.walk() for region in node.regions)]
    return sum(len(region.constants) for region in regions)
