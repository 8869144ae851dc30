"""Softmax and its logarithm that exporters spell out become one op again.

``e / sum(e)`` with ``e = exp(x - max(x))``  ``->  Softmax(x)``; ``d - log(sum(exp(d)))`` with
``d = x - max(x)``  ``->  LogSoftmax(x)``; over any one axis. The quotient may be a product with the
reciprocal. With ``overflow=true`` also what overflows or underflows where the op does not:
``exp(x) / sum(exp(x))`` and ``x - log(sum(exp(x)))`` (infinite from x = 89 on), and
``log(Softmax(x))`` (minus infinity where a probability is below 1e-38).

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


def _shifted(op: PatternOps, x: Var) -> Pattern:
    """``x - max(x)``; a maximum may itself be held against -inf, as JAX does."""
    most = op.ReduceMax(x, op.rest("max_axes"), _bind="max")
    floor = float("-inf")
    top = op.any_of(op.Max(floor, most), op.Max(most, floor), most)
    return op.Sub(x, _kept(op, top, "max"), _bind="shifted")


def _total(op: PatternOps, power: Pattern) -> Pattern:
    return op.ReduceSum(power, op.rest("sum_axes"), _bind="sum")


class _OverAxis(Rule):
    """What all forms share: the type, one axis, and statistics where it was."""

    def check(self, m: Match) -> Refusal | None:
        """f32 or f64, over one axis, and statistics where that axis was."""
        x = m["x"].tensor
        if x.dtype not in (DType.F32, DType.F64) or not x.shape:
            return Refusal(lambda: f"it computes on {x}", m["x"])
        axis = _axis(m, len(x.shape))
        if isinstance(axis, Refusal):
            return axis
        kept = tuple(1 if place == axis else dim for place, dim in enumerate(x.shape))
        for name in ("shifted", "quotient"):
            if name in m.named and not _has_operand(m.node(name), kept):
                return Refusal("statistics are not given an axis of size 1", m.node(name))
        if m.root.output.shape != x.shape:
            return Refusal("the result has another shape", m.root)
        return None


def _axis(m: Match, rank: int) -> int | Refusal:
    """The one axis that all statistics are over."""
    found = set()
    for name in ("max", "sum"):
        if name not in m.named:
            continue
        node = m.node(name)
        axes = node.input(1)
        if axes is None or axes.constant is None or axes.constant.numel != 1:
            return Refusal("it is not over one axis", node)
        found.add(int(axes.constant.array.reshape(())) % rank)
    if len(found) != 1:
        return Refusal(lambda: f"statistics are over axes {sorted(found)}", m.root)
    return found.pop()


def _has_operand(node: Node, shape: tuple[object, ...]) -> bool:
    return any(value is not None and value.shape == shape for value in node.inputs)


class FuseShifted(_OverAxis):
    """``exp(x - max(x)) / sum(exp(x - max(x)))  ->  Softmax(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A quotient, or a product with the reciprocal."""
        power = op.Exp(_shifted(op, x))
        total = _kept(op, _total(op, power), "sum")
        inverse = op.any_of(op.Reciprocal(total), op.Div(1.0, total))
        return [op.Div(power, total, _bind="quotient"), op.Mul(power, inverse, _bind="quotient")]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        axis = _axis(m, m["x"].tensor.rank or 1)
        assert isinstance(axis, int)
        result: Value = op.Softmax(m["x"], axis=_from_end(m["x"], axis))
        return result


class FuseLogShifted(_OverAxis):
    """``d - log(sum(exp(d)))`` with ``d = x - max(x)``  ``->  LogSoftmax(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The logarithm may be of a ReduceLogSumExp."""
        shifted = _shifted(op, x)
        apart = op.Log(_kept(op, _total(op, op.Exp(shifted)), "sum"))
        early = _kept(op, op.Log(_total(op, op.Exp(shifted))), "sum")
        whole = _kept(op, op.ReduceLogSumExp(shifted, op.rest("sum_axes"), _bind="sum"), "sum")
        return op.Sub(shifted, op.any_of(apart, early, whole), _bind="quotient")

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        axis = _axis(m, m["x"].tensor.rank or 1)
        assert isinstance(axis, int)
        result: Value = op.LogSoftmax(m["x"], axis=_from_end(m["x"], axis))
        return result


class FuseUnshifted(_OverAxis):
    """``exp(x) / sum(exp(x))``, ``x - log(sum(exp(x)))``: one op, which does not overflow."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Without the maximum."""
        power = op.Exp(x)
        total = _kept(op, _total(op, power), "sum")
        whole = _kept(op, op.ReduceLogSumExp(x, op.rest("sum_axes"), _bind="sum"), "sum")
        return [
            op.Div(power, total, _bind="quotient"),
            op.Sub(x, op.any_of(op.Log(total), whole), _bind="quotient"),
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        axis = _axis(m, m["x"].tensor.rank or 1)
        assert isinstance(axis, int)
        name = "Softmax" if m.root.is_a("Div") else "LogSoftmax"
        result: Value = op.op(name, m["x"], axis=_from_end(m["x"], axis))
        return result


class FuseLog(Rule):
    """``log(Softmax(x))  ->  LogSoftmax(x)``, which is finite where a probability is 0."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """One after the other."""
        return op.Log(op.Softmax(x, _bind="softmax"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.LogSoftmax(m["x"], axis=m.node("softmax").attr("axis"))
        return result


def _from_end(value: Value, axis: int) -> int:
    """The last axis as -1, which runtimes take as it is whatever the rank."""
    return -1 if axis == (value.tensor.rank or 1) - 1 else axis


@dataclass(frozen=True)
class FuseSoftmax(RulePass):
    """Spelled-out softmax ``->`` Softmax, LogSoftmax."""

    name: ClassVar[str] = "fuse-softmax"

    # True: also forms that overflow or underflow where the op does not.
    overflow: bool = False

    def rules(self, graph: Graph) -> list[Rule]:
        """Forms that subtract the maximum first."""
        rules: list[Rule] = [FuseShifted(), FuseLogShifted()]
        return [*rules, FuseUnshifted(), FuseLog()] if self.overflow else rules
