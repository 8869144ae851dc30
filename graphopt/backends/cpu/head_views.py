"""Where heads lie among the features of a projection: what attention reads without a copy.

``Transpose(Reshape(x, [B, S, H, D]), (0, 2, 1, 3))`` and its like, through Split, Slice and Gather,
are a walk over ``x`` [B, S, features] with fixed steps. :func:`read_heads` finds them. A single
batch may stand anywhere, or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from graphopt.ir import Dim, Node, Value, product

__all__ = ["Heads", "read_features", "read_heads"]

# An axis: ("batch", "length" or "unit", size), or (features from one element to the next, size).
Axis: TypeAlias = "tuple[str | int, Dim]"


@dataclass(frozen=True)
class Heads:
    """``heads`` of ``size`` features each in ``source``, [batch, length, features] but for how its
    features are split; the first begins at ``begin``, the next one ``step`` later."""

    source: Value
    shape: tuple[Dim, Dim, int]
    begin: int
    step: int
    heads: int
    size: int


@dataclass(frozen=True)
class _Layout:
    source: Value
    batch: Dim
    length: Dim
    features: int
    begin: int
    axes: tuple[Axis, ...]


def read_heads(value: Value) -> Heads | None:
    """``value`` [batch, heads, length, size] as a walk over features; None where it is none."""
    for batched in (True, False):
        found = _heads(_read(value, batched))
        if found is not None:
            return found
    return None


def _heads(layout: _Layout | None) -> Heads | None:
    if layout is None or len(layout.axes) != 4:
        return None
    batch, heads, length, size = layout.axes
    if not _is_batch(layout, batch) or length[0] != "length" or size[0] != 1:
        return None
    step, count = heads if heads[0] != "unit" else (size[1], 1)
    if not isinstance(step, int) or not isinstance(count, int) or not isinstance(size[1], int):
        return None
    if step < size[1] or count < 1:
        return None
    shape = (layout.batch, layout.length, layout.features)
    return Heads(layout.source, shape, layout.begin, step, count, size[1])


def _is_batch(layout: _Layout, axis: Axis) -> bool:
    return axis[0] == "batch" or (axis[0] == "unit" and layout.batch == 1)


def read_features(value: Value, heads: int) -> Heads | None:
    """``value`` [batch, length, heads * size] as a walk over what it is cut from."""
    layout = _read(value, True)
    if layout is None or len(layout.axes) != 3 or heads < 1:
        return None
    batch, length, run = layout.axes
    if not _is_batch(layout, batch) or length[0] != "length" or run[0] != 1:
        return None
    if not isinstance(run[1], int) or run[1] % heads:
        return None
    shape = (layout.batch, layout.length, layout.features)
    size = run[1] // heads
    return Heads(layout.source, shape, layout.begin, size, heads, size)


def _read(value: Value, batched: bool) -> _Layout | None:
    """``batched``: sources have a batch before the length; else the length comes first."""
    node = value.producer
    if node is not None and not node.op.domain and node.input(0) is not None:
        reader = _READERS.get(node.op.name)
        source = node.input(0)
        inner = _read(source, batched) if reader is not None and source is not None else None
        found = reader(node, value, inner) if reader is not None and inner is not None else None
        if found is not None:
            return found
    return _source(value, batched)


def _source(value: Value, batched: bool) -> _Layout | None:
    """A value in memory as it stands: batch, length, and features split into fixed axes."""
    shape, lead = value.shape, 2 if batched else 1
    if shape is None or len(shape) <= lead:
        return None
    runs = _runs(shape[lead:], 1)
    if runs is None:
        return None
    features = product(shape[lead:])
    assert isinstance(features, int)
    batch: Dim = shape[0] if batched else 1
    length = shape[lead - 1]
    axes: list[Axis] = [("batch", batch)] if batched else []
    return _Layout(value, batch, length, features, 0, (*axes, ("length", length), *runs))


def _runs(shape: tuple[Dim, ...], step: int) -> list[Axis] | None:
    """Axes of a run of features that is split, the last ``step`` apart."""
    axes: list[Axis] = []
    for dim in reversed(shape):
        if not isinstance(dim, int) or dim < 1:
            return None
        axes.insert(0, (step, dim))
        step *= dim
    return axes


def _transpose(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    perm = node.attr("perm") or range(len(layout.axes) - 1, -1, -1)
    return replace(layout, axes=tuple(layout.axes[axis] for axis in perm))


def _reshape(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    """Only where axes of features are split and axes of size 1 come or go, all others staying."""
    shape = value.shape
    if shape is None:
        return None
    axes: list[Axis] = []
    wanted = [dim for dim in shape if dim != 1]
    for step, size in layout.axes:
        if size == 1:
            continue
        if wanted and wanted[0] == size:
            axes.append((step, wanted.pop(0)))
            continue
        part: list[Dim] = []
        while wanted and product(part) != size and isinstance(wanted[0], int):
            part.append(wanted.pop(0))
        runs = _runs(tuple(part), step) if isinstance(step, int) and product(part) == size else None
        if runs is None:
            return None
        axes.extend(runs)
    if wanted:
        return None
    left = iter(axes)
    return replace(layout, axes=tuple(("unit", 1) if dim == 1 else next(left) for dim in shape))


def _squeeze(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    axes = node.input(1)
    if axes is None or axes.constant is None:
        return None
    gone = {int(axis) % len(layout.axes) for axis in axes.constant.array.ravel()}
    return replace(
        layout, axes=tuple(axis for place, axis in enumerate(layout.axes) if place not in gone)
    )


def _unsqueeze(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    axes, rank = node.input(1), value.tensor.rank
    if axes is None or axes.constant is None or rank is None:
        return None
    new = {int(axis) % rank for axis in axes.constant.array.ravel()}
    left = iter(layout.axes)
    return replace(
        layout, axes=tuple(("unit", 1) if place in new else next(left) for place in range(rank))
    )


def _gather(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    index = node.input(1)
    if index is None or index.constant is None or index.shape != ():
        return None
    place = int(node.attr("axis")) % len(layout.axes)
    at = _moved(layout, place, int(index.constant.array), 1)
    if at is None:
        return None
    return replace(at, axes=(*at.axes[:place], *at.axes[place + 1 :]))


def _slice(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    constants = [None if v is None else v.constant for v in node.inputs[1:]]
    if len(constants) < 3 or value.shape is None:
        return None
    starts, _, axes = constants[:3]
    steps = constants[3] if len(constants) > 3 else None
    if starts is None or axes is None or (len(constants) > 3 and steps is None):
        return None
    if steps is not None and any(int(step) != 1 for step in steps.array):
        return None
    for start, axis in zip(starts.array, axes.array, strict=True):
        place = int(axis) % len(layout.axes)
        size = value.shape[place]
        moved = _moved(layout, place, int(start), size) if isinstance(size, int) else None
        if moved is None:
            return None
        layout = moved
    return layout


def _split(node: Node, value: Value, layout: _Layout) -> _Layout | None:
    place = int(node.attr("axis")) % len(layout.axes)
    sizes = [v.shape[place] if v.shape is not None else None for v in node.outputs]
    before = sizes[: value.index]
    size = sizes[value.index]
    if not isinstance(size, int) or not all(isinstance(dim, int) for dim in before):
        return None
    return _moved(layout, place, sum(dim for dim in before if isinstance(dim, int)), size)


def _moved(layout: _Layout, place: int, start: int, size: int) -> _Layout | None:
    """``layout`` from ``start`` on along an axis of features, ``size`` long."""
    step, dim = layout.axes[place]
    if not isinstance(step, int) or not isinstance(dim, int):
        return None
    start = max(start + dim, 0) if start < 0 else start
    if start + size > dim:
        return None
    axes = (*layout.axes[:place], (step, size), *layout.axes[place + 1 :])
    return replace(layout, begin=layout.begin + start * step, axes=axes)


_READERS = {
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
