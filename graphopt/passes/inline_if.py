"""An If whose condition is known is its branch.

``y = If(true) {then: A; else: B}  ->  y = A``. Types of what follows are inferred anew, since those
of one branch say more than those of both.

Sound: the other branch never runs. Values that the branch reads from outside are in scope where the
If stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.ops.control import certain, impossible
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.refine import refine

__all__ = ["InlineIf", "conditionals", "inline_branch"]


@dataclass(frozen=True)
class InlineIf(Pass):
    """``If(true) {A} {B}  ->  A``."""

    name: ClassVar[str] = "inline-if"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when an If went."""
        changed = False
        while True:
            found = next(filter(None, map(_decided, conditionals(graph))), None)
            if found is None:
                return changed
            node, branch = found
            record_edit(ctx.log, self.name, "InlineIf", [node], [], f"its {branch} always runs")
            inline_branch(node, branch)
            changed = True

    def refuses(self, node: Node) -> Refusal | None:
        """What keeps an If."""
        if not node.is_a("If"):
            return Refusal(lambda: f"it is no If but {node.op.qualified}", node)
        condition = node.input(0)
        assert condition is not None
        value = certain(condition)
        if value is None:
            return Refusal(lambda: f"its condition %{condition.name} is not known", condition)
        return Refusal(lambda: f"the condition is {value}, but that branch cannot run", node)


def conditionals(graph: Graph) -> Iterator[Node]:
    """Every If of a graph and its regions, outer ones first."""
    return (node for node in graph.walk() if node.is_a("If"))


def inline_branch(node: Node, branch: str) -> None:
    """Puts what ``branch`` of an If holds in the place of the If."""
    graph = node.graph
    root = graph.root
    values = graph.inline(node, node.attrs[branch])
    graph.replace(node, values)
    refine(root, values)


def _decided(node: Node) -> tuple[Node, str] | None:
    condition = node.input(0)
    assert condition is not None
    value = certain(condition)
    if value is None:
        return None
    branch = "then_branch" if value else "else_branch"
    return None if impossible(node.attrs[branch]) else (node, branch)
