"""Norms that are spelled out become one reduction, or one normalisation.

``sqrt(sum(x * x))  ->  ReduceL2(x)``; ``sum(x * x)  ->  ReduceSumSquare(x)``;
``sum(|x|)  -> ReduceL1(x)``. With ``zero_rows=true`` also ``x / ReduceL2(x)`` over one axis, and
``x / max(ReduceL2(x), eps)`` for an eps up to 1e-6, ``->  LpNormalization(x)``: a row of zeros,
which was NaN, is 0, and rows shorter than eps are made as long as others.

Values are f32 or f64, and nothing in between is read by others. Sound up to rounding: the
definitions of the ops. Squares that overflow on the way need not in the op; a variance as a
difference of moments, which shows how they are rounded, stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Value
from graphopt.passes.merge_reductions import reduced_axes
from graphopt.passes.polynomial import number
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseLpNorm"]

_TINY = 1e-6


class _Reduction(Rule):
    """What becomes a reduction over the same axes; the sum is bound."""

    becomes: ClassVar[str]

    def check(self, m: Match) -> Refusal | None:
        """Floats, and axes that are known."""
        if m.root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"it computes in {m.root.output.tensor.dtype}", m.root)
        if m["x"].type != m.node("square").output.type:
            return Refusal("the square has another shape", m.node("square"))
        if m.node("sum").attr("noop_with_empty_axes"):
            return Refusal("it may reduce nothing", m.node("sum"))
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.op(self.becomes, m["x"], *m.values("axes"), **m.node("sum").attrs)
        return result


class FuseL2(_Reduction):
    """``sqrt(sum(x * x))  ->  ReduceL2(x)``."""

    becomes = "ReduceL2"

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A sum of squares, or the op for that."""
        squares = [op.Mul(x, x, _bind="square"), op.Pow(x, 2.0, _bind="square")]
        sums = [op.ReduceSum(s, op.rest("axes"), _bind="sum") for s in squares]
        return [op.Sqrt(total) for total in sums]


class FuseSquares(_Reduction):
    """``sum(x * x)  ->  ReduceSumSquare(x)``, where no root follows."""

    becomes = "ReduceSumSquare"

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Products and powers."""
        squares = [op.Mul(x, x, _bind="square"), op.Pow(x, 2.0, _bind="square")]
        return [op.ReduceSum(s, op.rest("axes"), _bind="sum") for s in squares]

    def check(self, m: Match) -> Refusal | None:
        """A root that follows makes it a ReduceL2; a difference shows how the sum was rounded."""
        if any(user.is_a("Sqrt") for user in m.root.output.users):
            return Refusal("a root follows", m.root)
        if _is_subtracted_from(m.root.output, 3):
            return Refusal("a difference of moments follows, which leaves rounding alone", m.root)
        return super().check(m)


def _is_subtracted_from(value: Value, depth: int) -> bool:
    """True when ``value``, but for a factor or a shape, is the minuend of a difference."""
    for user in value.users:
        if user.is_a("Sub") and user.input(0) is value:
            return True
        passes = user.op.name in ("Mul", "Div", "Reshape", "Unsqueeze", "Squeeze")
        if depth and passes and _is_subtracted_from(user.output, depth - 1):
            return True
    return False


class FuseL1(_Reduction):
    """``sum(|x|)  ->  ReduceL1(x)``."""

    becomes = "ReduceL1"

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Magnitudes."""
        return op.ReduceSum(op.Abs(x, _bind="square"), op.rest("axes"), _bind="sum")


class FuseRow(Rule):
    """``x / max(ReduceL2(x), eps)  ->  LpNormalization(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """With a bound below, or without; the norm may be made as large as ``x``."""
        rows: list[NodePattern] = []
        for name in ("ReduceL2", "ReduceL1"):
            norm = op.op(name, x, op.rest("axes"), _bind="norm")
            eps = op.constant("eps")
            least = op.any_of(op.Max(norm, eps), op.Clip(norm, eps), norm)
            wide = op.any_of(op.Expand(least, op.rest("shape")), least)
            rows.append(op.Div(x, wide))
        return rows

    def check(self, m: Match) -> Refusal | None:
        """One axis, kept; a bound that is tiny."""
        axes, norm, eps = reduced_axes(m.node("norm")), m.node("norm"), m.get("eps")
        if m.root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"it computes in {m.root.output.tensor.dtype}", m.root)
        if axes is None or len(axes) != 1 or not norm.attr("keepdims"):
            return Refusal("the norm is not over one axis, kept", norm)
        if eps is not None and not 0 <= (number(eps) or 0.0) <= _TINY:
            return Refusal(lambda: f"the bound is {number(eps)}", eps)
        if m.root.output.type != m["x"].type:
            return Refusal("the result has another shape", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        axes = reduced_axes(m.node("norm"))
        assert axes is not None
        p = 2 if m.node("norm").is_a("ReduceL2") else 1
        result: Value = op.LpNormalization(m["x"], axis=axes[0], p=p)
        return result


@dataclass(frozen=True)
class FuseLpNorm(RulePass):
    """``sqrt(sum(x * x))  ->  ReduceL2(x)``; rows divided by it ``->  LpNormalization``."""

    name: ClassVar[str] = "fuse-lp-norm"
    # Normalisations have sums of squares in them.
    follows: ClassVar[tuple[str, ...]] = ("fuse-layer-norm",)

    # True: also rows divided by their norm, which are NaN or shorter where the norm is (almost) 0.
    zero_rows: bool = False

    def rules(self, graph: Graph) -> list[Rule]:
        """Roots first."""
        rules: list[Rule] = [FuseL2(), FuseSquares(), FuseL1()]
        return [*rules, FuseRow()] if self.zero_rows else rules
