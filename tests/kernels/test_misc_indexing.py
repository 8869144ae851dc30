"""The gather, scatter and cumulate families against onnx's cases and numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from misc_support import assert_close, backend_cases, expected_of, feeds_of, like, run, run_node

OPS = [
    "Gather",
    "GatherElements",
    "GatherND",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "TensorScatter",
    "OneHot",
    "EyeLike",
    "Trilu",
    "ReverseSequence",
    "CumSum",
    "CumProd",
]
CASES = [(op, case) for op in OPS for case in backend_cases()[op]]
TYPES = [
    np.bool_,
    np.uint8,
    np.int8,
    np.float16,
    ml_dtypes.bfloat16,
    np.float32,
    np.int32,
    np.float64,
    np.int64,
    np.complex64,
    np.complex128,
    ml_dtypes.float8_e5m2,
    ml_dtypes.int4,
]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected, threads=2)
        assert expected[0] is not None
        assert_close(actual[0], expected[0], rtol=1e-6)


def numbers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 7, shape).astype(dtype)


def indices(shape: tuple[int, ...], limit: int, seed: int = 1, dtype: Any = np.int64) -> np.ndarray:
    return np.random.default_rng(seed).integers(-limit, limit, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_gather_types(dtype: Any, index_type: Any) -> None:
    data = numbers((3, 5, 7), dtype)
    picked = indices((2, 4), 5, dtype=index_type)
    (got,) = run("Gather", [data, picked], [(data.dtype.name, [3, 2, 4, 7])], axis=1)
    np.testing.assert_array_equal(got, np.take(data, picked, axis=1))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (500,), (3, 2)])
def test_gather_axes(axis: int, shape: tuple[int, ...]) -> None:
    data = numbers((4, 6, 3))
    picked = indices(shape, data.shape[axis])
    expected = np.take(data, picked, axis=axis)
    (got,) = run("Gather", [data, picked], [like(expected)], threads=2, axis=axis)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_gather_elements(dtype: Any, axis: int) -> None:
    data = numbers((4, 70, 5), dtype)
    shape = [3, 60, 4]
    shape[axis] = 90
    picked = indices(tuple(shape), data.shape[axis])
    cut = tuple(slice(None) if i == axis % 3 else slice(n) for i, n in enumerate(shape))
    bits = data.view(np.uint8) if data.dtype.itemsize == 1 else data
    expected = np.take_along_axis(bits[cut], picked % data.shape[axis], axis=axis).view(data.dtype)
    (got,) = run("GatherElements", [data, picked], [like(expected)], threads=2, axis=axis)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_gather_nd(batch_dims: int, depth: int) -> None:
    data = numbers((3, 2, 5, 6))
    picked = indices((3, 2, 7, depth), 2)
    flat = data.reshape(-1, *data.shape[batch_dims:])
    tuples = picked.reshape(flat.shape[0], -1, depth)
    rows = [flat[b][tuple(t)] for b in range(flat.shape[0]) for t in tuples[b]]
    expected = np.stack(rows).reshape(picked.shape[:-1] + data.shape[batch_dims + depth :])
    (got,) = run("GatherND", [data, picked], [like(expected)], threads=2, batch_dims=batch_dims)
    np.testing.assert_array_equal(got, expected)


REDUCTIONS = {"none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.int8, np.uint64, np.float16, np.bool_, np.float64]
)
def test_scatter_elements(reduction: str, axis: int, dtype: Any) -> None:
    data = numbers((4, 5, 300), dtype)
    shape = [3, 4, 290]
    shape[axis] = 6
    at = indices(tuple(shape), data.shape[axis])
    updates = numbers(tuple(shape), dtype, seed=4)
    expected = data.copy()
    combine = REDUCTIONS[reduction]
    for place in np.ndindex(*shape):
        target = list(place)
        target[axis] = at[place]
        old = expected[tuple(target)]
        expected[tuple(target)] = (
            updates[place] if combine is None else combine(old, updates[place])
        )
    (got,) = run(
        "ScatterElements",
        [data, at, updates],
        [like(data)],
        threads=2,
        axis=axis,
        reduction=reduction,
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(reduction: str, depth: int) -> None:
    data = numbers((3, 4, 200))
    at = indices((5, 2, depth), 3)
    updates = numbers((5, 2, *data.shape[depth:]), seed=3)
    expected = data.copy()
    combine = REDUCTIONS[reduction]
    for place in np.ndindex(5, 2):
        target = tuple(at[place])
        new = updates[place] if combine is None else combine(expected[target], updates[place])
        expected[target] = new
    (got,) = run("ScatterND", [data, at, updates], [like(data)], threads=2, reduction=reduction)
    np.testing.assert_array_equal(got, expected)


def test_scatter_maximum_keeps_nan() -> None:
    data = np.array([1, np.nan, 3], np.float32)
    updates = np.array([np.nan, 5, 4], np.float32)
    (got,) = run("ScatterElements", [data, np.arange(3), updates], [like(data)], reduction="max")
    np.testing.assert_array_equal(got, np.maximum(data, updates))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_scatter_complex(dtype: Any) -> None:
    data = (numbers((4,)) + 1j * numbers((4,), seed=2)).astype(dtype)
    (got,) = run("ScatterND", [data, np.array([[1], [1]]), data[:2]], [like(data)], reduction="mul")
    expected = data.copy()
    expected[1] *= data[0]
    expected[1] *= data[1]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("shape", [(9,), (3, 5, 200), (2, 0, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint64])
def test_cumulate(
    op: str, exclusive: int, reverse: int, shape: tuple[int, ...], dtype: Any
) -> None:
    data = numbers(shape, dtype)
    for axis in range(-1, len(shape)):
        flipped = np.flip(data, axis) if reverse else data
        expected = (np.cumsum if op == "CumSum" else np.cumprod)(flipped, axis, dtype=dtype)
        if exclusive:
            expected = np.roll(expected, 1, axis)
            first = [slice(None)] * len(shape)
            first[axis] = slice(0, 1)
            expected[tuple(first)] = op == "CumProd"
        expected = np.flip(expected, axis) if reverse else expected
        (got,) = run(
            op,
            [data, np.array(axis)],
            [like(data)],
            threads=2,
            exclusive=exclusive,
            reverse=reverse,
        )
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -100, -3, -1, 0, 1, 4, 100, -(2**62), 2**62])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.complex128])
def test_trilu(upper: int, k: int | None, dtype: Any) -> None:
    data = numbers((2, 5, 6), dtype) + dtype(1)
    expected = (np.triu if upper else np.tril)(data, np.clip(k or 0, -50, 50))
    (got,) = run("Trilu", [data, None if k is None else np.array(k)], [like(data)], upper=upper)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.float32])
def test_one_hot(axis: int, dtype: Any) -> None:
    at = np.array([[0, -1, 4, 5], [-6, 2, 1, -5]], dtype)
    values = np.array([2, 9], np.int16)
    wrapped = np.where(at < 0, at + 5, at)
    hot = np.expand_dims(wrapped, axis) == np.moveaxis(np.arange(5).reshape(5, 1, 1), 0, axis)
    expected = np.where(hot, values[1], values[0])
    (got,) = run("OneHot", [at, np.array(5.0, np.float32), values], [like(expected)], axis=axis)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("batch_axis", "time_axis"), [(0, 1), (1, 0)])
def test_reverse_sequence(batch_axis: int, time_axis: int) -> None:
    data = numbers((4, 6, 3), np.int16)
    lengths = np.array([0, 1, 4, 3, 2, 4][: data.shape[batch_axis]])
    expected = data.copy()
    for b, length in enumerate(lengths):
        line = np.moveaxis(expected, (batch_axis, time_axis), (0, 1))[b]
        line[:length] = line[:length][::-1].copy()
    (got,) = run(
        "ReverseSequence", [data, lengths], [like(data)], batch_axis=batch_axis, time_axis=time_axis
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    past = numbers((2, 3, 6, 4))
    update = numbers((2, 3, 2, 4), seed=8)
    at = np.array([1, 4]) if mode == "linear" else np.array([5, -1])
    expected = past.copy()
    for b in range(2):
        for s in range(2):
            expected[b, :, (at[b] + s) % 6] = update[b, :, s]
    (got,) = run("TensorScatter", [past, update, at], [like(past)], threads=2, mode=mode)
    np.testing.assert_array_equal(got, expected)


F = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "attrs", "message"),
    [
        ("Gather", [F, np.array([3])], [2, 1], {"axis": 1}, "index 3 is out of range"),
        ("Gather", [F, np.array([-4])], [2, 1], {"axis": 1}, "index -4"),
        ("Gather", [F, np.array([0])], [1, 3], {"axis": 2}, "axis 2"),
        ("Gather", [F, np.array([0])], [9], {}, "output has shape"),
        ("Gather", [F, np.array([0.0])], [1, 3], {}, "expected i32 or i64"),
        ("Gather", [np.zeros((0, 3), np.float32), np.array([0])], [1, 3], {}, "out of range"),
        ("GatherElements", [F, np.array([[5]])], [1, 1], {}, "index 5"),
        ("GatherElements", [F, np.zeros((1, 4), np.int64)], [1, 4], {}, "larger than data"),
        ("GatherND", [F, np.array([[0, 3]])], [1], {}, "index 3"),
        ("GatherND", [F, np.array([[2, 0]])], [1], {}, "index 2"),
        ("GatherND", [F, np.array([[0, 0, 0]])], [1], {}, "longer"),
        ("ScatterElements", [F, np.array([[2]]), F[:1, :1]], [2, 3], {}, "index 2"),
        ("ScatterElements", [F, np.array([[0]]), F[:1]], [2, 3], {}, "updates has shape"),
        ("ScatterElements", [F, np.array([[0]]), F[:1, :1]], [2, 3], {"reduction": "xor"}, "xor"),
        ("ScatterND", [F, np.array([[-3]]), F[:1]], [2, 3], {}, "index -3"),
        ("ScatterND", [F, np.array([[0]]), F], [2, 3], {}, "updates has shape"),
        ("ReverseSequence", [F, np.array([3, 0, 0])], [2, 3], {}, "sequence_lens"),
        ("TensorScatter", [F, F, np.array([1, 0])], [2, 3], {"axis": 1}, "write_indices"),
        ("CumSum", [F, np.array(2)], [2, 3], {}, "axis 2"),
        ("OneHot", [np.array([0]), np.array(-1), F[0, :2]], [1, 1], {}, "depth"),
    ],
)
def test_errors(
    op: str, inputs: Any, shape: list[int], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(op, inputs, [("float32", shape)], **attrs)
