"""Quantization and bit casts as scalar expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphopt.codegen import coord as coords
from graphopt.codegen.coord import Coord, const
from graphopt.codegen.expr import BITS, Expr, Refusal, compute_type, is_float, is_int, is_signed
from graphopt.ir import DType, Node, Value, product

if TYPE_CHECKING:
    from graphopt.codegen.trace import Trace

__all__ = ["EMITTERS"]

Index = tuple[Coord, ...]


def _granular(trace: Trace, node: Node, position: int, index: Index) -> Expr | None:
    """A scale or zero point for one element: per tensor, per axis or per block."""
    value = node.input(position)
    if value is None:
        return None
    own = trace.shape(value)
    if product(own) == 1:
        return trace.value(value, (const(0),) * len(own))
    axis, block = node.attr("axis") % len(index), node.attr("block_size")
    if len(own) == 1 and not block:
        return trace.value(value, (index[axis],))
    if not block or len(own) != len(index):
        raise Refusal(f"{node.op.name}: scales of this shape are not generated")
    where = list(index)
    where[axis] = coords.floordiv(index[axis], block, trace.extents)
    return trace.value(value, tuple(where))


def _quantize(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    source = node.input(0)
    assert source is not None
    type = compute_type(value.tensor.dtype)
    if not is_int(type) or BITS[type] > 16:
        raise Refusal(f"quantizing to {value.tensor.dtype} is not generated")
    scale, zero = (_granular(trace, node, k, index) for k in (1, 2))
    if scale is None or not is_float(scale.type):
        raise Refusal("a scale that is no float is not generated")
    if node.attr("precision") not in (0, int(DType.F32)) or scale.type != "float32":
        raise Refusal("quantizing in another precision than f32 is not generated")
    x = b.convert(trace.value(source, index), "float32")
    # Beyond 2**23, where adding the zero point could round, the result is clamped anyway.
    whole = b.unary("rint", x / scale)
    if zero is not None:
        whole = whole + b.convert(zero, "float32")
    high = (1 << (BITS[type] - is_signed(type))) - 1
    low = -high - 1 if is_signed(type) else 0
    return b.convert(b.min(b.max(whole, float(low)), float(high)), type)


def _dequantize(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    from graphopt.codegen.trace import cast_expr

    b = trace.builder
    source = node.input(0)
    assert source is not None
    x = trace.value(source, index)
    if not is_int(x.type):
        raise Refusal(f"dequantizing {source.tensor.dtype} is not generated")
    scale, zero = (_granular(trace, node, k, index) for k in (1, 2))
    if scale is None or not is_float(scale.type):
        raise Refusal("a scale that is no float is not generated")
    # Differences of 16-bit integers are exact in f32, those of longer ones in i64.
    wide = "float32" if BITS[x.type] <= 16 else "int64"
    centred = b.convert(x, wide)
    if zero is not None:
        centred = centred - b.convert(zero, wide)
    result = b.convert(centred, "float32") * b.convert(scale, "float32")
    return cast_expr(result, DType.F32, value.tensor.dtype)


def _bit_cast(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = node.input(0)
    assert source is not None
    plain = (DType.F32, DType.F64)
    for dtype in (source.tensor.dtype, value.tensor.dtype):
        if dtype not in plain and not is_int(compute_type(dtype)):
            raise Refusal(f"BitCast of {dtype} is not generated")
    x = trace.value(source, index)
    return trace.builder.node("bits", compute_type(value.tensor.dtype), (x,))


EMITTERS: dict[str, Callable[[Any, Node, Value, Index], Expr]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "BitCast": _bit_cast,
}
