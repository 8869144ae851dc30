"""Dense ops become step kernels: products, convolutions and pools.

``MatMul(a, const)  ->  gemm(a, packed)``, ``Conv(x, const)  ->  Transpose, conv, Transpose`` in
channels-last form, and so on. Weights are packed for the micro-kernels when they are first needed.

Sound: the kernels compute the same sums (in another order); the transposes only rename axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.ops import DOMAIN, VIEW, native, plan_regions
from graphopt.ir import (
    Builder,
    Constant,
    Dim,
    DType,
    Graph,
    Node,
    TensorType,
    Value,
    product,
    static_shape,
)
from graphopt.ops.conv import conv_window, transpose_window
from graphopt.ops.pool import pool_window
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = [
    "LowerDense",
    "channels_first",
    "channels_last",
    "channels_last_type",
    "from_channels_last",
    "spatial_attrs",
    "to_channels_last",
]

Array = np.ndarray[Any, Any]
Handler = Callable[[Builder, Node], Value | tuple[Value | None, ...] | None]

_PANEL = 16  # columns that a micro-kernel takes at a time
_MATMUL_TYPES = frozenset(
    {
        DType.F32, DType.F64, DType.F16, DType.BF16,
        DType.I32, DType.U32, DType.I64, DType.U64,
    }
)  # fmt: skip


def channels_last(rank: int) -> tuple[int, ...]:
    """The permutation from N, C, spatial... to N, spatial..., C."""
    return (0, *range(2, rank), 1)


def channels_first(rank: int) -> tuple[int, ...]:
    """The permutation from N, spatial..., C to N, C, spatial..."""
    return (0, rank - 1, *range(1, rank - 1))


@dataclass(frozen=True)
class LowerDense(Pass):
    """``Conv(x, w)  ->  Transpose(conv(Transpose(x), packed w))`` and the like."""

    name: ClassVar[str] = "cpu-lower-dense"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            handler = _HANDLERS.get(node.op.name) if not node.op.domain else None
            if handler is None:
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            result = handler(builder, node)
            if result is None:
                continue
            values = (result,) if isinstance(result, Value) else result
            record_edit(ctx.log, self.name, "LowerDense", [node], builder.created)
            graph.replace(node, values)
            changed = True
        return changed


def call(
    builder: Builder,
    kernel: str,
    operands: Sequence[Value | None],
    types: Sequence[TensorType],
    attrs: dict[str, Any],
    name: str = "",
) -> Node:
    """Adds a step kernel node."""
    return builder.call(
        native(kernel), *operands, _types=types, _outputs=len(types), _name=name, **attrs
    )


def view(builder: Builder, value: Value, shape: Sequence[Dim]) -> Value:
    """The same elements under another shape."""
    if value.shape == tuple(shape):
        return value
    type = TensorType(value.tensor.dtype, tuple(shape))
    return builder.call(VIEW, value, _types=[type], _name=value.name).output


def packed(
    source: Value,
    size: int | tuple[int, ...],
    layout: str,
    pack: Callable[[Array], Array],
    dtype: DType = DType.F32,
) -> Constant:
    """The packed form of a constant, made when it is looked at; ``size`` is its shape, or length.
    ``layout`` says how it is packed: equal sources in equal layouts are equal."""
    constant = source.constant
    assert constant is not None

    def load() -> Array:
        return pack(constant.read())

    digest = hashlib.blake2b(f"{layout} {constant.digest}".encode(), digest_size=16).hexdigest()
    shape = (size,) if isinstance(size, int) else size
    return Constant(None, type=TensorType(dtype, shape), load=load, digest=digest)


def aligned(pack: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A packing function of the runtime for any array: one of a mapped file lies where the file has
    it."""
    return lambda array: pack(np.require(array, requirements=("C", "A")))


def _columns(w: Array) -> Array:
    """Panels of 16 columns of a matrix that has no others: its 64-byte cells, transposed."""
    cells = np.ascontiguousarray(w).view(f"V{_PANEL * w.itemsize}")
    return np.ascontiguousarray(cells.T).reshape(-1).view(w.dtype)


