"""Products with weights of four bits read the codes themselves.

``MatMul(x, Dequantize(const codes))  ->  gemm_int4(x, packed codes)`` for codes of four bits with a
scale, and a zero point or none, a block along K; Gemm and com.microsoft MatMulNBits likewise. Few
rows make reading the weights the work: an eighth of the bytes are read.

Sound: codes become the same numbers, less their zero points without an error, multiplied by their
scales once a block instead of once an element: sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.lower_dense import call, packed
from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value, static_shape
from graphopt.ops.microsoft_quantized import unpack_bits
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["LowerInt4"]

Array = np.ndarray[Any, Any]

_PANEL = 16
_MS = "com.microsoft"


def _panels(array: Array) -> Array:
    """[rows, N] as panels [N / 16][rows][16], padded with zeros."""
    rows, n = array.shape
    own = np.pad(array, ((0, 0), (0, -n % _PANEL))).reshape(rows, -1, _PANEL)
    return np.ascontiguousarray(own.transpose(1, 0, 2)).reshape(-1)


def _pack(codes: Array) -> Array:
    """Codes 0 to 15 [K, N], two neighbours along K a byte."""
    return _panels(codes[0::2] | (codes[1::2] << 4))


@dataclass(frozen=True)
class _Weights:
    """Codes ``read()`` [K, N] of 0 to 15; scales and zero points [blocks, N] of float32."""

    source: Value
    read: Callable[[], Array]
    scale: Array
    zero: Array
    k: int
    n: int
    block: int


def _lower(op: Builder, x: Value, w: _Weights, bias: Value | None, out: Value) -> Value:
    size = -(-w.n // _PANEL) * _PANEL * (w.k // 2)
    layout = f"int4 {w.k} {w.n} {w.block}"
    codes = packed(w.source, size, layout, lambda _: _pack(w.read()), DType.U8)
    row = np.zeros(w.n, np.float32)
    if bias is not None and bias.constant is not None:
        row = np.broadcast_to(bias.constant.array.reshape(-1), (w.n,)).astype(np.float32)
    numbers = [_panels(np.asarray(a, np.float32)) for a in (w.scale, w.zero, row[None])]
    operands = [x, op.constant(codes, f"{w.source.name}.packed"), *map(op.constant, numbers)]
    attrs = {"k": w.k, "n": w.n, "block": w.block}
    type = TensorType(DType.F32, out.shape)
    return call(op, "gemm_int4", operands, [type], attrs, out.name).output


def _check(
    x: Value | None, w: _Weights | Refusal, bias: Value | None, node: Node
) -> Refusal | None:
    if isinstance(w, Refusal):
        return w
    if x is None or x.tensor.dtype is not DType.F32 or not x.shape or node.output.shape is None:
        return Refusal("its operand is no float32 tensor of known rank", node)
    if w.k % 2 or w.block % 2:
        return Refusal(f"K = {w.k} or blocks of {w.block} are odd", node)
    if bias is not None and (bias.constant is None or bias.constant.numel not in (1, w.n)):
        return Refusal(f"%{bias.name} is no constant, one number a column", bias)
    return None


class BlockProduct(Rule):
    """``MatMul(x, Dequantize(const codes))  ->  gemm_int4``, and Gemm."""

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        return [op.op(name, op.rest("operands")) for name in ("MatMul", "Gemm")]

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        if node.is_a("Gemm"):
            if node.attr("transA") or node.attr("alpha") != 1.0:
                return Refusal("it transposes or scales its operand", node)
            if node.input(2) is not None and node.attr("beta") != 1.0:
                return Refusal("it scales its bias", node)
        return _check(node.input(0), _block_weights(node), node.input(2), node)

    def rewrite(self, op: Builder, m: Match) -> Value:
        node, weights, x = m.root, _block_weights(m.root), m.root.input(0)
        assert isinstance(weights, _Weights) and x is not None
        return _lower(op, x, weights, node.input(2), node.output)


def _block_weights(product: Node) -> _Weights | Refusal:
    value = product.input(1)
    node = None if value is None else value.producer
    source = None if node is None or not node.is_a("DequantizeLinear") else node.input(0)
    if node is None or source is None or source.constant is None:
        return Refusal("its weights are not dequantized from constant codes", product)
    shape, dtype = static_shape(source.shape), source.tensor.dtype
    if dtype not in (DType.I4, DType.U4) or shape is None or len(shape) != 2:
        return Refusal(f"its weights are {source.type}", source)
    transposed = product.is_a("Gemm") and bool(product.attr("transB"))
    axis, block = int(node.attr("axis")) % 2, int(node.attr("block_size"))
    if not block or axis != (1 if transposed else 0):
        return Refusal("its scales do not go by blocks along K", node)
    scale, zero = node.input(1), node.input(2)
    if scale is None or scale.constant is None or scale.tensor.dtype is not DType.F32:
        return Refusal("its scales are no constants of float32", node)
    if zero is not None and zero.constant is None:
        return Refusal("its zero points are no constants", node)
    offset = 8 if dtype is DType.I4 else 0
    constant = source.constant

    def turned(array: Array) -> Array:
        return array.T if transposed else array

    def read() -> Array:
        return turned((constant.read().astype(np.int8) + np.int8(offset)).astype(np.uint8))

    scales = scale.constant.array
    zeros = np.full(scales.shape, offset, np.float32)
    if zero is not None and zero.constant is not None:
        zeros = zeros + zero.constant.array.astype(np.float32)
    n, k = shape if transposed else shape[::-1]
    return _Weights(source, read, turned(scales), turned(zeros), k, n, block)


class BitsProduct(Rule):
    """``MatMulNBits(x, const codes)  ->  gemm_int4``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        return op.op("MatMulNBits", op.rest("operands"), _domain=_MS)

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        if node.attr("bits") != 4 or node.attr("weight_prepacked"):
            return Refusal(f"its weights have {node.attr('bits')} bits, or are packed", node)
        if node.input(4) is not None:
            return Refusal("the groups of its weights are not in order", node)
        for value in node.inputs[1:4]:
            if value is not None and value.constant is None:
                return Refusal(f"%{value.name} is only known when the model runs", value)
        return _check(node.input(0), _bits_weights(node), node.input(5), node)

    def rewrite(self, op: Builder, m: Match) -> Value:
        node, x = m.root, m.root.input(0)
        assert x is not None
        return _lower(op, x, _bits_weights(node), node.input(5), node.output)


def _bits_weights(node: Node) -> _Weights:
    n, k, block = (int(node.attr(name)) for name in ("N", "K", "block_size"))
    blocks = -(-k // block)
    source, scale, zero = node.input(1), node.input(2), node.input(3)
    assert source is not None and scale is not None
    assert source.constant is not None and scale.constant is not None
    constant = source.constant

    def read() -> Array:
        return unpack_bits(constant.read().reshape(n, -1), 4)[:, :k].T

    zeros = np.full((n, blocks), 8, np.float32)
    if zero is not None and zero.constant is not None:
        array = zero.constant.array
        packed_zeros = array.dtype == np.uint8
        zeros = unpack_bits(array.reshape(n, -1), 4)[:, :blocks] if packed_zeros else array
    scales = scale.constant.array.reshape(n, blocks).astype(np.float32)
    return _Weights(source, read, scales.T, zeros.reshape(n, blocks).T, k, n, block)


@dataclass(frozen=True)
class LowerInt4(RulePass):
    """Takes products with weights of four bits to the kernel that reads the codes."""

    name: ClassVar[str] = "cpu-lower-int4"

    def rules(self, graph: Graph) -> list[Rule]:
        return [BlockProduct(), BitsProduct()]
