"""Dead code: nodes and constants whose results nobody reads go.

Sound: an op without readers has no effect; ONNX ops have no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph
from graphopt.rewrite import Pass, PassContext

__all__ = ["EliminateDead"]


@dataclass(frozen=True)
class EliminateDead(Pass):
    """``y = f(x)  ->  (nothing)`` where nobody reads ``y``."""

    name: ClassVar[str] = "eliminate-dead"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node went."""
        return graph.remove_dead() > 0
