"""Quantized ops of the domain com.microsoft. Semantics are onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.dim import Dim, bcast
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import sigmoid
from graphopt.ops.infer import broadcast_shapes
from graphopt.ops.linear import matmul_flops, matmul_shape
from graphopt.ops.microsoft import MS
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.quantize import granular, quantized
from graphopt.ops.quantized_linear import wrap_i32
from graphopt.ops.recurrent import recurrent_types, rounded_lstm
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of

__all__ = ["unpack_bits"]


def _dynamic(x: Array) -> tuple[Array, Array, Array]:
    """x as u8 numbers (in f64), scale and zero point over the range of the whole tensor."""
    low, high = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    real = np.float32
    scale = real(1) if high == low else real((real(high) - real(low)) / real(255))
    zero = np.rint(np.clip(-real(low) / scale, 0, 255))
    codes = np.clip(np.rint(x.astype(real) / scale) + zero, 0, 255)
    return codes.astype(np.float64), np.asarray(scale), np.asarray(zero)


def fake_quantized(x: Array) -> Array:
    """``x`` after a round trip through dynamic 8-bit quantization."""
    codes, scale, zero = _dynamic(x)
    return ((codes - zero) * scale).astype(np.float32)


def _centred(x: Array, zero: Array | None) -> Array:
    wide = x.astype(np.float64)
    return wide if zero is None else wide - zero.astype(np.float64)


def _scaled_product(left: Array, right: Array, factor: Array, bias: Array | None) -> Array:
    y = wrap_i32(left @ right).astype(np.float32) * factor.astype(np.float32)
    return y if bias is None else y + bias.astype(np.float32)


def _infer_product(ctx: InferContext) -> Type:
    dtype = ctx.dtype(2)
    return TensorType(dtype, matmul_shape(ctx, ctx.shape(0), ctx.shape(1)))


def _evaluate_dynamic_matmul(
    ctx: EvalContext,
    a: Array,
    b: Array,
    b_scale: Array,
    b_zero: Array | None = None,
    bias: Array | None = None,
) -> Array:
    codes, scale, zero = _dynamic(a)
    return _scaled_product(codes - zero, _centred(b, b_zero), scale * b_scale, bias)


def _evaluate_matmul_to_float(
    ctx: EvalContext,
    a: Array,
    b: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero: Array | None = None,
    b_zero: Array | None = None,
    bias: Array | None = None,
) -> Array:
    factor = a_scale.astype(np.float32) * b_scale.astype(np.float32)
    return _scaled_product(_centred(a, a_zero), _centred(b, b_zero), factor, bias)


# ---- weights of a few bits ----


def unpack_bits(packed: Array, bits: int) -> Array:
    """Numbers of ``bits`` bits from bytes along the last axis, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return spread.reshape(*packed.shape[:-1], -1)


