"""Products and convolutions of dequantized operands become integer step kernels.

``Conv(Dequantize(x), Dequantize(const w), b)  ->  Transpose, conv_int8, Transpose``, and MatMul and
Gemm likewise: the sums are integers, exact in 32 bits, and become float32 by one multiplication by
the scales of both operands. Weights are packed for the micro-kernels when they are first needed.

Sound up to rounding: ``(x - zx) sx * (w - zw) sw`` summed in float32 is ``sx sw`` times an integer
sum, which is computed without an error. Biases that are whole in units of ``sx sw`` join the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.lower_dense import (
    call,
    channels_last_type,
    from_channels_last,
    packed,
    spatial_attrs,
    to_channels_last,
    view,
)
from graphopt.backends.cpu.quantized import Bytes, Weights, bytes_of, weights_of
from graphopt.ir import Builder, DType, TensorType, Value, static_shape
from graphopt.ops.conv import conv_window
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["LowerInt8"]

Array = np.ndarray[Any, Any]

_PANEL = 16
_BLOCK = 64
# With fewer channels the taps of a line are one run, so that inner loops stay long.
_FEW_CHANNELS = 32


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def pack_products(w: Array, group: int = 1) -> Array:
    """Weights [N, segments, depth] as panels [group][N / 16][segments][depth / 4][16][4], padded
    with zeros."""
    n, segments, depth = w.shape
    own = w.reshape(group, n // group, segments, depth)
    columns, deep = _up(n // group, _PANEL), _up(depth, 4)
    own = np.pad(own, ((0, 0), (0, columns - n // group), (0, 0), (0, deep - depth)))
    own = own.reshape(group, columns // _PANEL, _PANEL, segments, deep // 4, 4)
    return np.ascontiguousarray(own.transpose(0, 1, 3, 4, 2, 5)).reshape(-1)


def pack_depthwise(w: Array) -> Array:
    """Weights [C, lines, columns] of a depthwise convolution in blocks of 64 channels:
    [C / 64][lines / 4][columns][4][64], see csrc/kernels/int8/tile.h."""
    channels, lines, columns = w.shape
    pads = ((0, _up(channels, _BLOCK) - channels), (0, _up(lines, 4) - lines), (0, 0))
    own = np.pad(w, pads).reshape(-1, 4, 4, 4, _up(lines, 4) // 4, 4, columns)
    # Channel 16 L + 4 j + e, line 4 v + t: byte 16 L + 4 e + t of the j-th 64.
    return np.ascontiguousarray(own.transpose(0, 4, 6, 2, 1, 3, 5)).reshape(-1)


@dataclass(frozen=True)
class _Numbers:
    """Operands of a step behind X and W: see csrc/kernels/int8/finish.h."""

    start: Array
    scale: Array
    offset: Array | None
    row_factors: Array | None

    def operands(self, op: Builder) -> list[Value | None]:
        """bias, scale, offset, residual, table, row_factors."""
        offset = None if self.offset is None else op.constant(self.offset, "offset")
        start, scale = op.constant(self.start, "bias"), op.constant(self.scale, "scale")
        if self.row_factors is None:
            return [start, scale, offset]
        return [start, scale, offset, None, None, op.constant(self.row_factors, "row_factors")]


def _numbers(x: Bytes, w: Weights, bias: Value | None, axis: int) -> _Numbers | Refusal:
    """``axis`` is that of the output channels in the weights; sums run over all others."""
    array = w.read().astype(np.int64)
    count, depth = array.shape[axis], array.size // max(array.shape[axis], 1)
    sums = np.moveaxis(array, axis, 0).reshape(count, -1).sum(axis=1)
    # Signed bytes are read as unsigned with 128 added.
    zero = x.zero + (128 if x.dtype is DType.I8 else 0)
    start = -zero * (sums - depth * w.zero.astype(np.int64))
    scale = x.scale * w.scale
    found = _bias(bias, scale)
    if isinstance(found, Refusal):
        return found
    whole, offset = found
    if whole is not None:
        start = start + whole
    if np.abs(start).max(initial=0) + 255 * 128 * depth >= 2**31:
        return Refusal("its sums may not fit into 32 bits", w.value)
    factors = -w.zero if w.zero.any() else None
    return _Numbers(start.astype(np.int32), scale, offset, factors)


def _bias(bias: Value | None, scale: Array) -> tuple[Array | None, Array | None] | Refusal:
    """A bias as whole numbers in units of ``scale``, or as float32; both None without one."""
    if bias is None:
        return None, None
    if bias.constant is not None:
        row = np.broadcast_to(bias.constant.array.reshape(-1), scale.shape)
        return None, np.ascontiguousarray(row, np.float32)
    node = bias.producer
    source = None if node is None or not node.is_a("DequantizeLinear") else node.input(0)
    if node is None or source is None or source.constant is None or node.attr("block_size"):
        return Refusal(f"%{bias.name} is no constant bias", bias)
    parameters = [node.input(1), node.input(2)]
    if any(v is not None and v.constant is None for v in parameters):
        return Refusal(f"the parameters of %{bias.name} are not constant", bias)
    arrays = [None if v is None or v.constant is None else v.constant.array for v in parameters]
    units = np.asarray(arrays[0]).reshape(-1).astype(np.float64)
    whole = source.constant.array.reshape(-1).astype(np.int64)
    if arrays[1] is not None:
        whole = whole - arrays[1].reshape(-1).astype(np.int64)
    if whole.size not in (1, scale.size) or units.size not in (1, scale.size):
        return Refusal(f"%{bias.name} is not one number a channel", bias)
    whole = np.broadcast_to(whole, scale.shape)
    if np.allclose(units, scale, rtol=1e-6, atol=0):
        return whole, None
    return None, np.asarray(whole * np.broadcast_to(units, scale.shape), np.float32)


def _needs_bytes(x: Bytes | None, w: Weights | None, m: Match) -> Refusal | None:
    node = m.root
    if x is None:
        return Refusal("its operand is not dequantized from bytes with one constant scale", node)
    if w is None:
        return Refusal(
            "its weights are not dequantized from constant bytes, a scale a channel", node
        )
    if node.output.tensor.dtype is not DType.F32 or node.output.shape is None:
        return Refusal(f"%{node.output.name} is {node.output.type}", node)
    return None


class Convolution(Rule):
    """``Conv(Dequantize(x), Dequantize(const w), b)  ->  conv_int8``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        return op.op("Conv", op.rest("operands"))

    def _parts(self, m: Match) -> tuple[Bytes | None, Weights | None, Value | None]:
        node = m.root
        return bytes_of(node.input(0)), weights_of(node.input(1), 0), node.input(2)

    def check(self, m: Match) -> Refusal | None:
        x, w, bias = self._parts(m)
        refused = _needs_bytes(x, w, m)
        if refused is not None or x is None or w is None:
            return refused
        shape = static_shape(w.value.shape)
        if shape is None or not 3 <= len(shape) <= 5:
            return Refusal("one to three spatial dimensions are needed", w.value)
        if _is_depthwise(shape, int(m.root.attr("group"))) and w.zero.any():
            return Refusal("weights of a depthwise convolution have a zero point", w.value)
        numbers = _numbers(x, w, bias, 0)
        return numbers if isinstance(numbers, Refusal) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        x, w, bias = self._parts(m)
        assert x is not None and w is not None and x.value.shape is not None
        node, shape = m.root, static_shape(w.value.shape)
        assert shape is not None
        cout, cin, *kernel = shape
        group = int(node.attr("group"))
        window = conv_window(x.value.shape[2:], kernel, node.attrs)
        few = group == 1 and cin < _FEW_CHANNELS and kernel[-1] > 1
        merged = few and tuple(window.dilations)[-1] == 1
        attrs = {
            **spatial_attrs(window), "group": group, "cin": cin * group, "cout": cout,
            "x_zero": x.zero % 256, "merged": int(merged),
        }  # fmt: skip
        numbers = _numbers(x, w, bias, 0)
        assert isinstance(numbers, _Numbers)
        weights = op.constant(_packed_conv(w, shape, group, merged), f"{w.value.name}.packed")
        operands = [to_channels_last(op, x.value), weights, *numbers.operands(op)]
        y = call(op, "conv_int8", operands, [channels_last_type(node.output.tensor)], attrs)
        return from_channels_last(op, y.output, node.output.name)


