"""Quantization: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dim import Dim, ceildiv
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.cast import cast
from graphopt.ops.infer import require_equal
from graphopt.ops.norm import elementwise_cost
from graphopt.ops.precision import Array, narrow
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["granular", "integer_range", "quantized"]


def integer_range(dtype: DType) -> tuple[int, int]:
    """Least and greatest value of an integer type."""
    if dtype.is_signed:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


def granular(v: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """A scale or zero point, shaped to broadcast over a tensor of ``shape``.

    It is per tensor (one element), per axis (a vector), or per block of ``block`` elements along
    ``axis``. Raises ValueError when it fits none of these.
    """
    if v.size == 1:
        return v.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} is out of range for rank {len(shape)}")
    axis %= len(shape)
    if v.ndim == 1 and not block:
        if v.size != shape[axis]:
            raise ValueError(f"{v.size} scales do not fit axis {axis} of {shape[axis]} elements")
        return v.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    if block < 1:
        raise ValueError("blocked quantization needs block_size")
    repeated = np.repeat(v, block, axis=axis)
    repeated = repeated[(slice(None),) * axis + (slice(0, shape[axis]),)]
    if repeated.shape != shape:
        raise ValueError(f"scales of shape {v.shape} in blocks of {block} do not fit {shape}")
    return repeated


def quantized(quotient: Array, zero_point: Array | None, dtype: DType, saturate: bool) -> Array:
    """``quotient`` rounded to nearest, ties to even, plus the zero point, clamped to ``dtype``."""
    if dtype.is_integer:
        low, high = integer_range(dtype)
        # f64 holds every rounded quotient and zero point exactly.
        whole = np.rint(quotient.astype(np.float64))
        if zero_point is not None:
            whole = whole + zero_point.astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.clip(whole, low, high).astype(dtype.numpy))
    shifted = quotient.astype(np.float32, copy=False)
    if zero_point is not None and np.any(zero_point.astype(np.float32)):
        shifted = shifted + zero_point.astype(np.float32)
    return cast(shifted, dtype, saturate=saturate)


def _check_granularity(ctx: InferContext) -> None:
    """Scales must be one element, a vector along the axis, or one for every block."""
    shape, scale = ctx.shape(0), ctx.shape(1)
    if ctx.has(2):
        zero = ctx.shape(2)
        if scale is not None and zero is not None and len(scale) == len(zero):
            for a, b in zip(scale, zero, strict=True):
                require_equal(ctx, a, b, "scale and zero point have different shapes")
    if shape is None or scale is None or not scale or scale == (1,):
        return
    axis = ctx.axis(ctx.attr("axis"), len(shape))
    block: int = ctx.attr("block_size")
    if not block:
        if len(scale) != 1:
            ctx.fail("scales of several axes need block_size")
        require_equal(ctx, scale[0], shape[axis], f"the scales do not cover axis {axis}")
        return
    if len(scale) != len(shape):
        ctx.fail(f"blocked scales must have {len(shape)} axes, not {len(scale)}")
    for i, (have, size) in enumerate(zip(scale, shape, strict=True)):
        wanted: Dim = ceildiv(size, block) if i == axis else size
        require_equal(ctx, have, wanted, f"the scales do not cover axis {i}")


def _quantized_type(ctx: InferContext) -> DType:
    wanted = ctx.attr("output_dtype")
    if ctx.has(2):
        found = ctx.dtype(2)
        if wanted and DType(wanted) is not found:
            ctx.fail(f"output_dtype is {DType(wanted)} but the zero point is {found}")
        return found
    return DType(wanted) if wanted else DType.U8


def _infer_quantize(ctx: InferContext) -> Type:
    _check_granularity(ctx)
    return TensorType(_quantized_type(ctx), ctx.shape(0))


def _evaluate_quantize(
    ctx: EvalContext, x: Array, scale: Array, zero_point: Array | None = None
) -> Array:
    axis, block = ctx.attr("axis"), ctx.attr("block_size")
    if zero_point is not None:
        dtype = DType.from_numpy(zero_point.dtype)
        zero_point = granular(zero_point, x.shape, axis, block)
    else:
        dtype = DType(ctx.attr("output_dtype") or DType.U8)
    precision = ctx.attr("precision") or DType.from_numpy(scale.dtype)
    real = DType(precision)
    if real not in (DType.F32, DType.F64, DType.F16, DType.BF16):
        # Integer and power-of-two scales: f32 holds their range.
        real = DType.F32
    divisor = granular(scale, x.shape, axis, block).astype(real.numpy)
    with np.errstate(all="ignore"):
        quotient = x.astype(real.numpy) / divisor
    return quantized(quotient, zero_point, dtype, bool(ctx.attr("saturate")))


def _infer_dequantize(ctx: InferContext) -> Type:
    _check_granularity(ctx)
    wanted = ctx.attr("output_dtype")
    dtype = DType(wanted) if wanted else ctx.dtype(1)
    if dtype not in (DType.F32, DType.F16, DType.BF16):
        ctx.fail(f"it cannot yield {dtype}: give output_dtype")
    return TensorType(dtype, ctx.shape(0))


def _evaluate_dequantize(
    ctx: EvalContext, x: Array, scale: Array, zero_point: Array | None = None
) -> Array:
    axis, block = ctx.attr("axis"), ctx.attr("block_size")
    found = DType.from_numpy(x.dtype)
    kind = np.int64 if found.is_integer else np.float32
    centred = x.astype(kind)
    if zero_point is not None:
        centred = centred - granular(zero_point, x.shape, axis, block).astype(kind)
    factor = granular(scale, x.shape, axis, block).astype(np.float32)
    wanted = ctx.attr("output_dtype")
    dtype = DType(wanted).numpy if wanted else scale.dtype
    return narrow(centred.astype(np.float32) * factor, dtype)


def _infer_dynamic(ctx: InferContext) -> tuple[Type, Type, Type]:
    return (
        TensorType(DType.U8, ctx.shape(0)),
        TensorType(DType.F32, ()),
        TensorType(DType.U8, ()),
    )


def _evaluate_dynamic(ctx: EvalContext, x: Array) -> tuple[Array, Array, Array]:
    real = np.float32
    low = min(real(0), x.min(initial=0))
    high = max(real(0), x.max(initial=0))
    # A tensor of zeros has no range: onnxruntime takes scale 1 then, where the formula has 0.
    scale = real(1) if high == low else real(real(high - low) / real(255))
    zero = np.rint(np.clip(real(0) - real(low) / scale, 0, 255))
    y = quantized(x / scale, zero, DType.U8, True)
    return y, np.array(scale), np.array(zero, dtype=np.uint8)


register(
    OpDef(
        "QuantizeLinear",
        inputs=("x", "y_scale", "y_zero_point?"),
        outputs=("y",),
        attrs=attr_specs(
            axis=("i", 1),
            block_size=("i", 0),
            output_dtype=("i", 0),
            precision=("i", 0),
            saturate=("i", 1),
        ),
        infer=_infer_quantize,
        evaluate=_evaluate_quantize,
        cost=elementwise_cost(3),
    ),
    OpDef(
        "DequantizeLinear",
        inputs=("x", "x_scale", "x_zero_point?"),
        outputs=("y",),
        attrs=attr_specs(axis=("i", 1), block_size=("i", 0), output_dtype=("i", 0)),
        infer=_infer_dequantize,
        evaluate=_evaluate_dequantize,
        cost=elementwise_cost(2),
    ),
    OpDef(
        "DynamicQuantizeLinear",
        inputs=("x",),
        outputs=("y", "y_scale", "y_zero_point"),
        infer=_infer_dynamic,
        evaluate=_evaluate_dynamic,
        cost=elementwise_cost(5),
    ),
)
