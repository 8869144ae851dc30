"""Padding goes to the convolution or pool that follows.

``Conv(Pad(x, p), w)  ->  Conv(x, w)`` with ``p`` added to its pads; ``AveragePool(Pad(x, p))  ->
AveragePool(x)`` that counts the padding; ``MaxPool(Pad(x, p))  ->  MaxPool(x)`` with its pads.

The padding is of fixed sizes, none below 0, along spatial axes alone, and nobody else reads the
padded value. It is 0 before a convolution or an average, and before a maximum -inf, or 0 where all
of ``x`` is at least 0. Windows of pools keep an element of ``x`` each, and an average that pads
already counts its padding. Sound: these ops pad with the same number themselves; an average over
windows with zeros adds them up and counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Node, Value
from graphopt.passes.polynomial import number
from graphopt.passes.simplify_activations import range_of
from graphopt.passes.simplify_pools import Windows, windows
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FoldPads"]


def _amounts(pad: Node) -> tuple[int, ...] | Refusal:
    """Begins and ends of all spatial axes of a Pad of constants, or why there are none."""
    rank, given = pad.output.tensor.rank, pad.input(1)
    if pad.attr("mode") not in (None, "constant"):
        return Refusal(lambda: f"it pads by mode {pad.attr('mode')}", pad)
    if rank is None or rank < 3 or given is None or given.constant is None:
        return Refusal("the padding is not known, or there are no spatial axes", pad)
    amounts = [int(a) for a in given.constant.array.ravel()]
    axes, where = pad.input(3), list(range(rank))
    if axes is not None:
        if axes.constant is None:
            return Refusal("the padded axes are not known", pad)
        where = [int(a) % rank for a in axes.constant.array.ravel()]
    begin, end = [0] * rank, [0] * rank
    for position, axis in enumerate(where):
        begin[axis] = amounts[position]
        end[axis] = amounts[position + len(where)]
    if min(*begin, *end) < 0:
        return Refusal(lambda: f"it cuts off: {amounts}", pad)
    if any((*begin[:2], *end[:2])):
        return Refusal(lambda: f"it pads batch or channels: {amounts}", pad)
    return (*begin[2:], *end[2:])


def _filler(pad: Node) -> float | None:
    value = pad.input(2)
    return 0.0 if value is None else number(value)


def _sum(node: Node, amounts: tuple[int, ...]) -> list[int]:
    own = node.attr("pads") or (0,) * len(amounts)
    if node.attr("auto_pad") == "VALID":
        own = (0,) * len(amounts)
    return [int(a) + b for a, b in zip(own, amounts, strict=True)]


def _padded(op: Builder, m: Match, **changed: Any) -> Value:
    """The root over what was padded, with other attributes."""
    root = m.root
    attrs = {k: v for k, v in root.attrs.items() if k != "auto_pad"} | changed
    types = [value.type for value in root.outputs]
    inputs = (m["x"], *root.inputs[1:])
    node = op.call(root.op, *inputs, _outputs=len(types), _types=types, **attrs)
    return node.output


class _Fold(Rule):
    """What the folds share: the padding, and the padding that the root has already."""

    def check(self, m: Match) -> Refusal | None:
        """Zeros of fixed sizes along spatial axes."""
        found = _amounts(m.node("pad"))
        if isinstance(found, Refusal):
            return found
        if m.root.attr("auto_pad") not in (None, "", "NOTSET", "VALID"):
            return Refusal(lambda: f"auto_pad is {m.root.attr('auto_pad')}", m.root)
        return self.fits(m, found)

    def fits(self, m: Match, amounts: tuple[int, ...]) -> Refusal | None:
        """Why the root cannot pad that itself."""
        filler = _filler(m.node("pad"))
        return None if filler == 0 else Refusal(lambda: f"it pads with {filler}", m.node("pad"))


class PadConv(_Fold):
    """``Conv(Pad(x), w, b)  ->  Conv(x, w, b)`` with pads."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The padding is of the data."""
        return op.Conv(op.Pad(x, op.rest("how"), _bind="pad"), op.rest("operands"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One convolution."""
        amounts = _amounts(m.node("pad"))
        assert not isinstance(amounts, Refusal)
        return _padded(op, m, pads=_sum(m.root, amounts))


class PadAverage(_Fold):
    """``AveragePool(Pad(x))  ->  AveragePool(x)``, which counts its padding."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The padding is of the data."""
        return op.AveragePool(op.Pad(x, op.rest("how"), _bind="pad"))

    def fits(self, m: Match, amounts: tuple[int, ...]) -> Refusal | None:
        """All padding must be counted; every window holds an element."""
        found = windows(m.root)
        if isinstance(found, Refusal):
            return found
        if any((*found.begin, *found.end)) and not m.root.attr("count_include_pad"):
            return Refusal("it does not count the padding that it has", m.root)
        if not _with(found, amounts).filled:
            return Refusal(lambda: f"windows of {found.kernel} may lie in the padding", m.root)
        return super().fits(m, amounts)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One pool."""
        amounts = _amounts(m.node("pad"))
        assert not isinstance(amounts, Refusal)
        return _padded(op, m, pads=_sum(m.root, amounts), count_include_pad=1)


class PadMaximum(_Fold):
    """``MaxPool(Pad(x, -inf))  ->  MaxPool(x)``, also of zeros where ``x`` is never below."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """The padding is of the data."""
        return op.MaxPool(op.Pad(x, op.rest("how"), _bind="pad"))

    def fits(self, m: Match, amounts: tuple[int, ...]) -> Refusal | None:
        """The padding must be no more than any element; every window holds an element."""
        found = windows(m.root)
        if isinstance(found, Refusal):
            return found
        if not _with(found, amounts).filled:
            return Refusal(lambda: f"windows of {found.kernel} may lie in the padding", m.root)
        if len(m.root.outputs) > 1:
            return Refusal("indices count the padding", m.root)
        filler, low = _filler(m.node("pad")), range_of(m["x"])[0]
        if not m["x"].tensor.dtype.is_float or filler is None or np.isnan(filler) or filler > low:
            return Refusal(lambda: f"it pads with {filler}, elements may be {low}", m.node("pad"))
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One pool."""
        amounts = _amounts(m.node("pad"))
        assert not isinstance(amounts, Refusal)
        return _padded(op, m, pads=_sum(m.root, amounts))


def _with(found: Windows, amounts: tuple[int, ...]) -> Windows:
    """Windows with more padding."""
    rank = len(found.kernel)
    begin = tuple(a + b for a, b in zip(found.begin, amounts[:rank], strict=True))
    end = tuple(a + b for a, b in zip(found.end, amounts[rank:], strict=True))
    return Windows(found.kernel, found.strides, begin, end)


@dataclass(frozen=True)
class FoldPads(RulePass):
    """``Conv(Pad(x), w)  ->  Conv(x, w)``; pools alike."""

    name: ClassVar[str] = "fold-pads"

    def rules(self, graph: Graph) -> list[Rule]:
        """One an op."""
        return [PadConv(), PadAverage(), PadMaximum()]
