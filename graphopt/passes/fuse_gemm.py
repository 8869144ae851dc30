"""Products of two matrices with a sum or a transpose become one Gemm.

``MatMul(a, b) + c  ->  Gemm(a, b, c)``; ``Gemm(Transpose(a), b)  ->  Gemm(a, b, transA=1)``, and
``b`` alike; ``MatMul(a, Transpose(b))  ->  Gemm(a, b, transB=1)``; ``Gemm(a, b) + c  ->
Gemm(a, b, c)``.

Operands are matrices (other ranks would need reshapes), ``c`` broadcasts to the product and not the
product to it, and nothing in between is read by others. Sound up to rounding: the same products are
summed, ``c`` first or last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Dim, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseGemm"]

# Narrower types round after every step.
_FLOATS = (DType.F32, DType.F64)


def _refusal(node: Node) -> Refusal | None:
    """Why ``node`` is no product of two matrices of floats."""
    a, b = node.input(0), node.input(1)
    assert a is not None and b is not None
    if a.tensor.rank != 2 or b.tensor.rank != 2:
        return Refusal(lambda: f"it multiplies {a!r} and {b!r}, not two matrices", node)
    if node.output.tensor.dtype not in _FLOATS:
        return Refusal(lambda: f"it computes in {node.output.tensor.dtype}", node)
    return None


def _broadcasts(shape: tuple[Dim, ...] | None, result: tuple[Dim, ...] | None) -> bool:
    """True when a tensor of ``shape`` broadcasts to ``result`` and does not widen it."""
    if shape is None or result is None or len(shape) > len(result):
        return False
    pairs = zip(reversed(shape), reversed(result), strict=False)
    return all(dim in (1, wanted) for dim, wanted in pairs)


class AddToGemm(Rule):
    """``MatMul(a, b) + c  ->  Gemm(a, b, c)``."""

    def pattern(self, op: PatternOps, a: Var, b: Var, c: Var) -> list[NodePattern]:
        """A Gemm without a bias alike."""
        return [op.Add(op.op(n, a, b, _bind="product"), c) for n in ("MatMul", "Gemm")]

    def check(self, m: Match) -> Refusal | None:
        """Two matrices, and a sum that keeps the shape."""
        product = m.node("product")
        refused = _refusal(product)
        if refused is not None:
            return refused
        if not _broadcasts(m["c"].shape, product.output.shape):
            return Refusal(lambda: f"{m['c']!r} does not broadcast to {product.output!r}", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One product."""
        result: Value = op.Gemm(m["a"], m["b"], m["c"], **m.node("product").attrs)
        return result


class TransposeIntoGemm(Rule):
    """``Gemm(Transpose(a), b)  ->  Gemm(a, b, transA=1)``; MatMul of matrices alike."""

    def pattern(self, op: PatternOps, a: Var, b: Var) -> list[NodePattern]:
        """Either operand; the transpose may have other readers."""
        left, right = op.Transpose(a, _shared=True), op.Transpose(b, _shared=True)
        names = ("Gemm", "MatMul")
        return [
            *(op.op(n, left, b, op.rest("c")) for n in names),
            *(op.op(n, a, right, op.rest("c")) for n in names),
        ]

    def check(self, m: Match) -> Refusal | None:
        """Two matrices, and a transpose that swaps their axes."""
        refused = _refusal(m.root)
        if refused is not None:
            return refused
        swaps = [n for n in m.nodes if n.is_a("Transpose")]
        perm = tuple(swaps[0].attr("perm") or (1, 0))
        return None if perm == (1, 0) else Refusal("the transpose changes nothing", swaps[0])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The attribute that stands for the transpose, turned round."""
        root = m.root
        attrs = dict(root.attrs)
        name = "transA" if m["a"] is not root.input(0) else "transB"
        attrs[name] = 0 if attrs.get(name) else 1
        result: Value = op.Gemm(m["a"], m["b"], *m.values("c"), **attrs)
        return result


@dataclass(frozen=True)
class FuseGemm(RulePass):
    """``MatMul(a, b) + c  ->  Gemm(a, b, c)``."""

    name: ClassVar[str] = "fuse-gemm"

    def rules(self, graph: Graph) -> list[Rule]:
        """Sums and transposes."""
        return [AddToGemm(), TransposeIntoGemm()]
