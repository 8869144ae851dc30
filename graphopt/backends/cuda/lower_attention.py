"""Attention over heads where they lie: strides instead of transposes."""

from __future__ import annotations

import math
from typing import Any

from graphopt.backends.cpu.head_views import read_heads
from graphopt.backends.cpu.lower_dense import view
from graphopt.backends.cuda.ops import op
from graphopt.ir import Builder, DType, Node, TensorType, Value, static_shape

__all__ = ["attention_reason", "lower_attention"]

# What a block keeps in shared memory, in floats: see kernels/attention.cuh.
_MOST_SIZE = 256


def attention_reason(node: Node) -> str | None:
    """Why the kernel does not compute a ``graphopt::Attention``; None when it does."""
    q, v, mask = node.input(0), node.input(2), node.input(3)
    assert q is not None and v is not None
    if node.output.tensor.dtype is not DType.F32:
        return f"it computes in {node.output.tensor.dtype}"
    sizes = (*(static_shape(q.shape) or ()), *(static_shape(v.shape) or ()))
    if max(sizes[3], sizes[7]) > _MOST_SIZE:
        return f"its heads have more than {_MOST_SIZE} features"
    if sizes[6] == 0:
        return "it has no keys"
    if mask is not None and mask.tensor.dtype not in (DType.F32, DType.BOOL):
        return f"its mask is {mask.tensor.dtype}"
    if mask is not None and len(mask.shape or ()) > 4:
        return "its mask has more than 4 axes"
    return None


def _shape(value: Value) -> tuple[int, ...]:
    shape = static_shape(value.shape)
    assert shape is not None
    return shape


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _source(builder: Builder, value: Value) -> tuple[Value, list[int], int]:
    """Where [batch, heads, length, size] is read: the strides of its first three axes there, and
    the element that it begins at; features are always neighbours."""
    found = read_heads(value)
    if found is None:
        return value, _strides(_shape(value))[:3], 0
    _, length, features = found.shape
    assert isinstance(length, int)
    source = view(builder, found.source, found.shape)
    return source, [length * features, found.step, features], found.begin


def lower_attention(builder: Builder, node: Node) -> Value:
    """The kernel's op in place of a ``graphopt::Attention``."""
    q, k, v, mask = (node.input(i) for i in range(4))
    assert q is not None and k is not None and v is not None
    batch, heads, length, size = _shape(q)
    keys, width = _shape(k)[2], _shape(v)[3]
    attrs: dict[str, Any] = {
        "batch": batch, "heads": heads, "q": length, "keys": keys, "size": size, "width": width,
        "share": heads // _shape(k)[1], "scale": float(node.attr("scale")),
        "cap": float(node.attr("softcap")), "causal": int(bool(node.attr("causal"))),
        "offset": int(node.attr("causal_offset")), "fill": str(float(node.attr("fill"))),
        "zero": int(bool(node.attr("nan_rows_to_zero"))),
    }  # fmt: skip
    operands: list[Value | None] = []
    for name, value in (("q", q), ("k", k), ("v", v)):
        source, strides, attrs[f"{name}_begin"] = _source(builder, value)
        operands.append(source)
        attrs[f"{name}_strides"] = tuple(strides)
    if mask is not None:
        attrs["mask_strides"] = _mask_strides(_shape(mask), (batch, heads, length, keys))
    operands.append(mask)
    # The reader's own transpose undoes this one.
    out = (batch, length, heads, width)
    attrs["o_strides"] = (length * heads * width, width, heads * width)
    call = builder.call(op("attention"), *operands, _types=[TensorType(DType.F32, out)], **attrs)
    result: Value = builder.Transpose(call.output, perm=(0, 2, 1, 3))
    return result


def _mask_strides(shape: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    shape = (*[1] * (4 - len(shape)), *shape)
    strides = _strides(shape)
    return tuple(0 if have == 1 else step for have, step in zip(shape, strides, strict=True))
