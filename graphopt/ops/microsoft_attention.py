"""Attention of the domain com.microsoft: MultiHeadAttention, Attention, GroupQueryAttention,
RotaryEmbedding. Semantics are onnxruntime's."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dim import Dim, dim_max
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.attention import join_heads, rotate, share_heads, split_heads
from graphopt.ops.microsoft import MS
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs
from graphopt.ops.softmax import softmax

__all__: list[str] = []

Shape = tuple[Dim, ...]


def _scale(ctx: EvalContext, size: int) -> float:
    given: float = ctx.attr("scale")
    return given or 1 / float(np.sqrt(size))


def _filtered(keep: Array, fill: float) -> Array:
    return np.where(keep, np.float32(0), np.float32(fill))


def _key_mask(mask: Array, batch: int, total: int, fill: float) -> Array:
    """What a mask of keys adds to scores [batch, heads, queries, keys].

    It holds lengths [batch], or 0 and 1 as [batch, keys], [batch, queries, keys] or with heads.
    """
    if mask.ndim == 1 and mask.shape[0] == batch:
        return _filtered(np.arange(total) < mask[:, None], fill)[:, None, None]
    if mask.ndim == 1 and mask.shape[0] == 2 * batch:
        # Ends, then starts.
        keys = np.arange(total)
        keep = (keys < mask[:batch, None]) & (keys >= mask[batch:, None])
        return _filtered(keep, fill)[:, None, None]
    if mask.ndim == 2 and mask.shape[1] == total:
        return _filtered(mask != 0, fill)[:, None, None]
    if mask.ndim == 3 and mask.shape[2] == total:
        return _filtered(mask != 0, fill)[:, None]
    raise ValueError(f"a mask of shape {mask.shape} is not one that can be read")


def _attend(
    ctx: EvalContext, q: Array, k: Array, v: Array, bias: Array | None
) -> tuple[Array, Array]:
    """Output [batch, heads, queries, size] and probabilities, all in f32 or wider."""
    scores = widen(q) @ np.swapaxes(widen(k), 2, 3) * np.float32(_scale(ctx, q.shape[3]))
    if bias is not None:
        scores = scores + bias
    if ctx.attr("unidirectional"):
        ahead = np.arange(k.shape[2]) - np.arange(q.shape[2])[:, None]
        late = ahead > k.shape[2] - q.shape[2]
        scores = np.where(late, np.finfo(scores.dtype).min, scores)
    weights = softmax(scores)
    return weights @ widen(v), weights


# ---- MultiHeadAttention ----


def _infer_multi_head(ctx: InferContext) -> tuple[Type, ...]:
    dtype, q = ctx.dtype(0), ctx.shape(0)
    heads = ctx.attr("num_heads")
    if q is not None and len(q) != 3:
        ctx.fail(f"packed queries of {len(q)} axes are not supported: split them")
    k = ctx.shape(1) if ctx.has(1) else q
    v = ctx.shape(2) if ctx.has(2) else q
    if q is None or k is None or v is None:
        return tuple(TensorType(dtype, None) for _ in range(4))
    if len(k) == 5 or len(v) == 5:
        ctx.fail("packed keys and values are not supported: split them")
    total: Dim = k[2] if len(k) == 4 else k[1]
    if ctx.has(6):
        past = ctx.shape(6)
        total = total + (ctx.fresh("past") if past is None else past[2])
    hidden = v[1] * v[3] if len(v) == 4 else v[2]
    size, v_size = q[2] // heads, hidden // heads
    return (
        TensorType(dtype, (q[0], q[1], hidden)),
        TensorType(dtype, (q[0], heads, total, size)),
        TensorType(dtype, (q[0], heads, total, v_size)),
        TensorType(dtype, (q[0], heads, q[1], total)),
    )


def _evaluate_multi_head(
    ctx: EvalContext,
    q: Array,
    k: Array | None = None,
    v: Array | None = None,
    bias: Array | None = None,
    mask: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    *sharing: Array | None,
) -> tuple[Array, ...]:
    if k is None or v is None or any(operand is not None for operand in sharing):
        ctx.fail("packed operands and shared buffers are not supported")
    heads = ctx.attr("num_heads")
    offsets: list[Array | None] = [None, None, None]
    if bias is not None:
        width = q.shape[2]
        offsets = [bias[:width], bias[width : 2 * width], bias[2 * width :]]
    parts = []
    for x, offset in zip((q, k, v), offsets, strict=True):
        if x.ndim == 4:  # split into heads already: keys and values of another sequence
            parts.append(x)
        else:
            parts.append(split_heads(x if offset is None else x + offset, heads))
    query, key, value = parts
    if past_key is not None and past_value is not None:
        key = np.concatenate([past_key, key], axis=2)
        value = np.concatenate([past_value, value], axis=2)
    total: Array | None = None if attention_bias is None else widen(attention_bias)
    if mask is not None:
        added = _key_mask(mask, len(q), key.shape[2], ctx.attr("mask_filter_value"))
        total = added if total is None else total + added
    y, weights = _attend(ctx, query, key, value, total)
    return narrow(join_heads(y), q.dtype), key, value, narrow(weights, q.dtype)


# ---- Attention, with its own projection ----


def _infer_projected(ctx: InferContext) -> tuple[Type, Type]:
    data, weight = ctx.tensor(0), ctx.shape(1)
    if data.shape is None or weight is None:
        return TensorType(data.dtype, None), TensorType(data.dtype, None)
    heads, sizes = ctx.attr("num_heads"), ctx.attr("qkv_hidden_sizes")
    hidden: Dim = sizes[2] if sizes else weight[1] // 3
    batch, length = data.shape[:2]
    total: Dim = length
    if ctx.has(4):
        past = ctx.shape(4)
        total = total + (ctx.fresh("past") if past is None else past[3])
    return (
        TensorType(data.dtype, (batch, length, hidden)),
        TensorType(data.dtype, (2, batch, heads, total, hidden // heads)),
    )


def _evaluate_projected(
    ctx: EvalContext,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    past: Array | None = None,
    attention_bias: Array | None = None,
    past_length: Array | None = None,
) -> tuple[Array, Array]:
    if past_length is not None or ctx.attr("past_present_share_buffer") or ctx.attr("do_rotary"):
        ctx.fail("shared buffers and rotary positions are not supported here")
    projected = widen(x) @ widen(weight)
    if bias is not None:
        projected = projected + widen(bias)
    sizes = ctx.attr("qkv_hidden_sizes") or (weight.shape[1] // 3,) * 3
    bounds = [sizes[0], sizes[0] + sizes[1]]
    heads = ctx.attr("num_heads")
    q, k, v = (split_heads(part, heads) for part in np.split(projected, bounds, axis=2))
    if past is not None:
        k = np.concatenate([widen(past[0]), k], axis=2)
        v = np.concatenate([widen(past[1]), v], axis=2)
    total: Array | None = None if attention_bias is None else widen(attention_bias)
    if mask is not None:
        added = _key_mask(mask, len(x), k.shape[2], ctx.attr("mask_filter_value"))
        total = added if total is None else total + added
    y, _ = _attend(ctx, q, k, v, total)
    present = np.stack([k, v]) if sizes[0] == sizes[2] else np.zeros((2, *k.shape))
    return narrow(join_heads(y), x.dtype), narrow(present, x.dtype)


# ---- GroupQueryAttention ----


def _group_sizes(ctx: InferContext, q: Shape) -> tuple[Dim, Dim]:
    """Features of the output, and of one head."""
    heads, kv_heads = ctx.attr("num_heads"), ctx.attr("kv_num_heads")
    size = q[2] // heads if ctx.has(1) else q[2] // (heads + 2 * kv_heads)
    return size * heads, size


def _infer_group(ctx: InferContext) -> tuple[Type, ...]:
    dtype, q = ctx.dtype(0), ctx.shape(0)
    if q is None:
        return tuple(TensorType(dtype, None) for _ in range(4))
    hidden, size = _group_sizes(ctx, q)
    cache = ctx.shape(3) if ctx.has(3) else None
    # The cache grows to the total length, unless it is a buffer that is that long already.
    known = ctx.elements(6)
    total: Dim = known[0] if known else ctx.fresh("total")
    kept = dim_max(total, cache[2]) if known and cache is not None else ctx.fresh("present")
    if cache is None:
        kept = total
    present = TensorType(dtype, (q[0], ctx.attr("kv_num_heads"), kept, size))
    scores = TensorType(dtype, (q[0], ctx.attr("num_heads"), q[1], total))
    return TensorType(dtype, (q[0], q[1], hidden)), present, present, scores


_GROUP_INPUTS = (
    "query", "key?", "value?", "past_key?", "past_value?", "seqlens_k", "total_sequence_length",
    "cos_cache?", "sin_cache?", "position_ids?", "attention_bias?", "head_sink?", "k_scale?",
    "v_scale?", "q_norm_weight?", "k_norm_weight?", "query_seqlens?",
)  # fmt: skip


def _evaluate_group(ctx: EvalContext, *operands: Array | None) -> tuple[Array, ...]:
    given = dict(zip((n.rstrip("?") for n in _GROUP_INPUTS), operands, strict=False))
    beyond = ("k_scale", "v_scale", "q_norm_weight", "k_norm_weight", "query_seqlens")
    named = [name for name in beyond if given.get(name) is not None]
    if named:
        ctx.fail(f"operand {named[0]} is not supported")
    if ctx.attr("sliding_window_cache") or ctx.attr("qk_output"):
        ctx.fail("neither a window-sized cache nor the output of scores is supported")
    query = given["query"]
    lengths, total = given["seqlens_k"], given["total_sequence_length"]
    assert query is not None and lengths is not None and total is not None
    heads, kv_heads = ctx.attr("num_heads"), ctx.attr("kv_num_heads")
    key, value = given["key"], given["value"]
    if key is None or value is None:
        size = query.shape[2] // (heads + 2 * kv_heads)
        bounds = [heads * size, (heads + kv_heads) * size]
        query, key, value = np.split(query, bounds, axis=2)
    q, k, v = split_heads(query, heads), split_heads(key, kv_heads), split_heads(value, kv_heads)
    valid = lengths.ravel().astype(np.int64) + 1
    whole, steps = int(total.item()), q.shape[2]
    # Where the new tokens go: behind those that are cached, or to the front of a prompt.
    past = np.zeros_like(valid) if steps == whole else valid - steps
    positions = given.get("position_ids")
    at = past[:, None] + np.arange(steps) if positions is None or steps == whole else positions
    if ctx.attr("do_rotary"):
        cos, sin = given["cos_cache"], given["sin_cache"]
        assert cos is not None and sin is not None
        angles = widen(cos[at]), widen(sin[at])
        interleaved, width = bool(ctx.attr("rotary_interleaved")), 2 * cos.shape[1]
        q, k = (narrow(rotate(widen(x), *angles, interleaved, width), x.dtype) for x in (q, k))
    present = [
        _appended(old, new, past, whole)
        for old, new in ((given["past_key"], k), (given["past_value"], v))
    ]
    y = _group_attend(ctx, q, present[0][:, :, :whole], present[1][:, :, :whole], past, given)
    return narrow(join_heads(y), query.dtype), *present


def _appended(old: Array | None, new: Array, past: Array, total: int) -> Array:
    length = total if old is None else max(total, old.shape[2])
    present = np.zeros((*new.shape[:2], length, new.shape[3]), dtype=new.dtype)
    for b, start in enumerate(past):
        if old is not None:
            present[b, :, :start] = old[b, :, :start]
        room = min(new.shape[2], length - start)
        present[b, :, start : start + room] = new[b, :, :room]
    return present


def _group_attend(
    ctx: EvalContext, q: Array, k: Array, v: Array, past: Array, given: dict[str, Array | None]
) -> Array:
    heads = q.shape[1]
    key, value = share_heads(widen(k), heads), share_heads(widen(v), heads)
    scores = widen(q) @ np.swapaxes(key, 2, 3) * np.float32(_scale(ctx, q.shape[3]))
    softcap = ctx.attr("softcap") or 0.0
    if softcap:
        scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
    bias = given.get("attention_bias")
    if bias is not None:
        scores = scores + widen(bias)[..., : scores.shape[3]]
    keys = np.arange(scores.shape[3])
    at = (past[:, None] + np.arange(q.shape[2]))[:, None, :, None]
    hidden = np.zeros(scores.shape, dtype=bool)
    if ctx.attr("causal"):
        hidden = hidden | (keys > at)
    if ctx.attr("local_window_size") > 0:
        hidden = hidden | (keys <= at - ctx.attr("local_window_size"))
    scores = np.where(hidden, -np.inf, scores)
    sink = given.get("head_sink")
    if sink is None and ctx.attr("smooth_softmax") <= 0:
        return np.asarray(softmax(scores) @ value)
    # One more key without value, whose score is the head's sink.
    rest = np.zeros(heads, dtype=scores.dtype) if sink is None else widen(sink)
    column = np.broadcast_to(rest[:, None, None], (*scores.shape[:3], 1))
    weights = softmax(np.concatenate([scores, column], axis=3))[..., :-1]
    return np.asarray(weights @ value)


# ---- RotaryEmbedding ----


def _infer_rotary(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is not None and len(shape) not in (3, 4):
        ctx.fail(f"its input must have 3 or 4 axes, not {len(shape)}")
    return ctx.type(0)


def _evaluate_rotary(ctx: EvalContext, x: Array, positions: Array, cos: Array, sin: Array) -> Array:
    width = ctx.attr("rotary_embedding_dim") or 2 * cos.shape[1]
    data = x
    if x.ndim == 3:
        data = split_heads(x, ctx.attr("num_heads") or x.shape[2] // width)
    # One number is where the first token stands.
    at = positions
    if positions.size == 1 and positions.ndim == 1:
        at = np.broadcast_to(positions + np.arange(data.shape[2]), (len(x), data.shape[2]))
    y = rotate(widen(data), widen(cos[at]), widen(sin[at]), bool(ctx.attr("interleaved")), width)
    return narrow(join_heads(y) if x.ndim == 3 else y, x.dtype)


register(
    OpDef(
        "MultiHeadAttention",
        MS,
        inputs=(
            "query", "key?", "value?", "bias?", "key_padding_mask?", "attention_bias?",
            "past_key?", "past_value?", "past_sequence_length?", "cache_indirection?",
        ),
        outputs=("output", "present_key?", "present_value?", "qk?"),
        attrs=attr_specs(
            mask_filter_value=("f", -10000.0),
            num_heads=("i", REQUIRED),
            scale="f",
            unidirectional=("i", 0),
        ),
        infer=_infer_multi_head,
        evaluate=_evaluate_multi_head,
    ),
    OpDef(
        "Attention",
        MS,
        inputs=(
            "input", "weights", "bias?", "mask_index?", "past?", "attention_bias?",
            "past_sequence_length?",
        ),
        outputs=("output", "present?"),
        attrs=attr_specs(
            do_rotary=("i", 0),
            mask_filter_value=("f", -10000.0),
            num_heads=("i", REQUIRED),
            past_present_share_buffer=("i", 0),
            qkv_hidden_sizes="ints",
            rotary_embedding_dim=("i", 0),
            scale="f",
            unidirectional=("i", 0),
        ),
        infer=_infer_projected,
        evaluate=_evaluate_projected,
    ),
    OpDef(
        "GroupQueryAttention",
        MS,
        inputs=_GROUP_INPUTS,
        outputs=("output", "present_key", "present_value", "output_qk?"),
        attrs=attr_specs(
            causal=("i", 1),
            do_rotary=("i", 0),
            k_norm_epsilon="f",
            k_quant_type=("s", "NONE"),
            kv_cache_bit_width=("i", 0),
            kv_num_heads=("i", REQUIRED),
            local_window_size=("i", -1),
            num_heads=("i", REQUIRED),
            q_norm_epsilon="f",
            qk_norm_epsilon=("f", 1e-6),
            qk_output=("i", 0),
            rotary_interleaved=("i", 0),
            scale="f",
            sliding_window_cache=("i", 0),
            smooth_softmax=("i", -1),
            softcap="f",
            v_quant_type=("s", "NONE"),
        ),
        infer=_infer_group,
        evaluate=_evaluate_group,
    ),
    OpDef(
        "RotaryEmbedding",
        MS,
        inputs=("input", "position_ids", "cos_cache", "sin_cache"),
        outputs=("output",),
        attrs=attr_specs(
            interleaved=("i", 0),
            is_packed_batching=("i", 0),
            num_heads=("i", 0),
            rotary_embedding_dim=("i", 0),
            scale=("f", 1.0),
        ),
        infer=_infer_rotary,
        evaluate=_evaluate_rotary,
    ),
)  # fmt: skip
