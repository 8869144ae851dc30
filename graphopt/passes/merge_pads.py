"""Ops that add elements, in a row or to no end: Pad, Tile and nearest Resize.

``Pad(Pad(x))  ->  Pad(x)``, ``Pad(x, zeros)  ->  x``, a Slice that takes back what a Pad added is a
Slice of x, ``Tile(Tile(x))  ->  Tile(x)``, ``Resize(x)`` to its own size  ->  x, and
``Resize(Resize(x, 2), 2)  ->  Resize(x, 4)``. ``Resize(x, computed sizes)  ->  Resize(x, scales)``
of any kind, where all sizes are whole multiples of those of x.

Sound: elements are copies, and the same ones. Pads that cut away and then add do not merge. Of
resizes in a row, nearest neighbours alone do: linear ones weigh neighbours by 0, which turns
infinities into NaN. Growing by whole factors picks ``i // factor`` each time, which composes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Dim, Graph, Node, Value, static_shape
from graphopt.passes.cuts import Cut, cut, read_cuts
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

__all__ = ["MergePads", "read_pads"]

Pads = tuple[tuple[int, ...], tuple[int, ...]]


def read_pads(node: Node) -> Pads | None:
    """What a Pad adds before and after each axis; None where that is not known."""
    value, pads, axes = node.input(0), node.input(1), node.input(3)
    rank = None if value is None else value.tensor.rank
    amounts = None if pads is None else static_shape(pads.elements)
    named = tuple(range(rank or 0)) if axes is None else static_shape(axes.elements)
    if rank is None or amounts is None or named is None or len(amounts) != 2 * len(named):
        return None
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(named):
        before[axis % rank] = amounts[position]
        after[axis % rank] = amounts[len(named) + position]
    return tuple(before), tuple(after)


class DropPad(Rule):
    """``Pad(x, zeros)  ->  x``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any Pad."""
        return op.Pad(x, op.rest("rest"))

    def check(self, m: Match) -> Refusal | None:
        """Nothing may be added or cut away."""
        pads = read_pads(m.root)
        if pads is None:
            return Refusal("the pads are not known", m.root)
        if any(pads[0]) or any(pads[1]):
            return Refusal(f"it adds {pads[0]} before and {pads[1]} after", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


class PadPad(Rule):
    """``Pad(Pad(x))  ->  Pad(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two in a row, the first for the second alone."""
        return op.Pad(op.Pad(x, op.rest("first"), _bind="first"), op.rest("second"))

    def check(self, m: Match) -> Refusal | None:
        """Both must fill with the same, and none may add what the other cut away."""
        first, second = m.node("first"), m.root
        a, b = read_pads(first), read_pads(second)
        if a is None or b is None:
            return Refusal("the pads are not known", first if a is None else second)
        mode = first.attr("mode")
        if mode != second.attr("mode") or mode not in ("constant", "edge"):
            return Refusal(f"their modes are {mode} and {second.attr('mode')}", second)
        if mode == "constant" and not _same_fill(first, second):
            return Refusal("they fill with other values", second)
        if any(p < 0 < q for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)):
            return Refusal("the first cuts away where the second adds", first)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Pad by the sums."""
        a, b = read_pads(m.node("first")), read_pads(m.root)
        assert a is not None and b is not None
        sums = [p + q for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)]
        fill = m.root.input(2)
        result: Value = op.Pad(m["x"], op.constant(sums, "pads"), fill, **m.root.attrs)
        return result


def _same_fill(first: Node, second: Node) -> bool:
    a, b = first.input(2), second.input(2)
    if a is b:
        return True
    fills = []
    for value in (a, b):
        if value is None:
            fills.append(np.zeros((), first.output.tensor.dtype.numpy))
        elif value.constant is None:
            return False
        else:
            fills.append(value.constant.array.reshape(()))
    return fills[0].tobytes() == fills[1].tobytes()


class SlicePad(Rule):
    """``Slice(Pad(x))  ->  Slice(x)`` where nothing that was added is taken."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A slice of what is padded; others may read that too."""
        return op.Slice(op.Pad(x, op.rest("pads"), _bind="pad", _shared=True), op.rest("bounds"))

    def check(self, m: Match) -> Refusal | None:
        """Every padded axis must be sliced within x."""
        cuts = self._cuts(m)
        return Refusal(cuts, m.root) if isinstance(cuts, str) else None

    def _cuts(self, m: Match) -> list[Cut] | str:
        pads, cuts, shape = read_pads(m.node("pad")), read_cuts(m.root), m["x"].shape
        if pads is None or cuts is None or shape is None:
            return "the pads or the bounds are not known"
        named = {c.axis: c for c in cuts}
        result: list[Cut] = []
        for axis, (before, after, size) in enumerate(zip(*pads, shape, strict=True)):
            c = named.get(axis)
            if before == after == 0:
                result += [] if c is None else [c]
                continue
            if c is None or c.step < 0 or not isinstance(size, int) or before < 0 or after < 0:
                return f"axis {axis} is padded, and not sliced back for certain"
            if c.start < before or c.end > before + size:
                return f"{c.start}:{c.end} of axis {axis} takes what is added"
            result.append(Cut(axis, c.start - before, c.end - before, c.step))
        return [c for c in result if not (c.start == 0 and c.end == shape[c.axis] and c.step == 1)]

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The slice of the operand."""
        cuts = self._cuts(m)
        assert not isinstance(cuts, str)
        return cut(op, m["x"], cuts)


class TileTile(Rule):
    """``Tile(Tile(x, a), b)  ->  Tile(x, a * b)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two in a row."""
        return op.Tile(op.Tile(x, op.constant("a"), _shared=True), op.constant("b"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Tile by the products."""
        a, b = m["a"].constant, m["b"].constant
        assert a is not None and b is not None
        result: Value = op.Tile(m["x"], op.constant(a.array * b.array, "repeats"))
        return result


