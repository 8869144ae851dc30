"""Activations that do nothing, bounds that are one bound, slopes that are one slope.

``Relu(Relu(x))``, ``Clip(Sigmoid(x), 0, 1)``, ``Relu(Softmax(x))``, ``Elu(Abs(x))`` and their like:
the second does nothing to what the first gives. ``Relu``, ``Clip``, ``Min``, ``Max`` with numbers
are bounds, and two of them in a row are one Clip or Relu: ``Min(Relu(x), 6)  ->  Clip(x, 0, 6)``.
``PRelu`` whose slopes are all ``a``  ``->  LeakyRelu(x, a)``, which is ``x`` where ``a`` is 1.
``Relu(LeakyRelu(x))  ->  Relu(x)`` for slopes above 0.

Sound to the bit: each keeps NaN, and infinities within bounds. ``LeakyRelu(x, 0)`` stays: it makes
-inf NaN, and Relu does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Node, Value
from graphopt.passes.polynomial import number
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

__all__ = ["Range", "SimplifyActivations", "range_of"]

Range = tuple[float, float]
_ALL: Range = (-math.inf, math.inf)
_POSITIVE: Range = (0.0, math.inf)
_RANGES: dict[str, Range] = {
    **dict.fromkeys(("Relu", "Abs", "Exp", "Softplus", "ReduceL1", "ReduceL2"), _POSITIVE),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Softsign", "Sin", "Cos"), (-1.0, 1.0)),
}
# Ops whose elements are elements of their first operand.
_CARRIERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather",
     "Expand", "ReduceMax", "ReduceMin", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip
_BOUNDS = ("Relu", "Clip", "Max", "Min")
# What these do to numbers that are not negative: nothing.
_IDLE = ("LeakyRelu", "PRelu", "Elu", "Celu", "Relu", "Abs")
_MAX_DEPTH = 6
_MAX_NUMBERS = 65536
# All integers up to this are floats, too.
_MAX_INTEGER = 2.0**53


def _bound(value: Value | None) -> float | None:
    """The number that a bound is, if python's floats hold it."""
    found = number(value)
    if value is None or found is None or math.isnan(found):
        return None
    whole = value.tensor.dtype.is_float or abs(found) < _MAX_INTEGER
    return found if whole else None


def _bounds(node: Node) -> Range | None:
    """The bounds that a Relu, Clip, Min or Max with numbers sets; None when not known."""
    if node.is_a("Relu"):
        return _POSITIVE
    if node.is_a("Clip"):
        low, high = node.input(1), node.input(2)
        a = -math.inf if low is None else _bound(low)
        b = math.inf if high is None else _bound(high)
        ordered = a is not None and b is not None and a <= b
        return (a, b) if ordered and a is not None and b is not None else None
    if len(node.inputs) != 2:
        return None
    value = _bound(node.input(1))
    value = _bound(node.input(0)) if value is None else value
    if value is None:
        return None
    return (value, math.inf) if node.is_a("Max") else (-math.inf, value)


def _bounded(node: Node) -> Value | None:
    """The operand that a Relu, Clip, Min or Max bounds."""
    if node.op.name not in ("Max", "Min") or len(node.inputs) != 2:
        return node.input(0)
    a, b = node.inputs
    return a if number(b) is not None else b


def range_of(value: Value, depth: int = 0) -> Range:
    """Numbers between which all elements lie that are not NaN."""
    node = value.producer
    if node is None or node.op.domain or depth > _MAX_DEPTH:
        return _ALL
    name = node.op.name
    if name in _CARRIERS and node.inputs[0] is not None:
        return range_of(node.inputs[0], depth + 1)
    if name in ("Clip", "Max", "Min"):
        operand, found = _bounded(node), _bounds(node)
        if operand is None or found is None:
            return _ALL
        low, high = range_of(operand, depth + 1)
        return min(max(low, found[0]), found[1]), max(min(high, found[1]), found[0])
    # The absolute value of the lowest integer is negative.
    return _RANGES.get(name, _ALL) if value.tensor.dtype.is_float else _ALL


