"""resize and upsample against onnx's cases, onnx.reference and onnxruntime."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from misc_support import (
    assert_close,
    backend_cases,
    expected_of,
    feeds_of,
    like,
    onnxruntime_result,
    reference,
    run,
    run_node,
)

CASES = [(op, case) for op in ("Resize", "Upsample") for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        assert expected[0] is not None
        assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-5)


def image(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    values = np.random.default_rng(7).uniform(-100, 100, shape)
    return np.abs(values).astype(dtype) if np.dtype(dtype).kind == "u" else values.astype(dtype)


def compare(x: np.ndarray, sizes: list[int], roi: np.ndarray | None = None, **attrs: Any) -> None:
    inputs = [x, roi, None, np.array(sizes)]
    (expected,) = reference("Resize", inputs, opset=19, **attrs)
    (got,) = run("Resize", inputs, [like(expected)], threads=2, **attrs)
    # Weights are f32, values below 100; up to 16 of them are summed.
    assert_close(got, expected, rtol=1e-4, atol=2e-4)


MODES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("exclude", [0, 1])
def test_interpolation(coordinates: str, mode: str, antialias: int, exclude: int) -> None:
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "antialias": antialias,
        "exclude_outside": exclude,
    }
    for height, width in [(3, 40), (9, 7), (17, 33), (2, 2)]:
        compare(image(1, 2, 9, 13), [1, 2, height, width], **attrs)


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(coordinates: str, rounding: str) -> None:
    # Powers of two: source coordinates are exact, ties included.
    for height, width in [(4, 32), (16, 8), (2, 64)]:
        compare(
            image(2, 2, 8, 16),
            [2, 2, height, width],
            mode="nearest",
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )


@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "floor"])
def test_nearest_agrees_with_onnxruntime(coordinates: str, rounding: str) -> None:
    attrs = {
        "mode": "nearest",
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    for before, after in itertools.product([3, 7, 10, 49], [1, 5, 14, 23, 77]):
        x = image(1, 1, before, 2)
        inputs = [x, None, None, np.array([1, 1, after, 2])]
        (expected,) = onnxruntime_result("Resize", inputs, opset=18, **attrs)
        (got,) = run("Resize", inputs, [like(expected)], **attrs)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_channels_last(mode: str, channels: int) -> None:
    x = image(2, 5, 7, channels)
    first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    for height, width in [(10, 14), (3, 20), (5, 14), (10, 7)]:
        sizes = np.array([2, channels, height, width])
        (expected,) = run(
            "Resize", [first, None, None, sizes], [("float32", sizes.tolist())], mode=mode
        )
        sizes = np.array([2, height, width, channels])
        (got,) = run(
            "Resize",
            [x, None, None, sizes],
            [("float32", sizes.tolist())],
            threads=2,
            mode=mode,
            channels_last=1,
        )
        np.testing.assert_allclose(got, np.moveaxis(expected, 1, -1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("shape", [(11,), (3, 4, 5), (2, 3, 4, 3, 2)])
def test_ranks(mode: str, shape: tuple[int, ...]) -> None:
    compare(image(*shape), [2 * n - 1 for n in shape], mode=mode)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64])
def test_widths_around_vectors(width: int) -> None:
    compare(image(1, 1, 3, 19), [1, 1, 5, width], mode="linear")
    compare(image(1, 1, 3, width), [1, 1, 5, 20], mode="linear")


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-2, -1]])
def test_axes_and_aspect_ratio(policy: str, axes: list[int]) -> None:
    x = image(1, 2, 6, 9)
    attrs = {"mode": "linear", "axes": axes, "keep_aspect_ratio_policy": policy}
    inputs = [x, None, None, np.array([8, 10])]
    # The reference evaluator wants axes that are not negative.
    plain = {**attrs, "axes": [a % 4 for a in axes]}
    (expected,) = reference("Resize", inputs, opset=19, **plain)
    (got,) = run("Resize", inputs, [like(expected)], **attrs)
    assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize(mode: str) -> None:
    x = image(1, 2, 6, 9)
    roi = np.array([0, 0, 0.3, -0.2, 1, 1, 1.2, 0.9], np.float32)
    compare(
        x,
        [1, 2, 5, 11],
        roi,
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=-5.0,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.float64, np.uint16])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_types(dtype: Any, mode: str) -> None:
    x = image(1, 2, 6, 9, dtype=dtype)
    inputs = [x, None, None, np.array([1, 2, 11, 17])]
    (expected,) = reference("Resize", inputs, opset=19, mode=mode)
    (got,) = run("Resize", inputs, [like(expected)], mode=mode)
    # The reference evaluator rounds cubic weights to f32.
    assert_close(got, expected, rtol=1e-12, atol=1e-12 if mode == "linear" else 1e-3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_rounds_once(dtype: Any) -> None:
    x = image(1, 2, 6, 9, dtype=dtype)
    sizes = np.array([1, 2, 11, 17])
    (wide,) = run(
        "Resize", [x.astype(np.float32), None, None, sizes], [("float32", sizes.tolist())],
        mode="linear",
    )  # fmt: skip
    (got,) = run("Resize", [x, None, None, sizes], [(x.dtype.name, sizes.tolist())], mode="linear")
    # The two paths sum in a different order, which may move a tie by one unit in the last place.
    step = 2.0 ** -(10 if dtype is np.float16 else 7)
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=step, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.bool_, np.int16, np.complex128, ml_dtypes.bfloat16, np.uint8])
def test_nearest_moves_any_type(dtype: Any) -> None:
    x = (image(2, 3, 4) > 0).astype(dtype)
    sizes = np.array([2, 6, 8])
    (got,) = run("Resize", [x, None, None, sizes], [(x.dtype.name, sizes.tolist())])
    np.testing.assert_array_equal(got, np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_scales_and_the_length_that_f32_gives() -> None:
    x = image(1, 1, 3, 3)
    scales = np.array([1, 1, 7 / 3, 7 / 3], np.float32)
    (expected,) = onnxruntime_result("Resize", [x, None, scales], opset=18, mode="linear")
    (got,) = run("Resize", [x, None, scales], [like(expected)], mode="linear")
    assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_upsample() -> None:
    x = image(1, 2, 3, 4)
    scales = np.array([1, 1, 2, 3], np.float32)
    for mode in ("nearest", "linear"):
        (expected,) = reference(
            "Resize", [x, None, scales], opset=19, mode=mode, nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
        (got,) = run("Upsample", [x, scales], [like(expected)], mode=mode)
        assert_close(got, expected, rtol=1e-5, atol=1e-4)


X = np.zeros((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("inputs", "shape", "attrs", "message"),
    [
        ([X, None, None, None], [1, 2, 8, 8], {}, "exactly one of"),
        ([X, None, np.ones(4, np.float32), np.ones(4, np.int64)], [1, 2, 4, 4], {}, "exactly one"),
        ([X, None, np.ones(3, np.float32)], [1, 2, 4, 4], {}, "scales has shape"),
        ([X, None, np.array([1, 1, 2, 2], np.float32)], [1, 2, 4, 8], {}, "axis 2 of the output"),
        ([X, None, np.array([1, 1, -2, 2], np.float32)], [1, 2, 4, 8], {}, "not positive"),
        ([X, None, np.array([1, 1, np.nan, 2], np.float32)], [1, 2, 4, 8], {}, "not positive"),
        ([X, None, None, np.array([1, 2, 8, 8])], [1, 2, 8, 8], {"mode": "lanczos"}, "lanczos"),
        ([X, None, None, np.array([1, 2, 8, 8])], [1, 2, 8, 8], {"antialias": 1}, "antialiasing"),
        (
            [X, None, None, np.array([1, 2, 8, 8])],
            [1, 2, 8, 8],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "needs roi",
        ),
        ([X, None, None, np.array([8, 8])], [1, 2, 8, 8], {"axes": [2, 4]}, "axis 4"),
        ([X[:, :, :0], None, None, np.array([1, 2, 8, 8])], [1, 2, 8, 8], {}, "empty"),
    ],
)
def test_errors(inputs: list[Any], shape: list[int], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run("Resize", inputs, [("float32", shape)], **attrs)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_shape_from_the_operands(policy: str) -> None:
    x = image(1, 2, 6, 9)
    for inputs in (
        [x, None, None, np.array([8, 10])],
        [x, None, np.array([0.7, 7 / 3], np.float32), None],
    ):
        attrs = {"axes": [2, 3], "keep_aspect_ratio_policy": policy}
        (expected,) = reference("Resize", inputs, opset=19, mode="nearest", **attrs)
        (got,) = run("Resize", inputs, [("float32", None)], **attrs)
        assert got.shape[:3] == expected.shape[:3]
        # The reference takes the floor of 20.9999995.
        assert got.shape[3] == (21 if inputs[2] is not None else expected.shape[3])


def test_empty_output() -> None:
    out = np.empty((1, 2, 0, 8), np.float32)
    (got,) = run("Resize", [X, None, None, np.array([1, 2, 0, 8])], [out], mode="linear")
    assert got.size == 0
