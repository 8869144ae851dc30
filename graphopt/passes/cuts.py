"""Slices as numbers: what each takes of an axis, and how two of them compose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Builder, Dim, Node, TensorType, Value, static_shape

__all__ = ["END", "Cut", "axis_of", "compose_cuts", "cut", "read_cuts", "takes_all"]

# "Through the last", as exporters write it.
END = (1 << 63) - 1
# Ends from here on are beyond any axis.
_FAR = 1 << 62


@dataclass(frozen=True)
class Cut:
    """``start:end:step`` of one axis; bounds below 0 count from the end."""

    axis: int
    start: int
    end: int
    step: int = 1

    @property
    def length(self) -> int:
        """Number of elements, for bounds that are within the axis."""
        return max(-((self.start - self.end) // self.step), 0)


def read_cuts(node: Node) -> list[Cut] | None:
    """What a Slice takes, one entry an axis; None where that is not known before the run.

    Bounds on an axis of known size are those that apply: none is negative or too large.
    """
    value = node.input(0)
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    shape = value.type.shape
    starts, ends = _numbers(node.input(1)), _numbers(node.input(2))
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    axes = _numbers(node.input(3)) if node.input(3) is not None else tuple(range(len(starts)))
    steps = _numbers(node.input(4)) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None or not len(starts) == len(axes) == len(steps):
        return None
    cuts = [
        _clamped(Cut(axis % len(shape), *bounds), shape[axis])
        for axis, *bounds in zip(axes, starts, ends, steps, strict=True)
    ]
    return cuts if len({c.axis for c in cuts}) == len(cuts) else None


def _numbers(value: Value | None) -> tuple[int, ...] | None:
    return None if value is None else static_shape(value.elements)


def _clamped(c: Cut, size: Dim) -> Cut:
    if not isinstance(size, int) or c.step < 0:
        return c
    start, end = (min(max(x + size if x < 0 else x, 0), size) for x in (c.start, c.end))
    return Cut(c.axis, start, max(start, end), c.step)


def cut(builder: Builder, x: Value, cuts: Sequence[Cut]) -> Value:
    """``x`` sliced; x itself where there is nothing to slice."""
    if not cuts:
        return x
    ordered = sorted(cuts, key=lambda c: c.axis)
    columns = [[c.start for c in ordered], [c.end for c in ordered], [c.axis for c in ordered]]
    operands = [
        builder.constant(column, name)
        for column, name in zip(columns, ("starts", "ends", "axes"), strict=True)
    ]
    if any(c.step != 1 for c in ordered):
        operands.append(builder.constant([c.step for c in ordered], "steps"))
    result: Value = builder.Slice(x, *operands)
    return result


def takes_all(c: Cut, size: Dim) -> bool:
    """True for a cut that takes all of an axis of that size, in order."""
    return c.step == 1 and c.start == 0 and (c.end == size or c.end >= _FAR)


def compose_cuts(first: Cut, second: Cut) -> Cut | str:
    """The one cut that does what ``second`` does after ``first``; otherwise why there is none."""
    if first.step < 1 or second.step < 1:
        return f"axis {first.axis} is read backwards"
    if first.start < 0 or second.start < 0 or second.end < 0:
        return f"axis {first.axis} is counted from an end that only the run knows"
    start = first.start + second.start * first.step
    if second.end >= _FAR:
        end = first.end
    elif first.end < 0:
        return f"axis {first.axis} is counted from an end that only the run knows"
    else:
        end = min(first.end, first.start + second.end * first.step)
    return Cut(first.axis, start, min(end, END), first.step * second.step)


def axis_of(node: Node, value: Value) -> int | None:
    """The attribute ``axis`` of ``node`` as an axis of ``value``; None without a rank."""
    rank = value.tensor.rank
    return None if rank is None else int(node.attr("axis")) % rank
