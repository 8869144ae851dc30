"""Products, convolutions, pools and attention become ops that have a kernel.

``MatMul(a, b)  ->  product(a, b')`` with b' as rows of k; ``Conv(x, w, b)  ->  Transpose, product,
Add, Transpose`` in channels-last form; ``Attention  ->  attention``, read where heads lie.

Sound: the kernels compute the same sums in another order; transposes only rename axes. What a
kernel does not compute stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.lower_dense import (
    channels_last_type,
    from_channels_last,
    packed,
    to_channels_last,
    view,
)
from graphopt.backends.cuda.lower_attention import attention_reason, lower_attention
from graphopt.backends.cuda.lower_moves import resize, resize_reason, transposed_reason
from graphopt.backends.cuda.ops import op
from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value, static_shape
from graphopt.ops.conv import conv_window
from graphopt.ops.fused import ATTENTION
from graphopt.ops.pool import pool_window
from graphopt.ops.window import NumericWindow
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["LowerDense", "dense_reason"]

Array = np.ndarray[Any, Any]
_FLOATS = frozenset({DType.F32, DType.F16, DType.BF16})
_PAD = 8  # rows of constant weights are this many elements, times something


@dataclass(frozen=True)
class LowerDense(Pass):
    """``MatMul, Gemm, Conv, pools, Attention  ->  graphopt.cuda``."""

    name: ClassVar[str] = "cuda-lower-dense"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            if not _handled(node) or dense_reason(node) is not None:
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            result = _lowered(builder, node)
            record_edit(ctx.log, self.name, "LowerDense", [node], builder.created)
            graph.replace(node, [result, *[None] * (len(node.outputs) - 1)])
            changed = True
        return changed


def _handled(node: Node) -> bool:
    return node.op is ATTENTION or (not node.op.domain and node.op.name in _HANDLERS)


def dense_reason(node: Node) -> str | None:
    """Why no kernel of this backend computes ``node``; None when one does."""
    if not _handled(node):
        return f"{node.op.qualified} has no CUDA kernel"
    for value in (*node.inputs, *node.outputs):
        if value is not None and static_shape(value.shape) is None:
            return f"the shape of %{value.name} is not fixed"
    if node.output.tensor.dtype not in _FLOATS:
        return f"it computes in {node.output.tensor.dtype}"
    if math.prod(static_shape(node.output.shape) or ()) == 0:
        return "its result is empty"
    if node.op is ATTENTION:
        return attention_reason(node)
    if node.op.name in ("Conv", "MaxPool", "AveragePool"):
        return _window_reason(node)
    if node.op.name == "Resize":
        return resize_reason(node)
    if node.op.name == "ConvTranspose":
        return transposed_reason(node)
    first = node.inputs[0]
    if first is not None and 0 in (static_shape(first.shape) or ()):
        return "an operand is empty"
    return None


def _window_reason(node: Node) -> str | None:
    x = node.inputs[0]
    assert x is not None
    if len(x.shape or ()) not in (3, 4):
        return f"it has {len(x.shape or ()) - 2} spatial axes"
    if len(node.outputs) > 1 and (node.outputs[1].use_count or node.outputs[1].is_output):
        return "its second result is read"
    return None


def _lowered(builder: Builder, node: Node) -> Value:
    """The result of a node, computed in f32 sums; narrow types are cast around it."""
    if node.op is ATTENTION:
        return lower_attention(builder, node)
    result: Value = _HANDLERS[node.op.name](builder, node)
    dtype = node.output.tensor.dtype
    if dtype is not DType.F32:
        result = builder.Cast(result, to=int(dtype))
    return result


def _f32(builder: Builder, value: Value) -> Value:
    if value.tensor.dtype is DType.F32:
        return value
    result: Value = builder.Cast(value, to=int(DType.F32))
    return result


def _shape(value: Value) -> tuple[int, ...]:
    shape = static_shape(value.shape)
    assert shape is not None
    return shape


def call(
    builder: Builder,
    name: str,
    operands: Sequence[Value | None],
    shape: Sequence[int],
    attrs: dict[str, Any],
) -> Value:
    """Adds a node of this backend with an f32 result."""
    type = TensorType(DType.F32, tuple(shape))
    return builder.call(op(name), *operands, _types=[type], **attrs).output


def arranged(
    builder: Builder,
    source: Value,
    shape: tuple[int, ...],
    how: str,
    make: Callable[[Array], Array],
) -> Value:
    """A constant made of another one when it is looked at; ``how`` says what ``make`` does."""

    def arrange(array: Array) -> Array:
        return np.ascontiguousarray(make(array.astype(np.float32)).reshape(shape))

    return builder.constant(packed(source, shape, f"cuda {how} {shape}", arrange), source.name)


# ---- products ----


def _rows_of_k(
    builder: Builder, w: Value, k: int, n: int, how: str, make: Callable[[Array], Array]
) -> tuple[Value, int]:
    """Constant weights as [n, k] with rows padded to whole vectors, and the length of a row."""
    length = -(-k // _PAD) * _PAD

    def padded(array: Array) -> Array:
        return np.pad(make(array).reshape(n, k), ((0, 0), (0, length - k)))

    return arranged(builder, w, (n, length), how, padded), length


def _product_attrs(m: int, n: int, k: int, **more: int) -> dict[str, int]:
    plain = {
        "h": 1, "w": m, "c": k, "ld": k, "oh": 1, "ow": m, "r": 1, "s": 1, "sh": 1, "sw": 1,
        "ph": 0, "pw": 0, "dh": 1, "dw": 1, "m": m, "n": n, "k": k, "wld": k, "z": 1, "xz": 0,
        "wz": 0, "oz": 0, "old": n,
    }  # fmt: skip
    return {**plain, **more}


def _swapped(value: Value) -> Value | None:
    """``v`` when ``value`` is ``v`` with its last two axes swapped."""
    node = value.producer
    if node is None or not node.is_a("Transpose"):
        return None
    source = node.input(0)
    assert source is not None
    rank = source.tensor.rank or 0
    perm = tuple(node.attr("perm") or range(rank - 1, -1, -1))
    return source if perm == (*range(rank - 2), rank - 1, rank - 2) and rank >= 2 else None


def _matmul(builder: Builder, node: Node) -> Value:
    a, b = node.inputs
    assert a is not None and b is not None
    return _matmul_of(builder, a, b, _shape(node.output))


def _matmul_of(builder: Builder, a: Value, b: Value, shape: tuple[int, ...]) -> Value:
    if len(_shape(a)) == 1:
        a = view(builder, a, (1, *_shape(a)))
    if len(_shape(b)) == 1:
        b = view(builder, b, (*_shape(b), 1))
    (*batch_a, rows, k), (*batch_b, _, n) = _shape(a), _shape(b)
    a = _f32(builder, a)
    if math.prod(batch_b) == 1:
        m = math.prod(batch_a) * rows
        if b.is_constant:
            w, length = _rows_of_k(builder, b, k, n, "columns", lambda x: x.reshape(k, n).T)
        else:
            w, length = _columns(builder, _f32(builder, b)), k
        result = call(builder, "product", [a, w], (m, n), _product_attrs(m, n, k, wld=length))
        return view(builder, result, shape)
    batch = np.broadcast_shapes(tuple(batch_a), tuple(batch_b))
    z = math.prod(batch)
    operands, steps = [], []
    for value, own, size in ((a, batch_a, rows * k), (_f32(builder, b), batch_b, k * n)):
        if math.prod(own) not in (1, z):
            tail = _shape(value)[-2:]
            value = builder.Expand(value, builder.constant(np.asarray([*batch, *tail], np.int64)))
            own = list(batch)
        operands.append(value)
        steps.append(0 if math.prod(own) == 1 else size)
    attrs = _product_attrs(rows, n, k, z=z, xz=steps[0], wz=steps[1], oz=rows * n)
    w = _columns(builder, operands[1])
    result = call(builder, "product", [operands[0], w], (z, rows, n), attrs)
    return view(builder, result, shape)


def _columns(builder: Builder, b: Value) -> Value:
    """``b`` with its last two axes swapped, so that k runs along memory."""
    source = _swapped(b)
    if source is not None:
        return source
    rank = len(_shape(b))
    result: Value = builder.Transpose(b, perm=(*range(rank - 2), rank - 1, rank - 2))
    return result


def _gemm(builder: Builder, node: Node) -> Value:
    a, b, c = node.input(0), node.input(1), node.input(2)
    assert a is not None and b is not None
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    a = _f32(builder, a)
    if node.attr("transA"):
        a = builder.Transpose(a, perm=(1, 0))
    m, n = _shape(node.output)
    k = _shape(a)[1]
    if b.is_constant:
        turned = bool(node.attr("transB"))
        w, length = _rows_of_k(builder, b, k, n, f"gemm {turned}", lambda x: x if turned else x.T)
    else:
        b = _f32(builder, b)
        w, length = (b if node.attr("transB") else _columns(builder, b)), k
    result = call(builder, "product", [a, w], (m, n), _product_attrs(m, n, k, wld=length))
    if alpha != 1.0:
        result = builder.Mul(result, builder.constant(np.float32(alpha)))
    if c is not None and beta != 0.0:
        c = _f32(builder, c)
        if beta != 1.0:
            c = builder.Mul(c, builder.constant(np.float32(beta)))
        result = builder.Add(result, c)
    return result


# ---- windows ----


def _flat(window: NumericWindow, spatial: Sequence[int]) -> dict[str, int]:
    """The numbers of a window over one or two axes; one axis is a row of pixels."""
    lead = 2 - len(spatial)
    fields = {
        "": (spatial, 1), "o": (window.out, 1), "s": (window.strides, 1),
        "p": (window.begin, 0), "d": (window.dilations, 1), "e": (window.end, 0),
    }  # fmt: skip
    result: dict[str, int] = {}
    for prefix, (sizes, neutral) in fields.items():
        result[f"{prefix}h"], result[f"{prefix}w"] = (*[neutral] * lead, *sizes)
    result["r"], result["s"] = (*[1] * lead, *window.kernel)
    return result


def _conv(builder: Builder, node: Node) -> Value:
    x, w, bias = node.input(0), node.input(1), node.input(2)
    assert x is not None and w is not None
    (batch, channels, *spatial), (cout, cin, *kernel) = _shape(x), _shape(w)
    group = int(node.attr("group"))
    window = conv_window(spatial, kernel, node.attrs).numbers
    attrs = _flat(window, spatial)
    attrs.pop("eh"), attrs.pop("ew")
    out = TensorType(DType.F32, node.output.shape)
    shape = channels_last_type(out).shape
    assert shape is not None
    source = to_channels_last(builder, _f32(builder, x))
    taps = math.prod(kernel)
    if group == channels == cout and cin == 1 and w.is_constant:
        weight = arranged(
            builder, w, (taps, channels), "taps", lambda a: a.reshape(channels, taps).T
        )
        attrs |= {"c": channels, "batch": batch}
        y = call(builder, "depthwise", [source, weight], static_shape(shape) or (), attrs)
    else:
        y = _conv_product(builder, node, source, attrs, static_shape(shape) or ())
    if bias is not None:
        y = builder.Add(y, _f32(builder, bias))
    return from_channels_last(builder, y, node.output.name)


def _conv_product(
    builder: Builder, node: Node, x: Value, attrs: dict[str, int], shape: tuple[int, ...]
) -> Value:
    w = node.input(1)
    assert w is not None
    cout, cin, *kernel = _shape(w)
    group = int(node.attr("group"))
    m, n, k = math.prod(shape[:-1]), cout // group, cin * math.prod(kernel)
    last = (0, *range(2, len(kernel) + 2), 1)
    if w.is_constant:
        weight, length = _rows_of_k(
            builder, w, k, cout, "conv",
            lambda a: a.reshape(cout, cin, -1).transpose(0, 2, 1).reshape(cout, k),
        )  # fmt: skip
    else:
        weight, length = builder.Transpose(_f32(builder, w), perm=last), k
    attrs |= _product_attrs(m, n, k) | attrs | {
        "c": cin, "ld": cin * group, "wld": length, "z": group, "xz": cin, "wz": n * length,
        "oz": n, "old": cout,
    }  # fmt: skip
    return call(builder, "product", [x, weight], shape, attrs)


def _pool(builder: Builder, node: Node) -> Value:
    x = node.input(0)
    assert x is not None
    batch, channels, *spatial = _shape(x)
    window = pool_window(spatial, node.attrs).numbers
    attrs = _flat(window, spatial) | {"c": channels, "batch": batch}
    for axis, name in (("h", "eh"), ("w", "ew")):
        attrs[name] += attrs[axis]
    average = node.op.name == "AveragePool"
    attrs["include"] = int(bool(node.attr("count_include_pad"))) if average else 0
    shape = channels_last_type(TensorType(DType.F32, node.output.shape)).shape
    source = to_channels_last(builder, _f32(builder, x))
    name = "average_pool" if average else "max_pool"
    y = call(builder, name, [source], static_shape(shape) or (), attrs)
    return from_channels_last(builder, y, node.output.name)


def _conv_transpose(builder: Builder, node: Node) -> Value:
    """Each input pixel makes a window of its own: a product whose columns are (r, s, channel)."""
    x, w, bias = node.input(0), node.input(1), node.input(2)
    assert x is not None and w is not None
    (batch, cin, high, wide), (_, cout, r, s) = _shape(x), _shape(w)
    source = to_channels_last(builder, _f32(builder, x))
    m, n = batch * high * wide, r * s * cout
    weight, length = _rows_of_k(
        builder, w, cin, n, "transposed", lambda a: a.transpose(2, 3, 1, 0).reshape(n, cin)
    )
    y = call(builder, "product", [source, weight], (m, n), _product_attrs(m, n, cin, wld=length))
    y = view(builder, y, (batch, high, wide, r, s, cout))
    y = builder.Transpose(y, perm=(0, 1, 3, 2, 4, 5))
    y = view(builder, y, (batch, high * r, wide * s, cout))
    if bias is not None:
        y = builder.Add(y, _f32(builder, bias))
    return from_channels_last(builder, y, node.output.name)


def _resize(builder: Builder, node: Node) -> Value:
    return _f32(builder, resize(builder, node))


_HANDLERS: dict[str, Callable[[Builder, Node], Value]] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Resize": _resize,
}
