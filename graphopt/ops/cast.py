"""Conversions of element types: Cast, CastLike, BitCast."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.dim import Dim, is_nonnegative
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable
from graphopt.ops.infer import attr_dtype, map_known
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, pointwise_cost

__all__ = ["bitcast", "cast"]

_POINTWISE = frozenset({Trait.POINTWISE})
_SATURATING = frozenset({DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ})
# f8e8m0 holds 2**k for k in this range.
_E8M0_RANGE = (-127, 127)


def cast(x: Array, to: DType, *, saturate: bool = True, round_mode: str = "up") -> Array:
    """``x`` converted to ``to`` as Cast defines it. ``saturate`` and ``round_mode`` matter to
    the 8-bit floats only. Raises ModelError for a string that is no number."""
    source = DType.from_numpy(x.dtype)
    if source is to:
        return x
    if to is DType.STRING:
        return _to_strings(computable(x))
    if source is DType.STRING:
        x = _from_strings(x, to)
    with np.errstate(all="ignore"):
        if to is DType.BOOL:
            return np.asarray(computable(x) != 0)
        if to is DType.F8E8M0:
            return _to_e8m0(computable(x), saturate, round_mode)
        if to in _SATURATING:
            wide = computable(x)
            if wide.dtype.kind != "f":
                wide = wide.astype(np.float64)
            if saturate:
                limit = _largest(to)
                wide = np.clip(wide, -limit, limit)
            return np.asarray(wide).astype(to.numpy)
        # Straight from the source type where ml_dtypes knows how: one rounding.
        return np.asarray(x if source.bits >= 8 else computable(x)).astype(to.numpy)


def _largest(dtype: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.numpy).max)


def _to_strings(x: Array) -> Array:
    result = np.empty(x.size, dtype=object)
    result[:] = [str(item) for item in x.ravel()]
    return result.reshape(x.shape)


def _from_strings(x: Array, to: DType) -> Array:
    parse: Any = _parse_int if to.is_integer else float
    result = np.empty(x.size, dtype=object)
    for i, item in enumerate(x.ravel()):
        try:
            result[i] = parse(item)
        except (ValueError, OverflowError):
            raise ModelError(f"the string '{item}' is no {to} number") from None
    kind: Any = np.float64
    if to.is_integer:
        kind = np.int64 if to.is_signed else np.uint64
    return result.astype(kind).reshape(x.shape)


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _to_e8m0(x: Array, saturate: bool, round_mode: str) -> Array:
    """Powers of two near ``x``: above it (`up`), below it (`down`) or the nearer one."""
    if round_mode not in ("up", "down", "nearest"):
        raise ModelError(f"round_mode is '{round_mode}', not up, down or nearest")
    low, high = _E8M0_RANGE
    mantissa, exponent = np.frexp(x.astype(np.float64))
    # x = mantissa * 2**exponent with a mantissa in [0.5, 1).
    power = exponent - 1
    if round_mode == "up":
        power = power + (mantissa > 0.5)
    elif round_mode == "nearest":
        power = power + (mantissa >= 0.75)
    power = np.where(np.isinf(x), high + 1, np.where(x == 0, low - 1, power))
    invalid = np.isnan(x) | (x < 0)
    if not saturate:
        invalid = invalid | (power < low) | (power > high)
    code = np.clip(power, low, high) - low
    return np.where(invalid, 0xFF, code).astype(np.uint8).view(DType.F8E8M0.numpy)


def bitcast(x: Array, to: DType) -> Array:
    """The bits of ``x`` read as ``to``, which is as wide. Raises ModelError."""
    source = DType.from_numpy(x.dtype)
    if source.bits != to.bits or DType.STRING in (source, to):
        raise ModelError(f"{source} and {to} are not of one width")
    if source is to:
        return x
    if source.nbytes * 8 == source.bits:
        return np.ascontiguousarray(x).reshape(x.shape).view(to.numpy)
    # Sub-byte elements take the low bits of a byte; integers are sign-extended by conversion.
    mask = (1 << source.bits) - 1
    raw: Array = computable(x).astype(np.uint8) if source.is_integer else x.view(np.uint8)
    raw = raw & mask
    if not to.is_integer:
        return np.asarray(raw).view(to.numpy)
    if to.is_signed:
        half = 1 << (to.bits - 1)
        return ((raw.astype(np.int8) ^ half) - half).astype(to.numpy)
    return np.asarray(raw).astype(to.numpy)


# ---- schemas ----


def _known_cast(ctx: InferContext, to: DType) -> None:
    def convert(value: Dim) -> Dim | None:
        if to is not DType.BOOL:
            return value
        if isinstance(value, int):
            return int(value != 0)
        return 1 if is_nonnegative(value - 1) else None

    map_known(ctx, convert, (0,), to)


def _infer_cast(ctx: InferContext) -> Type:
    to = attr_dtype(ctx, "to", DType.F32)
    _known_cast(ctx, to)
    return TensorType(to, ctx.shape(0))


def _evaluate_cast(ctx: EvalContext, x: Array) -> Array:
    saturate, mode = bool(ctx.attr("saturate")), ctx.attr("round_mode")
    return cast(x, DType(ctx.attr("to")), saturate=saturate, round_mode=mode)


register(
    OpDef(
        "Cast",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(round_mode=("s", "up"), saturate=("i", 1), to=("i", REQUIRED)),
        infer=_infer_cast,
        evaluate=_evaluate_cast,
        traits=_POINTWISE,
        cost=pointwise_cost(1),
    )
)


def _infer_cast_like(ctx: InferContext) -> Type:
    to = ctx.dtype(1)
    _known_cast(ctx, to)
    return TensorType(to, ctx.shape(0))


def _evaluate_cast_like(ctx: EvalContext, x: Array, like: Array) -> Array:
    saturate, mode = bool(ctx.attr("saturate")), ctx.attr("round_mode")
    return cast(x, DType.from_numpy(like.dtype), saturate=saturate, round_mode=mode)


register(
    OpDef(
        "CastLike",
        inputs=("input", "target_type"),
        outputs=("output",),
        attrs=attr_specs(round_mode=("s", "up"), saturate=("i", 1)),
        infer=_infer_cast_like,
        evaluate=_evaluate_cast_like,
        cost=pointwise_cost(1),
    )
)


def _infer_bitcast(ctx: InferContext) -> Type:
    to = attr_dtype(ctx, "to", DType.F32)
    if to.bits != ctx.dtype(0).bits or DType.STRING in (to, ctx.dtype(0)):
        ctx.fail(f"{ctx.dtype(0)} and {to} are not of one width")
    return TensorType(to, ctx.shape(0))


register(
    OpDef(
        "BitCast",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(to=("i", REQUIRED)),
        infer=_infer_bitcast,
        evaluate=lambda ctx, x: bitcast(x, DType(ctx.attr("to"))),
        traits=_POINTWISE,
    )
)
