"""Ops on strings: StringConcat, StringSplit, StringNormalizer, RegexFullMatch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array
from graphopt.ops.infer import broadcast, with_dtype
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["string_array"]

_POINTWISE = frozenset({Trait.POINTWISE})


def string_array(items: Sequence[Any], shape: Sequence[int]) -> Array:
    """An object array of these strings."""
    result = np.empty(len(items), dtype=object)
    result[:] = items
    return result.reshape(shape)


def _concat(ctx: EvalContext, x: Array, y: Array) -> Array:
    left, right = np.broadcast_arrays(x, y)
    pairs = zip(left.ravel().tolist(), right.ravel().tolist(), strict=True)
    return string_array([a + b for a, b in pairs], left.shape)


register(
    OpDef(
        "StringConcat",
        inputs=("X", "Y"),
        outputs=("Z",),
        infer=broadcast(),
        evaluate=_concat,
        traits=_POINTWISE,
    )
)


def _infer_split(ctx: InferContext) -> tuple[Type, Type]:
    shape = ctx.shape(0)
    if shape is None:
        return TensorType(DType.STRING, None), TensorType(DType.I64, None)
    return TensorType(DType.STRING, (*shape, ctx.fresh("words"))), TensorType(DType.I64, shape)


def _evaluate_split(ctx: EvalContext, x: Array) -> tuple[Array, Array]:
    limit = ctx.attr("maxsplit")
    words = [
        item.split(ctx.attr("delimiter") or None, -1 if limit is None else limit)
        for item in x.ravel().tolist()
    ]
    width = max((len(row) for row in words), default=0)
    rows = [word for row in words for word in (*row, *[""] * (width - len(row)))]
    counts = np.array([len(row) for row in words], dtype=np.int64).reshape(x.shape)
    return string_array(rows, (*x.shape, width)), counts


register(
    OpDef(
        "StringSplit",
        inputs=("X",),
        outputs=("Y", "Z"),
        attrs=attr_specs(delimiter="s", maxsplit="i"),
        infer=_infer_split,
        evaluate=_evaluate_split,
    )
)


def _infer_normalizer(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is None or not ctx.attr("stopwords"):
        return TensorType(DType.STRING, shape)
    return TensorType(DType.STRING, (*shape[:-1], ctx.fresh("words")))


def _evaluate_normalizer(ctx: EvalContext, x: Array) -> Array:
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        ctx.fail(f"its operand has shape {list(x.shape)}, neither [C] nor [1, C]")
    actions: dict[str, Callable[[str], str]] = {
        "NONE": str,
        "LOWER": str.lower,
        "UPPER": str.upper,
    }
    action = ctx.attr("case_change_action")
    if action not in actions:
        ctx.fail(f"case_change_action is '{action}'")
    fold = str if ctx.attr("is_case_sensitive") else str.lower
    stops = {fold(word) for word in ctx.attr("stopwords") or ()}
    kept = [actions[action](item) for item in x.ravel().tolist() if fold(item) not in stops]
    if not kept:
        kept = [""]
    return string_array(kept, (*x.shape[:-1], len(kept)))


register(
    OpDef(
        "StringNormalizer",
        inputs=("X",),
        attrs=attr_specs(
            case_change_action=("s", "NONE"),
            is_case_sensitive=("i", 0),
            locale="s",
            stopwords="strings",
        ),
        infer=_infer_normalizer,
        evaluate=_evaluate_normalizer,
    )
)


def _evaluate_regex(ctx: EvalContext, x: Array) -> Array:
    pattern = ctx.attr("pattern") or ""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        ctx.fail(f"the pattern '{pattern}' is no regular expression: {error}")
    found = [compiled.fullmatch(item) is not None for item in x.ravel().tolist()]
    return np.array(found, dtype=np.bool_).reshape(x.shape)


register(
    OpDef(
        "RegexFullMatch",
        inputs=("X",),
        attrs=attr_specs(pattern="s"),
        infer=with_dtype(DType.BOOL),
        evaluate=_evaluate_regex,
        traits=_POINTWISE,
    )
)
