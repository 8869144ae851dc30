"""Pieces of tensors, taken and put together in fewer steps.

``Slice(Slice(x))  ->  Slice(x)``, ``Slice(x, :)  ->  x``,
``Gather(x, a range of constants)  ->  Slice(x)``,
``Unsqueeze(Gather(x, i))  ->  Gather(x, [i])``, ``Squeeze(Slice(x, i:i+1))  ->  Gather(x, i)``,
``Concat(Split(x))  ->  x``, ``Split(Concat(a, b))  ->  a, b``,
``Concat(Concat(a, b), c)  ->  Concat(a, b, c)``. What lies in one part of a Concat is taken from
that part, and so is the only part of a Split that is read; Concat of one, Split into one and parts
without elements go.

Sound: elements are moved, never computed. Positions are compared as numbers: where an axis is
symbolic, only those that count from the front are. An index that may be out of range stays an
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Dim, Graph, Node, Value, static_shape
from graphopt.passes.cuts import Cut, axis_of, compose_cuts, cut, read_cuts, takes_all
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

__all__ = ["MergeSlices"]


class SliceSlice(Rule):
    """``Slice(Slice(x))  ->  Slice(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two in a row; the first may have other readers."""
        return op.Slice(
            op.Slice(x, op.rest("first"), _bind="first", _shared=True), op.rest("second")
        )

    def check(self, m: Match) -> Refusal | None:
        """Bounds must be numbers, and those of one axis must compose."""
        cuts = _merged(m)
        return Refusal(cuts, m.root) if isinstance(cuts, str) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One slice."""
        cuts = _merged(m)
        assert not isinstance(cuts, str)
        return _typed(op, cut(op, m["x"], cuts), m.root.output)


def _merged(m: Match) -> list[Cut] | str:
    first, second = read_cuts(m.node("first")), read_cuts(m.root)
    if first is None or second is None:
        return "its bounds are not known"
    result = {c.axis: c for c in first}
    for c in second:
        one = compose_cuts(result[c.axis], c) if c.axis in result else c
        if isinstance(one, str):
            return one
        result[c.axis] = one
    return list(result.values())


class DropCut(Rule):
    """``Slice(x, [:, a:b])  ->  Slice(x, [a:b])``, or x where all of it is taken."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any Slice."""
        return op.Slice(x, op.rest("bounds"))

    def check(self, m: Match) -> Refusal | None:
        """All of some axis must be taken, whatever its size."""
        cuts, shape = read_cuts(m.root), m["x"].tensor.shape
        if cuts is None or shape is None:
            return Refusal("its bounds are not known", m.root)
        if not any(takes_all(c, shape[c.axis]) for c in cuts):
            return Refusal("it takes a part of every axis that it names", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The rest of the slice."""
        cuts, shape = read_cuts(m.root), m["x"].tensor.shape
        assert cuts is not None and shape is not None
        rest = [c for c in cuts if not takes_all(c, shape[c.axis])]
        return _typed(op, cut(op, m["x"], rest), m.root.output)


def _typed(op: Builder, new: Value, old: Value) -> Value:
    """``new``, with what is known of ``old``, which it stands for, where it was made for that."""
    if new.producer in op.created:
        new.type = old.type
    return new


class SliceGather(Rule):
    """``Gather(x, [a, a + 1, ...])  ->  Slice(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Constant indices."""
        return op.Gather(x, op.constant("indices"))

    def check(self, m: Match) -> Refusal | None:
        """One axis of indices in steps of one, none out of range."""
        found = _range_of(m)
        return Refusal(found, m.root) if isinstance(found, str) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One slice, or x when that is all of it."""
        found = _range_of(m)
        assert isinstance(found, Cut)
        shape = m["x"].shape
        assert shape is not None
        whole = found.start == 0 and found.end == shape[found.axis]
        return cut(op, m["x"], [] if whole else [found])


def _range_of(m: Match) -> Cut | str:
    constant, shape = m["indices"].constant, m["x"].tensor.shape
    assert constant is not None
    if shape is None:
        return "the rank is not known"
    axis = int(m.root.attr("axis")) % len(shape)
    size = shape[axis]
    if constant.type.rank != 1 or not constant.numel:
        return f"the indices are {constant.type}, not one axis of them"
    if not isinstance(size, int):
        return f"whether the indices are below {size} is seen in the run"
    if constant.numel > size:
        return f"there are {constant.numel} indices of {size} elements"
    indices = constant.array.astype(np.int64)
    indices = np.where(indices < 0, indices + size, indices)
    first = int(indices[0])
    if not np.array_equal(indices, np.arange(first, first + len(indices))):
        return "the indices do not go up by one"
    if first < 0 or first + len(indices) > size:
        return f"indices are out of the range of {size} elements"
    return Cut(axis, first, first + len(indices))


class KeepAxis(Rule):
    """``Unsqueeze(Gather(x, i, axis=k), k)  ->  Gather(x, [i], axis=k)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A constant index; nobody else may read the element."""
        return op.Unsqueeze(op.Gather(x, op.constant("index"), _bind="gather"), op.constant("axes"))

    def check(self, m: Match) -> Refusal | None:
        """The index must have no axes, and the new axis must stand where the old one was."""
        index, rank = m["index"].constant, m["x"].tensor.rank
        assert index is not None
        if rank is None:
            return Refusal("the rank is not known", m["x"])
        if index.type.rank != 0:
            return Refusal(lambda: f"the index is {index.type}, not a single one", m["index"])
        axis = axis_of(m.node("gather"), m["x"])
        axes = static_shape(m["axes"].elements)
        if axes is None or [a % rank for a in axes] != [axis]:
            return Refusal(lambda: f"axis {axis} goes, and {axes} comes", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Gather with a list of one index."""
        index = m["index"].constant
        assert index is not None
        indices = op.constant(index.array.reshape(1), m["index"].name)
        result: Value = op.Gather(m["x"], indices, axis=axis_of(m.node("gather"), m["x"]))
        return result


class TakeElement(Rule):
    """``Squeeze(Slice(x, i:i+1), axis)  ->  Gather(x, i)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A slice that nobody else reads."""
        return op.Squeeze(op.Slice(x, op.rest("bounds"), _bind="slice"), op.constant("axes"))

    def check(self, m: Match) -> Refusal | None:
        """One axis is sliced, one element of it is taken for certain, and that axis goes."""
        cuts, shape = read_cuts(m.node("slice")), m["x"].tensor.shape
        if cuts is None or shape is None:
            return Refusal("its bounds are not known", m.node("slice"))
        if len(cuts) != 1:
            return Refusal(f"{len(cuts)} axes are sliced", m.node("slice"))
        if not isinstance(shape[cuts[0].axis], int) or cuts[0].step < 1 or cuts[0].length != 1:
            return Refusal("it may take another number of elements than 1", m.node("slice"))
        axes = static_shape(m["axes"].elements)
        if axes is None or [a % len(shape) for a in axes] != [cuts[0].axis]:
            return Refusal(f"axis {cuts[0].axis} is sliced, and {axes} go", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The element."""
        cuts = read_cuts(m.node("slice"))
        assert cuts is not None
        index = op.constant(np.array(cuts[0].start, np.int64), "index")
        result: Value = op.Gather(m["x"], index, axis=cuts[0].axis)
        return result


class SliceConcat(Rule):
    """``Slice(Concat(..., part, ...))  ->  Slice(part)`` where it takes of that part alone."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """A slice of parts that others may read too."""
        joined = op.Concat(op.rest("parts"), _bind="concat", _shared=True)
        return op.Slice(joined, op.rest("bounds"))

    def check(self, m: Match) -> Refusal | None:
        """Bounds along the joined axis must be numbers within one part."""
        found = _within_part(m)
        return Refusal(found, m.root) if isinstance(found, str) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The part, sliced."""
        found = _within_part(m)
        assert not isinstance(found, str)
        return _typed(op, cut(op, *found), m.root.output)


def _within_part(m: Match) -> tuple[Value, list[Cut]] | str:
    cuts, axis = read_cuts(m.root), axis_of(m.node("concat"), m.node("concat").output)
    if cuts is None or axis is None:
        return "its bounds are not known"
    along = next((c for c in cuts if c.axis == axis), None)
    if along is None:
        return f"it does not slice axis {axis}, along which the parts are joined"
    if along.step < 0 or along.start < 0 or along.end < 0:
        return "it counts from an end that only the run knows"
    begin = 0
    for part in m.values("parts"):
        assert part is not None
        size = None if part.shape is None else part.shape[axis]
        if not isinstance(size, int):
            break
        if begin <= along.start and along.end <= begin + size:
            start, end = along.start - begin, along.end - begin
            rest = [c for c in cuts if c is not along]
            whole = start == 0 and end == size and along.step == 1
            return part, rest if whole else [*rest, Cut(axis, start, end, along.step)]
        begin += size
    return f"{along.start}:{along.end} lies in no part alone"


class SliceSplit(Rule):
    """``a, _ = Split(x)  ->  a = Slice(x)`` where one part alone is read."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any Split."""
        return op.Split(x, op.rest("sizes"))

    def check(self, m: Match) -> Refusal | None:
        """One part is read, and where it begins and ends is known."""
        found = self._cut(m)
        return Refusal(found, m.root) if isinstance(found, str) else None

    def _cut(self, m: Match) -> Cut | str:
        axis = axis_of(m.root, m["x"])
        read = [i for i, value in enumerate(m.root.outputs) if value.use_count]
        if axis is None:
            return "the rank is not known"
        if len(read) != 1 or len(m.root.outputs) == 1:
            return f"{len(read)} of {len(m.root.outputs)} parts are read"
        sizes = static_shape([d for d in _sizes(m.root.outputs, axis) if d is not None])
        if sizes is None or len(sizes) != len(m.root.outputs):
            return "the sizes of the parts are not known"
        start = sum(sizes[: read[0]])
        return Cut(axis, start, start + sizes[read[0]])

    def rewrite(self, op: Builder, m: Match) -> Sequence[Value | None]:
        """The part, as a slice."""
        found = self._cut(m)
        assert isinstance(found, Cut)
        part = cut(op, m["x"], [found])
        return [part if value.use_count else None for value in m.root.outputs]


class DropEmptyPart(Rule):
    """``Concat(a, empty, b)  ->  Concat(a, b)``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """Any Concat."""
        return op.Concat(op.rest("parts"))

    def check(self, m: Match) -> Refusal | None:
        """Some part must have no elements along the axis, and not all."""
        kept = self._kept(m)
        if len(kept) == len(m.values("parts")):
            return Refusal("every part may have elements", m.root)
        return None if kept else Refusal("all of it is empty", m.root)

    def _kept(self, m: Match) -> list[Value | None]:
        axis = axis_of(m.root, m.root.output)
        return [
            v
            for v in m.values("parts")
            if axis is None or v is None or v.shape is None or v.shape[axis] != 0
        ]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The parts with elements."""
        result: Value = op.Concat(*self._kept(m), axis=axis_of(m.root, m.root.output))
        return result


class JoinSplit(Rule):
    """``Concat(Split(x))  ->  x``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """Any Concat."""
        return op.Concat(op.rest("parts"))

    def check(self, m: Match) -> Refusal | None:
        """All outputs of one Split, in order, along its axis."""
        parts = m.values("parts")
        if len(parts) == 1:
            return None
        split = parts[0].producer if parts[0] is not None else None
        if split is None or not split.is_a("Split"):
            return Refusal("its first part is no output of a Split", m.root)
        if parts != split.outputs:
            return Refusal("its parts are not those of the Split in order", m.root)
        if axis_of(split, split.outputs[0]) != axis_of(m.root, m.root.output):
            return Refusal("it joins along another axis than the Split", m.root)
        _also(m, split)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """What was split, or the only part."""
        first = m.values("parts")[0]
        assert first is not None
        if len(m.values("parts")) == 1:
            return first
        assert first.producer is not None
        whole = first.producer.input(0)
        assert whole is not None
        return whole


class SplitJoined(Rule):
    """``Split(Concat(a, b))  ->  a, b``; Split into one part goes."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any Split."""
        return op.Split(x, op.rest("sizes"))

    def check(self, m: Match) -> Refusal | None:
        """The Concat must join parts of the same sizes along the same axis."""
        if len(m.root.outputs) == 1:
            x, out = m["x"].type, m.root.output.type
            return None if x == out else Refusal(lambda: f"it turns {x} into {out}", m.root)
        concat = m["x"].producer
        if concat is None or not concat.is_a("Concat"):
            return Refusal("what it splits is no Concat", m["x"])
        axis = axis_of(m.root, m["x"])
        if axis is None or axis != axis_of(concat, m["x"]):
            return Refusal("the Concat joins along another axis", concat)
        parts, pieces = _sizes(concat.inputs, axis), _sizes(m.root.outputs, axis)
        if None in parts or parts != pieces:
            return Refusal(
                lambda: f"parts of {_listed(parts)} are split into {_listed(pieces)}", m.root
            )
        _also(m, concat)
        return None

    def rewrite(self, op: Builder, m: Match) -> Sequence[Value | None]:
        """The parts."""
        if len(m.root.outputs) == 1:
            return [m["x"]]
        concat = m["x"].producer
        assert concat is not None
        return concat.inputs


def _also(m: Match, node: Node) -> None:
    """Counts ``node``, which no pattern names, among what the rule replaces where nobody else reads
    it."""
    m.nodes.append(node)
    m.kept.add(node)


def _sizes(values: Sequence[Value | None], axis: int) -> list[Dim | None]:
    return [None if v is None or v.shape is None else v.shape[axis] for v in values]


def _listed(sizes: Sequence[Dim | None]) -> str:
    return ", ".join("?" if size is None else str(size) for size in sizes)


class FlattenConcat(Rule):
    """``Concat(..., Concat(a, b), ...)  ->  Concat(..., a, b, ...)``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """Any Concat."""
        return op.Concat(op.rest("parts"))

    def check(self, m: Match) -> Refusal | None:
        """An inner Concat along the same axis that nobody else reads."""
        inner = [node for v in m.values("parts") if (node := _inner(m.root, v)) is not None]
        if inner and len(m.values("parts")) > 1:
            m.nodes.extend(dict.fromkeys(inner))
            return None
        return Refusal("no part is a Concat along that axis for this one alone", m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Concat of all."""
        parts: list[Value | None] = []
        for value in m.values("parts"):
            inner = _inner(m.root, value)
            parts += [value] if inner is None else inner.inputs
        result: Value = op.Concat(*parts, axis=axis_of(m.root, m.root.output))
        return result


def _inner(outer: Node, value: Value | None) -> Node | None:
    node = None if value is None else value.producer
    if value is None or node is None or not node.is_a("Concat") or node.graph is not outer.graph:
        return None
    if value.is_output or any(user is not outer for user in value.users):
        return None
    axis = axis_of(outer, outer.output)
    return node if axis is not None and axis == axis_of(node, value) else None


@dataclass(frozen=True)
class MergeSlices(RulePass):
    """``Slice(Slice(x))  ->  Slice(x)``, ``Concat(Split(x))  ->  x`` and their like."""

    name: ClassVar[str] = "merge-slices"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """What takes pieces, then what joins them."""
        return [
            DropCut(),
            SliceSlice(),
            SliceConcat(),
            SliceGather(),
            KeepAxis(),
            TakeElement(),
            DropEmptyPart(),
            JoinSplit(),
            SplitJoined(),
            SliceSplit(),
            FlattenConcat(),
        ]
