"""Upgrades of pointwise ops, casts, softmaxes, reductions and random ops."""

from __future__ import annotations

import math

import numpy as np

from graphopt.frontends.onnx_draft import Draft, step
from graphopt.ir import DType, Value

__all__: list[str] = []


@step(
    6,
    "Abs", "Ceil", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization", "LeakyRelu",
    "Log", "Max", "Mean", "Min", "Neg", "PRelu", "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sum",
    "Tanh", "Add", "Sub", "Mul", "Div", "BatchNormalization", "Dropout",
)  # fmt: skip
def drop_consumed_inputs(draft: Draft) -> None:
    """Opset 1 let kernels say which operands they overwrite."""
    draft.attrs.pop("consumed_inputs", None)


@step(6, "Selu")
def selu_6(draft: Draft) -> None:
    """The default constants got more digits."""
    draft.attrs.pop("consumed_inputs", None)
    draft.attrs.setdefault("alpha", float(np.float32(1.6732)))
    draft.attrs.setdefault("gamma", float(np.float32(1.0507)))


@step(
    7,
    "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less",
)  # fmt: skip
def broadcast_7(draft: Draft) -> None:
    """Before: operand 1 is stretched to operand 0 if ``broadcast`` is set, aligned at ``axis``."""
    broadcast = draft.pop_int("broadcast", 0)
    axis = draft.attrs.pop("axis", None)
    if not broadcast or axis is None:
        return
    if not isinstance(axis, int):
        draft.fail("attribute 'axis' is not an integer")
    rank, own = draft.rank(0), draft.rank(1)
    missing = rank - draft.axis(axis, rank) - own
    if missing < 0:
        draft.fail(f"operand 1 of rank {own} does not fit at axis {axis} of rank {rank}")
    if missing and own:
        axes = draft.ints(range(own, own + missing), "axes")
        draft.inputs[1] = draft.build.Unsqueeze(draft.value(1), axes)


@step(7, "PRelu")
def prelu_7(draft: Draft) -> None:
    """Before: a slope of one axis belongs to the channels; a slope of one element to all."""
    rank = draft.tensor(0).rank
    slope = draft.tensor(1)
    if rank is None or rank <= 2 or slope.rank != 1 or slope.shape == (1,):
        return
    draft.inputs[1] = draft.build.Unsqueeze(draft.value(1), draft.ints(range(1, rank - 1), "axes"))


@step(7, "Gemm")
def gemm_7(draft: Draft) -> None:
    """Operand C is broadcast without being asked."""
    draft.attrs.pop("broadcast", None)


@step(6, "Cast")
def cast_6(draft: Draft) -> None:
    """The target type was its name."""
    name = draft.pop_str("to", "")
    codes = {
        "FLOAT": DType.F32, "UINT8": DType.U8, "INT8": DType.I8, "UINT16": DType.U16,
        "INT16": DType.I16, "INT32": DType.I32, "INT64": DType.I64, "BOOL": DType.BOOL,
        "FLOAT16": DType.F16, "DOUBLE": DType.F64, "UINT32": DType.U32, "UINT64": DType.U64,
        "STRING": DType.STRING, "COMPLEX64": DType.C64, "COMPLEX128": DType.C128,
    }  # fmt: skip
    if name.upper() not in codes:
        draft.fail(f"it casts to '{name}', which is no element type")
    draft.attrs["to"] = int(codes[name.upper()])


@step(6, "Clip")
def clip_6(draft: Draft) -> None:
    """An absent bound was none; now it is the extreme of f32."""
    draft.attrs.pop("consumed_inputs", None)
    draft.attrs.setdefault("min", -float("inf"))
    draft.attrs.setdefault("max", float("inf"))


@step(11, "Clip")
def clip_11(draft: Draft) -> None:
    """The bounds were attributes, by default the extremes of f32."""
    dtype = draft.tensor(0).dtype
    extreme = float(np.finfo(np.float32).max)
    for index, (name, default) in enumerate((("min", -extreme), ("max", extreme)), start=1):
        given = name in draft.attrs
        bound = draft.pop_float(name, default)
        # f16 has no such extremes: its infinities pass in any case.
        if math.isinf(bound) or (not given and dtype not in (DType.F32, DType.F64)):
            continue
        draft.set_input(index, draft.scalar(bound, dtype, name))


