"""Into the fused ops of onnxruntime: what ONNX spells out, or has in younger opsets alone.

GELU by erf  ``->  com.microsoft::Gelu(x)``, by tanh  ``->  FastGelu(x)``; ``Gelu(x + row)  ->
BiasGelu(x, row)``; ``x * Sigmoid(a * x)  ->  QuickGelu(x)``; ``LayerNormalization(x + y, w, b)  ->
SkipLayerNormalization(x, y, w, b)``; ``MatMul(Transpose(x), y) * a  ->  FusedMatMul(x, y)``.

Values are f32, and nothing in between is read by others. The ops are onnxruntime's: no level has
this pass, ``graphopt optimize --allow-contrib`` runs it last. Sound up to rounding: the definitions
of the ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.passes.fuse_activation import FuseGelu, FuseSwish
from graphopt.passes.polynomial import number
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseContrib"]

_DOMAIN = "com.microsoft"


class FuseContribGelu(FuseGelu):
    """``x * 0.5 * (1 + f(x))  ->  com.microsoft::Gelu(x)``; FastGelu where f is tanh."""

    def check(self, m: Match) -> Refusal | None:
        """The kernels are of f32."""
        return super().check(m) or _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        name = "FastGelu" if m.node("curve").is_a("Tanh") else "Gelu"
        result: Value = op.op(name, m["x"], _domain=_DOMAIN)
        return result


class FuseQuickGelu(FuseSwish):
    """``x * Sigmoid(a * x)  ->  com.microsoft::QuickGelu(x, a)``."""

    def check(self, m: Match) -> Refusal | None:
        """The kernels are of f32."""
        return super().check(m) or _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        factor = m.get("a")
        alpha = 1.0 if factor is None else number(factor)
        result: Value = op.op("QuickGelu", m["x"], alpha=alpha, _domain=_DOMAIN)
        return result


class FuseBiasGelu(Rule):
    """``Gelu(x + row)  ->  com.microsoft::BiasGelu(x, row)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Of either domain, by erf."""
        row = op.constant("row").typed(rank=1, static=True)
        exact = {"approximate": lambda value: value in (None, "none")}
        return [
            op.Gelu(op.Add(x, row), _attrs=exact),
            op.op("Gelu", op.Add(x, row), _domain=_DOMAIN),
        ]

    def check(self, m: Match) -> Refusal | None:
        """The row must lie along the last axis."""
        shape = m["x"].shape
        if shape is None or not shape or m["row"].shape != shape[-1:]:
            return Refusal(lambda: f"{m['row']!r} is no row of {m['x']!r}", m["row"])
        return _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        result: Value = op.op("BiasGelu", m["x"], m["row"], _domain=_DOMAIN)
        return result


class FuseSkipNorm(Rule):
    """``LayerNormalization(x + y, w, b)  ->  SkipLayerNormalization(x, y, w, b)``."""

    def pattern(self, op: PatternOps, x: Var, y: Var, w: Var, b: Var) -> NodePattern:
        """A sum that nobody else reads."""
        return op.LayerNormalization(op.Add(x, y), w, op.optional(b))

    def check(self, m: Match) -> Refusal | None:
        """Operands of one shape of rank 3, normalised along the last axis."""
        x, y = m["x"].tensor, m["y"].tensor
        if x.rank != 3 or x != y:
            return Refusal(lambda: f"{x} and {y} are not of one shape of rank 3", m.root)
        if m.root.attr("axis") not in (-1, 2) or len(m.root.outputs) > 1:
            return Refusal("it normalises other axes, or its statistics are read", m.root)
        return _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op."""
        operands = (m["x"], m["y"], m["w"], m.get("b"))
        epsilon = float(m.root.attr("epsilon"))
        result: Value = op.op("SkipLayerNormalization", *operands, epsilon=epsilon, _domain=_DOMAIN)
        return result


class FuseTransposedProduct(Rule):
    """``MatMul(Transpose(x), y)  ->  com.microsoft::FusedMatMul(x, y)``; ``y`` alike."""

    def pattern(self, op: PatternOps, x: Var, y: Var) -> list[NodePattern]:
        """One operand at a time; the second finds the fused op."""
        left, right = (op.Transpose(v, _bind="turn", _shared=True) for v in (x, y))
        return [
            op.MatMul(left, y),
            op.MatMul(x, right),
            op.op("FusedMatMul", left, y, _attrs={"transA": 0}, _domain=_DOMAIN),
            op.op("FusedMatMul", x, right, _attrs={"transB": 0}, _domain=_DOMAIN),
        ]

    def check(self, m: Match) -> Refusal | None:
        """The last two axes alone must be swapped."""
        turn = m.node("turn")
        rank = turn.output.tensor.rank
        swap = [*range((rank or 2) - 2), (rank or 2) - 1, (rank or 2) - 2]
        perm = list(turn.attr("perm") or range((rank or 1) - 1, -1, -1))
        if rank is None or rank < 2 or perm != swap:
            return Refusal(lambda: f"perm is {perm}", turn)
        return _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op, with the flags that it had."""
        turned = "transA" if m["x"] is m.node("turn").input(0) and _is_left(m) else "transB"
        attrs = dict(m.root.attrs) | {turned: 1}
        result: Value = op.op("FusedMatMul", m["x"], m["y"], _domain=_DOMAIN, **attrs)
        return result


def _is_left(m: Match) -> bool:
    first = m.root.input(0)
    return first is not None and first.producer is m.node("turn")


class FuseScaledProduct(Rule):
    """``FusedMatMul(x, y) * a  ->  com.microsoft::FusedMatMul(x, y, alpha=a)``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """A product whose operands are turned already."""
        product = op.op("FusedMatMul", op.rest("xy"), _domain=_DOMAIN, _bind="product")
        return op.Mul(product, op.constant("a").where(_is_number, "being one number"))

    def check(self, m: Match) -> Refusal | None:
        """The factor must not add axes."""
        if m.root.output.shape != m.node("product").output.shape:
            return Refusal("it changes the shape", m.root)
        return _f32(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The product with another factor."""
        product: Node = m.node("product")
        factor = number(m["a"])
        assert factor is not None
        attrs = dict(product.attrs) | {"alpha": float(product.attr("alpha")) * factor}
        result: Value = op.op("FusedMatMul", *m.values("xy"), _domain=_DOMAIN, **attrs)
        return result


def _is_number(value: Value) -> bool:
    return number(value) is not None


def _f32(m: Match) -> Refusal | None:
    dtype = m.root.output.tensor.dtype
    return None if dtype is DType.F32 else Refusal(lambda: f"it computes in {dtype}", m.root)


@dataclass(frozen=True)
class FuseContrib(RulePass):
    """What ONNX spells out  ``->``  fused ops of onnxruntime."""

    name: ClassVar[str] = "fuse-contrib"

    def rules(self, graph: Graph) -> list[Rule]:
        """Longest patterns first."""
        return [
            FuseContribGelu(),
            FuseQuickGelu(),
            FuseBiasGelu(),
            FuseSkipNorm(),
            FuseTransposedProduct(),
            FuseScaledProduct(),
        ]
