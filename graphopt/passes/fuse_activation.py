"""Activations that exporters spell out become one op again.

``x * 0.5 * (1 + erf(x / sqrt 2))  ->  Gelu(x)``, and its form with tanh, in any grouping of their
factors; ``x * Sigmoid(a * x)  ->  Swish(x)``; ``x * tanh(Softplus(x))  ->  Mish(x)``;
``clip(x + 3, 0, 6) / 6  ->  HardSigmoid(x)``; ``x * clip(x + 3, 0, 6) / 6  ->  HardSwish(x)``.

Values are f32 or f64, nothing broadcasts, and nothing in between is read by others. Sound up to
rounding: the definitions of the ops. Constants must be those numbers to f32 precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.passes.polynomial import Polynomial, Terms, number
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


# f32 constants, and products of a few of them, are this close to what they stand for.
_NEAR = 2e-6
_ROOT = math.sqrt(2 / math.pi)


class FuseGelu(_Float):
    """``x * 0.5 * (1 + f(x))  ->  Gelu(x)``, where f is erf(x / sqrt 2) or the tanh close to it."""

    def pattern(self, op: PatternOps, a: Var, b: Var) -> list[NodePattern]:
        """The outermost product or sum; the rest is looked at as polynomials."""
        return [op.Mul(a, b), op.Add(a, b)]

    def check(self, m: Match) -> Refusal | None:
        """The argument of f, then the whole."""
        curve = _curve(m.root, 4)
        if curve is None:
            return Refusal("no erf or tanh is near", m.root)
        argument = curve.input(0)
        assert argument is not None
        erf = curve.is_a("Erf")
        inner: Terms = {(1,): math.sqrt(0.5)} if erf else {(1,): _ROOT, (3,): 0.044715 * _ROOT}
        for x in _operands(argument, 6):
            left = Polynomial(argument, [x])
            if left.is_close(inner, _NEAR):
                break
        else:
            return Refusal(lambda: f"the argument of {curve.op.name} is another one", curve)
        whole = Polynomial(m.root.output, [x, curve.output])
        if not whole.is_close({(1, 0): 0.5, (1, 1): 0.5}, _NEAR):
            return Refusal("the whole is not x * 0.5 * (1 + f(x))", m.root)
        m.bindings["x"] = x
        m.named["curve"] = curve
        m.nodes[:] = [m.root, *(n for n in whole.nodes if n is not m.root), curve, *left.nodes]
        return super().check(m) or m.check_uses()

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        tanh = m.node("curve").is_a("Tanh")
        result: Value = op.Gelu(m["x"], approximate="tanh" if tanh else None)
        return result


def _curve(node: Node, depth: int) -> Node | None:
    """An Erf or Tanh at most ``depth`` sums and products above."""
    for value in node.inputs:
        above = None if value is None else value.producer
        if above is None or above.op.domain:
            continue
        if above.op.name in ("Erf", "Tanh"):
            return above
        if depth and above.op.name in ("Add", "Mul"):
            found = _curve(above, depth - 1)
            if found is not None:
                return found
    return None


def _operands(value: Value, depth: int) -> Iterator[Value]:
    """Values that ``value`` is computed from, near ones first in each line."""
    node = value.producer
    if node is None or node.op.domain or node.op.name not in ("Add", "Mul", "Div", "Pow"):
        return
    for operand in node.inputs:
        if operand is not None and not operand.is_constant:
            yield operand
            if depth:
                yield from _operands(operand, depth - 1)


class FuseSwish(_Float):
    """``x * Sigmoid(a * x)  ->  Swish(x, a)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The sigmoid of the other factor."""
        one = op.constant("a").where(lambda v: number(v) is not None, "being one number")
        return op.Mul(x, op.Sigmoid(op.any_of(x, op.Mul(x, one))))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        factor = m.get("a")
        result: Value = op.Swish(m["x"], alpha=1.0 if factor is None else number(factor))
        return result


class FuseMish(_Float):
    """``x * Tanh(Softplus(x))  ->  Mish(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The gate of the other factor."""
        return op.Mul(x, op.Tanh(op.Softplus(x)))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Mish(m["x"])
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
        return [FuseHardSwish(), FuseHardSigmoid(), FuseSwish(), FuseMish(), FuseGelu()]
