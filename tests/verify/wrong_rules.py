"""Rules that are wrong, each in the way that careless rewrites are; none is in the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Value
from graphopt.rewrite import (
    EXACT,
    Match,
    NodePattern,
    Numerics,
    PatternOps,
    Rule,
    RulePass,
    Var,
)

__all__ = ["PASSES"]


class WrongConstant(Rule):
    """``Sqrt(x)  ->  Pow(x, 0.51)``: the constant is off."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Sqrt(x)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Pow(m["x"], op.constant(0.51))
        return result


class DropsActivation(Rule):
    """``Add(Relu(x), y)  ->  Add(x, y)``: the activation is lost."""

    def pattern(self, op: PatternOps, x: Var, y: Var) -> NodePattern:
        return op.Add(op.Relu(x), y)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Add(m["x"], m["y"])
        return result


class DropsBias(Rule):
    """``MatMul(x, w) + b  ->  MatMul(x, w)``: the operand is lost."""

    def pattern(self, op: PatternOps, x: Var, w: Var, b: Var) -> NodePattern:
        return op.Add(op.MatMul(x, w), b)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.MatMul(m["x"], m["w"])
        return result


class WrongPerm(Rule):
    """``Transpose(Transpose(x, p), q)  ->  Transpose(x, q[p])``: composed the wrong way round."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Transpose(op.Transpose(x, _bind="first"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        p, q = (node.attr("perm") for node in (m.node("first"), m.root))
        result: Value = op.Transpose(m["x"], perm=tuple(q[axis] for axis in p))
        return result


class WrongAxis(Rule):
    """``Softmax(x, -1)  ->  Softmax(x, 0)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Softmax(x, _attrs={"axis": -1})

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Softmax(m["x"], axis=0)
        return result


class SwapsOperands(Rule):
    """``Sub(x, Exp(y))  ->  Sub(Exp(y), x)``: subtraction does not commute."""

    def pattern(self, op: PatternOps, x: Var, y: Var) -> NodePattern:
        return op.Sub(x, op.Exp(y, _bind="exp", _shared=True))

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Sub(m.node("exp").output, m["x"])
        return result


class IgnoresReaders(Rule):
    """``Neg(Abs(x))  ->  0 - Abs(x)``, which whoever else reads the Abs reads as well."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Neg(op.Abs(x, _bind="abs", _shared=True))

    def rewrite(self, op: Builder, m: Match) -> Value:
        first = m.node("abs").output
        result: Value = op.Sub(op.constant(0.0), op.Abs(m["x"]))
        for use in first.uses:
            if use.user is not m.root and use.user is not op.graph:
                op.graph.set_input(use.user, use.index, result)  # type: ignore[arg-type]
        return result


class IgnoresNaN(Rule):
    """``Mul(x, 0)  ->  0``: NaN times zero is NaN."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Mul(x, 0.0)

    def rewrite(self, op: Builder, m: Match) -> Value:
        shape = tuple(d for d in m.root.output.shape or () if isinstance(d, int))
        return op.constant(np.zeros(shape, np.float32))


@dataclass(frozen=True)
class _Wrong(RulePass):
    numerics: ClassVar[Numerics] = EXACT


def _pass(rule: type[Rule], pass_name: str) -> type[RulePass]:
    @dataclass(frozen=True)
    class Wrong(_Wrong):
        """Wrong on purpose."""

        name: ClassVar[str] = pass_name

        def rules(self, graph: Graph) -> list[Rule]:
            return [rule()]

    return Wrong


WrongConstantPass = _pass(WrongConstant, "wrong-constant")
DropsActivationPass = _pass(DropsActivation, "drops-activation")
DropsBiasPass = _pass(DropsBias, "drops-bias")
WrongPermPass = _pass(WrongPerm, "wrong-perm")
WrongAxisPass = _pass(WrongAxis, "wrong-axis")
SwapsOperandsPass = _pass(SwapsOperands, "swaps-operands")
IgnoresReadersPass = _pass(IgnoresReaders, "ignores-readers")
IgnoresNaNPass = _pass(IgnoresNaN, "ignores-nan")

PASSES = {
    "wrong-constant": f"{__name__}:WrongConstantPass",
    "drops-activation": f"{__name__}:DropsActivationPass",
    "drops-bias": f"{__name__}:DropsBiasPass",
    "wrong-perm": f"{__name__}:WrongPermPass",
    "wrong-axis": f"{__name__}:WrongAxisPass",
    "swaps-operands": f"{__name__}:SwapsOperandsPass",
    "ignores-readers": f"{__name__}:IgnoresReadersPass",
    "ignores-nan": f"{__name__}:IgnoresNaNPass",
}
