"""An If on whether an axis has size 1, of which only one branch leads anywhere.

Exporters write PyTorch's ``squeeze`` as ``If(size(x, k) == 1) {Squeeze(x, k)} {x}``: what follows
has two possible ranks. Where it only accepts one of them, that branch is the If:
``y = If(n == 1) {Squeeze(x)} {x}; z = f(y)  ->  y = Squeeze(x); z = f(y)``.

Sound: with the other branch, a node that certainly runs meets operands that it does not take, so
the run is an error whenever the condition does not hold. It stays one: Squeeze itself insists on
the size 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.errors import OperandError
from graphopt.ir import Dim, Graph, Node, TensorType, Value, clone
from graphopt.ops.control import impossible
from graphopt.passes.inline_if import conditionals, inline_branch
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["SpecializeIf"]

_BRANCHES = ("then_branch", "else_branch")
# Ops that pass a condition on.
_TRANSPARENT = frozenset({"Cast", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class SpecializeIf(Pass):
    """``If(n == 1) {Squeeze(x)} {x}  ->  Squeeze(x)`` where nothing takes the other rank."""

    name: ClassVar[str] = "specialize-if"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when an If went."""
        changed = False
        while True:
            found = next(
                ((n, b) for n in conditionals(graph) if isinstance(b := only_branch(n), str)), None
            )
            if found is None:
                return changed
            node, branch = found
            record_edit(ctx.log, self.name, "SpecializeIf", [node], [], f"only {branch} fits")
            inline_branch(node, branch)
            changed = True

    def refuses(self, node: Node) -> Refusal | None:
        """Why both branches of an If may run."""
        if not node.is_a("If"):
            return Refusal(lambda: f"it is no If but {node.op.qualified}", node)
        found = only_branch(node)
        return found if isinstance(found, Refusal) else None


def only_branch(node: Node) -> str | Refusal:
    """The only branch of an If that can run; otherwise why there is none."""
    if all(isinstance(v.type, TensorType) and v.type.shape is not None for v in node.outputs):
        return Refusal("its outputs have one rank", node)
    condition = node.input(0)
    assert condition is not None
    asked = _asks_for_one(condition)
    if asked is None:
        return Refusal("it does not ask whether a size is 1", condition)
    size, holds = asked
    branch = _BRANCHES[0 if holds else 1]
    if not _insists(node.attrs[branch], size):
        return Refusal(lambda: f"its {branch} also runs where {size} is not 1", node)
    other = _BRANCHES[1 if holds else 0]
    if _fits(node, other):
        return Refusal(f"what follows also takes what {other} yields", node)
    return branch


def _asks_for_one(condition: Value) -> tuple[Dim, bool] | None:
    """(n, whether it holds) when ``condition`` is n == 1, or the opposite of that."""
    holds = True
    node = condition.producer
    while node is not None and node.op.name in _TRANSPARENT and not node.op.domain:
        holds ^= node.is_a("Not")
        source = node.input(0)
        node = None if source is None else source.producer
    if node is None or not node.is_a("Equal"):
        return None
    sides = [value.elements for value in node.inputs if value is not None]
    if any(side is None or len(side) != 1 for side in sides):
        return None
    a, b = (side[0] for side in sides if side is not None)
    if b == 1:
        return a, holds
    return (b, holds) if a == 1 else None


def _insists(region: Graph, size: Dim) -> bool:
    """True when the region squeezes an axis of that size, which is an error unless it is 1."""
    return any(size in _squeezed(node) for node in region)


def _squeezed(node: Node) -> Iterator[Dim]:
    source, axes = node.input(0), node.input(1)
    if not node.is_a("Squeeze") or source is None or axes is None or not node.output.use_count:
        return
    if source.shape is None or axes.constant is None:
        return
    for axis in axes.constant.array.ravel():
        yield source.shape[int(axis)]


def _fits(node: Node, branch: str) -> bool:
    """Whether all that follows takes what ``branch`` yields. Tried on a copy."""
    root = node.graph.root
    copy = clone(root)
    position = next(i for i, other in enumerate(root.walk()) if other is node)
    twin = next(other for i, other in enumerate(copy.walk()) if i == position)
    # What nobody reads need not run.
    copy.remove_dead()
    if twin.erased:
        return True
    home: Graph | None = twin.graph
    try:
        inline_branch(twin, branch)
    except OperandError:
        return False
    while home is not None:
        if impossible(home):
            return False
        home = home.parent
    return True
