"""Attention in the ONNX domain: Attention, RotaryEmbedding, LinearAttention, FlexAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, accumulator, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of
from graphopt.ops.softmax import softmax

__all__ = ["join_heads", "masked_softmax", "rotate", "share_heads", "split_heads"]

Shape = tuple[Dim, ...]


def split_heads(x: Array, heads: int) -> Array:
    """[batch, length, heads*size] as [batch, heads, length, size]."""
    batch, length, hidden = x.shape
    if heads < 1 or hidden % heads:
        raise ValueError(f"{hidden} features do not split into {heads} heads")
    return x.reshape(batch, length, heads, hidden // heads).transpose(0, 2, 1, 3)


def join_heads(x: Array) -> Array:
    """The inverse of :func:`split_heads`."""
    batch, heads, length, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * size)


def share_heads(x: Array, heads: int) -> Array:
    """Keys or values [batch, kv heads, ...] repeated so that every query head has its own."""
    if x.shape[1] == heads:
        return x
    if heads % x.shape[1]:
        raise ValueError(f"{heads} query heads do not share {x.shape[1]} key heads evenly")
    return np.repeat(x, heads // x.shape[1], axis=1)


def masked_softmax(scores: Array, bias: Array) -> Array:
    """softmax(scores + bias) over the last axis; rows whose bias is all -inf become 0."""
    dead = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
    with np.errstate(invalid="ignore"):
        safe = np.where(dead, scores.dtype.type(0), scores + bias)
    return np.where(dead, scores.dtype.type(0), softmax(safe))


# ---- Attention ----


@dataclass(frozen=True, slots=True)
class _Heads:
    """Sizes of an attention, as dims."""

    batch: Dim
    q_heads: Dim
    kv_heads: Dim
    q_length: Dim
    kv_length: Dim
    size: Dim
    v_size: Dim


def _heads(ctx: InferContext, q: Shape, k: Shape, v: Shape) -> _Heads:
    if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
        ctx.fail("query, key and value must all have 3 or all have 4 axes")
    require_equal(ctx, q[0], k[0], "query and key have different batch sizes")
    require_equal(ctx, k[-2], v[-2], "key and value have different lengths")
    if len(q) == 4:
        require_equal(ctx, q[3], k[3], "query and key have different head sizes")
        return _Heads(q[0], q[1], k[1], q[2], k[2], q[3], v[3])
    q_heads, kv_heads = ctx.attr("q_num_heads"), ctx.attr("kv_num_heads")
    if not q_heads or not kv_heads:
        ctx.fail("operands of 3 axes need q_num_heads and kv_num_heads")
    for dim, heads in ((q[2], q_heads), (k[2], kv_heads), (v[2], kv_heads)):
        if isinstance(dim, int) and dim % heads:
            ctx.fail(f"{dim} features do not split into {heads} heads")
    size, v_size = q[2] // q_heads, v[2] // kv_heads
    return _Heads(q[0], q_heads, kv_heads, q[1], k[1], size, v_size)


def _infer_attention(ctx: InferContext) -> tuple[Type, ...]:
    t1, t2 = ctx.dtype(0), ctx.dtype(2)
    q, k, v = ctx.shape(0), ctx.shape(1), ctx.shape(2)
    if q is None or k is None or v is None:
        return tuple(TensorType(t, None) for t in (t1, t1, t2, t1))
    if ctx.has(4) != ctx.has(5):
        ctx.fail("past_key and past_value go together")
    if ctx.has(4) and ctx.has(6):
        ctx.fail("nonpad_kv_seqlen does not go with past_key and past_value")
    h = _heads(ctx, q, k, v)
    total = h.kv_length
    if ctx.has(4):
        past = ctx.shape(4)
        total = total + (ctx.fresh("past") if past is None else past[2])
    if len(q) == 4:
        y: Shape = (h.batch, h.q_heads, h.q_length, h.v_size)
    else:
        y = (h.batch, h.q_length, h.q_heads * h.v_size)
    return (
        TensorType(t1, y),
        TensorType(t1, (h.batch, h.kv_heads, total, h.size)),
        TensorType(t2, (h.batch, h.kv_heads, total, h.v_size)),
        TensorType(t1, (h.batch, h.q_heads, h.q_length, total)),
    )


def _bias(
    ctx: EvalContext,
    scores: Array,
    mask: Array | None,
    past: int,
    valid: Array | None,
) -> Array:
    """What is added to the scores: 0 or the mask's value where a key counts, else -inf."""
    real = scores.dtype.type
    length, total = scores.shape[-2:]
    bias = np.zeros((1, 1, length, total), dtype=scores.dtype)
    if mask is not None:
        if mask.dtype == np.bool_:
            mask = np.where(mask, real(0), real(-np.inf))
        missing = total - mask.shape[-1]
        if missing > 0:
            pads = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
            mask = np.pad(mask.astype(scores.dtype), pads, constant_values=-np.inf)
        bias = bias + mask.astype(scores.dtype)
    # Position of query 0 among the keys: behind the cached ones.
    offset = np.full((1, 1, 1, 1), past, dtype=np.int64)
    keys = np.arange(total)
    if valid is not None:
        counts = valid.astype(np.int64).reshape(-1, 1, 1, 1)
        offset = counts - length
        bias = np.where(keys < counts, bias, real(-np.inf))
    ahead = keys - (np.arange(length)[:, None] + offset)
    left, right = ctx.attr("left_window_size"), ctx.attr("right_window_size")
    if ctx.attr("is_causal"):
        bias = np.where(ahead <= 0, bias, real(-np.inf))
    if left >= 0:
        bias = np.where(ahead >= -left, bias, real(-np.inf))
    if right >= 0:
        bias = np.where(ahead <= right, bias, real(-np.inf))
    return bias


