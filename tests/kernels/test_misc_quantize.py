"""The quantizers and the integer products against onnx's cases, numpy and onnxruntime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from misc_support import (
    assert_close,
    backend_cases,
    expected_of,
    feeds_of,
    like,
    onnxruntime_result,
    run,
    run_node,
)

OPS = [
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
]
CASES = [(op, case) for op in OPS for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        for got, want in zip(actual, expected, strict=True):
            assert want is not None
            assert_close(got, want, rtol=1e-6)


def numbers(shape: tuple[int, ...], scale: float = 50, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


INTS = [np.uint8, np.int8, np.uint16, np.int16]
SMALL = [ml_dtypes.uint4, ml_dtypes.int4, ml_dtypes.uint2, ml_dtypes.int2]


def spread(values: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """Scales or zero points, repeated to the shape of the tensor."""
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    if block:
        return np.repeat(values, block, axis).take(np.arange(shape[axis]), axis)
    line = [1] * len(shape)
    line[axis] = values.size
    return np.broadcast_to(values.reshape(line), shape)


GRANULARITIES = [
    ((4, 5, 6), (), 0, 0),
    ((4, 5, 6), (1,), 1, 0),
    ((4, 5, 6), (4,), 0, 0),
    ((4, 5, 6), (5,), -2, 0),
    ((4, 5, 6), (6,), 2, 0),
    ((4, 7, 6), (4, 3, 6), 1, 3),
    ((4, 5, 37), (4, 5, 5), -1, 8),
    ((9, 4), (3, 4), 0, 4),
    ((3000,), (), 0, 0),
    ((5,), (5,), 0, 0),
    ((), (), 0, 0),
    ((0, 3), (), 0, 0),
]


@pytest.mark.parametrize("dtype", [*INTS, *SMALL])
@pytest.mark.parametrize(("shape", "scales", "axis", "block"), GRANULARITIES)
@pytest.mark.parametrize("zeros", [False, True])
def test_granularity(
    dtype: Any,
    shape: tuple[int, ...],
    scales: tuple[int, ...],
    axis: int,
    block: int,
    zeros: bool,
) -> None:
    info = ml_dtypes.iinfo(dtype)
    rng = np.random.default_rng(1)
    x = np.asarray(numbers(shape))
    scale = np.asarray(rng.uniform(0.1, 2, scales).astype(np.float32))
    zero = None
    if zeros:
        zero = np.asarray(rng.integers(max(int(info.min), -100), min(int(info.max), 100), scales))
        zero = zero.astype(np.int32).astype(dtype)
    attrs = {"axis": axis} | ({"block_size": block} if block else {})
    s = spread(scale, shape, axis, block)
    z = spread(zero.astype(np.int32), shape, axis, block) if zero is not None else np.int32(0)
    q = np.clip(np.rint(x / s) + z, int(info.min), int(info.max)).astype(np.int32)
    (got,) = run(
        "QuantizeLinear", [x, scale, zero], [(np.dtype(dtype).name, list(shape))], 2, **attrs
    )
    np.testing.assert_array_equal(got.astype(np.int32), q)
    (back,) = run("DequantizeLinear", [got, scale, zero], [("float32", list(shape))], 2, **attrs)
    np.testing.assert_array_equal(back, (q - z).astype(np.float32) * s)


@pytest.mark.parametrize("count", [1, 7, 8, 15, 16, 17, 31, 33, 63, 65, 1023, 1024, 1025])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_lengths(count: int, dtype: Any) -> None:
    x = numbers((count,), 80, count)
    x[:: max(1, count // 3)] = [np.inf, -np.inf, 1e30][: len(x[:: max(1, count // 3)])][0]
    scale = np.float32(0.7)
    zero = np.array(3, dtype)
    info = np.iinfo(dtype)
    expected = np.clip(np.rint(x / scale) + 3, info.min, info.max).astype(dtype)
    (got,) = run("QuantizeLinear", [x, np.asarray(scale), zero], [like(expected)])
    np.testing.assert_array_equal(got, expected)


def test_ties_go_to_even_before_the_zero_point() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    (got,) = run("QuantizeLinear", [x, np.float32([1]), np.array([1], np.uint8)], [("uint8", [5])])
    assert got.tolist() == [1, 3, 3, 1, 0]


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2fnuz])
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8(dtype: Any, saturate: int) -> None:
    x = np.array([0, 1, -3.3, 1e6, -1e6, np.nan], np.float32)
    scale = np.array(0.5, np.float32)
    limit = float(ml_dtypes.finfo(dtype).max)
    q = x / scale
    expected = (np.clip(q, -limit, limit) if saturate else q).astype(dtype)
    (got,) = run("QuantizeLinear", [x, scale], [(expected.dtype.name, [6])], saturate=saturate)
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    (back,) = run("DequantizeLinear", [got, scale], [("float32", [6])])
    np.testing.assert_array_equal(back, expected.astype(np.float32) * scale)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_division(dtype: Any) -> None:
    x = numbers((300,)).astype(dtype)
    scale = np.array(0.3).astype(dtype)
    (got,) = run("QuantizeLinear", [x, scale, np.array(5, np.int8)], [("int8", [300])])
    expected = np.clip(np.rint((x / scale).astype(np.float32)) + 5, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(got, expected)
    (wide,) = run(
        "QuantizeLinear", [x, scale, np.array(5, np.int8)], [("int8", [300])],
        precision=int(onnx.TensorProto.FLOAT),
    )  # fmt: skip
    exact = np.rint(x.astype(np.float32) / scale.astype(np.float32))
    np.testing.assert_array_equal(wide, np.clip(exact + 5, -128, 127).astype(np.int8))
    (back,) = run("DequantizeLinear", [got, scale], [(x.dtype.name, [300])])
    expected_back = (got.astype(np.float32) * scale.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(back.astype(np.float32), expected_back.astype(np.float32))


def test_dequantize_int32() -> None:
    x = np.array([2**31 - 1, -5, 7], np.int32)
    (got,) = run("DequantizeLinear", [x, np.array(0.5, np.float32)], [("float32", [3])])
    np.testing.assert_array_equal(got, x.astype(np.float32) * np.float32(0.5))


@pytest.mark.parametrize("low", [-3.0, 0.5, -9.0])
@pytest.mark.parametrize("high", [-1.0, 4.0, 0.0])
@pytest.mark.parametrize("count", [1, 40, 40_000])
def test_dynamic_quantize(low: float, high: float, count: int) -> None:
    x = np.random.default_rng(0).uniform(min(low, high), max(low, high), count).astype(np.float32)
    expected = onnxruntime_result("DynamicQuantizeLinear", [x], 3, 13)
    got = run("DynamicQuantizeLinear", [x], [like(e) for e in expected], threads=2)
    assert got[1] == expected[1]
    assert got[2] == expected[2]
    # onnxruntime multiplies by a reciprocal on some machines: ties may differ.
    difference = np.abs(got[0].astype(int) - expected[0].astype(int))
    assert difference.max(initial=0) <= 1
    assert np.count_nonzero(difference) <= 1 + count // 1000


def bytes_of(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


BYTES = [np.uint8, np.int8]


@pytest.mark.parametrize("type_a", BYTES)
@pytest.mark.parametrize("type_b", BYTES)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 1), (1, 1)),
        ((5, 7), (7, 16)),
        ((9, 33), (33, 17)),
        ((300, 40), (40, 31)),
        ((2, 3, 4, 8), (8, 5)),
        ((3, 1, 4, 8), (2, 8, 15)),
        ((8,), (8, 3)),
        ((4, 8), (8,)),
        ((3, 0), (0, 4)),
        ((0, 3), (3, 4)),
    ],
)
def test_matmul_integer(type_a: Any, type_b: Any, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = bytes_of(a, type_a, 1), bytes_of(b, type_b, 2)
    expected = np.matmul(x.astype(np.int32), y.astype(np.int32))
    (got,) = run("MatMulInteger", [x, y], [("int32", list(expected.shape))], threads=2)
    np.testing.assert_array_equal(got, expected)
    zero_x, zero_y = np.array(3, type_a), np.array(100, type_b)
    expected = np.matmul(x.astype(np.int32) - 3, y.astype(np.int32) - 100)
    outputs = [("int32", list(expected.shape))]
    (got,) = run("MatMulInteger", [x, y, zero_x, zero_y], outputs, threads=2)
    np.testing.assert_array_equal(got, expected)


def test_matmul_integer_zero_points_of_rows_and_columns() -> None:
    x, y = bytes_of((2, 5, 6), np.uint8, 1), bytes_of((6, 7), np.int8, 2)
    rows, columns = bytes_of((5,), np.uint8, 3), bytes_of((7,), np.int8, 4)
    expected = (x.astype(np.int32) - rows[:, None]) @ (y.astype(np.int32) - columns)
    (got,) = run("MatMulInteger", [x, y, rows, columns], [("int32", [2, 5, 7])])
    np.testing.assert_array_equal(got, expected)
    batched = bytes_of((2, 5, 1), np.uint8, 5)
    expected = (x.astype(np.int32) - batched) @ y.astype(np.int32)
    (got,) = run("MatMulInteger", [x, y, batched], [("int32", [2, 5, 7])])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", BYTES)
def test_q_linear_matmul(dtype: Any) -> None:
    a, b = bytes_of((3, 9, 20), np.uint8, 1), bytes_of((20, 18), np.int8, 2)
    scale_b = np.random.default_rng(0).uniform(0.01, 0.03, 18).astype(np.float32)
    f = lambda v: np.array(v, np.float32)  # noqa: E731
    inputs = [
        a, f(0.02), np.array(120, np.uint8), b, scale_b, np.zeros(18, np.int8), f(0.5),
        np.array(7, dtype),
    ]  # fmt: skip
    sums = (a.astype(np.int64) - 120) @ b.astype(np.int64)
    factor = np.float32(0.02) * scale_b / np.float32(0.5)
    info = np.iinfo(dtype)
    q = np.rint(sums.astype(np.float32) * factor) + 7
    expected = np.clip(q, info.min, info.max).astype(dtype)
    (got,) = run("QLinearMatMul", inputs, [like(expected)], threads=2)
    np.testing.assert_array_equal(got, expected)


CONVS = [
    ((1, 1, 5, 5), (1, 1, 3, 3), {}),
    ((2, 4, 9, 8), (6, 4, 3, 2), {"pads": [1, 0, 1, 1], "strides": [2, 1]}),
    ((1, 6, 12, 12), (9, 2, 3, 3), {"group": 3, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((2, 3, 20), (5, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [3]}),
    ((1, 2, 4, 5, 6), (3, 2, 2, 2, 3), {"auto_pad": "SAME_UPPER"}),
    ((1, 4, 6, 6), (4, 1, 3, 3), {"group": 4, "auto_pad": "VALID"}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "attrs"), CONVS)
def test_conv_integer(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    x, w = bytes_of(x_shape, np.uint8, 1), bytes_of(w_shape, np.int8, 2)
    wide = [(x.astype(np.float64) - 11).astype(np.float32), (w.astype(np.float64) + 3)]
    # Sums below 2^24 are exact in f32.
    (expected,) = onnxruntime_result(
        "Conv", [wide[0], wide[1].astype(np.float32)], opset=13, **attrs
    )
    zero_w = np.full(w_shape[0], -3, np.int8)
    outputs = [("int32", list(expected.shape))]
    (got,) = run("ConvInteger", [x, w, np.array(11, np.uint8), zero_w], outputs, 2, **attrs)
    np.testing.assert_array_equal(got, expected.astype(np.int32))


@pytest.mark.parametrize(("x_shape", "w_shape", "attrs"), CONVS)
def test_q_linear_conv(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    x, w = bytes_of(x_shape, np.uint8, 1), bytes_of(w_shape, np.int8, 2)
    bias = np.random.default_rng(3).integers(-3000, 3000, w_shape[0]).astype(np.int32)
    wide_x, wide_w = (x.astype(np.float32) - 11), w.astype(np.float32)
    (sums,) = onnxruntime_result(
        "Conv", [wide_x, wide_w, bias.astype(np.float32)], opset=13, **attrs
    )
    scale_w = np.random.default_rng(0).uniform(0.01, 0.02, w_shape[0]).astype(np.float32)
    factor = np.float32(0.3) * scale_w / np.float32(0.9)
    q = np.rint(sums * factor.reshape(-1, *[1] * (len(x_shape) - 2))) + 100
    expected = np.clip(q, 0, 255).astype(np.uint8)
    f = lambda v: np.array(v, np.float32)  # noqa: E731
    inputs = [
        x, f(0.3), np.array(11, np.uint8), w, scale_w, np.zeros(w_shape[0], np.int8), f(0.9),
        np.array(100, np.uint8), bias,
    ]  # fmt: skip
    (got,) = run("QLinearConv", inputs, [like(expected)], 2, **attrs)
    np.testing.assert_array_equal(got, expected)


X = np.zeros((2, 3), np.float32)
B8 = np.zeros((2, 3), np.uint8)
ONE = np.array(1, np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attrs", "message"),
    [
        ("QuantizeLinear", [X, np.ones(2, np.float32)], ("uint8", [2, 3]), {}, "the scale"),
        ("QuantizeLinear", [X, ONE, np.array(0, np.int8)], ("uint8", [2, 3]), {}, "zero_point"),
        ("QuantizeLinear", [X, ONE], ("uint32", [2, 3]), {}, "not a quantized type"),
        ("QuantizeLinear", [X, ONE], ("uint8", [2, 3]), {"output_dtype": 3}, "expected i8"),
        (
            "QuantizeLinear",
            [X, np.ones((2, 3), np.float32)],
            ("uint8", [2, 3]),
            {"block_size": 2},
            "does not fit blocks",
        ),
        ("DequantizeLinear", [B8, ONE, B8], ("float32", [2, 3]), {}, "the zero point has shape"),
        ("MatMulInteger", [B8, B8], ("int32", [2, 3]), {}, "inner sizes"),
        ("MatMulInteger", [B8, B8.T, B8[0]], ("int32", [2, 2]), {}, "a_zero_point"),
        ("MatMulInteger", [X, B8.T], ("int32", [2, 2]), {}, "expected u8 or i8"),
        (
            "ConvInteger",
            [np.zeros((1, 3, 4, 4), np.uint8), np.zeros((2, 2, 1, 1), np.uint8)],
            ("int32", [1, 2, 4, 4]),
            {},
            "channels",
        ),
        (
            "ConvInteger",
            [np.zeros((1, 2, 4, 4), np.uint8), np.zeros((2, 2, 5, 1), np.uint8)],
            ("int32", [1, 2, 4, 4]),
            {},
            "larger than the padded input",
        ),
    ],
)
def test_errors(
    op: str, inputs: list[Any], output: Any, attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, [output], **attrs)
