"""Activations that exporters spell out become one op again.

``x * 0.5 * (1 + erf(x / sqrt 2))  ->  Gelu(x)``; ``x * Sigmoid(x)  ->  Swish(x)``;
``clip(x + 3, 0, 6) / 6  ->  HardSigmoid(x)``; ``x * clip(x + 3, 0, 6) / 6  ->  HardSwish(x)``.

Sound up to rounding: the definitions of the ops. Constants must be those numbers to f32 precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseActivation"]


class _Float(Rule):
    """Rules for f32 and f64 only: narrower types round after every step."""

    def check(self, m: Match) -> Refusal | None:
        """The type, and that nothing broadcasts."""
        if m.root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal("narrow types round after every step", m.root)
        if m["x"].type != m.root.output.type:
            return Refusal("the result has another shape", m.root)
        return None


class FuseGelu(_Float):
    """``x * 0.5 * (1 + erf(x / sqrt 2))  ->  Gelu(x)``, in any grouping of the factors."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Where the factor 0.5 stands."""
        root, inverse = math.sqrt(2.0), math.sqrt(0.5)
        argument = op.any_of(op.Div(x, op.scalar(root)), op.Mul(x, op.scalar(inverse)))
        tail = op.Add(op.Erf(argument), 1.0)
        return [
            op.Mul(op.Mul(x, tail), 0.5),
            op.Mul(x, op.Mul(tail, 0.5)),
            op.Mul(op.Mul(x, 0.5), tail),
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Gelu(m["x"])
        return result


class FuseSwish(_Float):
    """``x * Sigmoid(x)  ->  Swish(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The sigmoid of the other factor."""
        return op.Mul(x, op.Sigmoid(x))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Swish(m["x"], alpha=1.0)
        return result


class FuseHardSwish(_Float):
    """``x * clip(x + 3, 0, 6) / 6  ->  HardSwish(x)``, and ``x * HardSigmoid(x, 1/6, 1/2)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Where the division stands."""
        clip = op.Clip(op.Add(x, 3.0), 0.0, 6.0)
        gate = op.HardSigmoid(x, _attrs={"alpha": _near(1 / 6), "beta": _near(0.5)})
        return [
            op.Div(op.Mul(x, clip), 6.0),
            op.Mul(op.Mul(x, clip), 1 / 6),
            op.Mul(x, op.Div(clip, 6.0)),
            op.Mul(x, op.Mul(clip, 1 / 6)),
            op.Mul(x, gate),
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.HardSwish(m["x"])
        return result


class FuseHardSigmoid(_Float):
    """``clip(x + 3, 0, 6) / 6  ->  HardSigmoid(x, 1/6, 1/2)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Division or multiplication."""
        clip = op.Clip(op.Add(x, 3.0), 0.0, 6.0)
        return [op.Div(clip, 6.0), op.Mul(clip, 1 / 6)]

    def check(self, m: Match) -> Refusal | None:
        """Not where it is the gate of a HardSwish."""
        refused = super().check(m)
        if refused is None and any(
            u.is_a("Mul") and m["x"] in u.inputs for u in m.root.output.users
        ):
            return Refusal("it is the gate of a HardSwish", m.root)
        return refused

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.HardSigmoid(m["x"], alpha=1 / 6, beta=0.5)
        return result


def _near(wanted: float) -> object:
    return lambda found: abs(float(found) - wanted) < 1e-7


@dataclass(frozen=True)
class FuseActivation(RulePass):
    """Spelled-out activations ``->`` one op."""

    name: ClassVar[str] = "fuse-activation"

    def rules(self, graph: Graph) -> list[Rule]:
        """Longest patterns first."""
        return [FuseGelu(), FuseHardSwish(), FuseHardSigmoid(), FuseSwish()]