def _infer_nbits(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    return TensorType(ctx.dtype(0), None if shape is None else (*shape[:-1], ctx.attr("N")))


def _evaluate_nbits(
    ctx: EvalContext,
    a: Array,
    packed: Array,
    scales: Array,
    zeros: Array | None = None,
    group: Array | None = None,
    bias: Array | None = None,
) -> Array:
    rows, depth = ctx.attr("N"), ctx.attr("K")
    bits, block = ctx.attr("bits"), ctx.attr("block_size")
    if ctx.attr("weight_prepacked"):
        ctx.fail("weights packed for one device's kernels cannot be read")
    blocks = -(-depth // block)
    codes = unpack_bits(packed.reshape(rows, -1), bits)[:, : blocks * block].astype(np.float32)
    scale = scales.reshape(rows, blocks).astype(np.float32)
    zero = np.full((rows, blocks), 1 << (bits - 1), dtype=np.float32)
    if zeros is not None and zeros.dtype == np.uint8:
        zero = unpack_bits(zeros.reshape(rows, -1), bits)[:, :blocks].astype(np.float32)
    elif zeros is not None:
        zero = zeros.reshape(rows, blocks).astype(np.float32)
    at = np.arange(depth) // block if group is None else group[:depth].astype(np.int64)
    weight = (codes[:, :depth] - zero[:, at]) * scale[:, at]
    y = widen(a) @ weight.T
    if bias is not None:
        y = y + widen(bias)
    return narrow(y, a.dtype)


def _nbits_flops(node: Node) -> Dim | None:
    out = node.output.tensor.numel
    depth: int = node.attr("K")
    return None if out is None else 2 * depth * out


# ---- elementwise ----


def _dequantized(x: Array, scale: Array, zero: Array | None) -> Array:
    return (_centred(x, zero) * scale.astype(np.float64)).astype(np.float32)


def _requantized(y: Array, scale: Array, zero: Array | None, like: Array) -> Array:
    return quantized(y / scale.astype(np.float32), zero, DType.from_numpy(like.dtype), True)


def _infer_binary(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(0), broadcast_shapes(ctx, [ctx.shape(0), ctx.shape(3)]))


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def evaluate(
        ctx: EvalContext,
        a: Array,
        a_scale: Array,
        a_zero: Array | None,
        b: Array,
        b_scale: Array,
        b_zero: Array | None,
        c_scale: Array,
        c_zero: Array | None = None,
    ) -> Array:
        y = function(_dequantized(a, a_scale, a_zero), _dequantized(b, b_scale, b_zero))
        return _requantized(y, c_scale, c_zero, a)

    return evaluate


def _unary(function: Callable[[EvalContext, Array], Array]) -> Callable[..., Array]:
    def evaluate(
        ctx: EvalContext,
        x: Array,
        x_scale: Array,
        x_zero: Array | None,
        y_scale: Array,
        y_zero: Array | None = None,
    ) -> Array:
        y = function(ctx, _dequantized(x, x_scale, x_zero))
        return _requantized(np.asarray(y, dtype=np.float32), y_scale, y_zero, x)

    return evaluate


def _leaky(ctx: EvalContext, x: Array) -> Array:
    return np.where(x >= 0, x, np.float32(ctx.attr("alpha")) * x)


def _same(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(0), ctx.shape(0))


def _infer_pool(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is None:
        return TensorType(ctx.dtype(0), None)
    space = (1,) * (len(shape) - 2)
    last = bool(ctx.attr("channels_last"))
    kept = (shape[0], *space, shape[-1]) if last else (*shape[:2], *space)
    return TensorType(ctx.dtype(0), kept)


def _mean(ctx: EvalContext, x: Array) -> Array:
    last = bool(ctx.attr("channels_last"))
    axes = tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim))
    return np.asarray(x.mean(axis=axes, keepdims=True))


def _infer_concat(ctx: InferContext) -> Type:
    shapes = [ctx.shape(i) for i in range(2, len(ctx.inputs), 3)]
    known = [shape for shape in shapes if shape is not None]
    dtype = ctx.dtype(2)
    if len(known) != len(shapes) or not known:
        return TensorType(dtype, None)
    axis = ctx.axis(ctx.attr("axis"), len(known[0]))
    out: list[Dim] = list(known[0])
    for shape in known[1:]:
        for i, dim in enumerate(shape):
            out[i] = out[i] + dim if i == axis else bcast(out[i], dim)
    return TensorType(dtype, tuple(out))


def _evaluate_concat(ctx: EvalContext, scale: Array, zero: Array, *rest: Array) -> Array:
    parts = [
        _requantized(_dequantized(*rest[i : i + 3]), scale, zero, rest[i])
        for i in range(0, len(rest), 3)
    ]
    return np.concatenate(parts, axis=ctx.attr("axis"))


# ---- QuantizeLinear and DequantizeLinear, which had 16 bits here before ONNX had ----


def _infer_quantize(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(2) if ctx.has(2) else DType.U8, ctx.shape(0))


def _evaluate_quantize(
    ctx: EvalContext, x: Array, scale: Array, zero: Array | None = None
) -> Array:
    axis = ctx.attr("axis")
    dtype = DType.U8 if zero is None else DType.from_numpy(zero.dtype)
    parts = [None if v is None else granular(v, x.shape, axis, 0) for v in (scale, zero)]
    assert parts[0] is not None
    return quantized(widen(x) / widen(parts[0]), parts[1], dtype, True)


def _evaluate_dequantize(
    ctx: EvalContext, x: Array, scale: Array, zero: Array | None = None
) -> Array:
    axis = ctx.attr("axis")
    offset = None if zero is None else granular(zero, x.shape, axis, 0)
    return narrow(_dequantized(x, granular(scale, x.shape, axis, 0), offset), scale.dtype)


def _infer_dequantize(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(1), ctx.shape(0))


# ---- DynamicQuantizeLSTM ----


def _infer_lstm(ctx: InferContext) -> tuple[Type, ...]:
    recurrent = ctx.shape(2)
    hidden = ctx.fresh("hidden") if recurrent is None else recurrent[1]
    return recurrent_types(ctx, hidden, False)


def _weights(w: Array, scale: Array, zero: Array) -> Array:
    """Weights [directions, rows, 4*hidden] as f32, laid out as LSTM has them."""
    shape = (w.shape[0], 1, -1)
    real = (w.astype(np.float32) - zero.reshape(shape).astype(np.float32)) * scale.reshape(shape)
    return np.swapaxes(real, 1, 2).astype(np.float32)


def _evaluate_lstm(
    ctx: EvalContext,
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None,
    lengths: Array | None,
    initial_h: Array | None,
    initial_c: Array | None,
    peephole: Array | None,
    w_scale: Array,
    w_zero: Array,
    r_scale: Array,
    r_zero: Array,
) -> tuple[Array, ...]:
    weights = _weights(w, w_scale, w_zero), _weights(r, r_scale, r_zero)
    rest = (bias, lengths, initial_h, initial_c, peephole)
    return rounded_lstm(ctx, fake_quantized, (x, *weights, *rest))


_UNARY_INPUTS = ("X", "X_scale", "X_zero_point?", "Y_scale", "Y_zero_point?")
_BINARY_INPUTS = (
    "A", "A_scale", "A_zero_point?", "B", "B_scale", "B_zero_point?", "C_scale", "C_zero_point?",
)  # fmt: skip
_QDQ = attr_specs(axis=("i", 1))

register(
    OpDef(
        "DynamicQuantizeMatMul",
        MS,
        inputs=("A", "B", "b_scale", "b_zero_point?", "bias?"),
        infer=_infer_product,
        evaluate=_evaluate_dynamic_matmul,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "MatMulIntegerToFloat",
        MS,
        inputs=("A", "B", "a_scale", "b_scale", "a_zero_point?", "b_zero_point?", "bias?"),
        infer=_infer_product,
        evaluate=_evaluate_matmul_to_float,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "MatMulNBits",
        MS,
        inputs=("A", "B", "scales", "zero_points?", "g_idx?", "bias?"),
        attrs=attr_specs(
            K=("i", REQUIRED),
            N=("i", REQUIRED),
            accuracy_level=("i", 0),
            bits=("i", 4),
            block_size=("i", REQUIRED),
            weight_prepacked=("i", 0),
        ),
        infer=_infer_nbits,
        evaluate=_evaluate_nbits,
        cost=cost_of(_nbits_flops),
    ),
    *(
        OpDef(
            name,
            MS,
            inputs=_BINARY_INPUTS,
            outputs=("C",),
            infer=_infer_binary,
            evaluate=_binary(function),
        )
        for name, function in (("QLinearAdd", np.add), ("QLinearMul", np.multiply))
    ),
    OpDef(
        "QLinearSigmoid",
        MS,
        inputs=_UNARY_INPUTS,
        infer=_same,
        evaluate=_unary(lambda ctx, x: sigmoid(x)),
    ),
    OpDef(
        "QLinearLeakyRelu",
        MS,
        inputs=_UNARY_INPUTS,
        attrs=attr_specs(alpha=("f", 0.01)),
        infer=_same,
        evaluate=_unary(_leaky),
    ),
    OpDef(
        "QLinearGlobalAveragePool",
        MS,
        inputs=("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point"),
        attrs=attr_specs(channels_last=("i", 0)),
        infer=_infer_pool,
        evaluate=_unary(_mean),
    ),
    OpDef(
        "QLinearConcat",
        MS,
        inputs=("Y_scale", "Y_zero_point", "inputs*"),
        attrs=attr_specs(axis=("i", REQUIRED)),
        infer=_infer_concat,
        evaluate=_evaluate_concat,
    ),
    OpDef(
        "QuantizeLinear",
        MS,
        inputs=("x", "y_scale", "y_zero_point?"),
        outputs=("y",),
        attrs=_QDQ,
        infer=_infer_quantize,
        evaluate=_evaluate_quantize,
    ),
    OpDef(
        "DequantizeLinear",
        MS,
        inputs=("x", "x_scale", "x_zero_point?"),
        outputs=("y",),
        attrs=_QDQ,
        infer=_infer_dequantize,
        evaluate=_evaluate_dequantize,
    ),
    OpDef(
        "DynamicQuantizeLSTM",
        MS,
        inputs=(
            "X", "W", "R", "B?", "sequence_lens?", "initial_h?", "initial_c?", "P?", "W_scale",
            "W_zero_point", "R_scale", "R_zero_point",
        ),
        outputs=("Y?", "Y_h?", "Y_c?"),
        attrs=attr_specs(
            activation_alpha="floats",
            activation_beta="floats",
            activations="strings",
            clip="f",
            direction=("s", "forward"),
            hidden_size="i",
            input_forget=("i", 0),
        ),
        infer=_infer_lstm,
        evaluate=_evaluate_lstm,
    ),
)  # fmt: skip
