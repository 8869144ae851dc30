"""Constant factors and summands in a row become one factor and one summand.

``((x + a) * b) - c  ->  x * b + (a * b - c)``, quotients by constants and ``c - x`` alike; a factor
of 1 and a summand of 0 go. Batch normalisation that is spelled out becomes a product and a sum.

Values and constants are f32, nothing broadcasts ``x``, and nothing in between is read by others.
Sound up to rounding: factors are far from zero and infinity, and no summand on the way is much
larger than what comes out, so that no digits are lost on purpose, as in ``(x + 2^23) - 2^23`` that
rounds ``x``). New constants are computed in f64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["MergeAffine"]

Array = np.ndarray[Any, Any]
_STEPS = ("Add", "Sub", "Mul", "Div")
_SMALLEST, _LARGEST = 1e-15, 1e15
# A summand on the way may be this many times as large as what comes out.
_LOST = 1e3
_MAX_NUMBERS = 1 << 16
_MAX_STEPS = 16


@dataclass(frozen=True)
class _Line:
    """``scale * x + shift``, and the largest summand met on the way, at the scale of the result."""

    scale: Array
    shift: Array
    largest: Array

    def times(self, factor: Array) -> _Line:
        return _Line(self.scale * factor, self.shift * factor, self.largest * np.abs(factor))

    def plus(self, summand: Array) -> _Line:
        shift = self.shift + summand
        met = np.maximum(np.abs(summand), np.abs(shift))
        return _Line(self.scale, shift, np.maximum(self.largest, met))


def _step(node: Node) -> tuple[Value, Value] | None:
    """(x, constant) of a sum, difference, product or quotient with an f32 constant."""
    if node.op.domain or node.op.name not in _STEPS or node.output.tensor.dtype is not DType.F32:
        return None
    a, b = node.inputs
    assert a is not None and b is not None
    if b.is_constant and not a.is_constant:
        x, constant = a, b
    elif a.is_constant and not b.is_constant and not node.is_a("Div"):
        x, constant = b, a
    else:
        return None
    if x.shape is None or x.shape != node.output.shape:
        return None
    found = constant.constant
    return (x, constant) if found is not None and found.numel <= _MAX_NUMBERS else None


def _chain(root: Node) -> list[Node]:
    """``root`` and the steps before it, last first."""
    nodes = [root]
    while len(nodes) < _MAX_STEPS:
        found = _step(nodes[-1])
        before = None if found is None else found[0].producer
        if before is None or before.graph is not root.graph or before.output.use_count != 1:
            break
        if _step(before) is None:
            break
        nodes.append(before)
    return nodes


def _line(nodes: list[Node]) -> _Line | Refusal:
    """What ``nodes``, first to last, do to their operand."""
    line = _Line(np.ones(()), np.zeros(()), np.zeros(()))
    for node in nodes:
        found = _step(node)
        assert found is not None and found[1].constant is not None
        constant = found[1]
        array = found[1].constant.array.astype(np.float64)
        if not bool(np.isfinite(array).all()):
            return Refusal("a constant is not finite", constant)
        if node.op.name in ("Mul", "Div"):
            size = np.abs(array)
            if not bool(((size >= _SMALLEST) & (size <= _LARGEST)).all()):
                return Refusal("a factor is too near zero or infinity", constant)
            line = line.times(array if node.is_a("Mul") else 1.0 / array)
        elif node.is_a("Add"):
            line = line.plus(array)
        elif node.input(1) is constant:
            line = line.plus(-array)
        else:
            line = line.times(np.asarray(-1.0)).plus(array)
    return line


class MergeSteps(Rule):
    """``((x + a) * b) - c  ->  x * b + (a * b - c)``."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Any step; those before it are looked at by hand."""
        return [op.op(name, Var("a"), Var("b")) for name in _STEPS]

    def check(self, m: Match) -> Refusal | None:
        """There must be more steps than what stays."""
        if _step(m.root) is None:
            return Refusal("no f32 constant, or one that widens the result", m.root)
        nodes = _chain(m.root)
        if len(nodes) == 1:
            return Refusal("no other step comes before, for this one alone", m.root)
        line = _line(nodes[::-1])
        if isinstance(line, Refusal):
            return line
        kept = int(bool((line.scale != 1).any())) + int(bool((line.shift != 0).any()))
        if kept >= len(nodes):
            return Refusal(lambda: f"{len(nodes)} steps would be {kept}", m.root)
        if line.scale.size > _MAX_NUMBERS or line.shift.size > _MAX_NUMBERS:
            return Refusal("the constants vary along different axes", m.root)
        large, small = float(np.abs(line.scale).max()), float(np.abs(line.scale).min())
        if small < _SMALLEST or max(large, float(np.abs(line.shift).max())) > _LARGEST:
            return Refusal("together they are too near zero or infinity", m.root)
        size = np.maximum(np.abs(line.shift), np.abs(line.scale))
        if bool((line.largest > _LOST * size).any()):
            most = float(line.largest.max())
            return Refusal(lambda: f"a summand on the way is {most:g} times a factor", m.root)
        if not kept:
            return Refusal("nothing stays but the rounding", m.root)
        m.nodes[:] = nodes
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A product, a sum, or both."""
        nodes = _chain(m.root)
        line, found = _line(nodes[::-1]), _step(nodes[-1])
        assert isinstance(line, _Line) and found is not None
        result = found[0]
        for name, numbers, idle in (("Mul", line.scale, 1.0), ("Add", line.shift, 0.0)):
            if bool((numbers != idle).any()):
                constant = op.constant(numbers.astype(np.float32), found[1].name)
                result = op.op(name, result, constant)
        return result


@dataclass(frozen=True)
class MergeAffine(RulePass):
    """``(x + a) * b + c  ->  x * b + (a * b + c)``."""

    name: ClassVar[str] = "merge-affine"

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [MergeSteps()]
