"""Provenance is total: every node stands for nodes of the source, and says which."""

from __future__ import annotations

from graphopt.errors import VerifyError
from graphopt.ir import Graph
from graphopt.rewrite import Pass, PassContext

__all__ = ["Provenance", "source_nodes"]


def source_nodes(graph: Graph) -> frozenset[str]:
    """Names that nodes of ``graph`` and its regions come from."""
    return frozenset().union(*(node.origin for node in graph.walk()))


class Provenance:
    """An instrument: after every pass each node, those of regions too, has an origin, and the
    origin names nothing but nodes of ``source``."""

    def __init__(self, source: Graph) -> None:
        self.known = source_nodes(source)
        self.checked = 0

    def install(self, ctx: PassContext) -> PassContext:
        """Adds the instrument to ``ctx`` and returns it."""
        ctx.after.append(self)
        return ctx

    def __call__(self, item: Pass, graph: Graph) -> None:
        """Raises VerifyError that names the pass and the node."""
        for node in graph.walk():
            self.checked += 1
            if not node.origin:
                raise VerifyError(f"after pass '{item}' {node!r} has no origin")
            foreign = node.origin - self.known
            if foreign:
                raise VerifyError(
                    f"after pass '{item}' {node!r} comes from {sorted(foreign)}, which are no "
                    "nodes of the source"
                )
