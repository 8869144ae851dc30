"""What is dequantized only to be quantized again the same way stays as it is.

``Quantize(Dequantize(q, s, z), s, z)  ->  q``, and with ops between that move elements or take the
largest (Reshape, Transpose, Slice, Gather, MaxPool, ReduceMax, a Concat of several):
``Quantize(f(Dequantize(q, s, z)), s, z)  ->  f(q)``. Quantized, dequantized, quantized and
dequantized once more is so done once.

Sound: ``q - z`` is an integer of at most 16 bits; times s and divided by s it is rounded twice,
which moves it by less than a half, so that it is found again, as long as neither product nor scale
leave the normal range of their type. MaxPool asks for a scale above 0, that keeps the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
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

__all__ = ["CancelQuantize"]

# Ops whose output elements are elements of operand 0, whatever these are.
_MOVES = frozenset(
    {
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
        "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# These keep order: the largest of quantized elements is the quantized largest.
_ORDERED = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax"})
_OTHERS = _ORDERED | {"Concat"}
# Longer chains of moves are rare; a bound keeps the walk short.
_MAX_MOVES = 8
# Digits (with the leading one) of the types in which products are rounded.
_DIGITS = {DType.F32: 24, DType.F16: 11, DType.BF16: 8}


class Requantize(Rule):
    """``Quantize(f(Dequantize(q, s, z)), s, z)  ->  f(q)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A Quantize with constant scale and, where there is one, zero point."""
        return op.QuantizeLinear(x, op.constant("scale"), op.rest("zero"))

    def check(self, m: Match) -> Refusal | None:
        """Ops between must move alone; all that is dequantized must have the same parameters."""
        moves = _moves_above(m.root)
        if isinstance(moves, Refusal):
            return moves
        for source in _sources(m, moves):
            node = source.producer
            if node is None or not node.is_a("DequantizeLinear"):
                return Refusal(f"%{source.name} is not dequantized", source)
            refused = _differs(node, m.root) or _loses(node, m.root, moves)
            if refused is not None:
                return refused
            m.kept.add(node)
        # They are replaced too, though the pattern does not name them.
        m.nodes.extend(dict.fromkeys((*moves, *m.kept)))
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The moves, of what is quantized."""
        moves = _moves_above(m.root)
        assert not isinstance(moves, Refusal)
        values = [_operand(source) for source in _sources(m, moves)]
        for node in reversed(moves):
            rest = () if node.is_a("Concat") else node.inputs[1:]
            values = [op.call(node.op, *values, *rest, **node.attrs).output]
        return values[0]


def _operand(value: Value) -> Value:
    """What a dequantized value was made from."""
    assert value.producer is not None
    found = value.producer.input(0)
    assert found is not None
    return found


def _moves_above(root: Node) -> list[Node] | Refusal:
    """Ops between a Quantize and what is dequantized above it, last one first."""
    moves: list[Node] = []
    reader = root
    while len(moves) <= _MAX_MOVES:
        value = reader.input(0)
        node = None if value is None else value.producer
        if value is None or node is None or node.is_a("DequantizeLinear"):
            return moves
        if node.op.domain or (node.op.name not in _MOVES and node.op.name not in _OTHERS):
            return Refusal(f"{node.op.qualified} computes between the two", node)
        if len(node.outputs) > 1:
            return Refusal(f"{node.op.qualified} has {len(node.outputs)} outputs", node)
        if value.is_output or any(user is not reader for user in value.users):
            return Refusal(f"%{value.name} is read by others too", node)
        moves.append(node)
        if node.is_a("Concat"):
            return moves
        reader = node
    return Refusal(f"more than {_MAX_MOVES} ops stand between the two", reader)


def _sources(m: Match, moves: list[Node]) -> list[Value]:
    """The values that must be dequantized ones."""
    if not moves:
        return [m["x"]]
    last = moves[-1]
    operands = last.inputs if last.is_a("Concat") else last.inputs[:1]
    return [value for value in operands if value is not None]


def _differs(first: Node, second: Node) -> Refusal | None:
    """Why the parameters of the two are not the same for certain."""
    for index, name in ((1, "scale"), (2, "zero point")):
        a, b = first.input(index), second.input(index)
        if a is b:
            continue
        if a is None or b is None or a.constant is None or b.constant is None:
            if index == 2 and all(v is None or _zero(v) for v in (a, b)):
                continue
            return Refusal(f"whether the {name}s are the same is not known", second)
        if a.type != b.type or a.constant.digest != b.constant.digest:
            return Refusal(f"the {name}s differ", second)
    source, out = first.input(0), second.output
    assert source is not None
    if source.tensor.dtype is not out.tensor.dtype:
        return Refusal(f"{source.tensor.dtype} becomes {out.tensor.dtype}", second)
    if first.attr("block_size") or second.attr("block_size"):
        return Refusal("the scales are blocked", second)
    return None


def _zero(value: Value) -> bool:
    return value.constant is not None and not value.constant.array.any()


def _loses(first: Node, second: Node, moves: list[Node]) -> Refusal | None:
    """Why an integer may not be found again."""
    scale, source = first.input(1), first.input(0)
    assert scale is not None and source is not None and scale.constant is not None
    dtype, real = source.tensor.dtype, first.output.tensor.dtype
    if not dtype.is_integer or dtype.bits > 16:
        return Refusal(f"{dtype} is not an integer of at most 16 bits", source)
    # Twice half a unit in the last place must stay below a half.
    if real not in _DIGITS or dtype.bits + 1 >= _DIGITS[real]:
        return Refusal(f"{real} has too few digits for {dtype}", first.output)
    if second.attr("precision"):
        return Refusal("another precision is asked for", second)
    factors = np.abs(scale.constant.array.astype(np.float64))
    limits = _LIMITS[real]
    if not np.all((factors >= limits[0]) & (factors * 2.0**dtype.bits <= limits[1])):
        return Refusal("a scale is too small or too large", scale)
    if factors.size > 1 and (moves or first.attr("axis") != second.attr("axis")):
        return Refusal("there are several scales, and elements move between them", scale)
    negative = bool((scale.constant.array <= 0).any())
    if negative and any(node.op.name in _ORDERED for node in moves):
        return Refusal("a scale below 0 turns the order around", scale)
    return None


# Smallest normal and largest finite number, with a margin.
_LIMITS = {
    DType.F32: (2.0**-120, 2.0**120),
    DType.F16: (2.0**-13, 2.0**15),
    DType.BF16: (2.0**-120, 2.0**120),
}


@dataclass(frozen=True)
class CancelQuantize(RulePass):
    """``Quantize(f(Dequantize(q)))  ->  f(q)``."""

    name: ClassVar[str] = "cancel-quantize"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule for all that moves."""
        return [Requantize()]