@step(13, "Softmax", "LogSoftmax", "Hardmax")
def softmax_13(draft: Draft) -> list[Value] | None:
    """Before: the operand counts as a matrix whose rows are the axes from ``axis`` on."""
    axis = draft.pop_int("axis", 1)
    rank = draft.rank(0)
    if rank == 0:
        draft.attrs["axis"] = -1
        return None
    # The axis may equal the rank: rows of one element each.
    axis = axis if axis == rank else draft.axis(axis, rank)
    shape = draft.shape(0)
    wide = [k for k in range(axis, rank) if shape[k] != 1]
    if len(wide) == 1 or (not wide and axis < rank):
        draft.attrs["axis"] = wide[0] if wide else axis
        return None
    b, x = draft.build, draft.value(0)
    rows = b.op(draft.op, b.Flatten(x, axis=axis), axis=1)
    return [b.Reshape(rows, b.Shape(x), allowzero=1)]


@step(13, "ReduceSum")
@step(
    18,
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip
def reduce_axes(draft: Draft) -> None:
    """The axes were an attribute."""
    axes = draft.pop_ints("axes")
    if axes:
        draft.set_input(1, draft.ints(axes, "axes"))


@step(7, "Dropout")
def dropout_7(draft: Draft) -> list[Value] | None:
    """``is_test`` chose inference; without it elements are dropped."""
    if draft.pop_int("is_test", 0):
        return None
    b, x = draft.build, draft.value(0)
    ratio = draft.scalar(draft.pop_float("ratio", 0.5), DType.F32, "ratio")
    training = draft.scalar(True, DType.BOOL, "training")
    y, mask = b.Dropout(x, ratio, training, _outputs=2)
    return [y, b.Cast(mask, to=int(draft.tensor(0).dtype))][: max(draft.n_outputs, 1)]


@step(10, "Dropout")
def dropout_10(draft: Draft) -> list[Value] | None:
    """The mask had the type of the data."""
    if draft.n_outputs < 2:
        return None
    b, x = draft.build, draft.value(0)
    ratio = draft.scalar(draft.pop_float("ratio", 0.5), DType.F32, "ratio")
    y, mask = b.Dropout(x, ratio, _outputs=2)
    return [y, b.Cast(mask, to=int(draft.tensor(0).dtype))]


@step(12, "Dropout")
def dropout_12(draft: Draft) -> None:
    """The ratio was an attribute."""
    ratio = draft.pop_float("ratio", 0.5)
    draft.set_input(1, draft.scalar(ratio, DType.F32, "ratio"))


@step(11, "OneHot")
def one_hot_11(draft: Draft) -> None:
    """Negative indices were out of range: all off. Now they count from the end."""
    indices = draft.tensor(0)
    if indices.dtype.is_integer and not indices.dtype.is_signed:
        return
    b = draft.build
    zero, minus = draft.scalar(0, indices.dtype), draft.scalar(-1, indices.dtype)
    depth = b.Reshape(b.Cast(draft.value(1), to=int(indices.dtype)), draft.ints([]))
    below = b.Sub(b.Mul(depth, minus), draft.scalar(1, indices.dtype))
    x = draft.value(0)
    draft.inputs[0] = b.Where(b.Less(x, zero), below, x)


@step(2, "LabelEncoder", domain="ai.onnx.ml")
def label_encoder_2(draft: Draft) -> None:
    """One list of strings, numbered; now keys and values of any kind."""
    names = draft.attrs.pop("classes_strings", None)
    if not isinstance(names, tuple):
        draft.fail("attribute 'classes_strings' is required")
    numbers = tuple(range(len(names)))
    if draft.tensor(0).dtype is DType.STRING:
        draft.attrs |= {"keys_strings": names, "values_int64s": numbers}
    else:
        draft.attrs |= {"keys_int64s": numbers, "values_strings": names}
