"""The dense step kernels and their packing functions against onnxruntime, from Python.

The native tests check the same kernels against plain loops; these check that loops and kernels mean
what ONNX means, with an implementation that shares nothing with ours.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from misc_support import assert_close, like, onnxruntime_result, reference

from graphopt import _native

# Both sides sum at most a few thousand products of values below one, in float32.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def last(x: np.ndarray) -> np.ndarray:
    """[N, C, spatial...] as [N, spatial..., C]."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def call(name: str, inputs: list[Any], outputs: list[Any], **attrs: Any) -> list[np.ndarray]:
    return _native.run_kernel(name, inputs, outputs, attrs, 2)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 5, 3), (7, 33, 17), (50, 1600, 40), (3, 1, 100)])
def test_gemm(m: int, k: int, n: int) -> None:
    a, w, bias = floats(m, k), floats(k, n, seed=1), floats(n, seed=2)
    (y,) = call("gemm", [a, _native.pack_gemm(w), bias], [("float32", [m, n])], k=k, n=n)
    assert_close(y, a @ w + bias, **TOLERANCE)


CONVOLUTIONS = [
    # channels, outputs, groups, spatial, kernel, strides, dilations, pads
    (3, 20, 1, (11, 13), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    (40, 17, 1, (9, 8), (3, 2), (1, 2), (2, 1), (0, 1, 2, 0)),
    (24, 24, 24, (10, 15), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (24, 24, 24, (10, 15), (5, 5), (2, 2), (1, 1), (2, 2, 2, 2)),
    (24, 24, 6, (10, 15), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (12, 20, 2, (10, 15), (3, 3), (1, 1), (1, 1), (1, 0, 1, 0)),
    (5, 10, 5, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (4, 18, 1, (30,), (5,), (2,), (1,), (1, 2)),
    (4, 18, 1, (5, 6, 7), (2, 3, 2), (1, 2, 1), (1, 1, 1), (1, 0, 1, 0, 1, 1)),
    (64, 32, 1, (6, 6), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv(case: Any) -> None:
    cin, cout, group, spatial, kernel, strides, dilations, pads = case
    x, bias = floats(2, cin, *spatial), floats(cout, seed=2)
    w = floats(cout, cin // group, *kernel, seed=1)
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    (want,) = onnxruntime_result("Conv", [x, w, bias], group=group, **window)
    packed = _native.pack_conv(w, group)
    assert packed.size == _native.packed_conv_size(cout, cin // group, int(np.prod(kernel)), group)
    attrs = {**window, "group": group, "cin": cin, "cout": cout}
    (y,) = call("conv", [last(x), packed, bias], [like(last(want))], **attrs)
    assert_close(first(y), want, **TOLERANCE)
    (y,) = call("conv_nd_plain", [x, w, bias], [like(want)], **attrs)
    assert_close(y, want, **TOLERANCE)


TRANSPOSED = [
    # channels, outputs, groups, spatial, kernel, strides, dilations, pads, output padding
    (5, 7, 1, (6, 5), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), (1, 1)),
    (40, 20, 1, (4, 5), (4, 2), (3, 1), (1, 2), (0, 1, 1, 0), (0, 0)),
    (8, 12, 4, (4, 5), (3, 3), (2, 1), (1, 1), (1, 0, 0, 1), (0, 0)),
    (4, 6, 1, (11,), (3,), (4,), (1,), (0, 1), (2,)),
    (4, 6, 1, (3, 4, 2), (2, 2, 3), (2, 1, 2), (1, 1, 1), (0, 0, 1, 1, 0, 0), (1, 0, 0)),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(case: Any) -> None:
    cin, cout, group, spatial, kernel, strides, dilations, pads, extra = case
    x, bias = floats(2, cin, *spatial), floats(cout, seed=2)
    w = floats(cin, cout // group, *kernel, seed=1)
    attrs = {
        "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads,
        "group": group, "output_padding": extra,
    }  # fmt: skip
    (want,) = onnxruntime_result("ConvTranspose", [x, w, bias], **attrs)
    packed = _native.pack_conv_transpose(w, group)
    assert packed.size == _native.packed_conv_transpose_size(
        cin, cout // group, int(np.prod(kernel)), group
    )
    (y,) = call(
        "conv_transpose", [last(x), packed, bias], [like(last(want))], cin=cin, cout=cout, **attrs
    )
    assert_close(first(y), want, **TOLERANCE)


POOLS = [
    # spatial, kernel, strides, pads
    ((9, 12), (3, 3), (2, 2), (1, 1, 1, 1)),
    ((10, 11), (3, 2), (2, 3), (0, 0, 1, 1)),
    ((7, 7), (7, 7), (1, 1), (0, 0, 0, 0)),
    ((23,), (4,), (3,), (2, 1)),
    ((5, 6, 7), (2, 3, 2), (2, 1, 2), (0, 1, 0, 1, 1, 1)),
]


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pools(case: Any, ceil_mode: int) -> None:
    spatial, kernel, strides, pads = case
    x = floats(2, 21, *spatial)
    window = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": ceil_mode}
    want, where = onnxruntime_result("MaxPool", [x], 2, **window)
    (y,) = call("max_pool", [last(x)], [like(last(want))], **window)
    assert_close(first(y), want, **TOLERANCE)
    y, indices = call("max_pool", [last(x)], [like(last(want)), like(last(where))], **window)
    assert_close(first(y), want, **TOLERANCE)
    assert_close(first(indices), where)
    for include in (0, 1):
        (want,) = onnxruntime_result("AveragePool", [x], count_include_pad=include, **window)
        (y,) = call(
            "average_pool", [last(x)], [like(last(want))], count_include_pad=include, **window
        )
        assert_close(first(y), want, **TOLERANCE)
    for p in (1, 2, 3):
        (want,) = onnxruntime_result("LpPool", [x], p=p, **window)
        (y,) = call("lp_pool", [last(x)], [like(last(want))], p=p, **window)
        assert_close(first(y), want, **TOLERANCE)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_bytes(dtype: Any) -> None:
    x = np.random.default_rng(3).integers(0, 256, (2, 5, 8, 9)).astype(np.uint8).view(dtype)
    window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    (want,) = onnxruntime_result("MaxPool", [x], **window)
    (y,) = call("max_pool", [last(x)], [like(last(want))], **window)
    assert_close(first(y), want)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("batches", [((), ()), ((3,), (3,)), ((2, 1), (3,)), ((4,), ())], ids=str)
@pytest.mark.parametrize("size", [(1, 20, 7), (9, 1, 5), (30, 40, 65)], ids=str)
def test_matmul(trans_a: int, trans_b: int, batches: Any, size: Any) -> None:
    m, n, k = size
    a, b = floats(*batches[0], m, k), floats(*batches[1], k, n, seed=1)
    want = a @ b
    left = np.ascontiguousarray(np.swapaxes(a, -1, -2)) if trans_a else a
    right = np.ascontiguousarray(np.swapaxes(b, -1, -2)) if trans_b else b
    (y,) = call("matmul", [left, right], [like(want)], trans_a=trans_a, trans_b=trans_b)
    assert_close(y, want, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint32", "int64", "uint64"])
def test_matmul_dtypes(dtype: str) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 9, (2, 17, 11)).astype(dtype), rng.integers(0, 9, (11, 6)).astype(dtype)
    (y,) = call("matmul", [a, b], [(dtype, [2, 17, 6])])
    np.testing.assert_array_equal(y, a @ b)  # exact: the sums are small whole numbers


ATTENTION = list(itertools.product([4, 2, 1], [1, 30], [0, 1], [None, "float32", "bool"]))


@pytest.mark.parametrize(("kv_heads", "queries", "causal", "mask_type"), ATTENTION)
def test_attention(kv_heads: int, queries: int, causal: int, mask_type: str | None) -> None:
    keys, size, value_size = 300, 24, 16
    q, k = floats(2, 4, queries, size), floats(2, kv_heads, keys, size, seed=1)
    v = floats(2, kv_heads, keys, value_size, seed=2)
    inputs: list[np.ndarray | None] = [q, k, v]
    if mask_type is not None:
        mask = floats(2, 1, queries, keys, seed=3)
        inputs.append(mask if mask_type == "float32" else np.asarray(mask > -0.5))
        if mask_type == "bool":
            inputs[3][..., 0] = True  # every query sees a key
    (want,) = reference("Attention", inputs, opset=23, is_causal=causal, scale=0.3, softcap=2.0)
    (y,) = call("attention", inputs, [like(want)], causal=causal, scale=0.3, softcap=2.0)
    assert_close(y, want, **TOLERANCE)


def test_results_do_not_depend_on_threads() -> None:
    a, w = floats(77, 1300), floats(1300, 150, seed=1)
    packed = _native.pack_gemm(w)
    attrs = {"k": 1300, "n": 150, "activation": "gelu"}
    results = [
        _native.run_kernel("gemm", [a, packed], [("float32", [77, 150])], attrs, threads)[0]
        for threads in (1, 2, 3, 5)
    ]
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_errors_name_the_step() -> None:
    with pytest.raises(_native.NativeError, match="gemm: W isn't packed"):
        call("gemm", [floats(2, 4), floats(4, 3)], [("float32", [2, 3])], k=4, n=3)
    with pytest.raises(_native.NativeError, match="unknown activation 'swoosh'"):
        call("gemm", [floats(2, 4)], [("float32", [2, 3])], k=4, n=3, activation="swoosh")
