"""Two linear layers in a row become one where that computes less.

``MatMul(MatMul(x, a) + c, b)  ->  MatMul(x, a @ b) + c @ b``; Gemm after Gemm alike; ``Conv(Conv(x,
v, c), w, b)  ->  Conv(x, w * v, w * c + b)`` where one of them looks at single elements in steps
of 1.

Weights and biases are f32 constants, and nobody reads what is in between. The second convolution
does not pad, unless it is the one of single elements or the first has no bias: its padding is zero,
not the bias. One layer must not take more multiplications than two. Sound up to rounding of
numbers: products of linear maps are linear; new weights are computed in f64 and rounded once. What
is not finite stays so, but infinities of both signs no longer meet in between: NaN may be infinite.
That is why no level has this pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["ComposeProducts"]

Array = np.ndarray[Any, Any]
# Composing weights takes this many multiplications at most.
_MAX_WORK = 1 << 32


def _f64(value: Value) -> Array:
    assert value.constant is not None
    return value.constant.array.astype(np.float64)


def _constant_refusal(*values: Value | None) -> Refusal | None:
    for value in values:
        if value is None:
            continue
        if value.constant is None:
            return Refusal("its weights or bias are not constant", value)
        if value.tensor.dtype is not DType.F32:
            return Refusal(lambda v=value: f"it computes on {v!r}", value)  # type: ignore[misc]
    return None


def _work_refusal(separate: int, together: int, compose: int, node: Node) -> Refusal | None:
    if together > separate:
        return Refusal(
            lambda: f"one layer takes {together} multiplications, two take {separate}", node
        )
    if compose > _MAX_WORK:
        return Refusal(lambda: f"composing takes {compose} multiplications", node)
    return None


class ComposeMatMul(Rule):
    """``MatMul(MatMul(x, a) + c, b)  ->  MatMul(x, a @ b) + c @ b``."""

    def pattern(self, op: PatternOps, x: Var, a: Var, b: Var) -> list[NodePattern]:
        """With or without a row in between."""
        first = op.MatMul(x, a, _bind="first")
        return [op.MatMul(first, b), op.MatMul(op.Add(first, op.constant("c"), _bind="sum"), b)]

    def check(self, m: Match) -> Refusal | None:
        """Constant matrices; fewer multiplications together."""
        refused = _constant_refusal(m["a"], m["b"], m.get("c"))
        if refused is not None:
            return refused
        a, b, c = m["a"].constant, m["b"].constant, m.get("c")
        assert a is not None and b is not None
        if a.array.ndim != 2 or b.array.ndim != 2 or (m["x"].tensor.rank or 0) < 2:
            return Refusal("the weights are not matrices", m.root)
        (k, inner), n = a.array.shape, b.array.shape[1]
        if c is not None and c.shape not in ((inner,), (1, inner)):
            return Refusal("what is added in between is not a row", c)
        return _work_refusal(k * inner + inner * n, k * n, k * inner * n, m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One product, and a row after it where there was one in between."""
        a, b, c = _f64(m["a"]), _f64(m["b"]), m.get("c")
        result: Value = op.MatMul(m["x"], op.constant((a @ b).astype(np.float32), m["b"].name))
        if c is not None:
            row = (_f64(c).reshape(-1) @ b).astype(np.float32)
            result = op.Add(result, op.constant(row, c.name))
        return result


