"""Fourier transforms, windows and determinants against onnx's cases and numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from misc_support import assert_close, backend_cases, expected_of, feeds_of, like, run, run_node

OPS = ["DFT", "STFT", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "Det"]
CASES = [(op, case) for op in OPS for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        assert expected[0] is not None
        # The expected values are themselves f32 transforms of values up to 100.
        assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4)


def signal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def parts(values: np.ndarray) -> np.ndarray:
    return np.stack([values.real, values.imag], -1)


LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 64, 100, 128, 243, 1000]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("inverse", [0, 1])
def test_complex_transform(n: int, inverse: int) -> None:
    x = signal(3, n, 2, 2)
    values = x[..., 0] + 1j * x[..., 1]
    expected = parts((np.fft.ifft if inverse else np.fft.fft)(values, axis=1))
    (got,) = run("DFT", [x, None, np.array(1)], [like(expected)], threads=2, inverse=inverse)
    assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("wanted", [None, 3, 8, 50])
def test_real_transform_and_back(n: int, wanted: int | None) -> None:
    x = signal(2, n)
    length = None if wanted is None else np.array(wanted)
    expected = parts(np.fft.rfft(x, wanted))
    (got,) = run("DFT", [x[..., None], length], [like(expected)], onesided=1)
    assert_close(got, expected, rtol=1e-11, atol=1e-11)
    back_length = n if wanted is None else wanted
    (back,) = run(
        "DFT", [got, np.array(back_length)], [("float64", [2, back_length, 1])],
        onesided=1, inverse=1,
    )  # fmt: skip
    restored = np.zeros((2, back_length))
    restored[:, : min(n, back_length)] = x[:, :back_length]
    np.testing.assert_allclose(back[..., 0], restored, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_transform_types(dtype: Any) -> None:
    x = signal(2, 24, 2).astype(dtype)
    wide = x.astype(np.float64)
    expected = parts(np.fft.fft(wide[..., 0] + 1j * wide[..., 1], axis=1)).astype(dtype)
    (got,) = run("DFT", [x], [like(expected)])
    rtol = 1e-6 if dtype is np.float32 else 1e-2
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol, 1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -3])
def test_axes(axis: int) -> None:
    x = signal(4, 5, 6, 2)
    values = x[..., 0] + 1j * x[..., 1]
    place = axis if axis >= 0 else axis + 4
    expected = parts(np.fft.fft(values, axis=place))
    (got,) = run("DFT", [x, None, np.array(axis)], [like(expected)], threads=2)
    assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("one_sided", [0, 1])
@pytest.mark.parametrize("with_window", [False, True])
def test_short_time_transform(one_sided: int, with_window: bool) -> None:
    x = signal(2, 100)
    window = np.hanning(24) if with_window else None
    frames = np.lib.stride_tricks.sliding_window_view(x, 24, 1)[:, ::7]
    values = np.fft.fft(frames * (1 if window is None else window), axis=-1)
    expected = parts(values[..., :13] if one_sided else values)
    (got,) = run(
        "STFT", [x[..., None], np.array(7), window, np.array(24)], [like(expected)], threads=2,
        onesided=one_sided,
    )  # fmt: skip
    assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 33])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_determinant(n: int, dtype: Any) -> None:
    x = signal(4, 3, n, n).astype(dtype)
    with np.errstate(over="ignore"):
        expected = np.linalg.det(x.astype(np.float64)).astype(dtype)
    (got,) = run("Det", [x], [like(expected)], threads=2)
    assert_close(got, expected, rtol=1e-2 if dtype == np.float16 else 1e-6, atol=1e-6)


def test_singular_matrix() -> None:
    (got,) = run("Det", [np.ones((2, 2))], [("float64", [])])
    assert got == 0


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("size", [0, 1, 2, 9])
def test_symmetric_windows(op: str, size: int) -> None:
    (got,) = run(op, [np.array(size)], [("float64", [size])], periodic=0)
    np.testing.assert_allclose(got, got[::-1], atol=1e-12)
    if size == 9 and op == "HannWindow":
        np.testing.assert_allclose(got, np.hanning(9), atol=1e-12)
    if size == 9 and op == "BlackmanWindow":
        np.testing.assert_allclose(got, np.blackman(9), atol=1e-12)


X = np.zeros((2, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "message"),
    [
        ("DFT", [X, np.array(0)], [2, 8, 2], "length"),
        ("DFT", [X, np.array(-4)], [2, 8, 2], "length"),
        ("DFT", [X, np.array(2**40)], [2, 8, 2], "length"),
        ("DFT", [X, None, np.array(2)], [2, 8, 2], "not a signal axis"),
        ("DFT", [X, None, np.array(5)], [2, 8, 2], "axis 5"),
        ("DFT", [np.zeros((2, 8, 3), np.float32)], [2, 8, 2], "last axis"),
        ("STFT", [X, np.array(0), None, np.array(4)], [2, 5, 3, 2], "frame_step"),
        ("STFT", [X, np.array(1), None, np.array(9)], [2, 1, 5, 2], "frame_length"),
        ("STFT", [X, np.array(1), X[0, :3, 0], np.array(4)], [2, 5, 3, 2], "window has shape"),
        ("Det", [X], [2], "square"),
        ("HannWindow", [np.array(-1)], [0], "size is negative"),
    ],
)
def test_errors(op: str, inputs: list[Any], shape: list[int], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, [("float32", shape)])