def _pad16(n: int) -> int:
    return -(-n // _PANEL) * _PANEL


# ---- products ----


def _swapped(value: Value) -> Value | None:
    """``v`` when ``value`` is ``v`` with its last two axes swapped."""
    node = value.producer
    if node is None or not node.is_a("Transpose"):
        return None
    source = node.input(0)
    assert source is not None
    rank = source.tensor.rank or 0
    perm = tuple(node.attr("perm") or range(rank - 1, -1, -1))
    wanted = (*range(rank - 2), rank - 1, rank - 2)
    return source if rank >= 2 and perm == wanted else None


def _gemm_constant(
    builder: Builder,
    a: Value,
    weight: Value,
    bias: Value | None,
    shape: Sequence[Dim],
    *,
    transposed: bool = False,
    scale: float = 1.0,
    name: str = "",
) -> Value:
    """``a @ weight + bias`` with a packed constant ``weight`` [K, N] (or [N, K] transposed)."""
    from graphopt import _native

    dims = static_shape(weight.shape)
    assert dims is not None
    n, k = dims if transposed else dims[::-1]

    def pack(w: Array) -> Array:
        w = w.T if transposed else w
        if scale != 1.0:
            w = w * np.float32(scale)
        if n % _PANEL == 0:
            return _columns(w)
        return _native.pack_gemm(np.require(w, requirements=("C", "A")))

    size = _pad16(n) * k
    layout = f"gemm{'.T' if transposed else ''} * {scale!r}"
    weights = builder.constant(packed(weight, size, layout, pack), f"{weight.name}.packed")
    type = TensorType(DType.F32, tuple(shape))
    return call(builder, "gemm", [a, weights, bias], [type], {"k": k, "n": n}, name).output


def _matmul(builder: Builder, node: Node) -> Value | None:
    a, b = node.inputs
    assert a is not None and b is not None
    out = node.output.tensor
    if a.shape is None or b.shape is None or out.shape is None or not (a.shape and b.shape):
        return None
    if out.dtype not in _MATMUL_TYPES:
        return None
    if out.dtype is DType.F32 and len(b.shape) == 2 and b.is_constant:
        left = view(builder, a, (1, *a.shape)) if len(a.shape) == 1 else a
        return _gemm_constant(builder, left, b, None, out.shape, name=node.output.name)
    attrs: dict[str, Any] = {}
    if len(a.shape) == 1:
        a = view(builder, a, (1, *a.shape))
    elif (source := _swapped(a)) is not None:
        a, attrs["trans_a"] = source, 1
    if len(b.shape) == 1:
        b = view(builder, b, (*b.shape, 1))
    elif (source := _swapped(b)) is not None:
        b, attrs["trans_b"] = source, 1
    shape = list(out.shape)
    if node.inputs[0] is not None and len(node.inputs[0].shape or ()) == 1:
        shape.insert(len(shape) - (len(b.shape or ()) > 1 and b is node.inputs[1]), 1)
    if node.inputs[1] is not None and len(node.inputs[1].shape or ()) == 1:
        shape.append(1)
    type = TensorType(out.dtype, tuple(shape))
    result = call(builder, "matmul", [a, b], [type], attrs, node.output.name).output
    return view(builder, result, out.shape)


def _gemm(builder: Builder, node: Node) -> Value | None:
    a, b, c = node.input(0), node.input(1), node.input(2)
    assert a is not None and b is not None
    out = node.output.tensor
    if out.shape is None or out.dtype not in _MATMUL_TYPES:
        return None
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    trans_a, trans_b = int(node.attr("transA")), int(node.attr("transB"))
    if out.dtype is not DType.F32 and (alpha != 1.0 or beta != 1.0):
        return None
    bias: Value | None = None
    rest = c if beta != 0.0 else None
    if rest is not None and rest.constant is not None and out.dtype is DType.F32:
        bias = _row_bias(builder, rest, out.shape[1], beta)
        rest = None if bias is not None else rest
    if out.dtype is DType.F32 and b.is_constant:
        left = builder.Transpose(a, perm=(1, 0)) if trans_a else a
        result = _gemm_constant(
            builder, left, b, bias, out.shape,
            transposed=bool(trans_b), scale=alpha, name=node.output.name,
        )  # fmt: skip
    else:
        attrs = {"trans_a": trans_a, "trans_b": trans_b, "scale": alpha}
        type = TensorType(out.dtype, out.shape)
        operands = [a, b, bias] if bias is not None else [a, b]
        result = call(builder, "matmul", operands, [type], attrs, node.output.name).output
    if rest is not None:
        if beta != 1.0:
            rest = builder.Mul(rest, builder.constant(np.float32(beta)))
        result = builder.Add(result, rest)
    return result


def _row_bias(builder: Builder, c: Value, n: Dim, beta: float) -> Value | None:
    """A constant C as one row [N], when it is the same for every row."""
    assert c.constant is not None
    shape = static_shape(c.shape)
    if shape is None or not isinstance(n, int) or (len(shape) == 2 and shape[0] != 1):
        return None
    row = np.broadcast_to(c.constant.array.reshape(-1), (n,)) * np.float32(beta)
    return builder.constant(np.ascontiguousarray(row, np.float32), c.name)


# ---- convolutions ----


def spatial_attrs(window: Any) -> dict[str, Any]:
    """A window as attributes of a step."""
    return {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "dilations": window.dilations,
        "pads": (*window.begin, *window.end),
    }


def to_channels_last(builder: Builder, x: Value) -> Value:
    """``x`` [N, C, spatial...] as [N, spatial..., C]."""
    rank = x.tensor.rank
    assert rank is not None
    result: Value = builder.Transpose(x, perm=channels_last(rank))
    return result


def from_channels_last(builder: Builder, y: Value, name: str) -> Value:
    """``y`` [N, spatial..., C] as [N, C, spatial...]."""
    rank = y.tensor.rank
    assert rank is not None
    result: Value = builder.Transpose(y, perm=channels_first(rank), _name=name)
    return result


def channels_last_type(type: TensorType) -> TensorType:
    """The type of a channels-first tensor in channels-last order."""
    assert type.shape is not None
    n, c, *spatial = type.shape
    return TensorType(type.dtype, (n, *spatial, c))


def _conv(builder: Builder, node: Node) -> Value | None:
    x, w, bias = node.input(0), node.input(1), node.input(2)
    assert x is not None and w is not None
    weights = static_shape(w.shape)
    out = node.output.tensor
    if x.shape is None or out.shape is None or not 3 <= len(x.shape) <= 5 or weights is None:
        return None
    cout, cin_group, *kernel = weights
    group = int(node.attr("group"))
    window = conv_window(x.shape[2:], kernel, node.attrs)
    attrs = {
        **spatial_attrs(window), "group": group, "cin": cin_group * group, "cout": cout
    }  # fmt: skip
    if out.dtype is not DType.F32 or not w.is_constant:
        if not out.dtype.is_float:
            return None
        return call(builder, "conv_nd_plain", [x, w, bias], [out], attrs).output
    weight = builder.constant(_packed_conv(w, weights, group), f"{w.name}.packed")
    y = call(
        builder,
        "conv",
        [to_channels_last(builder, x), weight, bias],
        [channels_last_type(out)],
        attrs,
    )
    return from_channels_last(builder, y.output, node.output.name)


def _packed_conv(w: Value, shape: tuple[int, ...], group: int) -> Constant:
    from graphopt import _native

    cout, cin_group, *kernel = shape
    size = _native.packed_conv_size(cout, cin_group, int(np.prod(kernel)), group)
    return packed(
        w, size, f"conv / {group}", aligned(lambda array: _native.pack_conv(array, group))
    )


def _conv_transpose(builder: Builder, node: Node) -> Value | None:
    from graphopt import _native

    x, w, bias = node.input(0), node.input(1), node.input(2)
    assert x is not None and w is not None
    weights = static_shape(w.shape)
    out = node.output.tensor
    if x.shape is None or out.shape is None or not 3 <= len(x.shape) <= 5 or weights is None:
        return None
    if out.dtype is not DType.F32 or not w.is_constant:
        return None
    cin, cout_group, *kernel = weights
    group = int(node.attr("group"))
    window, _ = transpose_window(x.shape[2:], kernel, node.attrs)
    extra = tuple(node.attrs.get("output_padding") or (0,) * len(kernel))
    size = _native.packed_conv_transpose_size(cin, cout_group, int(np.prod(kernel)), group)
    weight = packed(
        w,
        size,
        f"conv.T / {group}",
        aligned(lambda array: _native.pack_conv_transpose(array, group)),
    )
    attrs = {
        **spatial_attrs(window), "group": group, "cin": cin, "cout": cout_group * group,
        "output_padding": extra,
    }  # fmt: skip
    operands = [to_channels_last(builder, x), builder.constant(weight, f"{w.name}.packed"), bias]
    y = call(builder, "conv_transpose", operands, [channels_last_type(out)], attrs)
    return from_channels_last(builder, y.output, node.output.name)


# ---- pools ----

_POOLS = {"MaxPool": "max_pool", "AveragePool": "average_pool", "LpPool": "lp_pool"}


def _pool(builder: Builder, node: Node) -> tuple[Value | None, ...] | None:
    x = node.input(0)
    assert x is not None
    out = node.output.tensor
    if x.shape is None or out.shape is None or not 3 <= len(x.shape) <= 5:
        return None
    if not out.dtype.is_float and out.dtype not in (DType.I8, DType.U8):
        return None
    window = pool_window(x.shape[2:], node.attrs)
    attrs: dict[str, Any] = {**spatial_attrs(window), "ceil_mode": int(node.attr("ceil_mode"))}
    for name in ("count_include_pad", "p", "storage_order"):
        if name in node.op.attrs and node.attr(name) is not None:
            attrs[name] = int(node.attr(name))
    types = [channels_last_type(v.tensor) for v in node.outputs]
    if len(types) > 1 and node.outputs[1].use_count == 0:
        types = types[:1]
    y = call(builder, _POOLS[node.op.name], [to_channels_last(builder, x)], types, attrs)
    results: list[Value | None] = [
        from_channels_last(builder, new, old.name)
        for new, old in zip(y.outputs, node.outputs, strict=False)
    ]
    return tuple(results + [None] * (len(node.outputs) - len(results)))


_HANDLERS: dict[str, Handler] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "LpPool": _pool,
    "MatMul": _matmul,
    "MaxPool": _pool,
}


def flops(node: Node) -> Dim:
    """Floating-point operations of a lowered dense node."""
    if node.op.domain != DOMAIN or not node.outputs:
        return 0
    out = product(node.output.shape or ())
    depth = 0
    if node.op.name == "gemm":
        depth = int(node.attrs["k"])
    elif node.op.name in ("conv", "conv_winograd"):
        taps = int(np.prod(node.attrs["kernel_shape"]))
        depth = taps * int(node.attrs["cin"]) // int(node.attrs.get("group", 1))
    return 2 * depth * out