def _is_depthwise(shape: Sequence[int], group: int) -> bool:
    return group > 1 and shape[0] == group and shape[1] == 1


def _packed_conv(w: Weights, shape: tuple[int, ...], group: int, merged: bool) -> Any:
    cout, cin, *kernel = shape
    taps = int(np.prod(kernel))
    if _is_depthwise(shape, group):
        lines = taps // kernel[-1]
        size = _up(cout, _BLOCK) * _up(lines, 4) * kernel[-1]
        return packed(
            w.value, size, "depthwise int8",
            lambda _: pack_depthwise(w.read().reshape(cout, lines, kernel[-1])), DType.I8,
        )  # fmt: skip
    segments, depth = (taps // kernel[-1], kernel[-1] * cin) if merged else (taps, cin)

    def pack(_: Array) -> Array:
        own = np.moveaxis(w.read().reshape(cout, cin, taps), 1, 2)
        return pack_products(own.reshape(cout, segments, depth), group)

    size = group * _up(cout // group, _PANEL) * segments * _up(depth, 4)
    return packed(w.value, size, f"conv int8 / {group} {merged}", pack, DType.I8)


class Product(Rule):
    """``MatMul(Dequantize(x), Dequantize(const w))  ->  gemm_int8``, and Gemm."""

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        return [op.op(name, op.rest("operands")) for name in ("MatMul", "Gemm")]

    def _parts(self, m: Match) -> tuple[Bytes | None, Weights | None, Value | None, bool]:
        node = m.root
        transposed = node.is_a("Gemm") and bool(node.attr("transB"))
        weights = (
            weights_of(node.input(1), 0 if transposed else 1) if _is_matrix(node.input(1)) else None
        )
        return bytes_of(node.input(0)), weights, node.input(2), transposed

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        x, w, bias, transposed = self._parts(m)
        refused = _needs_bytes(x, w, m)
        if refused is not None or x is None or w is None:
            return refused
        if not x.value.shape:
            return Refusal(f"%{x.value.name} is a scalar", x.value)
        if node.is_a("Gemm") and (node.attr("transA") or node.attr("alpha") != 1.0):
            return Refusal("it transposes or scales its operand", node)
        if bias is not None and node.attr("beta") != 1.0:
            return Refusal("it scales its bias", node)
        if bias is not None and bias.tensor.numel not in (1, w.scale.size):
            return Refusal(f"%{bias.name} is not one number a column", bias)
        numbers = _numbers(x, w, bias, 0 if transposed else 1)
        return numbers if isinstance(numbers, Refusal) else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        x, w, bias, transposed = self._parts(m)
        assert x is not None and w is not None
        out, name = m.root.output.tensor, m.root.output.name
        numbers = _numbers(x, w, bias, 0 if transposed else 1)
        shape = static_shape(w.value.shape)
        assert isinstance(numbers, _Numbers) and shape is not None and out.shape is not None
        n, k = shape if transposed else shape[::-1]

        def pack(_: Array) -> Array:
            own = w.read()
            return pack_products((own if transposed else own.T).reshape(n, 1, k))

        layout = f"gemm int8{'.T' if transposed else ''}"
        weights = packed(w.value, _up(n, _PANEL) * _up(k, 4), layout, pack, DType.I8)
        left = x.value
        if len(left.shape or ()) == 1:
            left = view(op, left, (1, *(left.shape or ())))
        operands = [left, op.constant(weights, f"{w.value.name}.packed"), *numbers.operands(op)]
        type = TensorType(DType.F32, out.shape)
        return call(op, "gemm_int8", operands, [type], {"k": k, "n": n}, name).output


def _is_matrix(value: Value | None) -> bool:
    return value is not None and value.tensor.rank == 2


@dataclass(frozen=True)
class LowerInt8(RulePass):
    """Takes products and convolutions of dequantized operands to the integer kernels."""

    name: ClassVar[str] = "cpu-lower-int8"

    def rules(self, graph: Any) -> list[Rule]:
        return [Convolution(), Product()]
