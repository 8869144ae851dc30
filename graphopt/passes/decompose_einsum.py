"""Einsum of one or two operands becomes a matrix product between transposes.

``Einsum("bhqd,bhkd->bhqk", q, k)  ->  MatMul(q, Transpose(k))``: labels that both operands and the
result have are batch axes, labels that both have and the result lacks are summed over, and those of
one operand alone are rows or columns; several of a kind are merged by a Reshape and split again.
``Einsum("abc->ca", x)  ->  Transpose(ReduceSum(x, b))``.

No operand has a label twice, a label has one size, and no Reshape needs more than one size that is
not known. An ellipsis stands for labels.

Sound: the definition of the op; sums are made in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Dim, DType, Graph, Node, Value, product
from graphopt.ops.linear import einsum_terms
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["DecomposeEinsum"]

_TYPES = frozenset({DType.F32, DType.F64, DType.I32, DType.I64, DType.U32, DType.U64})
_Sizes = dict[str, Dim]


@dataclass(frozen=True)
class _Plan:
    """The labels of the operands and of the result, by their part in the product."""

    operands: list[str]
    result: str
    sizes: _Sizes

    @property
    def batch(self) -> str:
        """Labels of both operands that the result keeps, in its order."""
        a, b = self.operands
        return "".join(c for c in self.result if c in a and c in b)

    @property
    def summed(self) -> str:
        """Labels of both operands that are summed over, in the order of the first."""
        a, b = self.operands
        return "".join(c for c in a if c in b and c not in self.result)

    @property
    def arranged(self) -> list[tuple[tuple[str, ...], int]]:
        """The groups of labels of both operands in the order of a product, and how many of the
        last groups become one axis each. Without batch axes, rows stay as many axes as they are."""
        rows, columns = self.alone(0), self.alone(1)
        first = (self.batch, rows, self.summed)
        return [(first, 2 if self.batch else 1), ((self.batch, self.summed, columns), 2)]

    def alone(self, index: int) -> str:
        """Labels of one operand that the result keeps, in its order."""
        mine, other = self.operands[index], self.operands[1 - index]
        return "".join(c for c in self.result if c in mine and c not in other)


class DecomposeProduct(Rule):
    """``Einsum("...", a, b)  ->  Transpose(MatMul(Transpose(a), Transpose(b)))``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """Any number of operands; the equation is looked at by hand."""
        return op.Einsum(op.rest("operands"))

    def check(self, m: Match) -> Refusal | None:
        """An equation of one or two operands that is a product."""
        plan = _plan(m.root)
        if isinstance(plan, Refusal):
            return plan
        if m.root.output.tensor.dtype not in _TYPES:
            return Refusal(lambda: f"it computes in {m.root.output.tensor.dtype}", m.root)
        if len(plan.operands) == 1:
            return None
        for groups, merged in plan.arranged:
            if _shape(plan.sizes, groups, merged) is None:
                return Refusal(lambda: f"sizes of {plan.sizes} are not known to reshape by", m.root)
        if _split_shape(plan) is None:
            return Refusal(lambda: f"sizes of {plan.sizes} are not known to split by", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The sums over one operand, the product, and the result's order."""
        plan = _plan(m.root)
        assert isinstance(plan, _Plan)
        values = []
        kept = plan.result if len(plan.operands) == 1 else None
        for index, (value, labels) in enumerate(zip(m.root.inputs, plan.operands, strict=True)):
            assert value is not None
            other = kept if kept is not None else plan.operands[1 - index] + plan.result
            values.append(_summed(op, value, labels, other))
        if kept is not None:
            return _ordered(op, values[0], "".join(c for c in plan.operands[0] if c in kept), kept)
        return _product(op, plan, values)


def _plan(node: Node) -> _Plan | Refusal:
    equation = str(node.attr("equation"))
    shapes = [None if value is None else value.shape for value in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(shapes) > 2 or len(known) != len(shapes):
        return Refusal(f"'{equation}' has {len(shapes)} operands, {len(known)} of known rank", node)
    terms, yields = einsum_terms(equation, [len(shape) for shape in known])
    # One letter a label: axes of an ellipsis have longer names.
    letters: dict[str, str] = {}
    for name in (name for part in (*terms, yields) for name in part):
        letters.setdefault(name, chr(ord("a") + len(letters)))
    operands = ["".join(letters[name] for name in part) for part in terms]
    result = "".join(letters[name] for name in yields)
    if any(len(set(part)) != len(part) for part in operands):
        return Refusal(f"'{equation}' has a label twice in one operand", node)
    sizes: _Sizes = {}
    for shape, part in zip(known, operands, strict=True):
        for label, dim in zip(part, shape, strict=True):
            if sizes.setdefault(label, dim) != dim:
                return Refusal(f"a label of '{equation}' is of size {sizes[label]} and {dim}", node)
    return _Plan(operands, result, sizes)


def _summed(op: Builder, value: Value, labels: str, others: str) -> Value:
    """``value`` summed over the labels that nobody else has."""
    axes = [axis for axis, label in enumerate(labels) if label not in others]
    return op.ReduceSum(value, op.constant(axes, "axes"), keepdims=0) if axes else value


def _ordered(op: Builder, value: Value, labels: str, wanted: str) -> Value:
    if labels == wanted:
        return value
    result: Value = op.Transpose(value, perm=tuple(labels.index(c) for c in wanted))
    return result


def _shape(sizes: _Sizes, groups: tuple[str, ...], merged: int) -> list[int] | None:
    """The shape that makes the last ``merged`` groups of labels an axis each; [] where they are.

    The axes before stay. None where sizes would have to be known that are not.
    """
    kept, last = "".join(groups[:-merged]), groups[-merged:]
    if all(len(group) == 1 for group in last):
        return []
    return _target(kept, [product(sizes[label] for label in group) for group in last], sizes)


def _split_shape(plan: _Plan) -> list[int] | None:
    """The shape that splits what was merged again; [] where nothing was."""
    rows, columns = plan.alone(0), plan.alone(1)
    kept = plan.batch or rows
    split = rows + columns if plan.batch else columns
    if len(columns) == 1 and (not plan.batch or len(rows) == 1):
        return []
    return _target(kept, [plan.sizes[label] for label in split], plan.sizes)


def _target(kept: str, dims: list[Dim], sizes: _Sizes) -> list[int] | None:
    """A target of Reshape: axes that are copied, then sizes of which one may be unknown."""
    unknown = sum(not isinstance(dim, int) for dim in dims)
    if unknown > 1 or 0 in dims or 0 in [sizes[label] for label in kept]:
        return None
    return [0] * len(kept) + [dim if isinstance(dim, int) else -1 for dim in dims]


def _product(op: Builder, plan: _Plan, values: list[Value]) -> Value:
    operands = []
    for index, (groups, merged) in enumerate(plan.arranged):
        others = plan.operands[1 - index] + plan.result
        labels = "".join(c for c in plan.operands[index] if c in others)
        value = _ordered(op, values[index], labels, "".join(groups))
        shape = _shape(plan.sizes, groups, merged)
        operands.append(op.Reshape(value, shape) if shape else value)
    result: Value = op.MatMul(*operands)
    rows, columns = plan.alone(0), plan.alone(1)
    if len(columns) != 1 or (plan.batch and len(rows) != 1):
        shape = _split_shape(plan)
        assert shape is not None
        result = op.Reshape(result, op.constant(shape, "shape", "int64"))
    return _ordered(op, result, plan.batch + rows + columns, plan.result)


@dataclass(frozen=True)
class DecomposeEinsum(RulePass):
    """``Einsum  ->  MatMul`` and what puts its axes in order."""

    name: ClassVar[str] = "decompose-einsum"

    def rules(self, graph: Graph) -> list[Rule]:
        """The one rule."""
        return [DecomposeProduct()]
