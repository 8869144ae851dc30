"""Attention that exporters spell out becomes one op, which never holds all scores.

``Softmax(MatMul(q, kt) * s + mask) @ v  ->  graphopt::Attention(q, k, v, mask)``. Factors may stand
on ``q``, ``kt`` and the scores, before or after a cap ``c * tanh(x / c)``; masks are sums, or
``Where(keep, scores, fill)``; the guard ``Where(IsNaN(p), 0, p)`` is kept as an attribute. Keys and
values that are repeated for query heads which share them are taken before they are repeated. A
mask that hides what lies ahead becomes the attribute ``causal``.

Operands are f32 tensors of two axes [length, size] or more; leading axes do not broadcast, but for
a key head that all query heads share; the softmax runs over the keys; no value in between is read
by others.

Sound up to rounding: it is the definition of the op. Scores that are hidden must be finite where
two masks become one or a mask becomes ``causal``: NaN plus -inf is NaN, but nothing that is not
looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Dim, DType, Graph, Value, product
from graphopt.passes.attention_masks import causal_offset
from graphopt.passes.attention_terms import Logits, Mask, read_logits
from graphopt.passes.repeated_heads import before_repeat, squeezed
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseAttention"]

Shape = tuple[Dim, ...]


class FuseDotProductAttention(Rule):
    """``Softmax(q @ kt * s + mask) @ v  ->  graphopt::Attention(q, k, v, mask)``."""

    def pattern(self, op: PatternOps, logits: Var, v: Var) -> NodePattern:
        """With and without a guard against NaN; the logits are read by hand."""
        weights = op.Softmax(logits, _bind="softmax")
        guarded = op.Where(op.IsNaN(weights), 0.0, weights, _bind="guard")
        kept = op.any_of(guarded, weights)
        regrouped = op.Reshape(kept, op.rest("shape"), _bind="regrouped")
        return op.MatMul(op.any_of(guarded, weights, regrouped), v)

    def check(self, m: Match) -> Refusal | None:
        """Types, and which axes mean what."""
        softmax = m.node("softmax")
        shape = softmax.output.shape
        if m.root.output.tensor.dtype is not DType.F32:
            return Refusal(lambda: f"it computes in {m.root.output.tensor.dtype}", m.root)
        if shape is None or int(softmax.attr("axis")) not in (-1, len(shape) - 1):
            return Refusal(
                lambda: f"the softmax runs over axis {softmax.attr('axis')}, not over the keys",
                softmax,
            )
        logits = read_logits(m["logits"])
        if isinstance(logits, Refusal):
            return logits
        m.nodes.extend(node for node in logits.nodes if node not in m.nodes)
        weights = m.root.input(0)
        assert weights is not None
        if "regrouped" in m.named and (weights.shape or ())[-2:] != shape[-2:]:
            return Refusal(lambda: f"{weights!r} regroups more than leading axes", m.root)
        refused = m.check_uses() or _shape_refusal(logits, m["v"], weights)
        return refused or _mask_refusal(logits.masks)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op over [batch, heads, length, size], and back."""
        logits = read_logits(m["logits"])
        assert isinstance(logits, Logits)
        target = _target(logits)
        q = _with_lead(op, logits.q, target)
        k, v = _keys(op, logits.kt, target), m["v"]
        if not _one_head(logits, v):
            k, v = _before_repeat(op, k, v, target) or (_with_lead(op, x, target) for x in (k, v))
        mask, fill, offset = _mask(op, logits, q, k)
        result: Value = op.op(
            "Attention",
            *(q, k, v, mask),
            _domain="graphopt",
            scale=logits.scale,
            softcap=logits.softcap or None,
            fill=None if fill in (None, -math.inf) else fill,
            causal=1 if offset is not None else None,
            causal_offset=offset or None,
            nan_rows_to_zero=1 if "guard" in m.named else None,
        )
        out = m.root.output.shape
        assert out is not None
        return _with_lead(op, result, out[:-2])


