"""Reductions, softmax and normalisations against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import check, needs_tools

import graphopt.ops  # noqa: F401
from graphopt.codegen import can_emit
from graphopt.ir import Builder, DType, Graph, TensorType, Value, sym

pytestmark = needs_tools
RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]


def body(
    shapes: list[tuple[Any, ...]], make: Callable[..., Any], dtype: DType = DType.F32
) -> Graph:
    """A graph over inputs of these shapes; ``make(b, *inputs)`` returns the outputs."""
    graph = Graph("body")
    values = [graph.add_input(f"x{k}", TensorType(dtype, s)) for k, s in enumerate(shapes)]
    made = make(Builder(graph), *values)
    for value in [made] if isinstance(made, Value) else made:
        graph.add_output(value)
    return graph


def data(*shapes: tuple[int, ...], dtype: Any = np.float32) -> list[Array]:
    return [RNG.standard_normal(s).astype(dtype) for s in shapes]


REDUCTIONS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
]  # fmt: skip
CASES = [
    ((5, 7), (1,)),
    ((5, 7), (0,)),
    ((5, 129), (1,)),
    ((3, 4, 17), (2,)),
    ((3, 40, 65), (1,)),
    ((3, 4, 17), (0, 2)),
    ((2, 3, 4, 35), (2, 3)),
    ((2, 3, 4, 35), (0, 1, 2, 3)),
    ((130, 3), (0,)),
    ((6, 1, 9), (1,)),
    ((4, 0, 3), (1,)),
    ((0, 5), (1,)),
    ((64,), (0,)),
]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize(("shape", "axes"), CASES)
def test_reductions(op: str, shape: tuple[int, ...], axes: tuple[int, ...], tmp_path: Path) -> None:
    keep = len(shape) % 2
    graph = body([shape], lambda b, x: b.op(op, x, np.array(axes, np.int64), keepdims=keep))
    x = data(shape)[0]
    if op in ("ReduceProd", "ReduceLogSum"):
        x = np.abs(x) + np.float32(0.5)
    # A product of a hundred factors carries a hundred roundings.
    check(graph, [x], tmp_path, rtol=5e-6 if op == "ReduceProd" else 1e-6)


def test_symbolic_reductions(tmp_path: Path) -> None:
    n, c = sym("N"), sym("C")
    along = body([(n, c)], lambda b, x: b.ReduceMean(x, np.array([1], np.int64)))
    across = body([(n, c)], lambda b, x: b.ReduceMax(x, np.array([0], np.int64), keepdims=0))
    for rows, columns in ((1, 1), (3, 16), (5, 1000), (40, 70), (0, 4)):
        env = {"N": rows, "C": columns}
        check(along, data((rows, columns)), tmp_path, env=env)
        if rows:
            check(across, data((rows, columns)), tmp_path, env=env)


def test_long_rows_stay_exact(tmp_path: Path) -> None:
    """Sums of many elements do not lose digits to one running total."""
    graph = body([(2, 1 << 20)], lambda b, x: b.ReduceSum(x, np.array([1], np.int64)))
    check(graph, [RNG.random((2, 1 << 20)).astype(np.float32)], tmp_path)
    graph = body([(1 << 18, 5)], lambda b, x: b.ReduceMean(x, np.array([0], np.int64)))
    check(graph, [RNG.random((1 << 18, 5)).astype(np.float32)], tmp_path)


@pytest.mark.parametrize("dtype", [DType.I32, DType.I64, DType.U8, DType.F64, DType.F16])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean"])
def test_reduction_types(op: str, dtype: DType, tmp_path: Path) -> None:
    graph = body([(7, 45)], lambda b, x: b.op(op, x, np.array([1], np.int64)), dtype)
    x = RNG.uniform(0, 90, (7, 45)).astype(dtype.numpy)
    rtol = 1e-3 if dtype is DType.F16 else 1e-14
    check(graph, [x], tmp_path, rtol=rtol)


def test_masked_tails_read_nothing_outside(tmp_path: Path) -> None:
    """A short row of a symbolic reduction, at the end of memory, under one mask throughout."""
    n = sym("N")

    def make(b: Builder, x: Value, y: Value) -> Value:
        return b.ReduceMean(b.Add(b.Mul(x, np.float32(0)), y), np.array([1], np.int64))

    graph = body([(2, n), (1,)], make)
    for size in (1, 5, 16, 17, 40, 65):
        check(graph, data((2, size), (1,)), tmp_path, env={"N": size})


def test_nan_wins_in_extremes(tmp_path: Path) -> None:
    x = data((6, 50))[0]
    x[1, 3] = x[2, 49] = x[4, 0] = np.nan
    x[5] = -np.inf
    for op in ("ReduceMax", "ReduceMin"):
        for axis in (0, 1):
            graph = body([(6, 50)], lambda b, v: b.op(op, v, np.array([axis], np.int64)))  # noqa: B023
            check(graph, [x], tmp_path, rtol=0)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions(op: str, last: int, axis: int, tmp_path: Path) -> None:
    graph = body(
        [(4, 37, 21)],
        lambda b, x: b.op(op, x, axis=axis, select_last_index=last, keepdims=axis % 2),
    )
    x = RNG.integers(0, 6, (4, 37, 21)).astype(np.float32)
    x[0, 5] = x[2, :, 3] = np.nan
    x[1] = np.inf if op == "ArgMin" else -np.inf
    check(graph, [x], tmp_path)
    check(
        body([(4, 37, 21)], lambda b, v: b.op(op, v, axis=axis, select_last_index=last), DType.I32),
        [RNG.integers(-3, 3, (4, 37, 21)).astype(np.int32)],
        tmp_path,
    )


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 10), 1), ((6, 10), 0), ((3, 5, 128), 2), ((3, 21, 5, 7), 1), ((2, 197), 1), ((9, 1), 1)],
)
def test_softmax(op: str, shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    graph = body([shape], lambda b, x: b.op(op, x, axis=axis))
    check(graph, [data(shape)[0] * 5], tmp_path)


def test_masked_scaled_softmax(tmp_path: Path) -> None:
    n, t = sym("N"), sym("T")
    graph = body(
        [(n, 3, t, t), (n, 1, 1, t)],
        lambda b, x, m: b.Softmax(b.Add(b.Mul(x, np.float32(0.125)), m)),
    )
    for size in (1, 7, 16, 130):
        x, m = data((2, 3, size, size), (2, 1, 1, size))
        m[0, :, :, size // 2 :] = -np.inf
        m[0, 0, 0, 0] = 0
        check(graph, [x * 8, m], tmp_path, env={"N": 2, "T": size})


def test_narrow_softmax(tmp_path: Path) -> None:
    graph = body([(5, 77)], lambda b, x: b.Softmax(x), DType.F16)
    check(graph, data((5, 77), dtype=np.float16), tmp_path, rtol=1e-3)


@pytest.mark.parametrize("width", [8, 33, 768])
def test_layer_norm_with_residual(width: int, tmp_path: Path) -> None:
    """The residual sum is a second output; so are the statistics of another norm."""

    def make(b: Builder, x: Value, r: Value, g: Value, c: Value) -> list[Value]:
        total = b.Add(x, r)
        return [b.LayerNormalization(total, g, c, epsilon=1e-6), total]

    shapes = [(sym("N"), 9, width), (sym("N"), 9, width), (width,), (width,)]
    graph = body(shapes, make)
    arrays = data((2, 9, width), (2, 9, width), (width,), (width,))
    check(graph, arrays, tmp_path, env={"N": 2})
    graph = body([(4, width), (width,)], lambda b, x, g: b.LayerNormalization(x, g, _outputs=3))
    check(graph, data((4, width), (width,)), tmp_path)


def test_norms_keep_precision_far_from_zero(tmp_path: Path) -> None:
    graph = body([(3, 300), (300,)], lambda b, x, g: b.LayerNormalization(x, g))
    x, g = data((3, 300), (300,))
    # The mean takes 10 of 24 bits here: what is left of the result's digits is 1e-4.
    check(graph, [x + np.float32(1000), g], tmp_path, rtol=1e-4)


def test_other_norms(tmp_path: Path) -> None:
    n = sym("N")
    scale = [(n, 6, 5, 7), (6,), (6,)]
    arrays = data((2, 6, 5, 7), (6,), (6,))
    env = {"N": 2}
    for make in (
        lambda b, x, s, c: b.InstanceNormalization(x, s, c),
        lambda b, x, s, c: b.GroupNormalization(x, s, c, num_groups=3),
        lambda b, x, s, c: b.BatchNormalization(x, s, c, c, b.Abs(s)),
    ):
        graph = body(scale, make)
        if "BatchNormalization" in str(graph):
            graph = body([*scale, (6,), (6,)], lambda b, *v: b.BatchNormalization(*v))
            check(graph, [*arrays, arrays[2], np.abs(arrays[1])], tmp_path, env=env)
            continue
        check(graph, arrays, tmp_path, env=env)
    graph = body([(n, 40), (40,)], lambda b, x, s: b.RMSNormalization(x, s))
    check(graph, data((5, 40), (40,)), tmp_path, env={"N": 5})
    for p in (1, 2):
        graph = body([(4, 9, 33)], lambda b, x: b.LpNormalization(x, axis=1, p=p))  # noqa: B023
        check(graph, data((4, 9, 33)), tmp_path)
    graph = body([(2, 3, 5, 4)], lambda b, x: b.MeanVarianceNormalization(x))
    check(graph, data((2, 3, 5, 4)), tmp_path)
    graph = body([(2, 7, 5, 4)], lambda b, x: b.LRN(x, size=5, alpha=0.5))
    check(graph, data((2, 7, 5, 4)), tmp_path)


def test_prologue_and_epilogue(tmp_path: Path) -> None:
    def make(b: Builder, x: Value, y: Value) -> Value:
        total = b.ReduceSum(b.Mul(x, b.Sigmoid(y)), np.array([1], np.int64), keepdims=0)
        return b.Tanh(b.Mul(total, np.float32(0.1)))

    graph = body([(6, 50), (6, 50)], make)
    check(graph, data((6, 50), (6, 50)), tmp_path)


def test_composed_standardisation(tmp_path: Path) -> None:
    """Two dependent reductions and both kinds of results in one kernel."""

    def make(b: Builder, x: Value) -> list[Value]:
        axes = np.array([-1], np.int64)
        mean = b.ReduceMean(x, axes)
        centred = b.Sub(x, mean)
        variance = b.ReduceMean(b.Mul(centred, centred), axes)
        return [b.Div(centred, b.Sqrt(b.Add(variance, np.float32(1e-5)))), mean, variance]

    check(body([(7, sym("C"))], make), data((7, 90)), tmp_path, env={"C": 90})


def test_refusals() -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (3, 4)))
    axes = graph.add_input("axes", TensorType(DType.I64, (1,)))
    node = Builder(graph).ReduceSum(x, axes).producer
    assert "only known when the model runs" in str(can_emit(node))
