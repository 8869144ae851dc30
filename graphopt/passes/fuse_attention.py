"""Attention that exporters spell out becomes one op, which never holds all scores.

``Softmax(MatMul(q, kt) * s + mask) @ v  ->  graphopt::Attention(q, k, v, mask)``, with factors on
``q`` and ``kt`` counted in, and the guard ``Where(IsNaN(p), 0, p)`` kept as an attribute.

Operands have three axes [heads, length, size] or four, in f32; nothing but the mask broadcasts; the
softmax runs over the keys; no value in between is read by others.

Sound up to rounding: it is the definition of the op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import (
    Match,
    NodePattern,
    Pattern,
    PatternOps,
    Refusal,
    Rule,
    RulePass,
    Var,
)

__all__ = ["FuseAttention"]

# Places where a factor may stand.
_FACTORS = ("q", "k", "scores")


def _scaled(op: PatternOps, x: Pattern, place: str) -> Pattern:
    """``x``, ``x`` times a number or ``x`` over a number, which is then bound."""

    def number(how: str) -> Pattern:
        constant = op.constant(f"{place}_{how}")
        one: Pattern = constant.where(
            lambda v: v.constant is not None and v.constant.numel == 1, "being one number"
        )
        return one

    return op.any_of(op.Mul(x, number("times")), op.Div(x, number("over")), x)


class FuseDotProductAttention(Rule):
    """``Softmax(q @ kt * s + mask) @ v  ->  graphopt::Attention(q, k, v, mask)``."""

    def pattern(self, op: PatternOps, q: Var, kt: Var, v: Var, mask: Var) -> NodePattern:
        """With and without factors, mask, and guard against NaN."""
        scores = op.MatMul(_scaled(op, q, "q"), _scaled(op, kt, "k"), _bind="scores")
        logits = _scaled(op, scores, "scores")
        weights = op.Softmax(op.any_of(op.Add(logits, mask), logits), _bind="softmax")
        guarded = op.Where(op.IsNaN(weights), 0.0, weights, _bind="guard")
        return op.MatMul(op.any_of(guarded, weights), v)

    def check(self, m: Match) -> Refusal | None:
        """Types, and which axes mean what."""
        out = m.root.output.tensor
        scores = m.node("scores").output.shape
        q, kt, v = m["q"].shape, m["kt"].shape, m["v"].shape
        if out.dtype is not DType.F32:
            return Refusal(lambda: f"it computes in {out.dtype}", m.root)
        if scores is None or q is None or kt is None or v is None:
            return Refusal("a rank is not known", m.root)
        if len(q) not in (3, 4) or not len(q) == len(kt) == len(v) == len(scores):
            return Refusal("its operands do not all have 3 or all have 4 axes", m.root)
        if not q[:-2] == kt[:-2] == v[:-2] == scores[:-2]:
            return Refusal("queries, keys and values broadcast", m.root)
        if int(m.node("softmax").attr("axis")) not in (-1, len(scores) - 1):
            return Refusal("the softmax does not run over the keys", m.node("softmax"))
        if m.node("softmax").output.shape != scores:
            return Refusal("the mask makes the scores larger", m.node("softmax"))
        return _mask_refusal(m.get("mask"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op, with a leading axis of size 1 where there are three."""
        q, v, mask = m["q"], m["v"], m.get("mask")
        k = _swapped(op, m["kt"])
        flat = len(q.shape or ()) == 3
        if flat:
            q, k, v = (op.Unsqueeze(x, (0,)) for x in (q, k, v))
        result: Value = op.op(
            "Attention",
            *(q, k, v, mask),
            _domain="graphopt",
            scale=_factor(m),
            nan_rows_to_zero=1 if "guard" in m.named else None,
        )
        if flat:
            result = op.Squeeze(result, (0,))
        return result


def _mask_refusal(mask: Value | None) -> Refusal | None:
    if mask is not None and (mask.tensor.rank is None or mask.tensor.rank > 4):
        return Refusal("the mask has more than 4 axes", mask)
    return None


def _swapped(op: Builder, kt: Value) -> Value:
    """Keys with their last two axes swapped back."""
    rank = kt.tensor.rank
    assert rank is not None
    swap = (*range(rank - 2), rank - 1, rank - 2)
    node = kt.producer
    if node is not None and _permutes(node, swap):
        source = node.input(0)
        assert source is not None
        return source
    result: Value = op.Transpose(kt, perm=swap)
    return result


def _permutes(node: Node, perm: tuple[int, ...]) -> bool:
    if not node.is_a("Transpose"):
        return False
    return tuple(node.attr("perm") or range(len(perm) - 1, -1, -1)) == perm


def _factor(m: Match) -> float:
    """All factors on queries, keys and scores, as one."""
    factor = 1.0
    for place in _FACTORS:
        times, over = m.get(f"{place}_times"), m.get(f"{place}_over")
        if times is not None and times.constant is not None:
            factor *= float(times.constant.array.reshape(()))
        if over is not None and over.constant is not None:
            factor /= float(over.constant.array.reshape(()))
    return factor


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Spelled-out attention ``->`` one op."""

    name: ClassVar[str] = "fuse-attention"

    def rules(self, graph: Graph) -> list[Rule]:
        """Over the dot product of queries and keys."""
        return [FuseDotProductAttention()]
