"""Gathers and scatters by indices that run through all of an axis, or that are a single one.

``GatherND(x, every index in order)  ->  x`` or a view of it, the indices constant or spelled out by
Range, Unsqueeze, Expand and Concat, as exporters write masks; ``GatherND(x, [[i], [j]])  ->
Gather(x, [i, j])``; ``Gather(x, 0)`` of an axis of one element  ->  ``Squeeze(x)``;
``ScatterND(x, every index in order, updates)  ->  updates`` or a view of them.

Sound: the indices are compared with the sizes of what they index, symbolic ones in their canonical
form; every element is taken once, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Dim, Graph, TensorType, Value, static_shape
from graphopt.passes.views import View, is_view, plan_view
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

__all__ = ["SimplifyIndices", "counting_axis"]

# Index tensors up to this size are read.
_MAX_ELEMENTS = 1 << 20
# Ops that computed indices are looked for through.
_MAX_DEPTH = 12


def counting_axis(value: Value, depth: int = 0) -> int | None:
    """The axis, counted from the end (-1 is the last), along which ``value`` counts 0, 1, 2, ...
    while it is the same along all others; None where that is not certain."""
    if value.constant is not None:
        return _constant_axis(value)
    node = value.producer
    if node is None or node.op.domain or depth > _MAX_DEPTH:
        return None
    source = node.input(0)
    if node.is_a("Range"):
        start, delta = (_number(node.input(i)) for i in (0, 2))
        return -1 if (start, delta) == (0, 1) else None
    if source is None or not isinstance(source.type, TensorType):
        return None
    old, new = source.type.shape, value.tensor.shape
    axis = counting_axis(source, depth + 1)
    if axis is None or old is None or new is None:
        return None
    if node.is_a("Cast"):
        return axis if value.tensor.dtype.is_integer and value.tensor.dtype.bits >= 32 else None
    if node.is_a("Expand"):
        return axis if new[axis] == old[axis] else None
    if not is_view(node):
        return None
    before, after = ([i for i, dim in enumerate(s) if dim != 1] for s in (old, new))
    if [old[i] for i in before] != [new[i] for i in after] or axis + len(old) not in before:
        return None
    return after[before.index(axis + len(old))] - len(new)


def _constant_axis(value: Value) -> int | None:
    constant = value.constant
    assert constant is not None
    if constant.numel > _MAX_ELEMENTS or not constant.type.dtype.is_integer or not constant.numel:
        return None
    array = constant.array
    axes = [axis for axis, size in enumerate(array.shape) if size > 1]
    for axis in axes or range(array.ndim - 1, -1, -1):
        counting = np.arange(array.shape[axis])
        counting = counting.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
        if bool(np.all(array == counting)):
            return axis - array.ndim
    return None


def _number(value: Value | None) -> int | None:
    if value is None or value.elements is None or len(value.elements) != 1:
        return None
    number = value.elements[0]
    return number if isinstance(number, int) else None


def _runs_through(indices: Value, sizes: Sequence[Dim]) -> str | None:
    """Why ``indices``, whose last axis names a place, do not go through all places in order."""
    if indices.constant is not None:
        return _constant_runs_through(indices, sizes)
    node, shape = indices.producer, indices.tensor.shape
    if node is None or shape is None or not node.is_a("Concat"):
        return "the indices are not known"
    if int(node.attr("axis")) not in (-1, len(shape) - 1) or len(node.inputs) != len(sizes):
        return "the indices are not joined from one column an axis"
    axes: list[int] = []
    for column, size in zip(node.inputs, sizes, strict=True):
        assert column is not None
        axis = None if column.tensor.shape is None else counting_axis(column)
        if axis is None or column.tensor.shape is None:
            return f"column %{column.name} does not count"
        if column.tensor.shape[-1] != 1 or axis == -1 or column.tensor.shape[axis] != size:
            return f"column %{column.name} does not count to {size}"
        axes.append(axis)
    if axes != sorted(set(axes)):
        return "the columns do not count in the order of the axes"
    kept = {len(shape) + axis for axis in axes}
    if any(dim != 1 for at, dim in enumerate(shape[:-1]) if at not in kept):
        return "some places are taken more than once"
    return None


def _constant_runs_through(indices: Value, sizes: Sequence[Dim]) -> str | None:
    constant, numbers = indices.constant, static_shape(sizes)
    assert constant is not None
    if numbers is None:
        return f"whether the indices go up to {', '.join(map(str, sizes))} is seen in the run"
    if constant.numel > _MAX_ELEMENTS:
        return "there are too many indices to look at"
    rows = constant.array.reshape(-1, len(numbers)).astype(np.int64)
    rows = np.where(rows < 0, rows + np.array(numbers), rows)
    every = np.stack(np.unravel_index(np.arange(int(np.prod(numbers))), numbers), axis=-1)
    if rows.shape != every.shape or not np.array_equal(rows, every):
        return "the indices are not all places in order"
    return None


class ViewGather(Rule):
    """``GatherND(x, every index in order)  ->  x``, or a view of it."""

    def pattern(self, op: PatternOps, x: Var, indices: Var) -> NodePattern:
        """Indices of any origin."""
        return op.GatherND(x, indices, _attrs={"batch_dims": 0})

    def check(self, m: Match) -> Refusal | None:
        """Every place must be taken once, in order."""
        plan = self._plan(m)
        return Refusal(plan, m.root) if isinstance(plan, str) else None

    def _plan(self, m: Match) -> View | str:
        old, new, shape = m["x"].shape, m.root.output.shape, m["indices"].tensor.shape
        if old is None or new is None or not shape or not isinstance(shape[-1], int):
            return "the ranks are not known"
        reason = _runs_through(m["indices"], old[: shape[-1]])
        return reason if reason is not None else plan_view(old, new)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The view."""
        plan = self._plan(m)
        assert isinstance(plan, View)
        return plan.build(op, m["x"])


