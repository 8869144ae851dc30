"""top_k, unique, non_zero, compress and non_max_suppression."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from misc_support import (
    assert_close,
    backend_cases,
    expected_of,
    feeds_of,
    onnxruntime_result,
    run,
    run_node,
)

OPS = ["TopK", "Unique", "NonZero", "Compress", "NonMaxSuppression"]
CASES = [(op, case) for op in OPS for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        for got, want in zip(actual, expected, strict=True):
            if want is not None:
                assert_close(got, want)


def values(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Few distinct values, so that there are ties."""
    return np.random.default_rng(seed).integers(0, 12, shape).astype(dtype)


TYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint64, np.int64]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("k", [0, 1, 3, 8])
def test_top_k(dtype: Any, largest: int, axis: int, k: int) -> None:
    x = values((8, 9, 20), dtype)
    keys = x.astype(np.float64) * (-1 if largest else 1)
    order = np.argsort(keys, axis=axis, kind="stable").take(np.arange(k), axis=axis)
    shape = list(order.shape)
    got, at = run(
        "TopK", [x, np.array([k])], [(x.dtype.name, shape), ("int64", shape)], 2,
        axis=axis, largest=largest,
    )  # fmt: skip
    np.testing.assert_array_equal(at, order)
    np.testing.assert_array_equal(got, np.take_along_axis(x, order, axis=axis))


def test_top_k_shape_from_the_operand() -> None:
    x = values((3, 9))
    got, at = run("TopK", [x, np.array([4])], [("float32", None), ("int64", None)])
    assert got.shape == at.shape == (3, 4)


def test_top_k_orders_special_values() -> None:
    x = np.array([-0.0, np.inf, 0.0, np.nan, -np.inf, 1.0], np.float32)
    out = [("float32", [6]), ("int64", [6])]
    _, down = run("TopK", [x, np.array([6])], out)
    _, up = run("TopK", [x, np.array([6])], out, largest=0)
    assert down.tolist() == [3, 1, 5, 0, 2, 4]
    assert up.tolist() == [4, 0, 2, 5, 1, 3]


@pytest.mark.parametrize("dtype", [*TYPES[:3], np.int8, np.uint64, np.bool_])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("in_order", [0, 1])
def test_unique(dtype: Any, axis: int | None, in_order: int) -> None:
    x = values((6, 7, 2), dtype) % np.array(2 if dtype is not np.bool_ else 1, dtype)
    attrs: dict[str, Any] = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    got = run("Unique", [x], [(x.dtype.name, None), *[("int64", None)] * 3], **attrs)
    y, first, inverse, count = np.unique(x, True, True, True, axis=axis)
    if not in_order:
        order = np.argsort(first)
        place = np.argsort(order)
        y = np.take(y, order, axis=0 if axis is None else axis)
        first, inverse, count = first[order], place[inverse.reshape(-1)], count[order]
    for actual, expected in zip(got, (y, first, inverse.reshape(-1), count), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_unique_special_values() -> None:
    x = np.array([np.nan, 0.0, -0.0, np.nan, -np.inf, 1], np.float64)
    y, first, inverse, count = run("Unique", [x], [("float64", None), *[("int64", None)] * 3])
    np.testing.assert_array_equal(y, [-np.inf, 0.0, 1.0, np.nan])
    assert first.tolist() == [4, 1, 5, 0]
    assert inverse.tolist() == [3, 1, 1, 3, 0, 2]
    assert count.tolist() == [1, 2, 1, 2]


def test_unique_complex_and_single_output() -> None:
    x = np.array([2 + 1j, 1 + 2j, 1 + 1j, 1 + 2j], np.complex64)
    got = run("Unique", [x], [("complex64", None)])
    np.testing.assert_array_equal(got[0], np.unique(x))


@pytest.mark.parametrize("dtype", [*TYPES, np.bool_, np.complex64])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (0, 3), (200, 500)])
def test_non_zero(dtype: Any, shape: tuple[int, ...]) -> None:
    x = (values(shape) % 3).astype(dtype)
    (got,) = run("NonZero", [x], [("int64", None)], threads=2)
    np.testing.assert_array_equal(got, np.array(np.nonzero(x)))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.complex128, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(dtype: Any, axis: int | None) -> None:
    x = values((4, 5, 6), dtype)
    for condition in ([True, False, True], [False], [], [True] * 4):
        attrs = {} if axis is None else {"axis": axis}
        mask = np.array(condition, np.bool_)
        (got,) = run("Compress", [x, mask], [(x.dtype.name, None)], threads=2, **attrs)
        np.testing.assert_array_equal(got, np.compress(mask, x, axis=axis))


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("threshold", [None, 0.4])
@pytest.mark.parametrize("most", [0, 1, 7, 1000])
def test_non_max_suppression(center: int, threshold: float | None, most: int) -> None:
    rng = np.random.default_rng(2)
    boxes = rng.uniform(0, 1, (2, 60, 4)).astype(np.float32)
    scores = (rng.integers(0, 30, (2, 3, 60)) / 30).astype(np.float32)
    inputs = [boxes, scores, np.array([most]), np.array([0.3], np.float32)]
    if threshold is not None:
        inputs.append(np.array([threshold], np.float32))
    (expected,) = onnxruntime_result("NonMaxSuppression", inputs, opset=11, center_point_box=center)
    (got,) = run("NonMaxSuppression", inputs, [("int64", None)], threads=2, center_point_box=center)
    np.testing.assert_array_equal(got, expected.reshape(-1, 3))


def test_non_max_suppression_with_nan_scores() -> None:
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]], np.float32)
    scores = np.array([[[np.nan, 0.1, 0.2]]], np.float32)
    (got,) = run("NonMaxSuppression", [boxes, scores, np.array(5)], [("int64", None)])
    assert got[:, 2].tolist() == [2, 1, 0]


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attrs", "message"),
    [
        ("TopK", [X, np.array([4])], [("float32", [2, 4]), ("int64", [2, 4])], {}, "K is"),
        ("TopK", [X, np.array([-1])], [("float32", [2, 0]), ("int64", [2, 0])], {}, "K is"),
        ("TopK", [X, np.array([2])], [("float32", [2, 3]), ("int64", [2, 2])], {}, "Values has"),
        ("TopK", [X, np.array([1, 1])], [("float32", [2, 1]), ("int64", [2, 1])], {}, "K has"),
        ("Unique", [X], [("float32", None)], {"axis": 2}, "axis 2"),
        ("Compress", [X, np.ones(3, np.bool_)], [("float32", None)], {"axis": 0}, "longer"),
        ("Compress", [X, np.ones(2, np.int64)], [("float32", None)], {"axis": 0}, "condition"),
        (
            "NonMaxSuppression",
            [np.zeros((1, 2, 4), np.float32), np.zeros((1, 1, 3), np.float32), np.array(1)],
            [("int64", None)],
            {},
            "boxes has shape",
        ),
    ],
)
def test_errors(
    op: str, inputs: list[Any], outputs: list[Any], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, outputs, **attrs)