class DropResize(Rule):
    """``Resize(x, 1)  ->  x`` of nearest neighbours."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Any Resize."""
        return op.Resize(x, op.rest("rest"))

    def check(self, m: Match) -> Refusal | None:
        """All scales must be 1, or the sizes those of x."""
        node = m.root
        refused = _picks(node)
        if refused is not None:
            return refused
        scales, sizes = node.input(2), node.input(3)
        if scales is not None and scales.tensor.numel != 0:
            if scales.constant is None or bool((scales.constant.array != 1).any()):
                return Refusal("its scales are not all 1", node)
        elif sizes is None or m["x"].type != node.output.type:
            return Refusal(lambda: f"it turns {m['x'].type} into {node.output.type}", node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The operand."""
        return m["x"]


def _picks(node: Node) -> Refusal | None:
    """Why a Resize does more than to pick elements one by one."""
    if node.attr("mode") != "nearest":
        return Refusal(f"mode is {node.attr('mode')}: it weighs neighbours by 0", node)
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return Refusal("it crops", node)
    return None


class ScaleResize(Rule):
    """``Resize(x, computed sizes)  ->  Resize(x, scales)`` where sizes grow by whole factors."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Sizes that are computed."""
        return op.Resize(x, op.rest("rest"))

    def check(self, m: Match) -> Refusal | None:
        """Every size must be a whole multiple of that of x."""
        scales = self._scales(m)
        return Refusal(scales, m.root) if isinstance(scales, str) else None

    def _scales(self, m: Match) -> list[float] | str:
        node, sizes = m.root, m.root.input(3)
        old, new = m["x"].shape, node.output.shape
        if sizes is None or sizes.is_constant:
            return "its sizes are not computed"
        if old is None or new is None or node.attrs.get("axes") is not None:
            return "the rank is not known, or it names axes"
        if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
            return "it crops"
        if node.attr("keep_aspect_ratio_policy") not in (None, "stretch") or sizes.elements != new:
            return "its sizes are not those of the result"
        found = [_factor(a, b) for a, b in zip(old, new, strict=True)]
        scales = [float(factor) for factor in found if factor is not None]
        if len(scales) != len(found):
            return f"{node.output.type} is no whole multiple of {m['x'].type}"
        return scales

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Resize by the factors."""
        scales = self._scales(m)
        assert not isinstance(scales, str)
        factors = op.constant(np.array(scales, np.float32), "scales")
        result: Value = op.Resize(m["x"], None, factors, **m.root.attrs)
        return result


def _factor(old: Dim, new: Dim) -> int | None:
    """The whole number by which ``old`` is multiplied to give ``new``."""
    if isinstance(old, int):
        return new // old if isinstance(new, int) and old and new % old == 0 and new else None
    factor = new // old
    return factor if isinstance(factor, int) and factor > 0 and old * factor == new else None


class ResizeResize(Rule):
    """``Resize(Resize(x, a), b)  ->  Resize(x, a * b)`` by whole factors."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two in a row, with constant scales."""
        inner = op.Resize(x, op.rest("first"), _bind="first", _shared=True)
        return op.Resize(inner, op.rest("second"))

    def check(self, m: Match) -> Refusal | None:
        """Both must pick ``i // factor``."""
        for node in (m.node("first"), m.root):
            refused = _picks(node) or _grows(node)
            if refused is not None:
                return refused
        if m.node("first").attrs != m.root.attrs:
            return Refusal("their attributes differ", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One Resize by the products."""
        a, b = m.node("first").input(2), m.root.input(2)
        assert a is not None and b is not None and a.constant is not None and b.constant is not None
        scales = op.constant(a.constant.array * b.constant.array, "scales")
        result: Value = op.Resize(m["x"], None, scales, **m.root.attrs)
        return result


def _grows(node: Node) -> Refusal | None:
    """Why a nearest Resize does not pick ``i // factor``."""
    scales = node.input(2)
    if scales is None or scales.constant is None or node.input(3) is not None:
        return Refusal("its scales are not known", node)
    if node.attrs.get("axes") is not None or not scales.constant.numel:
        return Refusal("it names axes, or sizes instead of scales", node)
    factors = scales.constant.array
    # Up to here positions are far enough from the middle between two to be rounded safely.
    if bool(((factors != np.floor(factors)) | (factors < 1) | (factors > 64)).any()):
        return Refusal(f"its scales are {factors.tolist()}, not whole", node)
    where = (node.attr("coordinate_transformation_mode"), node.attr("nearest_mode"))
    if where not in _FLOORS:
        return Refusal(f"{where[0]} and {where[1]} pick other elements", node)
    return None


_FLOORS = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}


@dataclass(frozen=True)
class MergePads(RulePass):
    """``Pad(Pad(x))  ->  Pad(x)``, Tile and Resize alike."""

    name: ClassVar[str] = "merge-pads"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """What does nothing, then what does it twice."""
        return [
            DropPad(),
            PadPad(),
            SlicePad(),
            TileTile(),
            DropResize(),
            ScaleResize(),
            ResizeResize(),
        ]
