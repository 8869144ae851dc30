"""Identities of arithmetic and logic that hold for every input, NaN and signed zeros included.

``Neg(Neg(x))``, ``Not(Not(x))``, ``x + (-0.0)``, ``x & true``, ``Max(x, x)``, ``Max(x)``,
``Floor(Ceil(x))`` and their like lose what does nothing. ``And(x, false)``, and ``x * 0`` of
integers, are constants. ``Where`` with a condition that is known, or whose branches are the same or
true and false, goes. ``Not(a < b)  ->  a >= b`` of integers. Two constants in a row become one:
``(x + a) + b  ->  x + (a + b)`` of integers, which wrap, and ``x * 2 * 4  ->  x * 8``.

Sound: each rule says for which types it holds. Sums and products of floats round, so that their
constants stay apart, but for factors that are powers of two from 1 on: these round nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Constant, DType, EvalContext, Graph, Node, Value, static_shape
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

__all__ = ["SimplifyArithmetic"]

Array = np.ndarray[Any, Any]
# Larger constants are not looked through.
_MAX_ELEMENTS = 1 << 16


def _kept_type(m: Match, x: Value) -> Refusal | None:
    """Why ``x`` cannot stand for the root: broadcasting gives it another shape."""
    result = m.root.output.type
    if x.type == result:
        return None
    return Refusal(lambda: f"it changes the type from {x.type} to {result}", m.root)


def _contents(value: Value) -> Array | Refusal:
    """The elements of a constant that is not too large to look at."""
    constant = value.constant
    assert constant is not None
    if constant.numel > _MAX_ELEMENTS:
        return Refusal("the constant is too large to look at", value)
    return constant.array


class UndoTwice(Rule):
    """``Neg(Neg(x))``, ``Not(Not(x))``, ``BitwiseNot(BitwiseNot(x))  ->  x``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Two in a row; the first may have other readers."""
        names = ("Neg", "Not", "BitwiseNot")
        return [op.op(name, op.op(name, x, _shared=True)) for name in names]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


# Constants that change nothing, by op: for integers (and bools), and for floats.
_NEUTRAL: dict[str, tuple[int | None, float | None]] = {
    "Add": (0, -0.0),
    "And": (1, None),
    "Or": (0, None),
    "Xor": (0, None),
    "BitwiseAnd": (-1, None),
    "BitwiseOr": (0, None),
    "BitwiseXor": (0, None),
    "BitShift": (0, None),
}
# Integer constants that decide the result, and what it then is.
_ABSORBING = {"And": 0, "Or": 1, "Mul": 0, "BitwiseAnd": 0, "BitwiseOr": -1}


class DropNeutral(Rule):
    """``x + (-0.0)``, ``x + 0`` of integers, ``x & true``, ``x << 0``  ->  x."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A constant on either side; on the right of a shift."""
        return [op.op(name, x, op.constant("c")) for name in _NEUTRAL]

    def check(self, m: Match) -> Refusal | None:
        """Every element must be the neutral one."""
        array = _contents(m["c"])
        if isinstance(array, Refusal):
            return array
        whole, real = _NEUTRAL[m.root.op.name]
        dtype = m["c"].tensor.dtype
        if dtype.is_float:
            if real is None or not bool(np.all((array == 0) & np.signbit(array))):
                return Refusal("x + 0.0 turns -0 into +0", m["c"])
        elif whole is None or not _all_equal(array, whole):
            return Refusal(lambda: f"the constant is not all {whole}", m["c"])
        return _kept_type(m, m["x"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


def _all_equal(array: Array, number: int) -> bool:
    """True when all elements are ``number``; -1 stands for all bits set."""
    if array.dtype.kind not in "iub":
        return False
    wanted = np.array(number).astype(array.dtype) if array.dtype.kind != "b" else bool(number)
    return bool(np.all(array == wanted))


class Absorb(Rule):
    """``And(x, false)  ->  false``, ``x * 0  ->  0`` of integers."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A constant on either side."""
        return [op.op(name, x, op.constant("c")) for name in _ABSORBING]

    def check(self, m: Match) -> Refusal | None:
        """Every element must decide, and the shape must be known."""
        array = _contents(m["c"])
        if isinstance(array, Refusal):
            return array
        number = _ABSORBING[m.root.op.name]
        if m["c"].tensor.dtype.is_float:
            return Refusal("NaN and infinities times 0 are not 0", m["c"])
        if not _all_equal(array, number):
            return Refusal(lambda: f"the constant is not all {number}", m["c"])
        return _small_static(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The constant in the shape of the result."""
        return _filled(op, m, _ABSORBING[m.root.op.name])


def _small_static(m: Match) -> Refusal | None:
    out = m.root.output.tensor
    shape = static_shape(out.shape)
    if shape is None or int(np.prod(shape, dtype=np.int64)) > _MAX_ELEMENTS:
        return Refusal(lambda: f"{out} is no small constant", m.root)
    return None


def _filled(op: Builder, m: Match, number: int) -> Value:
    out = m.root.output.tensor
    dtype = out.dtype.numpy
    return op.constant(np.full(static_shape(out.shape) or (), np.array(number).astype(dtype)))


class SameOperands(Rule):
    """``Max(x, x)``, ``And(x, x)``, ``Where(c, x, x)``, ``Max(x)``, ``Sum(x)``  ->  x."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """The same value twice, or one value alone."""
        twice = ("Max", "Min", "And", "Or", "BitwiseAnd", "BitwiseOr")
        alone = ("Max", "Min", "Sum", "Mean")
        return [
            *(op.op(name, x, x) for name in twice),
            *(op.op(name, x) for name in alone),
            op.Where(Var("c"), x, x),
        ]

    def check(self, m: Match) -> Refusal | None:
        """A condition may broadcast."""
        return _kept_type(m, m["x"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class Cancel(Rule):
    """``Sub(x, x)  ->  0``, ``Xor(x, x)  ->  false``, ``Equal(x, x)  ->  true``, not of floats."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """The same value twice."""
        return [op.op(name, x, x) for name in _CANCELLED]

    def check(self, m: Match) -> Refusal | None:
        """NaN differs from itself."""
        if m["x"].tensor.dtype.is_float or m["x"].tensor.dtype is DType.STRING:
            return Refusal("NaN differs from itself", m["x"])
        return _small_static(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The constant."""
        return _filled(op, m, _CANCELLED[m.root.op.name])


_CANCELLED = {
    "Sub": 0, "Xor": 0, "BitwiseXor": 0, "Equal": 1, "Less": 0, "Greater": 0,
    "LessOrEqual": 1, "GreaterOrEqual": 1,
}  # fmt: skip


class KnownWhere(Rule):
    """``Where(true, a, b)  ->  a``, ``Where(Not(c), a, b)  ->  Where(c, b, a)``."""

    def pattern(self, op: PatternOps, a: Var, b: Var) -> list[NodePattern]:
        """A condition that is constant or negated."""
        return [
            op.Where(op.constant("c"), a, b),
            op.Where(op.Not(Var("flipped"), _shared=True), a, b),
        ]

    def check(self, m: Match) -> Refusal | None:
        """All of the condition must be the same, and the branch of the shape of the result."""
        if m.get("flipped") is not None:
            return None
        array = _contents(m["c"])
        if isinstance(array, Refusal):
            return array
        if not array.size or array.all() != array.any():
            return Refusal("the condition is true for some elements only", m["c"])
        return _kept_type(m, m["a" if array.all() else "b"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The branch, or Where with the branches in the other order."""
        if m.get("flipped") is not None:
            result: Value = op.Where(m["flipped"], m["b"], m["a"])
            return result
        constant = m["c"].constant
        assert constant is not None
        return m["a" if constant.array.all() else "b"]


class WhereBool(Rule):
    """``Where(c, true, false)  ->  c``, ``Where(c, false, true)  ->  Not(c)``."""

    def pattern(self, op: PatternOps, c: Var) -> NodePattern:
        """Constant branches."""
        return op.Where(c, op.constant("a"), op.constant("b"))

    def check(self, m: Match) -> Refusal | None:
        """Branches of bools, one all true and one all false."""
        if m.root.output.tensor.dtype is not DType.BOOL:
            return Refusal(lambda: f"the branches are {m.root.output.tensor.dtype}", m.root)
        for value in (m["a"], m["b"]):
            array = _contents(value)
            if isinstance(array, Refusal):
                return array
            if array.all() != array.any():
                return Refusal("a branch holds both true and false", value)
        if _truth(m["a"]) == _truth(m["b"]):
            return Refusal("both branches are the same", m.root)
        return _kept_type(m, m["c"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The condition or its opposite."""
        if _truth(m["a"]):
            return m["c"]
        result: Value = op.Not(m["c"])
        return result


def _truth(value: Value) -> bool:
    assert value.constant is not None
    return bool(value.constant.array.any())


_OPPOSITE = {
    "Less": "GreaterOrEqual", "LessOrEqual": "Greater",
    "Greater": "LessOrEqual", "GreaterOrEqual": "Less",
}  # fmt: skip


class NotCompare(Rule):
    """``Not(a < b)  ->  a >= b``, not of floats."""

    def pattern(self, op: PatternOps, a: Var, b: Var) -> NodePattern:
        """A comparison that nobody else reads."""
        compared = op.any_of(*(op.op(name, a, b, _bind="compare") for name in _OPPOSITE))
        return op.Not(compared)

    def check(self, m: Match) -> Refusal | None:
        """NaN is neither below nor above."""
        if m["a"].tensor.dtype.is_float:
            return Refusal("NaN is neither below nor above", m["a"])
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The opposite comparison."""
        result: Value = op.op(_OPPOSITE[m.node("compare").op.name], m["a"], m["b"])
        return result


class RoundTwice(Rule):
    """``Floor(Ceil(x))  ->  Ceil(x)``: what is whole stays as it is."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Two of Floor, Ceil and Round in a row."""
        names = ("Floor", "Ceil", "Round")
        first = op.any_of(*(op.op(name, Var("x"), _bind="first", _shared=True) for name in names))
        return [op.op(name, first) for name in names]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The first."""
        return m.node("first").output


# Ops whose constants merge: for integers and bools, which never round.
_ASSOCIATIVE = ("Add", "Mul", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor")


class MergeConstants(Rule):
    """``(x + a) + b  ->  x + (a + b)`` of integers; ``x * 2 * 4  ->  x * 8``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """The same op twice with constants; the first may have other readers."""
        return [
            op.op(
                name,
                op.op(name, x, op.constant("a"), _bind="first", _shared=True),
                op.constant("b"),
            )
            for name in _ASSOCIATIVE
        ]

    def check(self, m: Match) -> Refusal | None:
        """Nothing may be rounded, and the shape stays."""
        if m["x"].is_constant:
            return Refusal("all of it is constant", m.root)
        for value in (m["a"], m["b"]):
            array = _contents(value)
            if isinstance(array, Refusal):
                return array
            if value.tensor.dtype.is_float and not (m.root.is_a("Mul") and _scales_up(array)):
                return Refusal("sums and products of floats round", value)
        merged = _merged(m)
        if merged is None:
            return Refusal("the constants do not merge", m.root)
        if merged.dtype.kind == "f" and not np.isfinite(merged).all():
            return Refusal("the factors together are infinite", m.root)
        size = merged.size
        if size > max(array.size for array in map(_array, (m["a"], m["b"]))):
            return Refusal(lambda: f"together the constants have {size} elements", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op with one constant."""
        merged = _merged(m)
        assert merged is not None
        result: Value = op.op(m.root.op.name, m["x"], op.constant(merged, m["a"].name))
        return result


def _array(value: Value) -> Array:
    assert value.constant is not None
    return value.constant.array


def _scales_up(array: Array) -> bool:
    """True for powers of two from 1 on: products with them are exact, or infinite either way."""
    fractions, exponents = np.frexp(array.astype(np.float64))
    return bool(np.all((np.abs(fractions) == 0.5) & (exponents >= 1)))


def _merged(m: Match) -> Array | None:
    node: Node = m.root
    evaluate = node.op.evaluate
    assert evaluate is not None
    try:
        with np.errstate(all="ignore"):
            result = evaluate(EvalContext(node.op, node.attrs, 1), _array(m["a"]), _array(m["b"]))
    except GraphoptError:
        return None
    array = np.asarray(result)
    return array if Constant(array).type.dtype is m.root.output.tensor.dtype else None


@dataclass(frozen=True)
class SimplifyArithmetic(RulePass):
    """``Neg(Neg(x))  ->  x`` and other identities of arithmetic and logic."""

    name: ClassVar[str] = "simplify-arithmetic"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """All identities."""
        return [
            UndoTwice(),
            DropNeutral(),
            Absorb(),
            SameOperands(),
            Cancel(),
            KnownWhere(),
            WhereBool(),
            NotCompare(),
            RoundTwice(),
            MergeConstants(),
        ]
