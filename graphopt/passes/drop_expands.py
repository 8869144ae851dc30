"""Expansions go where broadcasting does the same, and move behind what need not see them.

``Add(Expand(x), y)  ->  Add(x, y)`` where y already has the sizes that x gets, and so for an
Unsqueeze that only adds axes in front. ``Relu(Expand(x))  ->  Expand(Relu(x))``, which computes
less. ``Expand(Expand(x))`` is one, and ``Expand(x, computed sizes)  ->  Expand(x, constant)`` where
every size is a number or one of x. ``ConstantOfShape`` that only pointwise ops read counts as an
expansion of its number.

Sound: types are inferred for the operands that stay, and are those of before. A size that is not a
number only counts when some other operand has the very same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Dim, Graph, Node, TensorType, Value, bcast
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

__all__ = ["DropExpands"]

_UNARY = (
    "Abs", "Cast", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsInf", "IsNaN", "Log", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh",
)  # fmt: skip
_BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Sub",
    "Where", "Xor",
)  # fmt: skip


def _small(value: Value | None) -> tuple[Value, Node] | None:
    """(x, node) where ``value`` is x spread, or x with axes added in front, by ``node``."""
    node = None if value is None else value.producer
    if value is None or node is None or node.op.domain:
        return None
    x = node.input(0)
    if x is None or not isinstance(x.type, TensorType) or x.type.shape is None:
        return None
    if node.is_a("Expand"):
        return x, node
    shape = value.tensor.shape
    if shape is None or not (node.is_a("Unsqueeze") or node.is_a("Reshape")):
        return None
    added = len(shape) - len(x.type.shape)
    return (x, node) if added > 0 and shape == (1,) * added + x.type.shape else None


class DropExpand(Rule):
    """``Add(Expand(x), y)  ->  Add(x, y)``."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Ops that broadcast, and MatMul."""
        return [op.op(name, op.rest("operands")) for name in (*_BROADCAST, "MatMul")]

    def check(self, m: Match) -> Refusal | None:
        """Without the expansion the result must be of the same type."""
        if len(m.root.inputs) < 2:
            return Refusal("it has one operand alone", m.root)
        spread = [found for value in m.root.inputs if (found := _small(value)) is not None]
        if not spread:
            return Refusal("no operand is expanded", m.root)
        inputs = _without(m.root)
        if inputs == m.root.inputs:
            type_ = m.root.output.type
            return Refusal(lambda: f"without the expansion it is not {type_}", m.root)
        for (_, node), old, new in zip(
            [_small(v) or (None, None) for v in m.root.inputs], m.root.inputs, inputs, strict=True
        ):
            if old is not new and node is not None and node not in m.nodes:
                m.nodes.append(node)
                m.kept.add(node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op on what was expanded."""
        return op.call(m.root.op, *_without(m.root), **m.root.attrs).output


def _without(node: Node) -> tuple[Value | None, ...]:
    """Operands of ``node``, without the expansions that it can do without."""
    inputs = list(node.inputs)
    for index, value in enumerate(inputs):
        found = _small(value)
        if found is None:
            continue
        inputs[index] = found[0]
        if _type_of(node, inputs) != node.output.type:
            inputs[index] = value
    return tuple(inputs)


def _type_of(node: Node, inputs: Sequence[Value | None]) -> TensorType | None:
    """What ``node`` would yield for other operands."""
    shapes = [None if v is None else v.tensor.shape for v in inputs]
    if node.is_a("MatMul"):
        # One with a single axis means something else there.
        if any(shape is None or len(shape) < 2 for shape in shapes):
            return None
        rows, columns = shapes[0] or (), shapes[1] or ()
        batch = _together([rows[:-2], columns[:-2]])
        dims = None if batch is None else (*batch, rows[-2], columns[-1])
    else:
        dims = _together(shapes)
    return None if dims is None else TensorType(node.output.tensor.dtype, dims)


def _together(shapes: Sequence[tuple[Dim, ...] | None]) -> tuple[Dim, ...] | None:
    """Shapes broadcast together; None where they do not, or are not known."""
    rank = max((len(shape) for shape in shapes if shape is not None), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        if shape is None:
            return None
        for axis, dim in enumerate(shape, rank - len(shape)):
            try:
                result[axis] = bcast(result[axis], dim)
            except (ValueError, GraphoptError):
                return None
    return tuple(result)


class SinkExpand(Rule):
    """``Relu(Expand(x))  ->  Expand(Relu(x))``, ``Mul(Expand(x), c)  ->  Expand(Mul(x, c))``."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Pointwise ops."""
        return [op.op(name, op.rest("operands")) for name in (*_UNARY, *_BROADCAST)]

    def check(self, m: Match) -> Refusal | None:
        """One operand is expanded for this op alone, and the others are spread over it."""
        spread = _spread(m.root)
        if isinstance(spread, Refusal):
            return spread
        node = m.root.inputs[spread].producer  # type: ignore[union-attr]
        assert node is not None
        m.nodes.append(node)
        m.kept.add(node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op before, the expansion after it."""
        spread = _spread(m.root)
        assert isinstance(spread, int)
        inputs = list(m.root.inputs)
        value = inputs[spread]
        assert value is not None and value.producer is not None
        inputs[spread] = value.producer.input(0)
        inner = op.call(m.root.op, *inputs, **m.root.attrs).output
        result: Value = op.Expand(inner, value.producer.input(1))
        return result


def _spread(node: Node) -> int | Refusal:
    """The operand of ``node`` that is expanded, where it need not be before ``node``."""
    spread = [i for i, v in enumerate(node.inputs) if v is not None and _expanded(v)]
    if len(spread) != 1:
        return Refusal(lambda: f"{len(spread)} of its operands are expanded", node)
    value = node.inputs[spread[0]]
    assert value is not None and value.producer is not None
    if value.is_output or any(user is not node for user in value.users):
        return Refusal(lambda: f"%{value.name} is read by others too", value)
    x = value.producer.input(0)
    assert x is not None
    shapes = [
        x.tensor.shape,
        *(v.tensor.shape for v in node.inputs if v is not None and v is not value),
    ]
    small = _together(shapes)
    if small is None or not _padded(x, small) or value.shape != node.output.shape:
        return Refusal(lambda: f"another operand is not spread over {x.type}", node)
    return spread[0]


def _padded(x: Value, shape: tuple[Dim, ...]) -> bool:
    """True when ``shape`` is that of ``x`` but for axes of size 1 in front."""
    own = x.tensor.shape or ()
    ahead = len(shape) - len(own)
    return ahead >= 0 and shape == (1,) * ahead + own


def _expanded(value: Value) -> bool:
    node = value.producer
    if node is None or not node.is_a("Expand"):
        return False
    x = node.input(0)
    return x is not None and x.tensor.shape is not None and value.tensor.shape is not None


class FixExpand(Rule):
    """``Expand(x, computed sizes)  ->  Expand(x, constant)``; Expand of Expand is one."""

    def pattern(self, op: PatternOps, x: Var, sizes: Var) -> NodePattern:
        """Any Expand."""
        return op.Expand(x, sizes)

    def check(self, m: Match) -> Refusal | None:
        """Every size must be a number, or one of x."""
        source = _source(m)
        if not m["sizes"].is_constant or source is not m["x"]:
            target = _target(source, m.root.output)
            if isinstance(target, str):
                return Refusal(target, m.root)
            if source is not m["x"]:
                assert m["x"].producer is not None
                m.nodes.append(m["x"].producer)
                m.kept.add(m["x"].producer)
            return None
        return Refusal("its sizes are constant, and nothing is expanded before", m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Expand to the constant."""
        source = _source(m)
        target = _target(source, m.root.output)
        assert not isinstance(target, str)
        result: Value = op.Expand(source, op.constant(list(target), "sizes"))
        return result


def _source(m: Match) -> Value:
    """What is expanded, through an Expand before."""
    inner = m["x"].producer
    first = None if inner is None or not inner.is_a("Expand") else inner.input(0)
    return m["x"] if first is None else first


def _target(x: Value, out: Value) -> tuple[int, ...] | str:
    old, new = x.tensor.shape, out.tensor.shape
    if old is None or new is None or len(old) > len(new):
        return "the rank is not known"
    ahead = len(new) - len(old)
    target: list[int] = []
    for axis, dim in enumerate(new):
        if isinstance(dim, int):
            target.append(dim)
        elif axis >= ahead and old[axis - ahead] == dim:
            target.append(1)
        else:
            return f"size {dim} is neither a number nor one of {x.type}"
    return tuple(target)


class ExpandFill(Rule):
    """``ConstantOfShape(sizes)  ->  Expand(number, sizes)`` for those who broadcast it anyway."""

    def pattern(self, op: PatternOps, sizes: Var) -> NodePattern:
        """Sizes that are computed."""
        return op.ConstantOfShape(sizes.where(lambda v: not v.is_constant, "a computed shape"))

    def check(self, m: Match) -> Refusal | None:
        """Only pointwise ops may read it."""
        value = m.root.output
        names = {*_UNARY, *_BROADCAST}
        other = next((u for u in value.users if u.op.domain or u.op.name not in names), None)
        if value.is_output or not value.users or other is not None:
            return Refusal(lambda: f"%{value.name} is not read by pointwise ops alone", m.root)
        if value.tensor.shape is None:
            return Refusal("the rank is not known", value)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The number, expanded."""
        fill = m.root.attr("value")
        array = np.zeros(1, np.float32) if fill is None else fill.array.reshape(1)
        number = op.constant(array.reshape(()), "fill")
        result: Value = op.Expand(number, m["sizes"])
        return result


@dataclass(frozen=True)
class DropExpands(RulePass):
    """``Add(Expand(x), y)  ->  Add(x, y)``."""

    name: ClassVar[str] = "drop-expands"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """Fix sizes, drop what is not needed, move the rest on."""
        return [FixExpand(), DropExpand(), SinkExpand(), ExpandFill()]
