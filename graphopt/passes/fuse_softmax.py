"""Softmax that exporters spell out becomes one op again.

``e / sum(e)`` with ``e = exp(x - max(x))``, over the last axis  ``->  Softmax(x)``.

The result has the shape of ``x``; nothing in between is read by others. Sound up to rounding: the
definition of the op, shifted by the maximum so that it does not overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, Pattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseSoftmax"]


def _kept(op: PatternOps, x: Pattern, name: str) -> Pattern:
    """``x``, or ``x`` with its reduced axis put back."""
    back = op.rest(f"{name}_back")
    return op.any_of(op.Reshape(x, back), op.Unsqueeze(x, back), x)


class FuseShifted(Rule):
    """``exp(x - max(x)) / sum(exp(x - max(x)))  ->  Softmax(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A maximum may itself be held against -inf, as JAX does."""
        most = op.ReduceMax(x, op.rest("max_axes"), _bind="max")
        floor = float("-inf")
        top = op.any_of(op.Max(floor, most), op.Max(most, floor), most)
        power = op.Exp(op.Sub(x, _kept(op, top, "max"), _bind="shifted"))
        total = op.ReduceSum(power, op.rest("sum_axes"), _bind="sum")
        return op.Div(power, _kept(op, total, "sum"), _bind="quotient")

    def check(self, m: Match) -> Refusal | None:
        """f32 or f64, over the last axis, and statistics where that axis was."""
        x = m["x"].tensor
        if x.dtype not in (DType.F32, DType.F64) or not x.shape:
            return Refusal(lambda: f"it computes on {x}", m["x"])
        for name in ("max", "sum"):
            if not _over_last(m.node(name), len(x.shape)):
                return Refusal("it is not over the last axis alone", m.node(name))
        for name in ("shifted", "quotient"):
            value = m.node(name).input(1)
            if value is None or value.shape != (*x.shape[:-1], 1):
                return Refusal("statistics are not given an axis of size 1", m.node(name))
        if m.root.output.shape != x.shape:
            return Refusal("the result has another shape", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Softmax(m["x"], axis=-1)
        return result


def _over_last(node: Node, rank: int) -> bool:
    axes = node.input(1)
    if axes is None or axes.constant is None:
        return False
    return [int(a) % rank for a in axes.constant.array.ravel()] == [rank - 1]


@dataclass(frozen=True)
class FuseSoftmax(RulePass):
    """Spelled-out softmax ``->`` Softmax."""

    name: ClassVar[str] = "fuse-softmax"

    def rules(self, graph: Graph) -> list[Rule]:
        """Over the last axis."""
        return [FuseShifted()]
