"""Reductions in a row, and what only puts their axes in order, become one reduction.

``Reshape(ReduceMean(x, axes, keepdims=1))  ->  ReduceMean(x, axes, keepdims=0)`` where the reshape
(or Flatten, Squeeze) drops the axes of size 1, and the other way round where it (or Unsqueeze) puts
them back, global pools alike; ``ReduceMean(ReduceMean(x, a), b)  ->  ReduceMean(x, a + b)``, sums,
products, maxima and minima alike; ``ReduceSum(x, axes) / n  ->  ReduceMean(x, axes)`` where n
elements are summed.

Axes are constants; nothing in between is read by others. Sound: the same elements are reduced, in
another order of floating-point sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Dim, DType, Graph, Node, Value, product
from graphopt.passes.polynomial import number
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["MergeReductions", "reduced_axes"]

_MERGED = ("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
_REDUCTIONS = (
    *_MERGED,
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# f32 constants are this close to the inverse of a count.
_NEAR = 1e-6


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction or global pool folds, in order; None where they are not known."""
    source, axes = node.input(0), node.input(1)
    if source is None or source.tensor.rank is None:
        return None
    if node.op.name in _GLOBAL:
        return tuple(range(2, source.tensor.rank))
    if axes is None:
        return () if node.attr("noop_with_empty_axes") else tuple(range(source.tensor.rank))
    if axes.constant is None:
        return None
    found = sorted({int(a) % source.tensor.rank for a in axes.constant.array.ravel()})
    if not found:
        return () if node.attr("noop_with_empty_axes") else tuple(range(source.tensor.rank))
    return tuple(found)


def _keeps(node: Node) -> bool:
    return node.op.name in _GLOBAL or bool(node.attr("keepdims"))


def _reduction(op: Builder, name: str, x: Value, axes: tuple[int, ...], keepdims: int) -> Value:
    result: Value = op.op(name, x, axes, keepdims=keepdims)
    return result


def _without(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> tuple[Dim, ...]:
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


def _kept(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> tuple[Dim, ...]:
    return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))


class ReshapeReduction(Rule):
    """``Reshape(ReduceMean(x, keepdims=1))  ->  ReduceMean(x, keepdims=0)``, or the reverse."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Any reduction, and any op that only renames axes."""
        names = (*_REDUCTIONS, *_GLOBAL)
        inner = op.any_of(*(op.op(n, x, op.rest("axes"), _bind="reduce") for n in names))
        return [op.op(view, inner, op.rest("shape")) for view in _VIEWS]

    def check(self, m: Match) -> Refusal | None:
        """The result must have the shape that the reduction can give itself."""
        node, shape = m.node("reduce"), m["x"].shape
        axes = reduced_axes(node)
        if axes is None or shape is None:
            return Refusal("the reduced axes are not known", node)
        if not axes:
            return Refusal("nothing is reduced", node)
        wanted = _without(shape, axes) if _keeps(node) else _kept(shape, axes)
        if m.root.output.shape != wanted:
            return Refusal(lambda: f"the reduction gives {wanted}, or its like", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The reduction with its axes kept, or dropped."""
        node = m.node("reduce")
        axes = reduced_axes(node)
        assert axes is not None
        name = _GLOBAL.get(node.op.name, node.op.name)
        return _reduction(op, name, m["x"], axes, 0 if _keeps(node) else 1)


class MergeReduce(Rule):
    """``ReduceMean(ReduceMean(x, a), b)  ->  ReduceMean(x, a + b)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Two of a kind."""
        return [
            op.op(name, op.op(name, x, op.rest("first"), _bind="inner"), op.rest("second"))
            for name in _MERGED
        ]

    def check(self, m: Match) -> Refusal | None:
        """Axes must be known, and be kept by both or by neither."""
        inner, outer = m.node("inner"), m.root
        if not reduced_axes(inner) or not reduced_axes(outer):
            return Refusal("the reduced axes are not known", outer)
        if bool(inner.attr("keepdims")) != bool(outer.attr("keepdims")):
            return Refusal("one keeps the axes that it reduces, the other drops them", outer)
        dtype, name = outer.output.tensor.dtype, outer.op.name
        whole = name in ("ReduceMax", "ReduceMin") or (name == "ReduceSum" and not dtype.is_float)
        if not whole and dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"{dtype} rounds after each", outer)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One reduction over the axes of both."""
        first, second = reduced_axes(m.node("inner")), reduced_axes(m.root)
        assert first is not None and second is not None and m["x"].tensor.rank is not None
        keep = int(bool(m.root.attr("keepdims")))
        if not keep:
            left = [axis for axis in range(m["x"].tensor.rank) if axis not in first]
            second = tuple(left[axis] for axis in second)
        return _reduction(op, m.root.op.name, m["x"], tuple(sorted({*first, *second})), keep)


class DivideSum(Rule):
    """``ReduceSum(x, axes) / n  ->  ReduceMean(x, axes)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A quotient, or a product with the inverse."""
        total = op.ReduceSum(x, op.rest("axes"), _bind="sum")
        return [op.Div(total, op.constant("count")), op.Mul(total, op.constant("inverse"))]

    def check(self, m: Match) -> Refusal | None:
        """The number must be that of the summed elements, which is fixed."""
        node, shape = m.node("sum"), m["x"].shape
        axes = reduced_axes(node)
        if not axes or shape is None:
            return Refusal("the reduced axes are not known", node)
        if m["x"].tensor.dtype not in (DType.F32, DType.F64):
            return Refusal("it computes on integers, or on floats that round after each", node)
        count = product(shape[axis] for axis in axes)
        found = number(m.get("count") or m["inverse"])
        if not isinstance(count, int) or found is None or m.root.output.shape != node.output.shape:
            return Refusal(lambda: f"{count} elements are summed", node)
        factor = count / found if "count" in m.bindings and found else count * found
        if abs(factor - 1) > _NEAR:
            return Refusal(lambda: f"{count} elements are summed, the number is {found}", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Their mean."""
        node = m.node("sum")
        axes = reduced_axes(node)
        assert axes is not None
        return _reduction(op, "ReduceMean", m["x"], axes, int(bool(node.attr("keepdims"))))


@dataclass(frozen=True)
class MergeReductions(RulePass):
    """Reductions in a row, and views of them ``->`` one reduction."""

    name: ClassVar[str] = "merge-reductions"

    def rules(self, graph: Graph) -> list[Rule]:
        """All of them."""
        return [ReshapeReduction(), MergeReduce(), DivideSum()]
