"""Heads that are repeated for the query heads which share them."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Builder, Dim, Node, Value

__all__ = ["before_repeat", "squeezed"]


def before_repeat(value: Value, lead: tuple[Dim, ...]) -> Value | None:
    """``x`` [batch, heads, length, size] where ``value`` repeats each of its heads in place, to
    leading axes ``lead`` or a regrouping of them; or with an axis of size 1 behind the heads.

    ``Expand``, ``Tile`` or ``Concat`` over an axis of size 1 behind the heads, with a ``Reshape``
    or without; or ``Gather`` along the heads. None where ``value`` is something else.
    """
    node = value.producer
    if node is None or node.op.domain or value.shape is None or len(lead) != 2:
        return None
    if node.is_a("Gather"):
        return _before_gather(node) if value.shape[:-2] == lead else None
    wide = node.input(0) if node.is_a("Reshape") else value
    if wide is None or wide.producer is None or wide.shape is None or len(wide.shape) != 5:
        return None
    narrow = _before_expand(wide.producer)
    if narrow is None or narrow.producer is None or narrow.shape is None:
        return None
    batch, heads, one, length, size = narrow.shape
    if one != 1 or wide.shape[:2] != (batch, heads) or wide.shape[3:] != (length, size):
        return None
    if lead != (batch, heads * wide.shape[2]) or value.shape[-2:] != (length, size):
        return None
    source = narrow.producer.input(0)
    put_in = narrow.producer.op.name in ("Unsqueeze", "Reshape") and source is not None
    same = source is not None and source.shape == (batch, heads, length, size)
    return source if put_in and same else narrow


def squeezed(op: Builder, value: Value) -> Value:
    """Heads [batch, heads, 1, length, size] without the axis that was put in to repeat them."""
    node = value.producer
    inner = node.input(0) if node is not None and node.is_a("Transpose") else None
    behind = None if inner is None else inner.producer
    if node is not None and behind is not None and behind.is_a("Unsqueeze"):
        source, axes = behind.input(0), behind.input(1)
        perm = tuple(node.attr("perm") or ())
        if axes is not None and axes.constant is not None and axes.constant.numel == 1 and perm:
            axis = int(axes.constant.array.reshape(-1)[0]) % 5
            if perm[2] == axis:
                left = tuple(p - (p > axis) for p in perm if p != axis)
                moved: Value = op.Transpose(source, perm=left)
                return moved
    result: Value = op.Squeeze(value, (2,))
    return result


def _before_expand(node: Node) -> Value | None:
    if node.op.domain or node.op.name not in ("Expand", "Tile", "Concat"):
        return None
    source = node.input(0)
    if node.is_a("Concat") and any(x is not source for x in node.inputs):
        return None
    if source is None or source.shape is None or len(source.shape) != 5:
        return None
    return source


def _before_gather(node: Node) -> Value | None:
    source, indices = node.inputs
    if source is None or indices is None or indices.constant is None or source.shape is None:
        return None
    if len(source.shape) != 4:
        return None
    heads, found = source.shape[1], indices.constant.array
    if int(node.attr("axis")) not in (1, -3) or not isinstance(heads, int) or found.ndim != 1:
        return None
    if heads < 1 or found.size % heads or found.size == 0:
        return None
    same = np.array_equal(found, np.repeat(np.arange(heads), found.size // heads))
    return source if same else None
