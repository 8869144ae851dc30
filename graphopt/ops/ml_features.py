"""Feature processing, domain ai.onnx.ml: encoders, scalers, selectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal, same_type, with_dtype
from graphopt.ops.precision import Array
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["ML", "real"]

ML = "ai.onnx.ml"


def real(x: Array) -> Array:
    """``x`` as the floats that ai.onnx.ml computes in: f64 stays, all else becomes f32."""
    return x if x.dtype == np.float64 else x.astype(np.float32)


# ---- selection ----


def _infer_extractor(ctx: InferContext) -> Type:
    data, index = ctx.tensor(0), ctx.tensor(1)
    if data.shape is None or index.numel is None:
        return TensorType(data.dtype, None)
    if not data.shape:
        ctx.fail("its input is a scalar, which has no features")
    lead: tuple[Dim, ...] = data.shape[:-1] or (1,)
    return TensorType(data.dtype, (*lead, index.numel))


def _evaluate_extractor(ctx: EvalContext, x: Array, index: Array) -> Array:
    picked = np.take(x, index.ravel(), axis=-1)
    return picked.reshape(1, -1) if x.ndim == 1 else picked


def _infer_vectorizer(ctx: InferContext) -> Type:
    rows: Dim = 1
    columns: Dim = 0
    given = ctx.attr("inputdimensions")
    for index in range(len(ctx.inputs)):
        shape = ctx.shape(index)
        if shape is None:
            return TensorType(DType.F32, (ctx.fresh("rows"), sum(given or ())))
        if len(shape) not in (1, 2):
            ctx.fail(f"operand {index} must have 1 or 2 axes, not {len(shape)}")
        rows = shape[0] if len(shape) == 2 else 1
        columns = columns + (given[index] if given else shape[-1])
    return TensorType(DType.F32, (rows, columns))


def _evaluate_vectorizer(ctx: EvalContext, *operands: Array) -> Array:
    given = ctx.attr("inputdimensions")
    parts = []
    for i, x in enumerate(operands):
        rows = x.reshape(1, -1) if x.ndim == 1 else x
        width = given[i] if given else rows.shape[1]
        part = np.zeros((rows.shape[0], width), dtype=np.float32)
        kept = min(width, rows.shape[1])
        part[:, :kept] = rows[:, :kept]
        parts.append(part)
    return np.concatenate(parts, axis=1)


# ---- arithmetic ----


def _evaluate_binarizer(ctx: EvalContext, x: Array) -> Array:
    return (x > np.float32(ctx.attr("threshold"))).astype(x.dtype)


def _evaluate_scaler(ctx: EvalContext, x: Array) -> Array:
    kind = real(x).dtype
    offset = np.array(ctx.attr("offset") or (0.0,), dtype=kind)
    scale = np.array(ctx.attr("scale") or (1.0,), dtype=kind)
    scaled: Array = (real(x) - offset) * scale
    return scaled.astype(np.float32)


def _evaluate_normalizer(ctx: EvalContext, x: Array) -> Array:
    data, norm = real(x), ctx.attr("norm")
    if norm == "MAX":
        divisor = data.max(axis=-1, keepdims=True)
    elif norm == "L1":
        divisor = np.abs(data).sum(axis=-1, keepdims=True)
    elif norm == "L2":
        divisor = np.sqrt((data * data).sum(axis=-1, keepdims=True))
    else:
        ctx.fail(f"norm is '{norm}'")
    safe = np.where(divisor == 0, data.dtype.type(1), divisor)
    normal: Array = data / safe
    return normal.astype(np.float32)


def _evaluate_imputer(ctx: EvalContext, x: Array) -> Array:
    floats = ctx.attr("imputed_value_floats")
    values: Sequence[Any] = floats or ctx.attr("imputed_value_int64s") or ()
    if len(values) not in (1, x.shape[-1]):
        ctx.fail(f"{len(values)} imputed values do not fit {x.shape[-1]} features")
    old = ctx.attr("replaced_value_float" if floats else "replaced_value_int64")
    is_nan = isinstance(old, float) and math.isnan(old)
    missing = np.isnan(x) if is_nan else x == np.asarray(old).astype(x.dtype)
    return np.where(missing, np.array(values).astype(x.dtype), x)


# ---- encoders ----


def _lookup(table: dict[Any, Any], default: Any, x: Array, dtype: DType) -> Array:
    """Every element looked up; a NaN finds the value of a NaN key."""
    nan_value = next((v for k, v in table.items() if isinstance(k, float) and k != k), default)
    found = [
        nan_value if isinstance(item, float) and item != item else table.get(item, default)
        for item in x.ravel().tolist()
    ]
    result = np.empty(x.size, dtype=dtype.numpy)
    result[:] = found
    return result.reshape(x.shape)


_KINDS = {"floats": DType.F32, "int64s": DType.I64, "strings": DType.STRING}


def _side(ctx: InferContext | EvalContext, side: str) -> tuple[DType, list[Any]]:
    """Element type and items of the attribute among ``keys_*`` or ``values_*`` that is given."""
    tensor = ctx.attr(f"{side}_tensor")
    if isinstance(tensor, Constant):
        return tensor.type.dtype, tensor.array.ravel().tolist()
    for kind, dtype in _KINDS.items():
        items = ctx.attr(f"{side}_{kind}")
        if items is not None:
            return dtype, list(items)
    raise ValueError(f"it has no attribute {side}_*")


def _infer_label_encoder(ctx: InferContext) -> Type:
    return TensorType(_side(ctx, "values")[0], ctx.shape(0))


def _evaluate_label_encoder(ctx: EvalContext, x: Array) -> Array:
    _, keys = _side(ctx, "keys")
    dtype, values = _side(ctx, "values")
    tensor = ctx.attr("default_tensor")
    if isinstance(tensor, Constant):
        default = tensor.array.ravel()[0]
    elif dtype is DType.STRING:
        default = ctx.attr("default_string")
    else:
        default = ctx.attr("default_float" if dtype.is_float else "default_int64")
    return _lookup(dict(zip(keys, values, strict=False)), default, x, dtype)


def _infer_category(ctx: InferContext) -> Type:
    strings = ctx.dtype(0) is DType.STRING
    return TensorType(DType.I64 if strings else DType.STRING, ctx.shape(0))


def _evaluate_category(ctx: EvalContext, x: Array) -> Array:
    strings, numbers = ctx.attr("cats_strings") or (), ctx.attr("cats_int64s") or ()
    if DType.from_numpy(x.dtype) is DType.STRING:
        table = dict(zip(strings, numbers, strict=False))
        return _lookup(table, ctx.attr("default_int64"), x, DType.I64)
    table = dict(zip(numbers, strings, strict=False))
    return _lookup(table, ctx.attr("default_string"), x, DType.STRING)


def _categories(ctx: InferContext | EvalContext) -> tuple[Any, ...]:
    found = ctx.attr("cats_strings") or ctx.attr("cats_int64s")
    if not found:
        ctx.fail("it has neither cats_strings nor cats_int64s")
    return tuple(found)


def _infer_one_hot(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    return TensorType(DType.F32, None if shape is None else (*shape, len(_categories(ctx))))


def _evaluate_one_hot(ctx: EvalContext, x: Array) -> Array:
    categories = _categories(ctx)
    places = {category: i for i, category in enumerate(categories)}
    items = x if DType.from_numpy(x.dtype) is DType.STRING else x.astype(np.int64)
    index = np.array([places.get(item, -1) for item in items.ravel().tolist()], dtype=np.int64)
    unknown = index < 0
    if unknown.any() and not ctx.attr("zeros"):
        ctx.fail(f"{x.ravel()[np.argmax(unknown)]!r} is none of its categories")
    y = np.zeros((index.size, len(categories)), dtype=np.float32)
    rows = np.flatnonzero(~unknown)
    y[rows, index[rows]] = 1
    return y.reshape(*x.shape, len(categories))


def _check_imputer(ctx: InferContext) -> Type:
    values = ctx.attr("imputed_value_floats") or ctx.attr("imputed_value_int64s")
    shape = ctx.shape(0)
    if values and len(values) > 1 and shape:
        require_equal(ctx, shape[-1], len(values), "there must be an imputed value a feature")
    return ctx.type(0)


_TO_F32 = with_dtype(DType.F32)
register(
    OpDef(
        "ArrayFeatureExtractor",
        ML,
        inputs=("X", "Y"),
        outputs=("Z",),
        infer=_infer_extractor,
        evaluate=_evaluate_extractor,
    ),
    OpDef(
        "FeatureVectorizer",
        ML,
        inputs=("X*",),
        attrs=attr_specs(inputdimensions="ints"),
        infer=_infer_vectorizer,
        evaluate=_evaluate_vectorizer,
    ),
    OpDef(
        "Binarizer",
        ML,
        inputs=("X",),
        attrs=attr_specs(threshold=("f", 0.0)),
        infer=same_type,
        evaluate=_evaluate_binarizer,
    ),
    OpDef(
        "Scaler",
        ML,
        inputs=("X",),
        attrs=attr_specs(offset="floats", scale="floats"),
        infer=_TO_F32,
        evaluate=_evaluate_scaler,
    ),
    OpDef(
        "Normalizer",
        ML,
        inputs=("X",),
        attrs=attr_specs(norm=("s", "MAX")),
        infer=_TO_F32,
        evaluate=_evaluate_normalizer,
    ),
    OpDef(
        "Imputer",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            imputed_value_floats="floats",
            imputed_value_int64s="ints",
            replaced_value_float=("f", 0.0),
            replaced_value_int64=("i", 0),
        ),
        infer=_check_imputer,
        evaluate=_evaluate_imputer,
    ),
    OpDef(
        "LabelEncoder",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            default_float=("f", -0.0),
            default_int64=("i", -1),
            default_string=("s", "_Unused"),
            default_tensor="t",
            keys_floats="floats",
            keys_int64s="ints",
            keys_strings="strings",
            keys_tensor="t",
            values_floats="floats",
            values_int64s="ints",
            values_strings="strings",
            values_tensor="t",
        ),
        infer=_infer_label_encoder,
        evaluate=_evaluate_label_encoder,
    ),
    OpDef(
        "CategoryMapper",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            cats_int64s="ints",
            cats_strings="strings",
            default_int64=("i", -1),
            default_string=("s", "_Unused"),
        ),
        infer=_infer_category,
        evaluate=_evaluate_category,
    ),
    OpDef(
        "OneHotEncoder",
        ML,
        inputs=("X",),
        attrs=attr_specs(cats_int64s="ints", cats_strings="strings", zeros=("i", 1)),
        infer=_infer_one_hot,
        evaluate=_evaluate_one_hot,
    ),
)
