"""Masks that hide what lies ahead, in the ways that exporters build them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.ir import Dim, Node, Value
from graphopt.passes.attention_terms import Mask, filled
from graphopt.passes.polynomial import number

__all__ = ["causal_offset"]

# A score with this added has a weight of zero beside any score that is not hidden.
_HIDDEN = -1e30
_MAX_ELEMENTS = 1 << 22
_VIEWS = ("Unsqueeze", "Reshape", "Expand", "Identity")
# Key <op> query, by op and whether the key is the first operand: how far ahead a kept key may be.
_COMPARED = {
    ("LessOrEqual", True): 0,
    ("Less", True): -1,
    ("GreaterOrEqual", False): 0,
    ("Greater", False): -1,
}


def causal_offset(mask: Mask, queries: Dim, keys: Dim, *, alone: bool) -> int | None:
    """``k`` where ``mask`` keeps key t for query s just where ``t <= s + k``, and ``k >= 0``.

    What it hides must weigh nothing: -inf, or as good as that where the mask is ``alone``. None
    for any other mask.
    """
    offset, fill = _read(mask, queries, keys)
    if offset is None or fill is None or offset < 0:
        return None
    return offset if fill == -math.inf or (alone and fill <= _HIDDEN) else None


def _read(mask: Mask, queries: Dim, keys: Dim) -> tuple[int | None, float | None]:
    value, fill = mask.value, mask.fill
    if value.shape is None or any(dim != 1 for dim in value.shape[:-2]):
        return None, None
    if value.shape[-2:] != (queries, keys):
        return None, None
    if value.constant is not None:
        return _of_constant(value.constant.array, mask) if value.constant.numel else (None, None)
    if fill is not None:
        return _of_bools(value, mask.inverted), fill
    node = _behind_views(value).producer
    if node is None or node.op.domain:
        return None, None
    if node.is_a("Trilu") and node.attr("upper"):
        start = _diagonal(node)
        source = node.input(0)
        hidden = None if source is None else filled(source)
        return (None, None) if start is None else (start - 1, hidden)
    if node.is_a("Where"):
        condition, kept, other = node.inputs
        assert condition is not None and kept is not None and other is not None
        for zero, fills, inverted in ((kept, other, False), (other, kept, True)):
            if filled(zero) == 0.0:
                return _of_bools(condition, inverted), filled(fills)
    return None, None


def _of_constant(array: np.ndarray[Any, Any], mask: Mask) -> tuple[int | None, float | None]:
    if array.size > _MAX_ELEMENTS:
        return None, None
    plane = array.reshape(array.shape[-2:])
    fill = mask.fill
    if fill is None:
        keep = plane == 0
        fill = float(plane.max(where=~keep, initial=-math.inf))
        if not np.isfinite(fill) and fill > 0:
            return None, None
    else:
        keep = plane == mask.inverted  # a bool that is not `inverted` keeps
        keep = ~keep
    ahead = int(keep[0].sum()) - 1
    rows, columns = plane.shape
    if not 0 <= ahead < columns - 1 or not np.array_equal(keep, np.tri(rows, columns, ahead, bool)):
        return None, None
    return ahead, fill


def _of_bools(value: Value, inverted: bool) -> int | None:
    """``k`` where ``value`` (not ``value`` where ``inverted``) is true just for t <= s + k."""
    value = _behind_views(value)
    node = value.producer
    if node is None or node.op.domain:
        return None
    if node.is_a("Not"):
        source = node.input(0)
        assert source is not None
        return _of_bools(source, not inverted)
    if node.is_a("Cast") and (source := node.input(0)) is not None:
        return _of_bools(source, inverted)
    if node.is_a("Trilu"):
        start, source = _diagonal(node), node.input(0)
        if start is None or source is None or not filled(source):
            return None
        upper = bool(node.attr("upper"))
        if upper != inverted:
            return None
        return start - 1 if upper else start
    return _of_comparison(node, inverted)


def _of_comparison(node: Node, inverted: bool) -> int | None:
    if len(node.inputs) != 2:
        return None
    a, b = node.inputs
    assert a is not None and b is not None
    for key, query, first in ((a, b, True), (b, a, False)):
        at_key, at_query = _position(key, -1), _position(query, -2)
        if at_key is None or at_query is None:
            continue
        name = _NEGATED.get(node.op.name, "") if inverted else node.op.name
        ahead = _COMPARED.get((name, first))
        # key + at_key <= query + at_query + ahead
        return None if ahead is None else ahead + at_query - at_key
    return None


_NEGATED = {
    "LessOrEqual": "Greater",
    "Less": "GreaterOrEqual",
    "GreaterOrEqual": "Less",
    "Greater": "LessOrEqual",
}


def _position(value: Value, axis: int) -> int | None:
    """``c`` where ``value`` is the position along ``axis`` (from the end) plus ``c``."""
    shape = value.shape
    if shape is None or len(shape) < -axis:
        return None
    if any(dim != 1 for place, dim in enumerate(shape) if place != len(shape) + axis):
        return None
    if value.constant is not None:
        array = value.constant.array.reshape(-1)
        if array.size < 2 or array.size > _MAX_ELEMENTS or array.dtype.kind not in "iu":
            return None
        same = np.array_equal(array - array[0], np.arange(array.size))
        return int(array[0]) if same else None
    node = _behind_views(value).producer
    if node is None or node.op.domain:
        return None
    if node.is_a("Add"):
        for x, other in (node.inputs, node.inputs[::-1]):
            by = number(other)
            if by is not None and x is not None and by == int(by):
                at = _line(x)
                return None if at is None else at + int(by)
        return None
    return _line(_behind_views(value))


def _line(value: Value) -> int | None:
    """The start of a range with step 1 (views of it too)."""
    node = _behind_views(value).producer
    if node is None or not node.is_a("Range"):
        return None
    start, step = number(node.input(0)), number(node.input(2))
    return int(start) if step == 1 and start is not None and start == int(start) else None


def _behind_views(value: Value) -> Value:
    """What ``value`` is a view of, with sizes of 1 put in or an axis of size 1 dropped."""
    while (node := value.producer) is not None and not node.op.domain and node.op.name in _VIEWS:
        source = node.input(0)
        if source is None or not _same_but_ones(source, value):
            break
        value = source
    return value


def _same_but_ones(a: Value, b: Value) -> bool:
    if a.shape is None or b.shape is None:
        return False
    return [d for d in a.shape if d != 1] == [d for d in b.shape if d != 1]


def _diagonal(node: Node) -> int | None:
    k = node.input(1)
    if k is None:
        return 0
    found = number(k)
    return None if found is None else int(found)
