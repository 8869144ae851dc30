"""TfIdfVectorizer: counts of n-grams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.precision import Array
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__ = ["ngram_table"]


def ngram_table(
    pool: Sequence[Any], starts: Sequence[int], shortest: int, longest: int
) -> dict[tuple[Any, ...], int]:
    """The n-grams of a pool that are in the wanted range of lengths, with their ordinal.

    ``starts[n-1]`` is where the n-grams of length n begin.
    """
    table: dict[tuple[Any, ...], int] = {}
    ordinal = 0
    bounds = [*starts, len(pool)]
    for length, (start, stop) in enumerate(itertools.pairwise(bounds), 1):
        for at in range(start, stop - length + 1, length):
            if shortest <= length <= longest:
                table[tuple(pool[at : at + length])] = ordinal
            ordinal += 1
    return table


def _count(row: Sequence[Any], table: dict[tuple[Any, ...], int], ctx: EvalContext) -> Array:
    indexes = ctx.attr("ngram_indexes")
    counts = np.zeros(max(indexes) + 1, dtype=np.float32)
    shortest, longest = ctx.attr("min_gram_length"), ctx.attr("max_gram_length")
    for step in range(1, ctx.attr("max_skip_count") + 2):
        for length in range(shortest, longest + 1):
            if length == 1 and step > 1:
                continue  # nothing to skip inside a single item
            span = (length - 1) * step
            for start in range(len(row) - span):
                found = table.get(tuple(row[start : start + span + 1 : step]))
                if found is not None:
                    counts[indexes[found]] += 1
    return counts


def _infer(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    size = max(ctx.attr("ngram_indexes")) + 1
    if shape is None:
        return TensorType(DType.F32, None)
    if len(shape) > 2:
        ctx.fail(f"its input must have 1 or 2 axes, not {len(shape)}")
    return TensorType(DType.F32, (shape[0], size) if len(shape) == 2 else (size,))


def _evaluate(ctx: EvalContext, x: Array) -> Array:
    pool = ctx.attr("pool_int64s") or ctx.attr("pool_strings") or ()
    table = ngram_table(
        pool, ctx.attr("ngram_counts"), ctx.attr("min_gram_length"), ctx.attr("max_gram_length")
    )
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    size = max(ctx.attr("ngram_indexes")) + 1
    counts = np.zeros((len(rows), size), dtype=np.float32)
    for i, row in enumerate(rows.tolist()):
        counts[i] = _count(row, table, ctx)
    mode, weights = ctx.attr("mode"), ctx.attr("weights")
    if mode not in ("TF", "IDF", "TFIDF"):
        ctx.fail(f"mode is '{mode}'")
    if mode == "IDF":
        counts = np.minimum(counts, 1)
    if mode != "TF" and weights:
        # By output coordinate, as implementations have it: the same where ngram_indexes counts up.
        counts *= np.array(weights[:size], dtype=np.float32)
    return counts[0] if x.ndim < 2 else counts


register(
    OpDef(
        "TfIdfVectorizer",
        inputs=("X",),
        attrs=attr_specs(
            max_gram_length=("i", REQUIRED),
            max_skip_count=("i", REQUIRED),
            min_gram_length=("i", REQUIRED),
            mode=("s", REQUIRED),
            ngram_counts=("ints", REQUIRED),
            ngram_indexes=("ints", REQUIRED),
            pool_int64s="ints",
            pool_strings="strings",
            weights="floats",
        ),
        infer=_infer,
        evaluate=_evaluate,
    )
)
