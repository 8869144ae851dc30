"""Activations that exporters spell out become one op again.

``x * 0.5 * (1 + erf(x / sqrt 2))  ->  Gelu(x)``, and its form with tanh, in any grouping of their
factors; ``x * Sigmoid(a * x)`` and ``x / (1 + exp(-x))  ->  Swish(x)``; ``1 / (1 + exp(-x))`` and
``0.5 + 0.5 * tanh(x / 2)  ->  Sigmoid(x)``; ``2 * Sigmoid(2 * x) - 1  ->  Tanh(x)``;
``x * tanh(Softplus(x))  ->  Mish(x)``, also with ``log(1 + exp(x))``; ``clip(x + 3, 0, 6) / 6`` and
``clip(a * x + b, 0, 1)  ->  HardSigmoid(x)``; ``x * HardSigmoid(x)  ->  HardSwish(x)`` in its
spellings; ``max(x, a * x)``, ``x > 0 ? x : a * x`` and ``Relu(x) - a * Relu(-x)  ->  LeakyRelu`` or
``PRelu``; ``x > 0 ? x : a * (exp(x) - 1)  ->  Elu(x)``; ``g * Elu(x)  ->  Selu(x)``;
``c * Elu(x / c)  -> Celu(x)``; ``x < c ? c : x  ->  Max(x, c)``, Min and ThresholdedRelu alike;
``x / (1 + |x|)  ->  Softsign(x)``.

Values are f32 or f64, nothing broadcasts but slopes, and nothing in between is read by others.
Sound up to rounding: the definitions of the ops. Constants must be those numbers to f32 precision.
``log(1 + exp(x))`` alone stays: it is infinite where Softplus is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.passes.polynomial import Polynomial, Terms, number
from graphopt.rewrite import Match, NodePattern, Pattern, PatternOps, Refusal, Rule, RulePass, Var

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

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """The sigmoid of the other factor, or its denominator."""
        one = op.constant("a").where(lambda v: number(v) is not None, "being one number")
        return [
            op.Mul(x, op.Sigmoid(op.any_of(x, op.Mul(x, one)))),
            op.Div(x, op.Add(op.Exp(op.Neg(x)), 1.0)),
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        factor = m.get("a")
        result: Value = op.Swish(m["x"], alpha=1.0 if factor is None else number(factor))
        return result


class FuseMish(_Float):
    """``x * Tanh(Softplus(x))  ->  Mish(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The gate of the other factor."""
        # Where exp overflows, tanh is 1 all the same.
        softplus = op.any_of(op.Softplus(x), op.Log(op.Add(op.Exp(x), 1.0)))
        return op.Mul(x, op.Tanh(softplus))

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


class FuseHardGate(_Float):
    """``x * clip(x + 3, 0, 6) / 6  ->  x * HardSigmoid(x)``, for opsets before HardSwish."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """The division after the product: before it, FuseHardSigmoid finds it."""
        clip = op.Clip(op.Add(x, 3.0), 0.0, 6.0)
        return [op.Div(op.Mul(x, clip), 6.0), op.Mul(op.Mul(x, clip), 1 / 6)]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The gate and its product."""
        result: Value = op.Mul(m["x"], op.HardSigmoid(m["x"], alpha=1 / 6, beta=0.5))
        return result


class FuseHardSigmoid(_Float):
    """``clip(x + 3, 0, 6) / 6  ->  HardSigmoid(x, 1/6, 1/2)``; ``clip(a * x + b, 0, 1)`` alike."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Division or multiplication, after the clip or before."""
        clip = op.Clip(op.Add(x, 3.0), 0.0, 6.0)
        a, b = op.constant("a"), op.constant("b")
        return [
            op.Div(clip, 6.0),
            op.Mul(clip, 1 / 6),
            op.Clip(op.Add(op.Mul(x, a), b), 0.0, 1.0),
            op.Clip(op.Add(op.Div(x, op.constant("d")), b), 0.0, 1.0),
        ]

    def check(self, m: Match) -> Refusal | None:
        """Not where it is the gate of a HardSwish."""
        refused = super().check(m)
        if refused is None and _slope_and_shift(m) is None:
            return Refusal("slope and shift are not two numbers", m.root)
        if refused is None and any(
            u.is_a("Mul") and m["x"] in u.inputs for u in m.root.output.users
        ):
            return Refusal("it is the gate of a HardSwish", m.root)
        return refused

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        found = _slope_and_shift(m)
        assert found is not None
        result: Value = op.HardSigmoid(m["x"], alpha=found[0], beta=found[1])
        return result


def _slope_and_shift(m: Match) -> tuple[float, float] | None:
    if "b" not in m.bindings:
        return 1 / 6, 0.5
    slope, divisor, shift = (number(m.get(name)) for name in ("a", "d", "b"))
    if slope is None and divisor:
        slope = 1.0 / divisor
    return None if slope is None or shift is None else (slope, shift)


class FuseSigmoid(_Float):
    """``1 / (1 + exp(-x))`` and ``0.5 + 0.5 * tanh(x / 2)  ->  Sigmoid(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Where exp overflows, the quotient is 0 all the same."""
        total = op.Add(op.Exp(op.Neg(x)), 1.0)
        half = op.Mul(op.Tanh(op.any_of(op.Mul(x, 0.5), op.Div(x, 2.0))), 0.5)
        inner = op.Add(op.Tanh(op.any_of(op.Mul(x, 0.5), op.Div(x, 2.0))), 1.0)
        return [
            op.Div(1.0, total),
            op.Reciprocal(total),
            op.Add(half, 0.5),
            op.Mul(inner, 0.5),
            op.Div(inner, 2.0),
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Sigmoid(m["x"])
        return result


class FuseTanh(_Float):
    """``2 * Sigmoid(2 * x) - 1  ->  Tanh(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A difference, or a sum with -1."""
        double = op.Mul(op.Sigmoid(op.Mul(x, 2.0)), 2.0)
        return [op.Sub(double, 1.0), op.Add(double, -1.0)]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Tanh(m["x"])
        return result


class FuseSoftsign(_Float):
    """``x / (1 + |x|)  ->  Softsign(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The definition."""
        return op.Div(x, op.Add(op.Abs(x), 1.0))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Softsign(m["x"])
        return result


def _positive(op: PatternOps, x: Var) -> Pattern:
    """``x > 0``; at 0, both sides of what follows are equal."""
    return op.any_of(op.Greater(x, 0.0), op.GreaterOrEqual(x, 0.0))


def _negative(op: PatternOps, x: Var) -> Pattern:
    return op.any_of(op.Less(x, 0.0), op.LessOrEqual(x, 0.0))


class FuseLeakyRelu(_Float):
    """``max(x, a * x)``, ``x > 0 ? x : a * x``, ``Relu(x) - a * Relu(-x)  ->  PRelu(x, a)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A slope below 1 for the maximum; a choice keeps NaN either way."""
        below = op.Mul(x, op.constant("a"))
        left = op.Mul(op.Relu(op.Neg(x)), op.constant("minus"))
        taken = op.Mul(op.Relu(op.Neg(x)), op.constant("a"))
        return [
            op.Max(x, below, _bind="max"),
            op.Where(_positive(op, x), x, below),
            op.Where(op.Less(x, 0.0), op.Mul(x, Var("a")), x),
            op.Sub(op.Relu(x), taken),
            op.Add(op.Relu(x), left),
        ]

    def check(self, m: Match) -> Refusal | None:
        """Slopes must broadcast to ``x``; those of a maximum must lie between 0 and 1."""
        refused = super().check(m)
        if refused is not None:
            return refused
        slope = m.get("a") or m["minus"]
        shape, wide = slope.shape, m["x"].shape
        if shape is None or wide is None or len(shape) > len(wide):
            return Refusal("slopes do not broadcast to the operand", slope)
        if slope.constant is None:
            return None
        array = slope.constant.array
        if m.root.is_a("Max") and not bool(((array > 0) & (array <= 1)).all()):
            return Refusal("slopes of a maximum are not all above 0 and at most 1", slope)
        if not bool(np.isfinite(array).all()):
            return Refusal("slopes are not finite", slope)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op; simplify-activations makes it LeakyRelu where slopes are equal."""
        slope = m.get("a")
        if slope is None:
            constant = m["minus"].constant
            assert constant is not None
            slope = op.constant(-constant.array, m["minus"].name)
        result: Value = op.PRelu(m["x"], slope)
        return result


class FuseElu(_Float):
    """``x > 0 ? g * x : c * exp(x) - c  ->  Elu(x, c)`` for g = 1, else ``Selu(x, c / g, g)``."""

    def pattern(self, op: PatternOps, x: Var, a: Var, b: Var) -> list[NodePattern]:
        """Either condition; both sides are looked at as polynomials."""
        return [op.Where(_positive(op, x), a, b), op.Where(_negative(op, x), b, a)]

    def check(self, m: Match) -> Refusal | None:
        """``g * x`` on one side, ``c * exp(x) - c`` on the other."""
        curve = _exp(m["b"], 4)
        if curve is None or curve.input(0) is not m["x"]:
            return Refusal("no exponential of what is compared with 0 is near", m.root)
        above, below = Polynomial(m["a"], [m["x"]]), Polynomial(m["b"], [curve.output])
        if above.terms is None or above.terms.keys() != {(1,)} or above.terms[1,] <= 0:
            return Refusal("one side is not g * x", m["a"])
        factor = (below.terms or {}).get((1,), 0.0)
        if factor <= 0 or not below.is_close({(1,): factor, (0,): -factor}, _NEAR):
            return Refusal("the other side is not c * exp(x) - c", m["b"])
        m.nodes.extend({*above.nodes, *below.nodes, curve} - set(m.nodes))
        return super().check(m) or m.check_uses()

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        curve = _exp(m["b"], 4)
        assert curve is not None
        above = Polynomial(m["a"], [m["x"]]).terms or {(1,): 1.0}
        below = Polynomial(m["b"], [curve.output]).terms or {(1,): 1.0}
        gamma, factor = above[1,], below[1,]
        name, wanted = ("Elu", None) if gamma == 1.0 else ("Selu", gamma)
        result: Value = op.op(name, m["x"], alpha=factor / gamma, gamma=wanted)
        return result


def _exp(value: Value, depth: int) -> Node | None:
    """An Exp at most ``depth`` sums and products above."""
    node = value.producer
    if node is None or node.op.domain:
        return None
    if node.is_a("Exp"):
        return node
    if depth and node.op.name in ("Add", "Sub", "Mul", "Neg", "Div"):
        above = (_exp(v, depth - 1) for v in node.inputs if v is not None)
        return next((found for found in above if found is not None), None)
    return None


class FuseCelu(_Float):
    """``c * Elu(x / c)  ->  Celu(x, c)``; ``Celu(x, 1)  ->  Elu(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Division or multiplication before."""
        inner = op.any_of(op.Div(x, op.constant("by")), op.Mul(x, op.constant("times")))
        elu = op.Elu(inner, _attrs={"alpha": 1.0})
        return [op.Mul(elu, op.constant("c")), op.Celu(x, _attrs={"alpha": 1.0})]

    def check(self, m: Match) -> Refusal | None:
        """The factors must undo each other."""
        factor, by, times = (number(m.get(name)) for name in ("c", "by", "times"))
        if not m.root.is_a("Celu"):
            undone = None if factor is None else (factor / by if by else factor * (times or 0.0))
            if factor is None or factor <= 0 or undone is None or abs(undone - 1) > _NEAR:
                return Refusal(lambda: f"{by or times} and {factor} do not undo each other", m.root)
        return super().check(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        if m.root.is_a("Celu"):
            plain: Value = op.Elu(m["x"], alpha=1.0)
            return plain
        result: Value = op.Celu(m["x"], alpha=number(m["c"]))
        return result


class FuseBound(_Float):
    """``x < c ? c : x  ->  Max(x, c)``, Min alike; ``x > c ? x : 0  ->  ThresholdedRelu(x)``."""

    def pattern(self, op: PatternOps, x: Var, c: Var) -> list[NodePattern]:
        """Either order of the comparison; NaN stays."""
        below = op.any_of(op.Less(x, c), op.Greater(c, x))
        above = op.any_of(op.Greater(x, c), op.Less(c, x))
        zero = op.Where(above, x, 0.0, _bind="threshold")
        return [
            op.Where(below, c, x, _bind="low"),
            op.Where(above, c, x, _bind="high"),
            zero,
        ]

    def check(self, m: Match) -> Refusal | None:
        """A threshold is a number; a bound is a constant but NaN, and 0, which has two signs."""
        constant = m["c"].constant
        if "threshold" in m.named and number(m["c"]) is None:
            return Refusal("the threshold is not one number", m["c"])
        if constant is None:
            return Refusal("the bound may be NaN, which it lets pass", m["c"])
        if "threshold" not in m.named and not bool(np.abs(constant.array).all()):
            return Refusal("the bound is 0, and -0 passes", m["c"])
        if bool(np.isnan(constant.array).any()):
            return Refusal("the bound is NaN, which it lets pass", m["c"])
        return super().check(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        if "threshold" in m.named:
            result: Value = op.ThresholdedRelu(m["x"], alpha=number(m["c"]))
            return result
        bound: Value = op.op("Max" if "low" in m.named else "Min", m["x"], m["c"])
        return bound


class FuseSelu(_Float):
    """``g * Elu(x, a)  ->  Selu(x, a, g)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A factor that is one number."""
        one = op.constant("gamma").where(lambda v: number(v) is not None, "being one number")
        return op.Mul(op.Elu(x, _bind="elu"), one)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        alpha = float(m.node("elu").attr("alpha"))
        result: Value = op.Selu(m["x"], alpha=alpha, gamma=number(m["gamma"]))
        return result


def _near(wanted: float) -> object:
    return lambda found: abs(float(found) - wanted) < 1e-7


@dataclass(frozen=True)
class FuseActivation(RulePass):
    """Spelled-out activations ``->`` one op."""

    name: ClassVar[str] = "fuse-activation"
    # Bounds come as Min and Max, too.
    follows: ClassVar[tuple[str, ...]] = ("simplify-activations",)

    # False keeps to ops that opsets before 14 have.
    hard_swish: bool = True

    def rules(self, graph: Graph) -> list[Rule]:
        """Longest patterns first."""
        return [
            *([FuseHardSwish()] if self.hard_swish else []),
            FuseHardGate(),
            FuseHardSigmoid(),
            FuseSwish(),
            FuseMish(),
            FuseGelu(),
            FuseSigmoid(),
            FuseTanh(),
            FuseSoftsign(),
            FuseLeakyRelu(),
            FuseElu(),
            FuseCelu(),
            FuseSelu(),
            FuseBound(),
        ]
