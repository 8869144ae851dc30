"""Changes of shape that follow each other become one, and targets of Reshape become constants.

``Unsqueeze(Squeeze(x))``, ``Flatten(Reshape(x))`` and their like become x, or one Unsqueeze,
Squeeze or Reshape of x, whichever says it. A Transpose that moves axes of size 1 alone counts as a
change of shape, and so does a reduction of these. ``Reshape(x, computed sizes)  ->  Reshape(x,
constant)`` where every size is a number, one of x at the same place (0), or the only one left (-1).

Sound: none of these ops moves an element, so the shape says all. An inferred size stands only
beside numbers, or where the model has one too: beside an empty axis it has no value. A Squeeze that
insists on a symbolic size being 1 stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Graph, Node, TensorType, Value, static_shape
from graphopt.passes.views import (
    VIEWS,
    View,
    is_view,
    plan_view,
    reshape_target,
    same_size,
)
from graphopt.rewrite import (
    EXACT,
    Match,
    NodePattern,
    Numerics,
    PatternOps,
    Refusal,
    Rule,
    RulePass,
    Var,
)

__all__ = ["MergeReshapes"]


class MergeViews(Rule):
    """``View(View(x))  ->  x`` or one view of it."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Two in a row; the first may have other readers."""
        names = (*VIEWS, "Transpose")
        rest, others = op.rest("rest"), op.rest("others")
        first = op.any_of(*(op.op(name, x, others, _bind="first", _shared=True) for name in names))
        return [op.op(name, first, rest) for name in names]

    def check(self, m: Match) -> Refusal | None:
        """Both must be views for certain, and one op must do."""
        for node in (m.root, m.node("first")):
            refused = _no_view(node)
            if refused is not None:
                return refused
        plan = self._plan(m)
        return Refusal(plan, m.root) if isinstance(plan, str) else None

    def _plan(self, m: Match) -> View | str:
        old, new = m["x"].shape, m.root.output.shape
        assert old is not None and new is not None
        return plan_view(old, new, inferred=_inferred(m.root))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand, or its one view."""
        plan = self._plan(m)
        assert isinstance(plan, View)
        return plan.build(op, m["x"])


def _no_view(node: Node) -> Refusal | None:
    """Why a node is no view, or not for certain."""
    source = node.input(0)
    assert source is not None
    if not is_view(node):
        return Refusal("it moves axes that have more than one element", node)
    old, new = source.tensor.shape, node.output.tensor.shape
    if old is None or new is None:
        return Refusal("the rank is not known", node)
    if not same_size(old, new):
        return Refusal(
            lambda: f"whether {source.type} can become {node.output.type} is seen in the run", node
        )
    return None


def _inferred(node: Node) -> int | None:
    """The axis that a Reshape leaves to be inferred."""
    wanted = node.input(1)
    if not node.is_a("Reshape") or wanted is None or wanted.elements is None:
        return None
    return wanted.elements.index(-1) if -1 in wanted.elements else None


class DropReduction(Rule):
    """``ReduceMean(x, axes of size 1)  ->  x``, or a view; sums, products and extremes too."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Reductions that give back what one element is."""
        names = ("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
        return [op.op(name, x, op.rest("axes")) for name in names]

    def check(self, m: Match) -> Refusal | None:
        """Every reduced axis must have one element."""
        plan = self._plan(m)
        return Refusal(plan, m.root) if isinstance(plan, str) else None

    def _plan(self, m: Match) -> View | str:
        old, new, axes = m["x"].shape, m.root.output.shape, m.root.input(1)
        if old is None or new is None:
            return "the rank is not known"
        reduced: list[int] = list(range(len(old)))
        if axes is not None:
            known = static_shape(axes.elements)
            if known is None:
                return "the axes are not known"
            reduced = [axis % len(old) for axis in known] or reduced
        if not reduced or any(old[axis] != 1 for axis in reduced):
            sizes = ", ".join(str(old[axis]) for axis in reduced)
            return f"it reduces axes of sizes {sizes}"
        return plan_view(old, new)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand, without these axes or with them."""
        plan = self._plan(m)
        assert isinstance(plan, View)
        return plan.build(op, m["x"])


class FixTarget(Rule):
    """``Reshape(x, computed sizes)  ->  Reshape(x, constant)``."""

    def pattern(self, op: PatternOps, x: Var, sizes: Var) -> NodePattern:
        """A target that is computed."""
        return op.Reshape(x, sizes.where(lambda v: not v.is_constant, "a computed target"))

    def check(self, m: Match) -> Refusal | None:
        """Every size must be a number, one of x, or the only one left."""
        x, out = m["x"].type, m.root.output.type
        assert isinstance(x, TensorType) and isinstance(out, TensorType)
        if x.shape is None or out.shape is None:
            return Refusal("the rank is not known", m["x"])
        if m["sizes"].elements is None:
            return Refusal("the sizes of the target are not followed", m["sizes"])
        target = reshape_target(x.shape, out.shape, inferred=_inferred(m.root))
        return Refusal(target, m.root) if isinstance(target, str) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Reshape to the constant."""
        old, new = m["x"].shape, m.root.output.shape
        assert old is not None and new is not None
        target = reshape_target(old, new, inferred=_inferred(m.root))
        assert not isinstance(target, str)
        result: Value = op.Reshape(m["x"], op.constant(list(target), "shape"))
        return result


@dataclass(frozen=True)
class MergeReshapes(RulePass):
    """``View(View(x))  ->  View(x)``; constant targets."""

    name: ClassVar[str] = "merge-reshapes"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """Merge, then name the sizes."""
        return [MergeViews(), DropReduction(), FixTarget()]
