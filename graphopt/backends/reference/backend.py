"""The reference backend: one step that runs the whole graph in the interpreter."""

from __future__ import annotations

from typing import ClassVar

from graphopt.backends.base import Backend, Compiled, Target
from graphopt.backends.plan import interpret
from graphopt.ir import Graph, Node
from graphopt.rewrite import PassContext, Pipeline, Refusal

__all__ = ["ReferenceBackend"]


class ReferenceBackend(Backend):
    """Runs everything that has semantics, slowly, in numpy."""

    name: ClassVar[str] = "reference"
    summary: ClassVar[str] = "numpy interpreter: the semantics of record"

    def supports(self, node: Node, target: Target) -> Refusal | None:
        """Every op that graphopt defines."""
        if node.op.evaluate is None:
            return Refusal(f"graphopt does not define {node.op.qualified}", node)
        return None

    def pipeline(self, target: Target) -> Pipeline:
        """No passes: the graph runs as it is."""
        return Pipeline()

    def build(self, graph: Graph, target: Target, ctx: PassContext) -> Compiled:
        """A plan of one host step."""
        return interpret(graph)
