"""What the logits of an attention are made of: a product, factors, a cap and masks.

:func:`read_logits` walks from the operand of a softmax down to ``MatMul(q, kt)`` through whatever
exporters put in between, in any order that has a closed form:

- ``x * c``, ``x / c``, ``-x`` anywhere, on ``q`` and ``kt`` too, before the masks;
- ``cap * tanh(x / cap)`` before the masks;
- ``x + mask``; ``Where(keep, x, fill)`` and ``Where(drop, fill, x)`` with one number as ``fill``;
- reshapes that split or merge the leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.ir import Dim, Node, Value
from graphopt.passes.polynomial import number
from graphopt.rewrite import Refusal

__all__ = ["Logits", "Mask", "filled", "read_logits"]

# Nodes between the softmax and the product, at most: each sum is looked at from both sides.
_MAX_DEPTH = 10
# A constant that is one number everywhere is looked at up to this many elements.
_MAX_SPLAT = 1 << 22


@dataclass(frozen=True)
class Mask:
    """One mask. ``fill`` is None where ``value`` is added to the scores; else it is what scores
    become where ``value``, of bools, is false (true where ``inverted``)."""

    value: Value
    fill: float | None = None
    inverted: bool = False


@dataclass
class Logits:
    """``softcap * tanh(scale * q @ kt / softcap)`` (without a cap where that is 0), masked.

    ``masks`` are in the order in which they apply, to scores of the leading axes ``space`` (None
    where there is no mask). ``nodes`` are all those between the softmax and the operands.
    """

    q: Value
    kt: Value
    scale: float = 1.0
    softcap: float = 0.0
    masks: list[Mask] = field(default_factory=list)
    space: tuple[Dim, ...] | None = None
    nodes: list[Node] = field(default_factory=list)

    def times(self, factor: float) -> None:
        """Multiplies the capped scores: ``a c tanh(x / c)`` is a cap of ``a c`` on ``a x``."""
        self.scale *= factor
        self.softcap = abs(self.softcap * factor)


def read_logits(value: Value, depth: int = 0) -> Logits | Refusal:
    """The parts of ``value``; why it is no logits where it is none.

    Of several refusals, the one closest to the product is returned.
    """
    node = value.producer
    if node is None or node.op.domain or depth > _MAX_DEPTH:
        return Refusal(lambda: f"%{value.name} is no product of queries and keys", value)
    if node.is_a("MatMul"):
        return _product(node)
    reader = _READERS.get(node.op.name)
    if reader is None:
        return Refusal(
            lambda: f"{node.op.name} (%{value.name}) stands between the softmax and the product",
            node,
        )
    found = reader(node, depth)
    if isinstance(found, Logits):
        found.nodes.append(node)
    return found


def _product(node: Node) -> Logits:
    q, kt = node.inputs
    assert q is not None and kt is not None
    found = Logits(q, kt, nodes=[node])
    found.q = _without_factor(q, found)
    found.kt = _without_factor(kt, found)
    return found


def _without_factor(value: Value, found: Logits) -> Value:
    """``x`` where ``value``, which nobody else reads, is ``x`` times a number that is counted."""
    node = value.producer
    if node is None or value.use_count != 1:
        return value
    parts = _factor(node)
    if parts is None:
        return value
    source, factor = parts
    if source.shape != value.shape:
        return value
    found.times(factor)
    found.nodes.append(node)
    return source


def _factor(node: Node) -> tuple[Value, float] | None:
    """``(x, c)`` where ``node`` is ``x * c``, ``x / c`` or ``-x``."""
    if node.op.domain:
        return None
    first = node.input(0)
    if node.is_a("Neg") and first is not None:
        return first, -1.0
    second = node.input(1)
    if first is None or second is None:
        return None
    if node.is_a("Div") and (by := number(second)):
        return first, 1.0 / by
    if node.is_a("Mul"):
        for x, other in ((first, second), (second, first)):
            factor = number(other)
            if factor is not None:
                return x, factor
    return None


def _read_factor(node: Node, depth: int) -> Logits | Refusal:
    parts = _factor(node)
    if parts is None:
        return Refusal(lambda: f"%{node.output.name} does not scale by one number", node)
    found = read_logits(parts[0], depth + 1)
    if isinstance(found, Refusal):
        return found
    if found.masks:
        return Refusal(lambda: f"%{node.output.name} scales after the mask", node)
    found.times(parts[1])
    return found


def _read_tanh(node: Node, depth: int) -> Logits | Refusal:
    source = node.input(0)
    assert source is not None
    found = read_logits(source, depth + 1)
    if isinstance(found, Refusal):
        return found
    if found.masks or found.softcap:
        return Refusal(lambda: f"%{node.output.name} caps scores masked or capped before", node)
    found.softcap = 1.0
    return found


def _read_sum(node: Node, depth: int) -> Logits | Refusal:
    a, b = node.inputs
    assert a is not None and b is not None
    refusals = []
    for scores, mask in ((a, b), (b, a)):
        found = read_logits(scores, depth + 1)
        if isinstance(found, Logits):
            return _masked(found, node, scores, Mask(mask))
        refusals.append(found)
    # A constant says nothing; the other operand's refusal tells what stands in the way.
    return refusals[1] if a.is_constant else refusals[0]


def _read_where(node: Node, depth: int) -> Logits | Refusal:
    condition, chosen, other = node.inputs
    assert condition is not None and chosen is not None and other is not None
    for scores, fill, inverted in ((chosen, other, False), (other, chosen, True)):
        with_ = filled(fill)
        if with_ is None:
            continue
        found = read_logits(scores, depth + 1)
        if isinstance(found, Refusal):
            return found
        return _masked(found, node, scores, Mask(condition, with_, inverted))
    return Refusal(lambda: f"%{node.output.name} does not fill with one number", node)


def _masked(found: Logits, node: Node, scores: Value, mask: Mask) -> Logits | Refusal:
    shape = node.output.shape
    # That there are as many keys as values, the product with the values asks for.
    if shape is None or scores.shape is None or not _same_rows(shape, scores.shape):
        return Refusal(lambda: f"the mask {mask.value!r} makes the scores {scores!r} larger", node)
    space = shape[:-2]
    if found.masks and found.space != space:
        return Refusal(
            lambda: f"masks apply to scores of the leading axes {found.space} and {space}", node
        )
    found.space = space
    found.masks.append(mask)
    return found


def _same_rows(masked: tuple[Dim, ...], scores: tuple[Dim, ...]) -> bool:
    """True when a mask adds no rows, and no keys that are known to be more."""
    keys = masked[-1], scores[-1]
    return masked[:-1] == scores[:-1] and (keys[0] == keys[1] or not isinstance(keys[0], int))


def _read_reshape(node: Node, depth: int) -> Logits | Refusal:
    source = node.input(0)
    assert source is not None
    before, after = source.shape, node.output.shape
    if before is None or after is None or min(len(before), len(after)) < 2:
        return Refusal(lambda: f"the rank of %{node.output.name} is not known", node)
    if before[-2:] != after[-2:]:
        return Refusal(lambda: f"%{node.output.name} reshapes scores {before} to {after}", node)
    return read_logits(source, depth + 1)


def filled(value: Value) -> float | None:
    """The number that is everywhere in ``value``: a constant, or one that is expanded."""
    node = value.producer
    if node is not None and node.is_a("Expand"):
        return number(node.input(0))
    if node is not None and node.is_a("ConstantOfShape"):
        tensor = node.attr("value")
        return 0.0 if tensor is None else float(tensor.array.reshape(-1)[0])
    constant = value.constant
    if constant is None or not 0 < constant.numel <= _MAX_SPLAT:
        return None
    array = constant.array
    first = array.reshape(-1)[0]
    return float(first) if constant.numel == 1 or bool(np.all(array == first)) else None


_READERS = {
    "Add": _read_sum,
    "Div": _read_factor,
    "Mul": _read_factor,
    "Neg": _read_factor,
    "Reshape": _read_reshape,
    "Squeeze": _read_reshape,
    "Tanh": _read_tanh,
    "Unsqueeze": _read_reshape,
    "Where": _read_where,
}
