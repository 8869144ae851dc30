"""Normalisations that exporters spell out become one op again.

``(x - mean(x)) / sqrt(var(x) + eps) [* w [+ b]]  ->  LayerNormalization(x, w, b)`` and
``x / sqrt(mean(x * x) + eps) [* w]  ->  RMSNormalization(x, w)``, over the last axes. The variance
may be ``mean((x - mean(x))^2)`` or ``mean(x * x) - mean(x)^2``, a mean may be a sum times 1/n, and
the division may be a product with the reciprocal.

Means must be over the last axis, or the last axes, of fixed size; scale and shift must vary along
them alone. Sound up to rounding: the definitions of the ops (Ba et al., Layer Normalization, 2016;
Zhang and Sennrich, Root Mean Square Layer Normalization, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, Dim, DType, Graph, Node, Value, product, static_shape
from graphopt.passes.polynomial import number
from graphopt.rewrite import Match, NodePattern, Pattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseLayerNorm"]

_NEAR = 1e-6


def _mean(op: PatternOps, x: Pattern, name: str) -> Pattern:
    """The mean of ``x`` as a reduction, or as a sum times a number; the reduction is bound."""
    total = op.ReduceSum(x, op.rest(f"{name}_axes"), _bind=name)
    return op.any_of(
        op.ReduceMean(x, op.rest(f"{name}_axes"), _bind=name),
        op.Mul(total, op.constant(f"{name}_inverse")),
        op.Div(total, op.constant(f"{name}_count")),
    )


def _kept(op: PatternOps, x: Pattern, name: str) -> Pattern:
    """``x``, or ``x`` with its reduced axis put back."""
    back = op.rest(f"{name}_back")
    return op.any_of(op.Reshape(x, back), op.Unsqueeze(x, back), x)


def _square(op: PatternOps, x: Pattern) -> Pattern:
    return op.any_of(op.Mul(x, x), op.Pow(x, 2.0))


def _over_root(op: PatternOps, x: Pattern, variance: Pattern, w: Var) -> list[NodePattern]:
    """``x / sqrt(variance + eps)`` in its spellings; a scale may come with the reciprocal."""
    sum_ = op.Add(_kept(op, variance, "variance"), op.constant("eps"), _bind="sum")
    root = op.any_of(op.Sqrt(sum_), op.Pow(sum_, 0.5))
    inverse = op.any_of(op.Reciprocal(root), op.Div(1.0, root), op.Pow(sum_, -0.5))
    return [op.Div(x, root), op.Mul(x, inverse), op.Mul(x, op.Mul(inverse, w))]


class _Normalization(Rule):
    """What the two kinds share: the types, the axis and epsilon."""

    means: ClassVar[tuple[str, ...]]

    def check(self, m: Match) -> Refusal | None:
        """f32, over the last axes of fixed size; nothing changes the shape."""
        x = m["x"].tensor
        if x.dtype is not DType.F32 or not x.shape:
            return Refusal(lambda: f"it computes on {x}", m["x"])
        if not isinstance(x.shape[-1], int):
            return Refusal("the last axis is not of a fixed size", m["x"])
        count = _trailing(m, self.means[0], x.shape)
        for name in self.means:
            if count is None or _trailing(m, name, x.shape) != count:
                return Refusal("a mean is not taken over the last axes alone", m.node(name))
        assert count is not None
        if number(m["eps"]) is None:
            return Refusal("epsilon is not one number", m["eps"])
        if m.node("sum").output.shape != _kept_shape(x.shape, count):
            return Refusal("statistics are not given an axis of size 1", m.root)
        if m.root.output.shape != x.shape:
            return Refusal("the result has another shape", m.root)
        scale = m.get("w")
        if scale is not None and not _along_last(scale, x.shape, count):
            return Refusal("scale does not vary along the last axes alone", scale)
        return None

    def scale(self, op: Builder, m: Match) -> Value:
        """The scale, of the axes that are normalised; ones where there is none."""
        shape = m["x"].shape
        assert shape is not None
        wanted = static_shape(shape[-self.count(m) :])
        assert wanted is not None
        found = m.get("w")
        if found is None:
            return op.constant(np.ones(wanted, np.float32), "ones")
        return _shaped(op, found, wanted)

    def count(self, m: Match) -> int:
        """How many last axes are normalised."""
        shape = m["x"].shape
        assert shape is not None
        return _trailing(m, self.means[0], shape) or 1


def _kept_shape(shape: tuple[Dim, ...], count: int) -> tuple[Dim, ...]:
    return (*shape[:-count], *(1,) * count)


class FuseLayer(_Normalization):
    """``(x - mean) / sqrt(var + eps)  ->  LayerNormalization(x, ones)``."""

    means = ("mean", "variance")

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """The variance of the centered values, or of the moments."""
        flat = _mean(op, x, "mean")
        centered = op.Sub(x, _kept(op, flat, "mean"), _bind="centered")
        moments = op.Sub(_mean(op, _square(op, x), "variance"), _square(op, flat))
        variance = op.any_of(
            _mean(op, _square(op, centered), "variance"),
            op.Max(0.0, moments),
            op.Max(moments, 0.0),
            op.Relu(moments),
            moments,
        )
        return _over_root(op, centered, variance, w)

    def check(self, m: Match) -> Refusal | None:
        """The mean must stand where the axis was, too."""
        refused = super().check(m)
        if refused is not None:
            return refused
        shape, mean = m["x"].shape, m.node("centered").input(1)
        assert shape is not None and mean is not None
        if mean.shape != _kept_shape(shape, self.count(m)):
            return Refusal("the mean is not given an axis of size 1", mean)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op; scale and shift are taken in later."""
        result: Value = op.LayerNormalization(
            m["x"], self.scale(op, m), axis=-self.count(m), epsilon=number(m["eps"])
        )
        return result


