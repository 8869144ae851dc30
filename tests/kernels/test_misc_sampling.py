"""Sampling, folding and unpooling against onnx's cases, onnxruntime and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
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

OPS = ["GridSample", "RoiAlign", "Col2Im", "MaxUnpool", "DeformConv", "AffineGrid"]
CASES = [(op, case) for op in OPS for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        assert expected[0] is not None
        # The expected values are written with four digits.
        assert_close(actual[0], expected[0], 1e-3, 1e-4)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "mode"),  # the oracle has no tricubic sampling
    [(0, "nearest"), (0, "linear"), (0, "cubic"), (1, "nearest"), (1, "linear")],
)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int, depth: int) -> None:
    spatial = (5, 4, 6)[: 2 + depth]
    x = values(2, 3, *spatial)
    grid = values(2, *((7, 9, 3)[: 2 + depth]), 2 + depth, seed=1) * 1.2
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
    (expected,) = onnxruntime_result("GridSample", [x, grid], opset=20, **attrs)
    (got,) = run("GridSample", [x, grid], [like(expected)], threads=2, **attrs)
    # A coordinate is a difference of f32 of size 10, and values change by up to 6 in a pixel.
    assert_close(got, expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_far_and_not_a_number(mode: str, padding: str) -> None:
    x = values(1, 1, 4, 4)
    special = [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38]
    grid = np.array([[a, b] for a in special for b in special], np.float32).reshape(1, 6, 6, 2)
    (got,) = run(
        "GridSample", [x, grid], [("float32", [1, 1, 6, 6])], mode=mode, padding_mode=padding
    )
    assert np.all(np.isfinite(got))
    if padding == "zeros":
        assert np.all(got == 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.uint8])
def test_grid_sample_types(dtype: Any) -> None:
    x = (values(1, 2, 4, 5) * 20 + 100).astype(dtype)
    grid = values(1, 6, 6, 2, seed=3).astype(np.float32)
    (got,) = run("GridSample", [x, grid], [(x.dtype.name, [1, 2, 6, 6])])
    (wide,) = run("GridSample", [x.astype(np.float64), grid], [("float64", [1, 2, 6, 6])])
    if np.dtype(dtype).kind in "iu":
        np.testing.assert_array_equal(got, wide.astype(dtype))
    else:
        np.testing.assert_allclose(got.astype(np.float64), wide, rtol=1e-3, atol=1e-3)


def rois(count: int, columns: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = rng.uniform(-3, 10, (count, 2))
    end = start + rng.uniform(0.5, 9, (count, 2))
    boxes = np.concatenate([start, end], 1)
    if columns == 5:
        boxes = np.concatenate([rng.integers(0, 2, (count, 1)), boxes], 1)
    return boxes.astype(np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2, 3])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, ratio: int, coordinates: str) -> None:
    x = values(2, 3, 9, 11)
    inputs = [x, rois(6, 4), np.array([0, 1, 1, 0, 1, 0])]
    attrs = {
        "mode": mode,
        "sampling_ratio": ratio,
        "coordinate_transformation_mode": coordinates,
        "output_height": 3,
        "output_width": 4,
        "spatial_scale": 0.8,
    }
    (expected,) = onnxruntime_result("RoiAlign", inputs, opset=16, **attrs)
    (got,) = run("RoiAlign", inputs, [like(expected)], threads=2, **attrs)
    assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_max_roi_pool() -> None:
    x = values(2, 3, 9, 11)
    inputs = [x, rois(8, 5)]
    attrs = {"pooled_shape": [3, 2], "spatial_scale": 0.7}
    (expected,) = onnxruntime_result("MaxRoiPool", inputs, opset=14, **attrs)
    (got,) = run("MaxRoiPool", inputs, [like(expected)], threads=2, **attrs)
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_col2im_is_the_transpose_of_im2col(dtype: Any) -> None:
    attrs = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 2]}
    image, block = [6, 7], [3, 2]
    places = np.full((6 + 1, 7 + 2), -1)
    places[1:, :7] = np.arange(42).reshape(6, 7)
    steps = [(7 - 3) // 2 + 1, 9 - 3 + 1]
    columns = np.random.default_rng(0).integers(-9, 9, (2, 3 * 6, steps[0] * steps[1]))
    expected = np.zeros((2, 3, 42))
    for tap in np.ndindex(*block):
        for at in np.ndindex(*steps):
            place = places[at[0] * 2 + tap[0], at[1] + 2 * tap[1]]
            if place >= 0:
                values = columns.reshape(2, 3, 3, 2, *steps)[:, :, tap[0], tap[1], at[0], at[1]]
                expected[:, :, place] += values
    inputs = [columns.astype(dtype), np.array(image), np.array(block)]
    for output in (None, [2, 3, 6, 7]):
        (got,) = run("Col2Im", inputs, [(np.dtype(dtype).name, output)], threads=2, **attrs)
        np.testing.assert_array_equal(got, expected.reshape(2, 3, 6, 7).astype(dtype))


def test_deform_conv_without_offsets_is_a_convolution() -> None:
    x, w = values(2, 4, 7, 6), values(6, 2, 3, 2, seed=1)
    attrs = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 1, 1], "group": 2}
    bias = values(6, seed=2)
    (expected,) = onnxruntime_result("Conv", [x, w, bias], opset=13, **attrs)
    offset = np.zeros((2, 2 * 6 * 2, *expected.shape[2:]), np.float32)
    mask = np.full((2, 2 * 6, *expected.shape[2:]), 0.5, np.float32)
    inputs = [x * 2, w, offset, bias, mask]
    (got,) = run("DeformConv", inputs, [like(expected)], threads=2, offset_group=2, **attrs)
    assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_max_unpool_inverts_max_pool() -> None:
    x = values(1, 2, 6, 8)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled, indices = onnxruntime_result("MaxPool", [x], 2, 12, **attrs)
    (got,) = run("MaxUnpool", [pooled, indices], [("float32", [1, 2, 6, 8])], **attrs)
    np.testing.assert_array_equal(got, np.where(np.isin(x, pooled), x, 0))


X = np.zeros((2, 1, 4, 4), np.float32)
TWO = {"kernel_shape": [2, 2]}
BOX = np.array([[0, 0, 2, 2]], np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "attrs", "message"),
    [
        ("GridSample", [X, np.zeros((1, 2, 2, 2), np.float32)], [2, 1, 2, 2], {}, "fit together"),
        ("GridSample", [X, np.zeros((2, 2, 2, 2), np.float32)], [2, 1, 2, 3], {}, "Y has shape"),
        ("GridSample", [X, X], [2, 1, 4, 4], {"mode": "sinc"}, "sinc"),
        ("RoiAlign", [X, BOX, np.array([2])], [1, 1, 1, 1], {}, "batch_indices"),
        ("RoiAlign", [X, BOX, np.array([-1])], [1, 1, 1, 1], {}, "batch_indices"),
        ("RoiAlign", [X, BOX + np.inf, np.array([0])], [1, 1, 1, 1], {}, "not finite"),
        ("RoiAlign", [X, BOX * 1e9, np.array([0])], [1, 1, 1, 1], {}, "too large"),
        ("MaxRoiPool", [X, np.full((1, 5), 9, np.float32)], [1, 1, 1, 1], {"pooled_shape": [1, 1]},
         "batch index"),
        ("Col2Im", [X[0], np.array([4, 4]), np.array([3, 3])], [1, 1, 4, 4], {}, "does not fit"),
        ("Col2Im", [X[0], np.array([4, 0]), np.array([2, 2])], [1, 1, 4, 0], {}, "positive"),
        ("MaxUnpool", [X, np.full(X.shape, 50)], [2, 1, 5, 5], TWO, "index 50"),
        ("MaxUnpool", [X, np.full(X.shape, -1)], [2, 1, 5, 5], TWO, "index -1"),
        ("DeformConv", [X, X[:, :, :2, :2], X], [2, 2, 3, 3], {}, "offset"),
        ("AffineGrid", [X[0], np.array([1, 1, 2, 2])], [1, 2, 2, 2], {}, "theta"),
        ("MaxRoiPool", [X, np.full((1, 5), np.nan, np.float32)], [1, 1, 1, 1],
         {"pooled_shape": [1, 1]}, "batch index"),
    ],
)  # fmt: skip
def test_errors(
    op: str, inputs: list[Any], shape: list[int], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, [("float32", shape)], **attrs)