class DropIdle(Rule):
    """``Relu(Sigmoid(x))  ->  Sigmoid(x)``: what an activation does to such numbers is nothing."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Bounds, and activations that keep what is not negative."""
        names = ("Relu", "Abs", "LeakyRelu", "Elu", "Celu")
        alone = [op.op(name, x) for name in names]
        slopes = op.PRelu(x, op.rest("slope"))
        return [
            *alone,
            slopes,
            op.Clip(x, op.rest("bounds")),
            op.Max(x, Var("c")),
            op.Min(x, Var("c")),
        ]

    def check(self, m: Match) -> Refusal | None:
        """All elements must lie where it does nothing."""
        node = m.root
        operand = _bounded(node) if node.op.name in _BOUNDS else m["x"]
        if operand is None or operand.type != node.output.type:
            return Refusal("it changes the shape", node)
        low, high = range_of(operand)
        kept = _bounds(node) if node.op.name in _BOUNDS else _POSITIVE
        if node.is_a("LeakyRelu") and node.attr("alpha") == 1.0:
            kept = _ALL
        if kept is None:
            return Refusal("its bounds are not known numbers in order", node)
        if kept == _ALL or (kept[0] <= low and high <= kept[1]):
            m.bindings["x"] = operand
            return None
        return Refusal(
            lambda: (
                f"elements lie from {low} to {high}, it keeps those from {kept[0]} to {kept[1]}"
            ),
            node,
        )

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class MergeBounds(Rule):
    """``Clip(Relu(x), a, b)  ->  Clip(x, max(a, 0), b)``; Min and Max with numbers alike."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Any bounds; those before are looked at by hand."""
        return [op.Relu(Var("x")), op.Clip(Var("x"), op.rest("bounds")),
                op.Max(Var("x"), Var("c")), op.Min(Var("x"), Var("c"))]  # fmt: skip

    def check(self, m: Match) -> Refusal | None:
        """Both must set bounds that are numbers, and keep the shape."""
        value = _bounded(m.root)
        inner = None if value is None else value.producer
        if inner is None or inner.op.domain or inner.op.name not in _BOUNDS:
            return Refusal("what it bounds has no bounds", m.root)
        operand, first, second = _bounded(inner), _bounds(inner), _bounds(m.root)
        if operand is None or first is None or second is None:
            return Refusal("bounds are not known numbers in order", m.root)
        if operand.type != m.root.output.type or inner.output.type != m.root.output.type:
            return Refusal("it changes the shape", m.root)
        m.nodes.append(inner)
        refused = m.check_uses()
        if refused is not None:
            return refused
        m.bindings["x"] = operand
        m.named["inner"] = inner
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Relu or Clip."""
        first, second = _bounds(m.node("inner")), _bounds(m.root)
        assert first is not None and second is not None
        low, high = (min(max(bound, second[0]), second[1]) for bound in first)
        result: Value = _clip(op, m["x"], low, high)
        return result


def _clip(op: Builder, x: Value, low: float, high: float) -> Any:
    if (low, high) == _POSITIVE and x.tensor.dtype.is_float:
        return op.Relu(x)
    dtype = x.tensor.dtype.numpy
    bounds = [
        None if math.isinf(bound) else op.constant(np.asarray(bound, dtype), name)
        for bound, name in ((low, "low"), (high, "high"))
    ]
    if math.isinf(low) and low > 0:
        bounds[0] = op.constant(np.asarray(low, dtype), "low")
    if math.isinf(high) and high < 0:
        bounds[1] = op.constant(np.asarray(high, dtype), "high")
    return op.Clip(x, *bounds)


class ClipToRelu(Rule):
    """``Clip(x, 0)  ->  Relu(x)`` of floats; ``Max(x, 0)`` alike."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Bounds from 0 on."""
        return [op.Clip(x, op.rest("bounds")), op.Max(x, 0.0)]

    def check(self, m: Match) -> Refusal | None:
        """Nothing but 0 may bound it."""
        found = _bounds(m.root)
        if not m["x"].tensor.dtype.is_float:
            return Refusal("runtimes know no Relu of integers", m.root)
        if found != _POSITIVE:
            return Refusal(lambda: f"its bounds are {found}", m.root)
        if m["x"].type != m.root.output.type:
            return Refusal("it changes the shape", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.Relu(m["x"])
        return result


class UniformSlope(Rule):
    """``PRelu(x, a)  ->  LeakyRelu(x, a)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Constant slopes."""
        return op.PRelu(x, op.constant("slope"))

    def check(self, m: Match) -> Refusal | None:
        """All slopes must be one number, which an attribute (f32) can hold."""
        constant = m["slope"].constant
        assert constant is not None
        if not constant.type.dtype.is_float or m["x"].type != m.root.output.type:
            return Refusal("its slopes are integers, or change the shape", m.root)
        if not 0 < constant.numel <= _MAX_NUMBERS:
            return Refusal("the slopes are too many to look at", m["slope"])
        first = constant.array.ravel()[0]
        if not bool(np.all(constant.array == first)) or float(np.float32(first)) != float(first):
            return Refusal("the slopes differ, or are not f32 numbers", m["slope"])
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One attribute."""
        constant = m["slope"].constant
        assert constant is not None
        result: Value = op.LeakyRelu(m["x"], alpha=float(constant.array.ravel()[0]))
        return result


class ReluOfSlope(Rule):
    """``Relu(LeakyRelu(x, a))  ->  Relu(x)`` for ``a > 0``; Elu and Celu alike."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """What is below 0 stays below."""
        return [op.Relu(op.op(name, x, _bind="inner")) for name in ("LeakyRelu", "Elu", "Celu")]

    def check(self, m: Match) -> Refusal | None:
        """With slope 0, -inf would be NaN."""
        alpha = float(m.node("inner").attr("alpha"))
        return None if alpha > 0 else Refusal(lambda: f"alpha is {alpha}", m.node("inner"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The Relu alone."""
        result: Value = op.Relu(m["x"])
        return result


@dataclass(frozen=True)
class SimplifyActivations(RulePass):
    """Activations and bounds ``->`` fewer and simpler ones."""

    name: ClassVar[str] = "simplify-activations"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """What goes comes first."""
        return [DropIdle(), MergeBounds(), ClipToRelu(), UniformSlope(), ReluOfSlope()]
