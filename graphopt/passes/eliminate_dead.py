"""Dead code: nodes and constants whose results nobody reads go.

Sound: an op without readers has no effect; ONNX ops have no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["EliminateDead"]


@dataclass(frozen=True)
class EliminateDead(Pass):
    """``y = f(x)  ->  (nothing)`` where nobody reads ``y``."""

    name: ClassVar[str] = "eliminate-dead"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node or a constant went."""
        nodes = list(graph.walk())
        constants = _constants(graph)
        graph.remove_dead()
        gone = [node for node in nodes if node.erased]
        if gone:
            record_edit(ctx.log, self.name, "EliminateDead", gone, [])
        return bool(gone) or _constants(graph) != constants


def _constants(graph: Graph) -> int:
    """How many constants a graph and its regions hold."""
    regions = [graph, *(region for node in graph.walk() for region in node.regions)]
    return sum(len(region.constants) for region in regions)
