"""Products, normalisations, quantization, sampling and attention: beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.ir import DType
from tests.ops.oracle import assert_same, interpret

FEW = settings(max_examples=25, deadline=None, derandomize=True)


def real(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def whole(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Any:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


# ---- products ----


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (4, 3, 2)),
        ((5, 1, 2, 3), (4, 3, 2)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 4)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: Any) -> None:
    assert_same("MatMul", [real(*a, dtype=dtype), real(*b, seed=1, dtype=dtype)], {})


@FEW
@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, (), (4,), (1, 4), (3, 1), (3, 4)]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1.0, -2.0]),
)
def test_gemm(left: bool, right: bool, bias: Any, alpha: float, beta: float) -> None:
    a, b = real(*((5, 3) if left else (3, 5))), real(*((4, 5) if right else (5, 4)), seed=1)
    c = None if bias is None else np.asarray(real(*bias, seed=2))
    attrs = {"transA": int(left), "transB": int(right), "alpha": alpha, "beta": beta}
    assert_same("Gemm", [a, b, c], attrs)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 5, 4, 2)]),
        ("ij, jk", [(2, 3), (3, 4)]),
        ("bA,Ac->bc", [(2, 3), (3, 4)]),
        ("i...->...", [(3, 4, 2)]),
        ("a,b,c->cab", [(2,), (3,), (4,)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    operands = [real(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert_same("Einsum", operands, {"equation": equation})


# ---- quantized products ----


@pytest.mark.parametrize("a", [np.uint8, np.int8])
@pytest.mark.parametrize("b", [np.uint8, np.int8])
def test_matmul_integer(a: Any, b: Any) -> None:
    x, w = whole(2, 3, 5, dtype=a), whole(5, 4, seed=1, dtype=b)
    zero = np.array(7, a)
    assert_same("MatMulInteger", [x, w, zero, np.array(3, b)], {})
    assert_same("MatMulInteger", [x, w, zero, whole(4, seed=2, dtype=b)], {})


def test_zero_points_of_rows() -> None:
    # The specification has them by row of A; onnxruntime takes one for all.
    x, w, zero = whole(3, 5), whole(5, 4, seed=1), np.array([1, 200, 3], np.uint8)
    (y,) = interpret("MatMulInteger", [x, w, zero], {})
    expected = (x.astype(int) - zero[:, None].astype(int)) @ w.astype(int)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(kind: Any, per_column: bool) -> None:
    columns = (4,) if per_column else ()
    scale = np.asarray(np.abs(real(*columns, seed=3)) * 0.01 + 0.001)
    zero = np.asarray(whole(*columns, seed=4, dtype=np.int8))
    operands = [
        whole(3, 5, dtype=kind), np.array(0.02, np.float32), np.array(9, kind),
        whole(5, 4, seed=1, dtype=np.int8), scale, zero,
        np.array(0.3, np.float32), np.array(11, kind),
    ]  # fmt: skip
    assert_same("QLinearMatMul", operands, {}, atol=0, rtol=0, opset=21)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_convolutions(group: int, per_channel: bool) -> None:
    x, w = whole(1, 4, 6, 5), whole(8, 4 // group, 3, 2, seed=1, dtype=np.int8)
    attrs = {"group": group, "pads": [1, 0, 1, 1], "strides": [2, 1]}
    zero = np.array(5, np.uint8)
    assert_same("ConvInteger", [x, w, zero], attrs)
    channels = (8,) if per_channel else ()
    scale = np.asarray(np.abs(real(*channels, seed=3)) * 0.01 + 0.001)
    bias = whole(8, seed=5, dtype=np.int16).astype(np.int32)
    operands = [
        x, np.array(0.02, np.float32), zero, w, scale, np.zeros(channels, np.int8),
        np.array(0.1, np.float32), np.array(100, np.uint8), bias,
    ]  # fmt: skip
    assert_same("QLinearConv", operands, attrs, atol=0, rtol=0)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantize_and_back(kind: Any, axis: int | None) -> None:
    x = real(3, 4) * 50
    x[0, 0] = 2.5  # ties round to even
    shape = () if axis is None else (x.shape[axis],)
    scale = np.asarray(np.ones(shape, np.float32) * np.float32(0.5))
    zero = np.asarray(np.full(shape, 7, kind))
    attrs = {} if axis is None else {"axis": axis}
    assert_same("QuantizeLinear", [x, scale, zero], attrs, atol=0, rtol=0, opset=21)
    (y,) = interpret("QuantizeLinear", [x, scale, zero], attrs)
    assert_same("DequantizeLinear", [y, scale, zero], attrs, atol=0, rtol=0, opset=21)


@pytest.mark.parametrize("rows", [4, 5])
def test_blocked_quantization(rows: int) -> None:
    x, scale = real(rows, 3) * 10, np.abs(real(-(-rows // 2), 3, seed=1)) + 0.1
    zero = whole(*scale.shape, seed=2, dtype=np.uint8)
    attrs = {"axis": 0, "block_size": 2}
    assert_same("QuantizeLinear", [x, scale, zero], attrs, atol=0, rtol=0, opset=21)
    (y,) = interpret("QuantizeLinear", [x, scale, zero], attrs)
    assert_same("DequantizeLinear", [y, scale, zero], attrs, atol=0, rtol=0, opset=21)


@pytest.mark.parametrize("scale", [0.0, 1.0, -3.0])
def test_dynamic_quantization(scale: float) -> None:
    assert_same("DynamicQuantizeLinear", [real(3, 4) * np.float32(scale)], {}, 3, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [DType.I4, DType.U4, DType.I2, DType.F8E4M3FN, DType.F8E5M2])
def test_every_representable_value_survives_quantization(dtype: DType) -> None:
    codes = np.arange(1 << dtype.bits).astype(np.uint8)
    values = codes.view(dtype.numpy) if dtype.is_float else codes.astype(dtype.numpy)
    x = values.astype(np.float32)
    x = x[np.isfinite(x)]
    (y,) = interpret(
        "QuantizeLinear", [x * 4, np.array(4, np.float32)], {"output_dtype": int(dtype)}
    )
    assert DType.from_numpy(y.dtype) is dtype
    (back,) = interpret("DequantizeLinear", [y, np.array(4, np.float32)], {})
    np.testing.assert_array_equal(back, x * 4)


# ---- normalisations ----


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(axis: int, bias: bool) -> None:
    x = real(2, 3, 4) + 100  # far from 0: the variance must be that of centred values
    shape = x.shape[axis:]
    operands = [x, real(*shape, seed=1), real(*shape, seed=2) if bias else None]
    # 1e-4: 100 has an ulp of 8e-6, of which the deviation of 1 keeps five digits.
    assert_same("LayerNormalization", operands, {"axis": axis}, 3, rtol=1e-3, atol=1e-4, opset=17)


def test_channel_normalizations() -> None:
    x, scale, bias = real(2, 4, 3, 5), real(4, seed=1), real(4, seed=2)
    assert_same("InstanceNormalization", [x, scale, bias], {"epsilon": 1e-3})
    assert_same("GroupNormalization", [x, scale, bias], {"num_groups": 2}, opset=21)
    mean, var = real(4, seed=3), np.abs(real(4, seed=4))
    assert_same("BatchNormalization", [x, scale, bias, mean, var], {}, opset=15)
    assert_same("LRN", [x], {"size": 3, "alpha": 0.1, "bias": 2.0})
    assert_same("LRN", [x], {"size": 5, "beta": 0.5})


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, -1])
def test_lp_normalization(p: int, axis: int) -> None:
    x = real(3, 4)
    x[1] = 0
    (y,) = interpret("LpNormalization", [x], {"p": p, "axis": axis})
    norm = np.linalg.norm(x, p, axis=axis, keepdims=True)
    np.testing.assert_allclose(y, x / np.where(norm == 0, 1, norm), rtol=1e-5)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(name: str, axis: int) -> None:
    x = np.round(real(3, 4, 5) * 2) * 50  # equal maxima, and exponents that overflow
    assert_same(name, [x], {"axis": axis})
    with pytest.raises(ModelError, match="out of range"):
        interpret(name, [x], {"axis": 3})


# ---- sampling ----


@FEW
@given(
    st.sampled_from(["linear", "nearest", "cubic"]),
    st.sampled_from(["zeros", "border", "reflection"]),
    st.booleans(),
    st.sampled_from([(4, 5), (1, 6), (3, 2)]),
)
def test_grid_sample(mode: str, padding: str, corners: bool, space: tuple[int, int]) -> None:
    x, grid = real(2, 3, *space), real(2, 4, 3, 2, seed=1)
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": int(corners)}
    # Coordinates are f32 in both, weights of the cubic kernel amplify their ulps.
    assert_same("GridSample", [x, grid], attrs, rtol=1e-3, atol=1e-4, opset=20)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("shift", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, ratio: int, shift: str) -> None:
    rois = np.array([[1, 1, 7, 9], [0, 0, 30, 30], [5, 5, 5.5, 5.2]], np.float32)
    attrs = {
        "mode": mode, "sampling_ratio": ratio, "spatial_scale": 0.5, "output_height": 3,
        "output_width": 2, "coordinate_transformation_mode": shift,
    }  # fmt: skip
    assert_same("RoiAlign", [real(2, 3, 6, 7), rois, np.array([0, 1, 1])], attrs, opset=16)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("score", [None, 0.3])
@pytest.mark.parametrize("limit", [0, 2, 100])
def test_non_max_suppression(centred: int, score: float | None, limit: int) -> None:
    rng = np.random.default_rng(1)
    boxes = rng.random((2, 30, 4)).astype(np.float32)
    scores = np.round(rng.random((2, 3, 30)), 1).astype(np.float32)  # many ties
    operands = [boxes, scores, np.array([limit]), np.array([0.3], np.float32)]
    operands.append(None if score is None else np.array([score], np.float32))
    attrs = {"center_point_box": centred}
    assert_same("NonMaxSuppression", operands, attrs, atol=0, rtol=0, opset=11)


# ---- attention ----


@FEW
@given(
    st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    st.booleans(),
    st.sampled_from([None, "bool", "float"]),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([0.0, 3.0]),
)
def test_attention(
    heads: tuple[int, int], causal: bool, mask: str | None, past: int, flat: bool, softcap: float
) -> None:
    q_heads, kv_heads = heads
    length, size = 3, 4
    q = real(2, q_heads, length, size)
    k, v = real(2, kv_heads, length, size, seed=1), real(2, kv_heads, length, 5, seed=2)
    attrs: dict[str, Any] = {"is_causal": int(causal), "softcap": softcap}
    if flat:
        q, k, v = (
            np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(2, length, -1) for x in (q, k, v)
        )
        attrs |= {"q_num_heads": q_heads, "kv_num_heads": kv_heads}
    bias: Any = None
    if mask is not None:
        bias = real(length, length + past, seed=3)
        bias = bias > -1 if mask == "bool" else bias
        if mask == "bool":
            bias[:, 0] = True  # what a row without keys gives differs between versions
    cache = [real(2, kv_heads, past, d, seed=4) if past else None for d in (size, 5)]
    outputs = 3 if past else 1
    # onnxruntime's causal mask of opset 23 counts from the first key: no cache beside it.
    if causal and past:
        return
    assert_same("Attention", [q, k, v, bias, *cache], attrs, outputs, opset=23)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_rotary_embedding(interleaved: int, width: int) -> None:
    half = (width or 8) // 2
    x, cos, sin = real(2, 3, 5, 8), real(50, half, seed=1), real(50, half, seed=2)
    positions = np.array([[0, 3, 9, 9, 49], [4, 3, 2, 1, 0]])
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": width}
    if width:
        attrs["num_heads"] = 3
    assert_same("RotaryEmbedding", [x, cos, sin, positions], attrs, opset=23)
