"""Quantized values of a graph: what DequantizeLinear says about bytes.

Shared by the passes that make integer kernels of a graph with QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import DType, Node, Value, static_shape

__all__ = ["BYTES", "Bytes", "Weights", "bytes_of", "is_per_tensor", "quantize_to", "weights_of"]

Array = np.ndarray[Any, Any]

BYTES = frozenset({DType.U8, DType.I8})


@dataclass(frozen=True)
class Bytes:
    """``value`` stands for ``(value - zero) * scale``; one scale of float32 for the tensor."""

    value: Value
    scale: np.float32
    zero: int

    @property
    def dtype(self) -> DType:
        """u8 or i8."""
        return self.value.tensor.dtype


@dataclass(frozen=True)
class Weights:
    """Constant bytes with a scale (float32) and a zero point (int32) for each index of an axis."""

    value: Value
    scale: Array
    zero: Array

    def read(self) -> Array:
        """The bytes as int8; unsigned ones less 128, as :attr:`zero` has it too."""
        assert self.value.constant is not None
        array = self.value.constant.read()
        if array.dtype == np.uint8:
            return (array ^ np.uint8(0x80)).view(np.int8)
        return array


def _parameters(node: Node) -> tuple[Array, Array] | None:
    """Constant scales and zero points (int32) of a Quantize or Dequantize in float32."""
    scale, zero = node.input(1), node.input(2)
    if scale is None or scale.constant is None or scale.tensor.dtype is not DType.F32:
        return None
    if zero is not None and zero.constant is None:
        return None
    if node.attr("block_size"):
        return None
    if node.is_a("DequantizeLinear") and node.attr("output_dtype") not in (0, int(DType.F32)):
        return None
    scales = scale.constant.array.reshape(-1)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        return None
    if zero is None or zero.constant is None:
        return scales, np.zeros(scales.shape, np.int32)
    return scales, zero.constant.array.reshape(-1).astype(np.int32)


def is_per_tensor(node: Node) -> bool:
    """True for a Quantize or Dequantize with one scale and zero point, whatever they are."""
    operands = [v for v in node.inputs[1:] if v is not None]
    return not node.attr("block_size") and all(v.tensor.numel == 1 for v in operands)


def bytes_of(value: Value | None) -> Bytes | None:
    """What ``value`` is dequantized from, when that is bytes with one constant scale."""
    node = None if value is None else value.producer
    if node is None or not node.is_a("DequantizeLinear"):
        return None
    source = node.input(0)
    if source is None or source.tensor.dtype not in BYTES or source.is_constant:
        return None
    found = _parameters(node)
    if found is None or found[0].size != 1 or found[1].size != 1:
        return None
    return Bytes(source, np.float32(found[0][0]), int(found[1][0]))


def quantize_to(node: Node) -> tuple[np.float32, int, DType] | None:
    """Scale, zero point and type of a QuantizeLinear to bytes with one constant scale."""
    if not node.is_a("QuantizeLinear") or node.output.tensor.dtype not in BYTES:
        return None
    source = node.input(0)
    if (
        source is None
        or source.tensor.dtype is not DType.F32
        or node.attr("precision") not in (0, 1)
    ):
        return None
    found = _parameters(node)
    if found is None or found[0].size != 1 or found[1].size != 1:
        return None
    return np.float32(found[0][0]), int(found[1][0]), node.output.tensor.dtype


def weights_of(value: Value | None, axis: int) -> Weights | None:
    """Constant weights that ``value`` is dequantized from, a scale for each index of ``axis``."""
    node = None if value is None else value.producer
    if node is None or not node.is_a("DequantizeLinear"):
        return None
    source = node.input(0)
    if source is None or source.constant is None or source.tensor.dtype not in BYTES:
        return None
    shape = static_shape(source.constant.type.shape)
    found = _parameters(node)
    if found is None or shape is None:
        return None
    scale, zero = found
    count = shape[axis]
    if scale.size != 1 and (scale.size != count or int(node.attr("axis")) % len(shape) != axis):
        return None
    offset = 128 if source.tensor.dtype is DType.U8 else 0
    zero = np.broadcast_to(zero - offset, (count,)).astype(np.int32)
    return Weights(source, np.broadcast_to(scale, (count,)).astype(np.float32), zero)
