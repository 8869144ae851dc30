"""Layer normalisation that exporters spell out becomes one op again.

``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) [* w [+ b]]  ->  LayerNormalization(x, w, b)``,
over the last axis.

Sound up to rounding: the definition of the op (Ba et al., Layer Normalization, 2016). The mean must
be taken over the last axis and keep it; scale and shift must be vectors along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseLayerNorm"]


class FuseMeanVariance(Rule):
    """``(x - mean) / sqrt(var + eps) * w + b  ->  LayerNormalization(x, w, b)``."""

    def pattern(self, op: PatternOps, x: Var, w: Var, b: Var) -> list[NodePattern]:
        """With scale and shift, with scale alone, and bare."""
        mean = op.ReduceMean(x, op.rest("axes"), _bind="mean")
        centered = op.Sub(x, mean)
        square = op.any_of(op.Pow(centered, 2.0), op.Mul(centered, centered))
        variance = op.ReduceMean(square, op.rest("axes2"), _bind="variance")
        deviation = op.Sqrt(op.Add(variance, op.constant("eps")))
        norm = op.Div(centered, deviation)
        return [op.Add(op.Mul(norm, w), b), op.Mul(norm, w), norm]

    def check(self, m: Match) -> Refusal | None:
        """Types, axes, and the shapes of scale and shift."""
        x = m["x"].tensor
        if x.dtype is not DType.F32 or not x.shape:
            return Refusal(lambda: f"it computes on {x}", m.root)
        width = x.shape[-1]
        if not isinstance(width, int):
            return Refusal("the last axis is not of a fixed size", m.root)
        for name in ("mean", "variance"):
            if not _over_last(m.node(name), len(x.shape)):
                return Refusal("the mean is not taken over the last axis alone", m.node(name))
        eps = m["eps"].constant
        if eps is None or eps.numel != 1:
            return Refusal("epsilon is not one number", m["eps"])
        for name in ("w", "b"):
            value = m.get(name)
            if value is not None and value.shape != (width,):
                return Refusal(lambda: "scale or shift is not a vector along the last axis", value)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op; a missing scale is ones."""
        eps = m["eps"].constant
        assert eps is not None
        scale = m.get("w")
        if scale is None:
            width = m["x"].tensor.shape
            assert width is not None and isinstance(width[-1], int)
            scale = op.constant(np.ones(width[-1], np.float32), "ones")
        result: Value = op.LayerNormalization(
            m["x"], scale, m.get("b"), axis=-1, epsilon=float(eps.array.reshape(())[()])
        )
        return result


def _over_last(node: Node, rank: int) -> bool:
    axes = node.input(1)
    if axes is None or axes.constant is None or not node.attr("keepdims"):
        return False
    return [int(axis) % rank for axis in axes.constant.array.ravel()] == [rank - 1]


@dataclass(frozen=True)
class FuseLayerNorm(RulePass):
    """Spelled-out layer normalisation ``->`` LayerNormalization."""

    name: ClassVar[str] = "fuse-layer-norm"

    def rules(self, graph: Graph) -> list[Rule]:
        """Over the last axis."""
        return [FuseMeanVariance()]
