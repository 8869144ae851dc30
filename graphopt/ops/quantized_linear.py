"""Products of quantized operands: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.

Products of 8-bit integers are summed in f64, which is exact far beyond 32 bits and runs in BLAS.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.conv import CONV_ATTRS, conv_flops, conv_shape, conv_window, convolve
from graphopt.ops.linear import matmul_flops, matmul_shape
from graphopt.ops.precision import Array
from graphopt.ops.quantize import quantized
from graphopt.ops.registry import register
from graphopt.ops.schema import cost_of

__all__ = ["wrap_i32"]


def wrap_i32(x: Array) -> Array:
    """Whole numbers in f64 as i32, modulo 2^32: accumulation may overflow, products may not."""
    return x.astype(np.int64).astype(np.int32)


def _rows(v: Array) -> Array:
    """A scale or zero point of the left operand: a vector there goes by row."""
    return v[:, None] if v.ndim == 1 and v.size > 1 else v


def _centred(x: Array, zero_point: Array | None) -> Array:
    wide = x.astype(np.float64)
    return wide if zero_point is None else wide - zero_point.astype(np.float64)


def _infer_matmul_integer(ctx: InferContext) -> Type:
    return TensorType(DType.I32, matmul_shape(ctx, ctx.shape(0), ctx.shape(1)))


def _evaluate_matmul_integer(
    ctx: EvalContext,
    a: Array,
    b: Array,
    a_zero: Array | None = None,
    b_zero: Array | None = None,
) -> Array:
    left = _centred(a, None if a_zero is None else _rows(a_zero))
    return wrap_i32(left @ _centred(b, b_zero))


def _infer_qlinear_matmul(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(7), matmul_shape(ctx, ctx.shape(0), ctx.shape(3)))


def _evaluate_qlinear_matmul(
    ctx: EvalContext,
    a: Array,
    a_scale: Array,
    a_zero: Array,
    b: Array,
    b_scale: Array,
    b_zero: Array,
    y_scale: Array,
    y_zero: Array,
) -> Array:
    total = _centred(a, _rows(a_zero)) @ _centred(b, b_zero)
    if DType.from_numpy(a.dtype).is_integer:
        total = wrap_i32(total)
    return _requantized(total, (_rows(a_scale), b_scale, _rows(y_scale)), _rows(y_zero))


def _requantized(total: Array, scales: tuple[Array, Array, Array], zero: Array) -> Array:
    """``total`` times both operands' scales over the output's, in f32, in the type of ``zero``."""
    left, right, out = (scale.astype(np.float32) for scale in scales)
    factor = left * right / out
    dtype = DType.from_numpy(zero.dtype)
    return quantized(total.astype(np.float32) * factor, zero, dtype, True)


def _infer_conv_integer(ctx: InferContext) -> Type:
    return TensorType(DType.I32, conv_shape(ctx))


def _conv_total(
    ctx: EvalContext, x: Array, w: Array, x_zero: Array | None, w_zero: Array | None
) -> Array:
    if w_zero is not None and w_zero.size > 1:
        w_zero = w_zero.reshape(-1, *(1,) * (w.ndim - 1))
    window = conv_window(x.shape[2:], w.shape[2:], ctx.attrs).numbers
    return convolve(_centred(x, x_zero), _centred(w, w_zero), window, ctx.attr("group"))


def _evaluate_conv_integer(
    ctx: EvalContext,
    x: Array,
    w: Array,
    x_zero: Array | None = None,
    w_zero: Array | None = None,
) -> Array:
    return wrap_i32(_conv_total(ctx, x, w, x_zero, w_zero))


def _infer_qlinear_conv(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(7), conv_shape(ctx, 0, 3))


def _evaluate_qlinear_conv(
    ctx: EvalContext,
    x: Array,
    x_scale: Array,
    x_zero: Array,
    w: Array,
    w_scale: Array,
    w_zero: Array,
    y_scale: Array,
    y_zero: Array,
    bias: Array | None = None,
) -> Array:
    channel = (-1, *(1,) * (x.ndim - 2))
    total = _conv_total(ctx, x, w, x_zero, w_zero)
    if bias is not None:
        total = total + bias.astype(np.float64).reshape(channel)
    per_channel = w_scale.reshape(channel) if w_scale.size > 1 else w_scale
    return _requantized(wrap_i32(total), (x_scale, per_channel, y_scale), y_zero)


register(
    OpDef(
        "MatMulInteger",
        inputs=("A", "B", "a_zero_point?", "b_zero_point?"),
        infer=_infer_matmul_integer,
        evaluate=_evaluate_matmul_integer,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "QLinearMatMul",
        inputs=(
            "a", "a_scale", "a_zero_point", "b", "b_scale", "b_zero_point", "y_scale",
            "y_zero_point",
        ),
        outputs=("y",),
        infer=_infer_qlinear_matmul,
        evaluate=_evaluate_qlinear_matmul,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "ConvInteger",
        inputs=("x", "w", "x_zero_point?", "w_zero_point?"),
        outputs=("y",),
        attrs=CONV_ATTRS,
        infer=_infer_conv_integer,
        evaluate=_evaluate_conv_integer,
        cost=cost_of(conv_flops(1)),
    ),
    OpDef(
        "QLinearConv",
        inputs=(
            "x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale",
            "y_zero_point", "B?",
        ),
        outputs=("y",),
        attrs=CONV_ATTRS,
        infer=_infer_qlinear_conv,
        evaluate=_evaluate_qlinear_conv,
        cost=cost_of(conv_flops(3)),
    ),
)  # fmt: skip
