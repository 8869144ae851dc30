"""Algebraic identities that hold for every input, NaN, infinities and signed zeros included.

``Identity(x) -> x``, ``Cast(x, own type) -> x``, ``x * 1 -> x``, ``x / 1 -> x``, ``x - 0 -> x``,
``Transpose(Transpose(x))`` composed, ``Reshape(Reshape(x))`` and its kin merged, and shape
operations that change nothing dropped. ``x + 0`` stays: it turns -0 into +0.

Sound: each rule names the equation it uses; broadcasting is checked, so shapes never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value
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

__all__ = ["Simplify"]


def _same_type(m: Match, x: Value) -> Refusal | None:
    result = m.root.output.type
    if x.type == result:
        return None
    return Refusal(lambda: f"it changes the type from {x.type} to {result}", m.root)


class DropIdentity(Rule):
    """``Identity(x) -> x``; Dropout without training and its like too."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """One operand."""
        return [op.Identity(x), op.Dropout(x, op.rest("rest"))]

    def check(self, m: Match) -> Refusal | None:
        """Dropout must not train, and nobody may read its mask."""
        node = m.root
        if any(value.use_count for value in node.outputs[1:]):
            return Refusal("its mask is read", node)
        training = node.input(2)
        if training is None:
            return None
        if training.constant is None or bool(training.constant.array.any()):
            return Refusal("it may run in training mode", node)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """The operand."""
        return (m["x"], *[None] * (len(m.root.outputs) - 1))


class DropSameCast(Rule):
    """``Cast(x) -> x`` when x has that type already."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Cast and CastLike."""
        return [op.Cast(x), op.CastLike(x, Var("like"))]

    def check(self, m: Match) -> Refusal | None:
        """The types must agree."""
        return _same_type(m, m["x"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class DropUnit(Rule):
    """``x * 1 -> x``, ``x / 1 -> x``, ``x - 0 -> x``, ``Pow(x, 1) -> x``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Neutral right operands."""
        neutral = op.constant("unit")
        return [op.Mul(x, neutral), op.Div(x, neutral), op.Sub(x, neutral), op.Pow(x, neutral)]

    def check(self, m: Match) -> Refusal | None:
        """All elements of the constant must be the neutral one (and +0 for Sub)."""
        constant = m["unit"].constant
        assert constant is not None
        if constant.numel > 65536:
            return Refusal("the constant is too large to look at", m["unit"])
        neutral = 0 if m.root.is_a("Sub") else 1
        array = constant.array
        if not bool(np.all(array == neutral)):
            return Refusal(lambda: f"the constant is not all {neutral}", m["unit"])
        if neutral == 0 and constant.type.dtype.is_float and bool(np.signbit(array).any()):
            return Refusal("x - (-0) turns -0 into +0", m["unit"])
        return _same_type(m, m["x"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class ComposeTransposes(Rule):
    """``Transpose(Transpose(x, p), q) -> Transpose(x, p[q])``, or x when that is the identity."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two in a row; the first may have other readers."""
        return op.Transpose(op.Transpose(x, _bind="first", _shared=True))

    def check(self, m: Match) -> Refusal | None:
        """Without a rank there is no default permutation to compose."""
        return _unranked(m.node("first"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One transpose or none."""
        first, second = _perm(m.node("first")), _perm(m.root)
        perm = tuple(first[axis] for axis in second)
        if perm == tuple(range(len(perm))):
            return m["x"]
        result: Value = op.Transpose(m["x"], perm=perm)
        return result


class DropTranspose(Rule):
    """``Transpose(x, identity) -> x``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any transpose."""
        return op.Transpose(x)

    def check(self, m: Match) -> Refusal | None:
        """The permutation must be the identity."""
        refused = _unranked(m.root)
        if refused is not None:
            return refused
        perm = _perm(m.root)
        if perm == tuple(range(len(perm))):
            return None
        return Refusal(lambda: f"perm is {perm}", m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


def _unranked(node: Node) -> Refusal | None:
    value = node.input(0)
    assert value is not None
    return Refusal("the rank is not known", value) if value.tensor.rank is None else None


def _perm(node: Node) -> tuple[int, ...]:
    value = node.input(0)
    assert value is not None
    rank = value.tensor.rank or 0
    return tuple(node.attr("perm") or range(rank - 1, -1, -1))


class DropSameShape(Rule):
    """``Reshape(x, shape of x) -> x``; Expand, Tile, Slice and their like that change nothing."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Shape operations with their further operands."""
        rest = op.rest("rest")
        names = ("Reshape", "Expand", "Tile", "Slice", "Flatten", "Squeeze", "Unsqueeze")
        return [op.op(name, x, rest) for name in names]

    def check(self, m: Match) -> Refusal | None:
        """The shape must be the same; a Slice of full length must not run backwards."""
        x = m["x"].type
        if not isinstance(x, TensorType) or x.shape is None:
            return Refusal("the rank is not known", m["x"])
        if m.root.is_a("Slice"):
            steps = m.root.input(4)
            if steps is not None and (
                steps.elements is None or any(s != 1 for s in steps.elements)
            ):
                return Refusal("its steps are not all 1", m.root)
        return _same_type(m, m["x"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class MergeReshapes(Rule):
    """``Reshape(Reshape(x, a), b) -> Reshape(x, b)``, when b's zeros do not copy from a."""

    def pattern(self, op: PatternOps, x: Var, s: Var) -> list[NodePattern]:
        """A Reshape of any op that only renames axes."""
        inner = op.any_of(
            *(
                op.op(name, x, op.rest("rest"), _shared=True, _bind="first")
                for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
            )
        )
        return [op.Reshape(inner, s)]

    def check(self, m: Match) -> Refusal | None:
        """The wanted shape must be known and must not copy axes of the inner result."""
        elements = m["s"].elements
        if elements is None:
            return Refusal("the wanted shape is not known", m["s"])
        if any(dim == 0 for dim in elements):
            return Refusal("the wanted shape copies an axis, or is empty", m["s"])
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Reshape from the first operand."""
        result: Value = op.Reshape(m["x"], m["s"], **m.root.attrs)
        return result


class SwapWithMergedAxes(Rule):
    """``Reshape(Transpose(Reshape(x, [-1, m, n]), [0, 2, 1]), [..., n, m]) -> Transpose(x)``.

    PyTorch's exporter merges leading axes to swap the last two.
    """

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The three in a row."""
        merged = op.Reshape(x, op.rest("merged"), _bind="merge")
        swapped = op.Transpose(merged, _bind="swap", _attrs={"perm": lambda p: p == (0, 2, 1)})
        return op.Reshape(swapped, op.rest("split"))

    def check(self, m: Match) -> Refusal | None:
        """Leading axes must come back as they were."""
        x, merged, out = m["x"].shape, m.node("merge").output.shape, m.root.output.shape
        if x is None or merged is None or out is None or len(x) < 3 or len(x) != len(out):
            return Refusal("the ranks do not fit", m.root)
        if x[-2:] != merged[1:]:
            return Refusal("the first reshape changes the last two axes", m.node("merge"))
        if out != (*x[:-2], x[-1], x[-2]):
            return Refusal("the leading axes do not come back as they were", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One transpose."""
        rank = m["x"].tensor.rank or 3
        result: Value = op.Transpose(m["x"], perm=(*range(rank - 2), rank - 1, rank - 2))
        return result


class CastTwice(Rule):
    """``Cast(Cast(x, wide), narrow) -> Cast(x, narrow)`` when ``wide`` holds every value of x."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two casts in a row."""
        return op.Cast(op.Cast(x, _shared=True, _bind="first"))

    def check(self, m: Match) -> Refusal | None:
        """The first cast must lose nothing."""
        source, middle = m["x"].tensor.dtype, m.node("first").output.tensor.dtype
        target = m.root.output.tensor.dtype
        if target is DType.STRING:
            return Refusal("text shows the type that it was made from", m.root)
        wraps = source.is_integer and middle.is_float and target.is_integer
        if wraps and not _holds(source, target):
            reason = f"{target} does not wrap what it is given as {middle}"
            return Refusal(reason, m.root)
        if _holds(source, middle):
            return None
        return Refusal(lambda: f"{source} to {middle} may lose digits", m.node("first"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The second cast alone."""
        result: Value = op.op("Cast", m["x"], **m.root.attrs)
        return result


# Digits of floats, the leading one included.
_DIGITS = {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}
# Floats whose numbers all are numbers of others.
_WIDER = {
    DType.F16: (DType.F32, DType.F64),
    DType.BF16: (DType.F32, DType.F64),
    DType.F32: (DType.F64,),
}


def _holds(source: DType, middle: DType) -> bool:
    """True when every value of ``source`` is one of ``middle``, NaN and -0 included."""
    if source is DType.BOOL:
        return middle.is_integer or middle in _DIGITS
    if source.is_float:
        return middle in _WIDER.get(source, ())
    if not source.is_integer:
        return False
    if middle in _DIGITS:
        # The largest f16 is below 2**16, which is enough for all that has 11 digits.
        return source.bits - source.is_signed < _DIGITS[middle]
    if not middle.is_integer or (source.is_signed and not middle.is_signed):
        return False
    return source.bits - source.is_signed <= middle.bits - middle.is_signed


@dataclass(frozen=True)
class Simplify(RulePass):
    """Identities: what changes nothing goes."""

    name: ClassVar[str] = "simplify"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """All identities."""
        return [
            DropIdentity(),
            DropSameCast(),
            DropUnit(),
            DropTranspose(),
            ComposeTransposes(),
            DropSameShape(),
            MergeReshapes(),
            SwapWithMergedAxes(),
            CastTwice(),
        ]