class FuseRms(_Normalization):
    """``x / sqrt(mean(x * x) + eps)  ->  RMSNormalization(x, ones)``."""

    means = ("variance",)

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """No mean is taken off."""
        return _over_root(op, x, _mean(op, _square(op, x), "variance"), w)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op; a scale is taken in later."""
        result: Value = op.RMSNormalization(
            m["x"], self.scale(op, m), axis=-self.count(m), epsilon=number(m["eps"])
        )
        return result


class AbsorbScale(Rule):
    """``LayerNormalization(x, ones) * w  ->  LayerNormalization(x, w)``; RMSNormalization too."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """A normalisation without shift."""
        names = ("LayerNormalization", "RMSNormalization")
        return [op.Mul(op.op(n, x, op.constant("ones"), _bind="norm"), w) for n in names]

    def check(self, m: Match) -> Refusal | None:
        """The old scale must be ones, the new one a vector."""
        ones = m["ones"].constant
        assert ones is not None
        if ones.numel > 65536 or not bool(np.all(ones.array == 1)):
            return Refusal("it has a scale already", m["ones"])
        return _vector_refusal(m, m["w"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The normalisation with that scale."""
        norm = m.node("norm")
        result: Value = op.op(norm.op.name, m["x"], _vector(op, m, m["w"]), **norm.attrs)
        return result


class AbsorbShift(Rule):
    """``LayerNormalization(x, w) + b  ->  LayerNormalization(x, w, b)``."""

    def pattern(self, op: PatternOps, x: Var, w: Var, b: Var) -> NodePattern:
        """A normalisation without shift."""
        return op.Add(op.LayerNormalization(x, w, _bind="norm"), b)

    def check(self, m: Match) -> Refusal | None:
        """The shift must be a vector."""
        return _vector_refusal(m, m["b"])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The normalisation with that shift."""
        norm, shift = m.node("norm"), _vector(op, m, m["b"])
        result: Value = op.LayerNormalization(m["x"], m["w"], shift, **norm.attrs)
        return result


def _trailing(m: Match, name: str, shape: tuple[Dim, ...]) -> int | None:
    """How many last axes the mean ``name`` folds; None when it folds others, or is no mean."""
    node = m.node(name)
    axes = node.input(1)
    if axes is None or axes.constant is None:
        return None
    found = sorted({int(a) % len(shape) for a in axes.constant.array.ravel()})
    count = len(found)
    width = product(shape[axis] for axis in found)
    if found != list(range(len(shape) - count, len(shape))) or not isinstance(width, int):
        return None
    inverse, divisor = m.get(f"{name}_inverse"), m.get(f"{name}_count")
    if inverse is not None:
        factor = number(inverse)
        return count if factor is not None and abs(factor * width - 1) < _NEAR else None
    return count if divisor is None or number(divisor) == width else None


def _along_last(value: Value, shape: tuple[Dim, ...], count: int) -> bool:
    """True when ``value`` has an element for each of the last ``count`` axes of ``shape``."""
    found, wanted = static_shape(value.shape), static_shape(shape[-count:])
    if found is None or wanted is None or value.tensor.dtype is not DType.F32:
        return False
    if not count <= len(found) <= len(shape):
        return False
    return found[-count:] == wanted and product(found[:-count]) == 1


def _vector_refusal(m: Match, value: Value) -> Refusal | None:
    norm = m.node("norm")
    shape = m["x"].shape
    if norm.output.tensor.dtype is not DType.F32 or shape is None:
        return Refusal("it is not an f32 tensor of known rank", norm)
    if len(norm.outputs) > 1:
        return Refusal("its statistics may be read", norm)
    if not _along_last(value, shape, _normalized(norm, len(shape))):
        return Refusal("scale or shift does not vary along the last axes alone", value)
    return None


def _normalized(norm: Node, rank: int) -> int:
    """How many last axes a LayerNormalization or RMSNormalization normalises."""
    return rank - int(norm.attr("axis")) % rank


def _vector(op: Builder, m: Match, value: Value) -> Value:
    """A scale or shift that :func:`_vector_refusal` let pass, of the normalised axes."""
    shape = m["x"].shape
    assert shape is not None
    wanted = static_shape(shape[-_normalized(m.node("norm"), len(shape)) :])
    assert wanted is not None
    return _shaped(op, value, wanted)


def _shaped(op: Builder, value: Value, shape: tuple[int, ...]) -> Value:
    if value.shape == shape:
        return value
    if value.constant is not None:
        return op.constant(value.constant.array.reshape(shape), value.name)
    result: Value = op.Reshape(value, shape)
    return result


@dataclass(frozen=True)
class FuseLayerNorm(RulePass):
    """Spelled-out normalisations ``->`` LayerNormalization, RMSNormalization."""

    name: ClassVar[str] = "fuse-layer-norm"

    def rules(self, graph: Graph) -> list[Rule]:
        """The longer pattern first."""
        return [FuseLayer(), FuseRms(), AbsorbScale(), AbsorbShift()]
