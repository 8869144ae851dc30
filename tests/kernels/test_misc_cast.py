"""cast between every pair of numeric types: onnx's cases, numpy, ml_dtypes and exhaustive codes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from misc_support import backend_cases, expected_of, feeds_of, node_attributes, run, run_node

FLOATS8 = [
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
]
SMALL_FLOATS = [
    *FLOATS8,
    ml_dtypes.float4_e2m1fn,
    ml_dtypes.float6_e2m3fn,
    ml_dtypes.float6_e3m2fn,
]
HALVES = [np.float16, ml_dtypes.bfloat16]
SMALL_INTS = [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2]
INTS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
FLOATS = [np.float32, np.float64]
ALL = [*FLOATS, *HALVES, *SMALL_FLOATS, *INTS, *SMALL_INTS, np.bool_]

CASES = [(op, c) for op in ("Cast", "CastLike", "BitCast") for c in backend_cases()[op]]
# Strings are the executor's affair.
CASES = [(op, c) for op, c in CASES if "STRING" not in c.name.upper()]


def bits(array: np.ndarray) -> np.ndarray:
    """NaNs as one value, everything else as the bits."""
    if array.dtype.kind in "biu" and array.dtype.name in {np.dtype(t).name for t in [*INTS, bool]}:
        return array
    raw = array.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize])
    has_nan = array.dtype.name not in {np.dtype(t).name for t in SMALL_INTS}
    with np.errstate(invalid="ignore"):
        wide = array.astype(np.float64)
    return np.where(has_nan & np.isnan(wide), raw.dtype.type(255), raw)


def cast(x: np.ndarray, to: Any, threads: int = 1, **attrs: Any) -> np.ndarray:
    name = np.dtype(to).name
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to))
    return run("Cast", [x], [(name, list(x.shape))], threads, to=int(code), **attrs)[0]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected)
        assert expected[0] is not None
        assert actual[0].dtype == expected[0].dtype
        np.testing.assert_array_equal(bits(actual[0]), bits(np.asarray(expected[0])))


def interesting(dtype: Any) -> np.ndarray:
    """Numbers of a type that every other type rounds, saturates or keeps."""
    if dtype is np.bool_:
        return np.array([False, True])
    if dtype in INTS:
        info = np.iinfo(dtype)
        raw = [0, 1, 2, 3, 5, 7, 100, 127, 128, 200, 255, 256, 1000, 65535, -1, -2, -8, -9, -128]
        raw += [info.min, info.max, info.max - 1, info.max // 3]
        return np.array([v for v in raw if info.min <= v <= info.max], dtype)
    if dtype in SMALL_INTS:
        return np.arange(16, dtype=np.uint8).astype(dtype)
    rng = np.random.default_rng(0)
    base = [0.0, -0.0, 0.5, 1.5, 2.5, -1.5, 3.7, -3.7, 6, 7, 240, 448, 464, 57344, 1e-3, 1e-9]
    wide = np.concatenate([base, rng.standard_normal(300) * 10.0 ** rng.integers(-12, 12, 300)])
    with np.errstate(over="ignore"):
        return wide.astype(dtype)


def in_range(x: np.ndarray, to: Any) -> np.ndarray:
    """Where casting is defined."""
    wide = x.astype(np.float64)
    if to in INTS or to in SMALL_INTS:
        info = ml_dtypes.iinfo(to)
        if x.dtype.kind in "iub" or x.dtype.name in {np.dtype(t).name for t in SMALL_INTS}:
            return np.ones(x.shape, bool)
        return (wide > float(info.min) - 1) & (wide < float(info.max))
    return np.isfinite(wide)


@pytest.mark.parametrize("to", ALL)
@pytest.mark.parametrize("source", ALL)
def test_pairs(source: Any, to: Any) -> None:
    x = interesting(source)
    x = x[in_range(x, to)]
    got = cast(x, to)
    assert got.dtype == np.dtype(to)
    if source is to:
        expected = x
    elif to in FLOATS8:
        limit = float(ml_dtypes.finfo(to).max)
        expected = np.clip(x.astype(np.float64), -limit, limit).astype(to)
    elif to is np.bool_:
        expected = x.astype(np.float64) != 0
    elif source in [*INTS, np.bool_] and to in SMALL_INTS:
        width = {"4": 15, "2": 3}[np.dtype(to).name[-1]]
        expected = (x.astype(np.int64) & width).astype(np.uint8).view(to)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            # Through f64, so that the result is rounded once.
            wide = x if source in INTS and to in [*INTS, *FLOATS] else x.astype(np.float64)
            expected = wide.astype(to)
            if to is ml_dtypes.bfloat16 and source is np.float64:  # ml_dtypes goes through f32
                expected = np.where(cast(x.astype(np.float32), to) == got, got, expected)
            if to in SMALL_INTS:
                expected = x.astype(np.float64).astype(np.int32).astype(to)
    np.testing.assert_array_equal(bits(got), bits(np.asarray(expected, to)))


@pytest.mark.parametrize("dtype", [*SMALL_FLOATS, *SMALL_INTS, *HALVES, ml_dtypes.float8_e8m0fnu])
@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_every_code_widens_and_returns(dtype: Any, wide: Any) -> None:
    size = np.dtype(dtype).itemsize
    width = 16 if size == 2 else 8
    for suffix, count in (("4", 4), ("2", 2)):
        if dtype in SMALL_INTS and np.dtype(dtype).name.endswith("int" + suffix):
            width = count
    if np.dtype(dtype).name.startswith("float4"):
        width = 4
    if np.dtype(dtype).name.startswith("float6"):
        width = 6
    x = np.arange(2**width).astype(np.uint16 if size == 2 else np.uint8).view(dtype)
    up = cast(x, wide)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(up, x.astype(wide))
    np.testing.assert_array_equal(bits(cast(up, dtype, saturate=0)), bits(x))


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        (source, dtype)
        for source in (np.float32, np.float64, np.float16)
        for dtype in (*FLOATS8, *HALVES)
        if dtype is not source
    ],
)
def test_not_saturating(dtype: Any, source: Any) -> None:
    special = [np.inf, -np.inf, np.nan, -np.nan, 500, -500, 6e4, -6e4, 65520, 0, -0.0]
    with np.errstate(over="ignore"):
        x = np.array(special, source)
        expected = x.astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(bits(cast(x, dtype, saturate=0)), bits(expected))


@pytest.mark.parametrize("dtype", FLOATS8)
def test_saturating(dtype: Any) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1e9, -1e9], np.float32)
    limit = float(ml_dtypes.finfo(dtype).max)
    expected = np.array([limit, -limit, np.nan, limit, -limit], np.float32)
    np.testing.assert_array_equal(cast(x, dtype).astype(np.float32), expected)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_exponent_only(mode: str, saturate: int) -> None:
    exponents = np.arange(-127, 128)
    x = np.concatenate([[0.0], *(f * 2.0**exponents for f in (1, 1.25, 1.5, 1.75, 1.999))])
    x = x.astype(np.float32)
    # The reference rounds 2^-127 up although it is a code of its own.
    x = x[np.isfinite(x) & (x != 2.0**-127)]
    got = cast(x, ml_dtypes.float8_e8m0fnu, round_mode=mode, saturate=saturate)
    expected = onnx.numpy_helper.to_float8e8m0(x, bool(saturate), mode)
    np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 31, 33, 255, 256, 257, 100_000])
def test_lengths(count: int) -> None:
    x = (np.random.default_rng(count).standard_normal(count) * 1000).astype(np.float32)
    for to in (np.float16, ml_dtypes.bfloat16, np.int8, np.float64, ml_dtypes.float8_e5m2):
        got = cast(x, to, threads=2)
        if to is np.int8:
            expected = x.astype(np.int32).astype(np.int8)
        else:
            expected = x.astype(to)
        np.testing.assert_array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_f32_to_half_at_all_boundaries(name: str) -> None:
    """Values on, just below and just above the midpoint of every two neighbouring codes."""
    dtype = np.float16 if name == "float16" else ml_dtypes.bfloat16
    codes = np.arange(0x7C00 if name == "float16" else 0x7F80, dtype=np.uint16).view(dtype)
    low = codes[:-1].astype(np.float32)
    middle = low + (codes[1:].astype(np.float32) - low) / 2
    x = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), -middle])
    np.testing.assert_array_equal(bits(cast(x, dtype)), bits(x.astype(dtype)))
    np.testing.assert_array_equal(bits(cast(x.astype(np.float64), dtype)), bits(x.astype(dtype)))


def test_undefined_conversions_are_what_x86_does() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e20, -1e20, 3e9, -3e9, 300, -1], np.float32)
    low32, low64 = -(2**31), -(2**63)
    assert cast(x, np.int32).tolist() == [low32] * 7 + [300, -1]
    assert cast(x, np.int64).tolist() == [low64] * 5 + [3000000000, -3000000000, 300, -1]
    assert cast(x, np.uint8).tolist() == [0] * 7 + [44, 255]
    assert cast(np.array([1e19, -1.0]), np.uint64).tolist() == [10**19, 2**64 - 1]


def test_like_and_bit_cast() -> None:
    x = np.array([1.5, -2.5], np.float32)
    (got,) = run("CastLike", [x, np.zeros(1, np.int8)], [("int8", [2])])
    assert got.tolist() == [1, -2]
    (raw,) = run("BitCast", [x], [("int32", [2])], to=int(onnx.TensorProto.INT32))
    np.testing.assert_array_equal(raw, x.view(np.int32))


def test_errors() -> None:
    x = np.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match="round_mode"):
        run("Cast", [x], [("int8", [3])], round_mode="odd")
    with pytest.raises(RuntimeError, match="output has shape"):
        run("Cast", [x], [("int8", [4])])
    with pytest.raises(RuntimeError, match="element type"):
        run("Cast", [x], [("int8", [3])], to=int(onnx.TensorProto.INT16))
    with pytest.raises(RuntimeError, match="c64"):
        run("Cast", [x], [("complex64", [3])])
    with pytest.raises(RuntimeError, match="element sizes"):
        run("BitCast", [x], [("int64", [3])])
    assert node_attributes(onnx.helper.make_node("Cast", ["a"], ["b"], to=1)) == {"to": 1}
