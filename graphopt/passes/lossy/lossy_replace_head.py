"""Lossy: a fully connected layer over all of an image becomes one over its average.

``Gemm(Flatten(x), w, b)  ->  Gemm(mean of x over space, w summed over space, b)``, and MatMul
alike: the layer that would compute the same if every channel of ``x`` were even over space. It has
as many weights fewer as ``x`` has places, and takes images of any size. The model must be trained
further.

``x`` is of four axes or three with fixed channels and space of more than one element; weights are
f32 constants, and the flattened value is read by nobody else. Not sound: lossy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Value, product, static_shape
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LossyReplaceHead"]


class ReplaceHead(Rule):
    """``Gemm(Flatten(x), w)  ->  Gemm(mean(x), sum of w)``. Lossy."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """Flatten, or a Reshape that does the same."""
        flats = [op.op(n, x, op.rest("how"), _bind="flat") for n in ("Flatten", "Reshape")]
        heads = [op.Gemm(flat, w, op.rest("bias")) for flat in flats]
        return [*heads, *(op.MatMul(flat, w) for flat in flats)]

    def check(self, m: Match) -> Refusal | None:
        """One row an image, of channels and then places."""
        x, flat, w = m["x"], m.node("flat").output.shape, m["w"]
        if x.shape is None or len(x.shape) < 3 or w.constant is None or flat is None:
            return Refusal(lambda: f"{x!r} is no image, or the weights are not constant", m.root)
        inner = static_shape(x.shape[1:])
        if w.tensor.dtype is not DType.F32 or w.tensor.rank != 2 or m.root.attr("transA"):
            return Refusal("the weights are no f32 matrix for rows", w)
        if inner is None or tuple(flat) != (x.shape[0], product(inner)):
            return Refusal("it does not flatten fixed channels and places", m.node("flat"))
        if product(inner[1:]) == 1:
            return Refusal("there is one place alone", x)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A smaller product of the mean."""
        x, w = m["x"], m["w"].constant
        assert x.shape is not None and w is not None
        inner = static_shape(x.shape[1:])
        assert inner is not None
        turned = bool(m.root.attr("transB"))
        matrix = (w.array.T if turned else w.array).astype(np.float64)
        summed = matrix.reshape(inner[0], -1, matrix.shape[1]).sum(axis=1)
        weight = op.constant(_as_given(summed, turned), m["w"].name)
        mean = op.ReduceMean(x, tuple(range(2, len(x.shape))), keepdims=0)
        rest = m.values("bias") if m.root.is_a("Gemm") else ()
        result: Value = op.op(m.root.op.name, mean, weight, *rest, **m.root.attrs)
        return result


def _as_given(matrix: np.ndarray[Any, Any], turned: bool) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(matrix.T if turned else matrix).astype(np.float32)


@dataclass(frozen=True)
class LossyReplaceHead(RulePass):
    """Lossy: ``Gemm(Flatten(x), w)  ->  Gemm(mean(x), sum of w)``; train the model further."""

    name: ClassVar[str] = "lossy-replace-head"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy()

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [ReplaceHead()]