class ComposeGemm(Rule):
    """``Gemm(Gemm(x, a, c), b, d)  ->  Gemm(x, a @ b, c @ b + d)``."""

    def pattern(self, op: PatternOps, x: Var, a: Var, b: Var) -> NodePattern:
        """Biases may be absent."""
        return op.Gemm(op.Gemm(x, a, op.rest("c"), _bind="first"), b, op.rest("d"))

    def check(self, m: Match) -> Refusal | None:
        """Constant weights and rows; fewer multiplications together."""
        first, second = m.node("first"), m.root
        refused = _constant_refusal(m["a"], m["b"], first.input(2), second.input(2))
        if refused is not None:
            return refused
        for node in (first, second):
            if node.attr("transA") or node.attr("alpha") != 1 or node.attr("beta") != 1:
                return Refusal("it transposes its operand, or alpha or beta is not 1", node)
        a, b = _matrix(first), _matrix(second)
        for node, weight in ((first, a), (second, b)):
            bias = node.input(2)
            width = weight.shape[1]
            if bias is not None and bias.shape not in ((width,), (1, width), (), (1,)):
                return Refusal("its bias is not a row", bias)
        (k, inner), n = a.shape, b.shape[1]
        return _work_refusal(k * inner + inner * n, k * n, k * inner * n, m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One product."""
        first, second = m.node("first"), m.root
        a, b = _matrix(first), _matrix(second)
        operands = [m["x"], op.constant((a @ b).astype(np.float32), m["b"].name)]
        c, d = first.input(2), second.input(2)
        if c is not None or d is not None:
            bias = _row(first, a.shape[1]) @ b + _row(second, b.shape[1])
            name = d.name if d is not None else f"{m['b'].name}.bias"
            operands.append(op.constant(bias.astype(np.float32), name))
        result: Value = op.Gemm(*operands)
        return result


def _matrix(node: Node) -> Array:
    weight = node.input(1)
    assert weight is not None
    return _f64(weight).T if node.attr("transB") else _f64(weight)


def _row(node: Node, width: int) -> Array:
    bias = node.input(2)
    return np.zeros(width) if bias is None else np.broadcast_to(_f64(bias).reshape(-1), (width,))


class ComposeConv(Rule):
    """``Conv(Conv(x, v, c), w, b)  ->  Conv(x, w * v, w * c + b)``."""

    def pattern(self, op: PatternOps, x: Var, v: Var, w: Var) -> NodePattern:
        """Biases may be absent."""
        return op.Conv(op.Conv(x, v, op.rest("c"), _bind="first"), w, op.rest("b"))

    def check(self, m: Match) -> Refusal | None:
        """One looks at single elements; fewer multiplications together."""
        first, second = m.node("first"), m.root
        refused = _constant_refusal(m["v"], m["w"], first.input(2), second.input(2))
        if refused is not None:
            return refused
        if first.attr("group") != 1 or second.attr("group") != 1:
            return Refusal("a convolution in groups", m.root)
        v, w = m["v"].constant, m["w"].constant
        assert v is not None and w is not None
        (inner, into, *near), (out, _, *far) = v.array.shape, w.array.shape
        size, count = int(np.prod(near)) * int(np.prod(far)), inner * into * out
        if _single(second, m["w"]):
            separate = inner * into * size + inner * out
        elif _single(first, m["v"]):
            if first.input(2) is not None and not _unpadded(second):
                return Refusal("the second pads with zero, not with the bias of the first", second)
            steps = int(np.prod(second.attr("strides") or (1,)))
            separate = inner * into * steps + inner * out * size
        else:
            return Refusal("neither looks at single elements in steps of 1", m.root)
        return _work_refusal(separate, into * out * size, count * size, m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One convolution, with the windows of the one that has some."""
        first, second = m.node("first"), m.root
        v, w = _f64(m["v"]), _f64(m["w"])
        spatial = v.ndim - 2
        if _single(second, m["w"]):
            weight, attrs = np.tensordot(w.reshape(w.shape[:2]), v, 1), dict(first.attrs)
        else:
            moved = np.tensordot(w, v.reshape(v.shape[:2]), (1, 0))
            weight, attrs = np.moveaxis(moved, -1, 1), dict(second.attrs)
        attrs["kernel_shape"] = list(weight.shape[2:])
        operands = [m["x"], op.constant(weight.astype(np.float32), m["w"].name)]
        c, b = first.input(2), second.input(2)
        if c is not None or b is not None:
            total = np.zeros(w.shape[0]) if b is None else _f64(b)
            if c is not None:
                total = total + w.sum(axis=tuple(range(2, 2 + spatial))) @ _f64(c)
            name = b.name if b is not None else f"{m['w'].name}.bias"
            operands.append(op.constant(total.astype(np.float32), name))
        result: Value = op.Conv(*operands, **attrs)
        return result


def _unpadded(node: Node) -> bool:
    return node.attr("auto_pad") in (None, "", "NOTSET", "VALID") and not any(
        node.attr("pads") or ()
    )


def _single(node: Node, weight: Value) -> bool:
    """True when a convolution looks at single elements, at each, without padding."""
    assert weight.constant is not None
    kernel = weight.constant.array.shape[2:]
    steps = node.attr("strides") or ()
    return all(k == 1 for k in kernel) and all(s == 1 for s in steps) and _unpadded(node)


@dataclass(frozen=True)
class ComposeProducts(RulePass):
    """``MatMul(MatMul(x, a), b)  ->  MatMul(x, a @ b)`` where that computes less."""

    name: ClassVar[str] = "compose-products"

    def rules(self, graph: Graph) -> list[Rule]:
        """One an op."""
        return [ComposeMatMul(), ComposeGemm(), ComposeConv()]