def _shape_refusal(logits: Logits, v: Value, weights: Value) -> Refusal | None:
    q, kt = logits.q.shape, logits.kt.shape
    if q is None or kt is None or v.shape is None or weights.shape is None:
        return Refusal("the rank of queries, keys or values is not known", v)
    if min(map(len, (q, kt, v.shape))) < 2:
        return Refusal(lambda: f"queries {q}, keys {kt} or values {v.shape} are no matrices", v)
    lead = weights.shape[:-2]
    if not _one_head(logits, v) and (q[:-2] != kt[:-2] or v.shape[:-2] != lead):
        return Refusal(
            lambda: f"queries {q}, keys {kt} (transposed) and values {v.shape} broadcast", v
        )
    if kt[-1] != v.shape[-2]:
        return Refusal(lambda: f"there are {kt[-1]} keys and {v.shape} values", v)
    if logits.space is not None and len(logits.space) > 2:
        return Refusal(lambda: f"the masked scores have more than 4 axes: {weights!r}", weights)
    target = _target(logits)
    for have in {q[:-2], v.shape[:-2]}:
        if _lead_dims(have, target) is None or _lead_dims(target, have) is None:
            return Refusal(f"sizes of the leading axes {have} and {target} are not known", v)
    return None


def _one_head(logits: Logits, v: Value) -> bool:
    """True when all query heads share one key head, which broadcasts."""
    q, kt = logits.q.shape, logits.kt.shape
    assert q is not None and kt is not None and v.shape is not None
    if len(q) != 4 or logits.space not in (None, q[:-2]) or q[1] == 1:
        return False
    return kt[:-2] == v.shape[:-2] == (q[0], 1)


def _target(logits: Logits) -> Shape:
    """The two leading axes [batch, heads] of the fused op."""
    assert logits.q.shape is not None
    lead = logits.q.shape[:-2] if logits.space is None else logits.space
    if len(lead) == 1 and logits.space is None:
        # Batch and heads were merged for the product alone.
        behind = _behind_reshapes(logits.q).shape
        if behind is not None and len(behind) == 4:
            lead = behind[:-2]
    if len(lead) <= 2:
        return (*[1] * (2 - len(lead)), *lead)
    return (product(lead[:-1]), lead[-1])


def _lead_dims(old: Shape, new: Shape) -> list[int] | None:
    """Sizes that reshape leading axes; None where more than one would have to be inferred."""
    if old == new:
        return []
    dims = [dim if isinstance(dim, int) else -1 for dim in new]
    return None if dims.count(-1) > 1 or 0 in dims else dims


def _with_lead(op: Builder, x: Value, lead: Shape) -> Value:
    """``x`` with other leading axes; the last two stay. :func:`_lead_dims` must know them."""
    behind = _behind_reshapes(x)
    if behind.shape is not None and behind.shape[:-2] == lead:
        return behind
    assert x.shape is not None
    old, result = x.shape[:-2], x
    if old == lead:
        return x
    missing = len(lead) - len(old)
    if missing > 0 and (*[1] * missing, *old) == lead:
        result = op.Unsqueeze(x, tuple(range(missing)))
    elif missing < 0 and (*[1] * -missing, *lead) == old:
        result = op.Squeeze(x, tuple(range(-missing)))
    elif (dims := _lead_dims(old, lead)) is not None:
        result = _reshaped(op, x, dims)
    return result


def _reshaped(op: Builder, x: Value, dims: list[int]) -> Value:
    """The last two axes are copied by position, so their sizes need not be known."""
    assert x.shape is not None
    missing = len(dims) + 2 - len(x.shape)
    if missing > 0:
        x = op.Unsqueeze(x, tuple(range(missing)))
    shape = (*[1] * max(-missing, 0), *dims, 0, 0)
    result: Value = op.Reshape(x, shape)
    if missing < 0:
        result = op.Squeeze(result, tuple(range(-missing)))
    return result


