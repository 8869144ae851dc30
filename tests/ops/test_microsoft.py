"""Ops of com.microsoft beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime.capi.onnxruntime_pybind11_state as native
import pytest

from graphopt import ops
from tests.ops.oracle import assert_same, interpret

MS = "com.microsoft"


def real(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Any:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def same(name: str, inputs: list[Any], attrs: Any = None, outputs: int = 1, **options: Any) -> None:
    assert_same(name, inputs, attrs or {}, outputs, domain=MS, opset=1, **options)


@pytest.mark.parametrize("name", ops.names(MS))
def test_attributes_are_those_of_onnxruntime(name: str) -> None:
    schemas = native.get_all_operator_schema()
    (schema,) = (s for s in schemas if s.domain == MS and s.name == name)
    op = ops.get(name, MS)
    assert len(op.inputs) == len(schema.inputs)
    assert len(op.outputs) == len(schema.outputs)
    # Newer releases add attributes; what an op has must exist, and so must what it requires.
    assert set(op.attrs) <= set(schema.attributes)
    assert {n for n, a in schema.attributes.items() if a.required} <= set(op.attrs)


def test_activations() -> None:
    x = real(3, 4) * 3
    same("Gelu", [x])
    same("QuickGelu", [x], {"alpha": 1.5})
    same("FastGelu", [x])
    same("FastGelu", [x, real(4, seed=1)])
    same("BiasGelu", [x, real(4, seed=1)])


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("swap", [0, 1])
def test_fused_matmul(batch: int, swap: int) -> None:
    attrs = {"transBatchA": batch, "transA": swap, "transB": 1, "alpha": 0.5}
    shape = [2, 4, 3] if not swap else [2, 3, 4]
    if batch:  # matrices [2, 4, 3] with their first two axes exchanged, before or after the swap
        shape = [shape[1], shape[0], shape[2]]
    same("FusedMatMul", [real(*shape), real(2, 5, 3, seed=1)], attrs)


@pytest.mark.parametrize("bias", [False, True])
def test_skip_normalizations(bias: bool) -> None:
    x, skip, gamma = real(2, 3, 8), real(2, 3, 8, seed=1), real(8, seed=2)
    beta, offset = real(8, seed=3), real(8, seed=4) if bias else None
    # onnxruntime's CPU kernel leaves mean and deviation out: outputs 0 and 3 compare.
    for name, operands in (
        ("SkipLayerNormalization", [x, skip, gamma, beta, offset]),
        ("SkipSimplifiedLayerNormalization", [x, skip, gamma, offset]),
    ):
        same(name, operands, {"epsilon": 1e-5})
        total = interpret(name, operands, {"epsilon": 1e-5}, 4, MS)[3]
        np.testing.assert_allclose(total, x + skip + (0 if offset is None else offset), rtol=1e-6)


def test_simplified_layer_normalization() -> None:
    operands = [real(2, 3, 8), real(8, seed=1)]
    assert_same("SimplifiedLayerNormalization", operands, {"epsilon": 1e-3}, 2, opset=1)


@pytest.mark.parametrize("segments", [False, True])
def test_embed_layer_normalization(segments: bool) -> None:
    ids = np.array([[1, 4, 2], [0, 3, 3]], np.int32)
    kinds = np.array([[0, 1, 1], [0, 0, 1]], np.int32)
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    operands = [
        ids, kinds if segments else None, real(6, 8), real(5, 8, seed=1),
        real(2, 8, seed=2) if segments else None, real(8, seed=3), real(8, seed=4), mask,
    ]  # fmt: skip
    same("EmbedLayerNormalization", operands, {"epsilon": 1e-5}, 2)


# ---- quantized ----


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("columns", [(), (5,)])
def test_products_to_float(kind: Any, columns: tuple[int, ...]) -> None:
    b, scale = whole(4, 5, dtype=kind), np.asarray(np.abs(real(*columns)) * 0.01)
    zero = np.asarray(whole(*columns, seed=1, dtype=kind))
    same("DynamicQuantizeMatMul", [real(2, 3, 4), b, scale, zero, real(5, seed=2)])
    a = whole(2, 3, 4, seed=3)
    factor = np.array(0.02, np.float32)
    same("MatMulIntegerToFloat", [a, b, factor, scale, np.array(3, np.uint8), zero])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("depth", [32, 40])
def test_matmul_of_a_few_bits(bits: int, zeros: bool, depth: int) -> None:
    rows, block = 5, 16
    blocks = -(-depth // block)
    packed = whole(rows, blocks, block * bits // 8)
    operands = [real(2, 3, depth), packed, np.abs(real(rows, blocks, seed=1))]
    if zeros:
        operands.append(whole(rows, -(-blocks * bits // 8), seed=2))
    attrs = {"K": depth, "N": rows, "bits": bits, "block_size": block}
    same("MatMulNBits", operands, attrs, rtol=1e-3, atol=1e-2 if bits == 8 else 1e-3)


def test_quantized_elementwise() -> None:
    a, b = whole(2, 3, 4, 4), whole(3, 1, 1, seed=1)
    scale, zero = np.array(0.05, np.float32), np.array(100, np.uint8)
    # A rounding of the other product order may move a tie by one.
    for name in ("QLinearAdd", "QLinearMul"):
        operands = [a, scale, zero, b, scale, zero, np.array(0.2, np.float32), zero]
        same(name, operands, atol=1)
    y_scale = np.array(1 / 256, np.float32)
    same("QLinearSigmoid", [a, scale, zero, y_scale, np.array(0, np.uint8)], atol=1)
    same("QLinearLeakyRelu", [a, scale, zero, scale, zero], {"alpha": 0.1}, atol=1)
    same("QLinearGlobalAveragePool", [a, scale, zero, scale, zero], atol=1)
    triple = np.array(0.15, np.float32)
    joined = [np.array(0.1, np.float32), zero, a, scale, zero, a, triple, zero]
    same("QLinearConcat", joined, {"axis": 1}, atol=1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_quantize_and_back(kind: Any) -> None:
    x, scale = real(3, 4) * 20, np.abs(real(4, seed=1)) + 0.1
    zero = np.full(4, 5, kind)
    same("QuantizeLinear", [x, scale, zero], {"axis": 1}, atol=0)
    same("DequantizeLinear", [whole(3, 4, dtype=kind), scale, zero], {"axis": 1}, atol=0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_dynamic_quantize_lstm(direction: str) -> None:
    count, features, hidden = (2 if direction == "bidirectional" else 1), 3, 4
    w = whole(count, features, 4 * hidden, dtype=np.int8)
    r = whole(count, hidden, 4 * hidden, seed=1, dtype=np.int8)
    scale, zero = np.full(count, 0.01, np.float32), np.zeros(count, np.int8)
    operands = [
        real(5, 1, features), w, r, real(count, 8 * hidden, seed=2), None, None, None, None,
        scale, zero, scale, zero,
    ]  # fmt: skip
    attrs = {"direction": direction, "hidden_size": hidden}
    same("DynamicQuantizeLSTM", operands, attrs, 3, rtol=1e-3, atol=1e-3)


# ---- attention ----


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("mask", [None, "lengths", "keys"])
def test_multi_head_attention(past: int, mask: str | None) -> None:
    heads, size, steps = 2, 4, 3
    total = past + steps
    q, k, v = (real(2, steps, heads * size, seed=i) for i in range(3))
    bias = real(3 * heads * size, seed=4)
    masks = {
        "lengths": np.array([total, total - 2], np.int32),
        "keys": (np.arange(2 * total).reshape(2, total) % 4 > 0).astype(np.int32),
    }
    added = real(1, heads, steps, total, seed=5)
    cache = [real(2, heads, past, size, seed=6 + i) if past else None for i in range(2)]
    operands = [q, k, v, bias, masks.get(mask or ""), added, *cache]
    same("MultiHeadAttention", operands, {"num_heads": heads}, 3)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [0, 3])
def test_projected_attention(causal: int, past: int) -> None:
    heads, size, steps = 2, 4, 3
    hidden = heads * size
    mask = np.ones((2, past + steps), np.int32)
    mask[1, 0] = 0
    operands = [
        real(2, steps, 6), real(6, 3 * hidden, seed=1), real(3 * hidden, seed=2), mask,
        real(2, 2, heads, past, size, seed=3) if past else None,
    ]  # fmt: skip
    attrs = {"num_heads": heads, "unidirectional": causal}
    same("Attention", operands, attrs, 2 if past else 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("window", [-1, 2])
def test_group_query_attention(packed: bool, rotary: int, window: int) -> None:
    heads, kv_heads, size = 4, 2, 16
    attrs: dict[str, Any] = {
        "num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": rotary,
        "local_window_size": window,
    }  # fmt: skip
    angles = [real(16, size // 2, seed=5 + i) for i in range(2)] if rotary else [None, None]
    for steps, past in ((4, 0), (1, 5)):
        parts = [real(2, steps, n * size, seed=n) for n in (heads, kv_heads, kv_heads)]
        cache = [real(2, kv_heads, past, size, seed=7 + i) if past else None for i in range(2)]
        operands = [np.concatenate(parts, axis=2), None, None] if packed else parts
        total = past + steps
        lengths = np.full(2, total - 1, np.int32)
        operands = [*operands, *cache, lengths, np.array(total, np.int32), *angles]
        same("GroupQueryAttention", operands, attrs, 3)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [np.array([3]), np.array([[0, 1, 4], [5, 5, 9]])])
def test_rotary_embedding(interleaved: int, positions: Any) -> None:
    x, cos, sin = real(2, 3, 16), real(12, 4, seed=1), real(12, 4, seed=2)
    same("RotaryEmbedding", [x, positions, cos, sin], {"interleaved": interleaved})
