"""The angles of a rotary embedding: which axes they vary along, and one for both of a pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Builder, Node, Trait, Value
from graphopt.rewrite import Refusal

__all__ = ["angles", "angles_refusal"]

# Between a table of angles and its use, at most.
_MAX_DEPTH = 16


def angles_refusal(x: Value, cos: Value, sin: Value, *, interleaved: bool) -> Refusal | None:
    """Why ``cos`` and ``sin`` are no angles for ``x`` of four axes; None when they are."""
    assert x.shape is not None
    size = x.shape[-1]
    assert isinstance(size, int)
    if heads_axis(x, cos) is None or heads_axis(x, cos) != heads_axis(x, sin):
        return Refusal(
            lambda: f"the angles {cos!r}, {sin!r} do not vary along batch and length of {x!r}",
            cos,
        )
    for value in (cos, sin):
        width = (value.shape or (None,))[-1]
        if width == size and not repeats(value, interleaved):
            return Refusal(f"the angles {value!r} differ within a pair of features", value)
        if width not in (size, size // 2):
            return Refusal(f"{value!r} does not hold {size} angles", value)
    return None


def heads_axis(x: Value, value: Value) -> int | None:
    """The axis of ``x`` that is of heads: one along which ``value`` stays the same."""
    if x.shape is None or value.shape is None or len(value.shape) > 4:
        return None
    shape = (*[1] * (4 - len(value.shape)), *value.shape)
    if shape[0] not in (1, x.shape[0]):
        return None
    if shape[1] == 1 and shape[2] == x.shape[2]:
        return 1
    return 2 if shape[2] == 1 and shape[1] == x.shape[1] else None


def angles(
    op: Builder, x: Value, value: Value, source: Value, *, interleaved: bool
) -> tuple[Value, bool]:
    """``value`` as [batch, length, size / 2], and whether heads come before the length in ``x``.

    ``source`` is asked for the batch, where it must be known in the run.
    """
    axis = heads_axis(x, value)
    assert axis is not None and x.shape is not None and value.shape is not None
    rank, size = len(value.shape), x.shape[-1]
    missing = 4 - rank
    if axis - missing >= 0:
        value = op.Squeeze(value, (axis - missing,))
        rank -= 1
    if rank < 3:
        value = op.Unsqueeze(value, tuple(range(3 - rank)))
    assert value.shape is not None and isinstance(size, int)
    if value.shape[-1] == size:
        half, step = size // 2, 2 if interleaved else 1
        value = op.Slice(value, [0], [size if interleaved else half], [2], [step])
    assert value.shape is not None
    if value.shape[0] != x.shape[0]:
        batch = op.Shape(source, start=0, end=1)
        value = op.Expand(value, op.Concat(batch, op.constant([1, 1]), axis=0))
    return value, axis == 1


def repeats(value: Value, interleaved: bool, depth: int = 0) -> bool:
    """True when the last axis holds every number twice: in both halves, or side by side."""
    if value.constant is not None:
        return _constant_repeats(value.constant.array, interleaved)
    node = value.producer
    if node is None or node.op.domain or depth > _MAX_DEPTH or not value.shape:
        return False
    if _makes_pairs(node, interleaved):
        return True
    if node.op.has(Trait.POINTWISE):
        return all(
            operand is None
            or operand.shape == ()
            or (operand.shape or (None,))[-1] == 1
            or repeats(operand, interleaved, depth + 1)
            for operand in node.inputs
        )
    source = node.input(0)
    if source is None or not source.shape or not _keeps_last(node, source, value):
        return False
    return repeats(source, interleaved, depth + 1)


def _constant_repeats(array: np.ndarray[Any, Any], pairs: bool) -> bool:
    if array.ndim == 0 or array.shape[-1] % 2:
        return False
    half = array.shape[-1] // 2
    if pairs:
        return bool(np.array_equal(array[..., ::2], array[..., 1::2]))
    return bool(np.array_equal(array[..., :half], array[..., half:]))


def _keeps_last(node: Node, source: Value, value: Value) -> bool:
    """True for moves that leave the last axis as it is."""
    before, after = source.shape or (), value.shape or ()
    rank = len(before)
    if not after or before[-1] != after[-1]:
        return False
    if node.op.name in ("Identity", "Expand"):
        return True
    if node.is_a("Gather"):
        return int(node.attr("axis")) not in (-1, rank - 1)
    if node.is_a("Transpose"):
        perm = node.attr("perm")
        return perm is not None and perm[-1] == rank - 1
    if node.op.name in ("Squeeze", "Unsqueeze"):
        axes = node.input(1)
        if axes is None or axes.constant is None:
            return False
        wide = max(rank, len(after))
        return all(int(a) not in (-1, wide - 1) for a in axes.constant.array.ravel())
    return node.is_a("Reshape") and isinstance(before[-1], int) and before[-1] > 1


def _makes_pairs(node: Node, interleaved: bool) -> bool:
    """``Concat(f, f)`` along the last axis; where ``interleaved``, of a new axis that then goes."""
    if not interleaved:
        return _twice(node)
    stacked = node.input(0)
    if not node.is_a("Reshape") or stacked is None or stacked.producer is None:
        return False
    shape, flat = stacked.shape, node.output.shape
    if not shape or not flat or shape[-1] != 2 or flat[:-1] != shape[:-2]:
        return False
    inner = stacked.producer
    if inner.is_a("Expand") and (source := inner.input(0)) is not None and source.shape:
        return source.shape[-1] == 1 and source.shape[:-1] == shape[:-1]
    return _twice(inner)


def _twice(node: Node) -> bool:
    if not node.is_a("Concat") or len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return False
    return int(node.attr("axis")) in (-1, len(node.output.shape or ()) - 1)