def _before_repeat(op: Builder, k: Value, v: Value, target: Shape) -> tuple[Value, Value] | None:
    """Keys and values before they are repeated, where both are."""
    sources = before_repeat(k, target), before_repeat(v, target)
    if sources[0] is None or sources[1] is None:
        return None
    shapes = sources[0].shape, sources[1].shape
    if shapes[0] is None or shapes[1] is None or shapes[0][:2] != shapes[1][:2]:
        return None
    a, b = (x if len(x.shape or ()) == 4 else squeezed(op, x) for x in sources if x is not None)
    return a, b


def _mask_refusal(masks: list[Mask]) -> Refusal | None:
    for mask in masks:
        if mask.value.tensor.rank is None or mask.value.tensor.rank > 4:
            return Refusal("the mask has more than 4 axes", mask.value)
    fills = {mask.fill for mask in masks if mask.fill is not None}
    added = any(mask.fill is None for mask in masks)
    if len(fills) > 1 or (added and fills and fills != {-math.inf}):
        return Refusal(
            lambda: f"masks that are filled with {sorted(fills)} and added do not make one mask",
            masks[0].value,
        )
    return None


def _mask(
    op: Builder, logits: Logits, q: Value, k: Value
) -> tuple[Value | None, float | None, int | None]:
    """All masks as one, what it fills with, and the offset where one of them is causal."""
    offset = None
    added, kept = None, None
    fill: float | None = None
    assert q.shape is not None and k.shape is not None
    for mask in logits.masks:
        found = (
            None
            if offset is not None
            else causal_offset(mask, q.shape[2], k.shape[2], alone=len(logits.masks) == 1)
        )
        if found is not None:
            offset = found
            continue
        value = mask.value
        if mask.fill is None:
            added = value if added is None else op.Add(added, value)
            continue
        fill = mask.fill
        keep = op.Not(value) if mask.inverted else value
        kept = keep if kept is None else op.And(kept, keep)
    if added is None or kept is None:
        return (added if kept is None else kept), fill, offset
    return op.Where(kept, added, op.constant(-math.inf, "hidden", "float32")), None, offset


def _keys(op: Builder, kt: Value, target: Shape) -> Value:
    """Keys with their last two axes swapped back; their leading axes may be grouped otherwise."""
    source = _swapped(kt)
    if source is not None:
        return source
    node = kt.producer
    if node is not None and node.is_a("Reshape"):
        inner = node.input(0)
        source = None if inner is None else _swapped(inner)
        # Batch and heads merged for the transpose alone, as torch does.
        if source is not None and source.shape is not None and kt.shape is not None:
            behind = _behind_reshapes(source)
            same = source.shape[:-3:-1] == kt.shape[-2:] and behind.shape is not None
            if same and _lead_dims(behind.shape[:-2], target) is not None:  # type: ignore[index]
                return behind
    rank = kt.tensor.rank
    assert rank is not None
    result: Value = op.Transpose(kt, perm=(*range(rank - 2), rank - 1, rank - 2))
    return result


def _behind_reshapes(value: Value) -> Value:
    """What ``value`` regroups the leading axes of."""
    node = value.producer
    while node is not None and node.is_a("Reshape"):
        source = node.input(0)
        if source is None or not source.shape or not value.shape or len(source.shape) < 2:
            break
        if source.shape[-2:] != value.shape[-2:]:
            break
        value, node = source, source.producer
    return value


def _swapped(value: Value) -> Value | None:
    """``x`` where ``value`` is ``x`` with its last two axes swapped."""
    node = value.producer
    if node is None or not node.is_a("Transpose") or value.tensor.rank is None:
        return None
    rank = value.tensor.rank
    perm = tuple(node.attr("perm") or range(rank - 1, -1, -1))
    return node.input(0) if perm == (*range(rank - 2), rank - 1, rank - 2) else None


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Spelled-out attention ``->`` one op."""

    name: ClassVar[str] = "fuse-attention"
    follows: ClassVar[tuple[str, ...]] = ("fuse-softmax",)

    def rules(self, graph: Graph) -> list[Rule]:
        """Over the dot product of queries and keys."""
        return [FuseDotProductAttention()]
