"""grid_sample, roi_align and max_roi_pool against onnx's cases and onnxruntime."""

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

CASES = [(op, case) for op in ("GridSample", "RoiAlign") for case in backend_cases()[op]]


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


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("depth", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int, depth: int) -> None:
    if depth and mode == "cubic":
        pytest.skip("onnxruntime has no tricubic sampling")
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


X = np.zeros((2, 1, 4, 4), np.float32)
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
        ("MaxRoiPool", [X, np.full((1, 5), np.nan, np.float32)], [1, 1, 1, 1],
         {"pooled_shape": [1, 1]}, "batch index"),
    ],
)  # fmt: skip
def test_errors(
    op: str, inputs: list[Any], shape: list[int], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, [("float32", shape)], **attrs)