class DirectGather(Rule):
    """``GatherND(x, [[i], [j]])  ->  Gather(x, [i, j])``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Constant indices."""
        return op.GatherND(x, op.constant("indices"), _attrs={"batch_dims": 0})

    def check(self, m: Match) -> Refusal | None:
        """They must name one axis alone."""
        shape = m["indices"].shape
        if not shape or shape[-1] != 1:
            return Refusal(lambda: f"the indices are {m['indices'].type}: of several axes", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Gather along the first axis."""
        constant = m["indices"].constant
        assert constant is not None
        indices = op.constant(constant.array[..., 0], m["indices"].name)
        result: Value = op.Gather(m["x"], indices, axis=0)
        return result


class OnlyElement(Rule):
    """``Gather(x, 0)`` of an axis of one element  ->  ``Squeeze(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A constant index."""
        return op.Gather(x, op.constant("index"))

    def check(self, m: Match) -> Refusal | None:
        """A single index, into an axis that has one element."""
        index, shape = m["index"].constant, m["x"].tensor.shape
        assert index is not None
        if shape is None or index.type.rank != 0:
            return Refusal(lambda: f"the index is {m['index'].type}, not a single one", m.root)
        size = shape[int(m.root.attr("axis")) % len(shape)]
        if size != 1:
            return Refusal(lambda: f"the axis has {size} elements, not 1", m.root)
        if int(index.array) not in (0, -1):
            return Refusal(lambda: f"index {index.array} is out of range", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The tensor without that axis."""
        rank = len(m["x"].shape or ())
        result: Value = op.Squeeze(m["x"], [int(m.root.attr("axis")) % rank])
        return result


class FullScatter(Rule):
    """``ScatterND(x, every index in order, updates)  ->  updates``, or a view of them."""

    def pattern(self, op: PatternOps, x: Var, indices: Var, updates: Var) -> NodePattern:
        """A scatter that overwrites."""
        return op.ScatterND(x, indices, updates, _attrs={"reduction": "none"})

    def check(self, m: Match) -> Refusal | None:
        """Every place must be written once, in order."""
        plan = self._plan(m)
        return Refusal(plan, m.root) if isinstance(plan, str) else None

    def _plan(self, m: Match) -> View | str:
        out, given, shape = m["x"].shape, m["updates"].shape, m["indices"].tensor.shape
        if out is None or given is None or not shape or not isinstance(shape[-1], int):
            return "the ranks are not known"
        reason = _runs_through(m["indices"], out[: shape[-1]])
        return reason if reason is not None else plan_view(given, out)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The updates."""
        plan = self._plan(m)
        assert isinstance(plan, View)
        return plan.build(op, m["updates"])


@dataclass(frozen=True)
class SimplifyIndices(RulePass):
    """``GatherND(x, every index in order)  ->  x``."""

    name: ClassVar[str] = "simplify-indices"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """Views first."""
        return [ViewGather(), DirectGather(), OnlyElement(), FullScatter()]