def _evaluate_attention(
    ctx: EvalContext,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    valid: Array | None = None,
) -> tuple[Array, ...]:
    flat = q.ndim == 3
    dtype = q.dtype
    if flat:
        kv_heads = ctx.attr("kv_num_heads")
        q = split_heads(q, ctx.attr("q_num_heads"))
        k, v = split_heads(k, kv_heads), split_heads(v, kv_heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k = np.concatenate([past_key, k], axis=2)
        v = np.concatenate([past_value, v], axis=2)
    heads = q.shape[1]
    key, value = share_heads(widen(k), heads), share_heads(widen(v), heads)
    scale = ctx.attr("scale")
    real = accumulator(dtype).type
    # Both factors are scaled by the root, which keeps products of narrow types in range.
    root = real(np.sqrt(1 / np.sqrt(q.shape[3]) if scale is None else scale))
    scores = (widen(q) * root) @ np.swapaxes(key * root, 2, 3)
    mode, qk = ctx.attr("qk_matmul_output_mode"), scores
    softcap = ctx.attr("softcap")
    if softcap > 0:
        scores = real(softcap) * np.tanh(scores / real(softcap))
    qk = scores if mode == 1 else qk
    bias = _bias(ctx, scores, mask, past, valid)
    qk = scores + bias if mode == 2 else qk
    weights = _softmax_in(scores, bias, ctx.attr("softmax_precision"))
    qk = weights if mode == 3 else qk
    y = narrow(weights.astype(value.dtype, copy=False) @ value, dtype)
    return join_heads(y) if flat else y, k, v, narrow(qk, dtype)


def _softmax_in(scores: Array, bias: Array, precision: int | None) -> Array:
    if precision is None:
        return masked_softmax(scores, bias)
    stored = DType(precision).numpy
    # Rounded to that type, computed in its accumulator, rounded again.
    acc = accumulator(stored)
    with np.errstate(invalid="ignore"):
        summed = narrow(scores + bias, stored).astype(acc)
    dead = np.where(np.isneginf(bias), acc.type(-np.inf), acc.type(0))
    return narrow(masked_softmax(summed, dead), stored)


def _attention_flops(node: Node) -> Dim | None:
    q, k, v = (value.shape if value is not None else None for value in node.inputs[:3])
    out = node.output.tensor.numel
    if q is None or k is None or v is None or out is None:
        return None
    total = k[-2]
    past = node.input(4)
    if past is not None and past.shape is not None:
        total = total + past.shape[2]
    q_numel = node.inputs[0].tensor.numel if node.inputs[0] is not None else None
    return None if q_numel is None else 2 * total * (q_numel + out)


# ---- FlexAttention ----


def _infer_flex(ctx: InferContext) -> Type:
    q, k, v = ctx.shape(0), ctx.shape(1), ctx.shape(2)
    if q is None or k is None or v is None:
        return TensorType(ctx.dtype(0), None)
    if len(q) != 4:
        ctx.fail(f"its operands must have 4 axes, not {len(q)}")
    h = _heads(ctx, q, k, v)
    return TensorType(ctx.dtype(0), (h.batch, h.q_heads, h.q_length, h.v_size))


def _evaluate_flex(ctx: EvalContext, q: Array, k: Array, v: Array) -> Array:
    precision = ctx.attr("softmax_precision")
    stored = accumulator(q.dtype) if precision is None else DType(precision).numpy
    heads, scale = q.shape[1], ctx.attr("scale")
    wide = accumulator(q.dtype).type
    root = wide(np.sqrt(1 / np.sqrt(q.shape[3]) if scale is None else scale))
    scores = (widen(q) * root) @ np.swapaxes(share_heads(widen(k), heads) * root, 2, 3)
    scores = narrow(scores, stored)
    if ctx.attr("score_mod") is not None:
        scores = ctx.run_region(ctx.attr("score_mod"), [scores])[0]
    weights = narrow(softmax(widen(scores)), stored)
    if ctx.attr("prob_mod") is not None:
        weights = ctx.run_region(ctx.attr("prob_mod"), [weights])[0]
    value = share_heads(v, heads).astype(weights.dtype, copy=False)
    return narrow(widen(weights) @ widen(value), v.dtype)


# ---- RotaryEmbedding ----


def rotate(x: Array, cos: Array, sin: Array, interleaved: bool, width: int) -> Array:
    """Rotates the first ``width`` of the last axis of x [batch, heads, length, size].

    ``cos`` and ``sin`` are [batch, length, width/2].
    """
    if cos.shape[-1] != width // 2 or sin.shape[-1] != width // 2:
        raise ValueError(f"the caches hold {cos.shape[-1]} angles, but {width // 2} are rotated")
    turned, rest = x[..., :width], x[..., width:]
    c, s = cos[:, None], sin[:, None]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned[..., : width // 2], turned[..., width // 2 :]
    real, imaginary = c * a - s * b, s * a + c * b
    if interleaved:
        turned = np.stack([real, imaginary], axis=-1).reshape(turned.shape)
    else:
        turned = np.concatenate([real, imaginary], axis=-1)
    return np.concatenate([turned, rest], axis=-1)


def _infer_rotary(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is not None and len(shape) not in (3, 4):
        ctx.fail(f"its input must have 3 or 4 axes, not {len(shape)}")
    if shape is not None and len(shape) == 3 and not ctx.attr("num_heads"):
        ctx.fail("an input of 3 axes needs num_heads")
    return ctx.type(0)


def _evaluate_rotary(
    ctx: EvalContext, x: Array, cos: Array, sin: Array, positions: Array | None = None
) -> Array:
    data = split_heads(x, ctx.attr("num_heads")) if x.ndim == 3 else x
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    width = ctx.attr("rotary_embedding_dim") or data.shape[3]
    y = rotate(widen(data), widen(cos), widen(sin), bool(ctx.attr("interleaved")), width)
    return narrow(join_heads(y) if x.ndim == 3 else y, x.dtype)


# ---- LinearAttention ----


def _infer_linear(ctx: InferContext) -> tuple[Type, Type]:
    query, value = ctx.tensor(0), ctx.shape(2)
    state = ctx.dtype(3) if ctx.has(3) else query.dtype
    q_heads, kv_heads = ctx.attr("q_num_heads"), ctx.attr("kv_num_heads")
    if q_heads < 1 or kv_heads < 1 or q_heads % kv_heads:
        ctx.fail(f"{q_heads} query heads do not share {kv_heads} key heads evenly")
    if query.shape is None or value is None:
        return TensorType(query.dtype, None), TensorType(state, None)
    if len(query.shape) != 3 or len(value) != 3:
        ctx.fail("query, key and value must have 3 axes")
    batch, length, hidden = query.shape
    d_k, d_v = hidden // q_heads, value[2] // kv_heads
    out = TensorType(query.dtype, (batch, length, q_heads * d_v))
    return out, TensorType(state, (batch, kv_heads, d_k, d_v))


def _evaluate_linear(
    ctx: EvalContext,
    query: Array,
    key: Array,
    value: Array,
    past: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
) -> tuple[Array, Array]:
    rule = ctx.attr("update_rule")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        ctx.fail(f"update_rule is '{rule}'")
    if (decay is not None) != ("gated" in rule) or (beta is not None) != ("delta" in rule):
        ctx.fail(f"operands decay and beta do not fit update_rule '{rule}'")
    q_heads, kv_heads = ctx.attr("q_num_heads"), ctx.attr("kv_num_heads")
    wide = np.float32
    q = split_heads(query, q_heads).astype(wide)
    k, v = (split_heads(x, kv_heads).astype(wide) for x in (key, value))
    batch, _, length, d_k = q.shape
    group = q_heads // kv_heads
    scale = wide(ctx.attr("scale") or 1 / np.sqrt(d_k))
    if past is None:
        state = np.zeros((batch, kv_heads, d_k, v.shape[3]), dtype=wide)
    else:
        state = past.astype(wide)
    # One decay a head, or one a key dimension; one beta a head, or one for all.
    gates = None if decay is None else np.exp(split_heads(decay, kv_heads).astype(wide))
    rates = None if beta is None else split_heads(beta, beta.shape[2]).astype(wide)
    y = np.zeros((batch, q_heads, length, v.shape[3]), dtype=wide)
    for t in range(length):
        k_t, v_t = k[:, :, t], v[:, :, t]
        if gates is not None:
            state = state * gates[:, :, t, :, None]
        if rates is not None:
            v_t = rates[:, :, t] * (v_t - np.einsum("bhdm,bhd->bhm", state, k_t))
        state = state + k_t[..., :, None] * v_t[..., None, :]
        grouped = q[:, :, t].reshape(batch, kv_heads, group, d_k)
        y[:, :, t] = (scale * (grouped @ state)).reshape(batch, q_heads, -1)
    return narrow(join_heads(y), query.dtype), narrow(
        state, query.dtype if past is None else past.dtype
    )


def _linear_flops(node: Node) -> Dim | None:
    state = node.outputs[1].shape if len(node.outputs) > 1 else None
    query = node.inputs[0].shape if node.inputs[0] is not None else None
    if state is None or query is None:
        return None
    return 8 * query[1] * state[0] * state[1] * state[2] * state[3]


_attention_cost: Any = cost_of(_attention_flops)

register(
    OpDef(
        "Attention",
        inputs=("Q", "K", "V", "attn_mask?", "past_key?", "past_value?", "nonpad_kv_seqlen?"),
        outputs=("Y", "present_key?", "present_value?", "qk_matmul_output?"),
        attrs=attr_specs(
            is_causal=("i", 0),
            kv_num_heads="i",
            left_window_size=("i", -1),
            q_num_heads="i",
            qk_matmul_output_mode=("i", 0),
            right_window_size=("i", -1),
            scale="f",
            softcap=("f", 0.0),
            softmax_precision="i",
        ),
        infer=_infer_attention,
        evaluate=_evaluate_attention,
        cost=_attention_cost,
    ),
    OpDef(
        "FlexAttention",
        "ai.onnx.preview",
        inputs=("Q", "K", "V"),
        attrs=attr_specs(prob_mod="g", scale="f", score_mod="g", softmax_precision="i"),
        infer=_infer_flex,
        evaluate=_evaluate_flex,
        cost=_attention_cost,
    ),
    OpDef(
        "RotaryEmbedding",
        inputs=("X", "cos_cache", "sin_cache", "position_ids?"),
        attrs=attr_specs(interleaved=("i", 0), num_heads="i", rotary_embedding_dim=("i", 0)),
        infer=_infer_rotary,
        evaluate=_evaluate_rotary,
    ),
    OpDef(
        "LinearAttention",
        inputs=("query", "key", "value", "past_state?", "decay?", "beta?"),
        outputs=("output", "present_state"),
        attrs=attr_specs(
            chunk_size=("i", 64),
            kv_num_heads=("i", REQUIRED),
            q_num_heads=("i", REQUIRED),
            scale=("f", 0.0),
            update_rule=("s", "gated_delta"),
        ),
        infer=_infer_linear,
        evaluate=_evaluate_linear,
        cost=cost_of(_linear_flops),
    ),
)
