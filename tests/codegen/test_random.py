"""Random groups: any DAG of generated ops gives what the interpreter gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from harness import check, needs_tools
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphopt.ops  # noqa: F401
from graphopt.ir import Builder, DType, Graph, TensorType, Value, evaluate, sym

pytestmark = needs_tools
_FLOAT_UNARY = ("Neg", "Abs", "Tanh", "Sigmoid", "Relu", "Gelu", "Floor", "Softsign", "Erf", "Sin")
_FLOAT_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
_INT_BINARY = ("Add", "Sub", "Mul", "Max", "Min", "BitwiseXor")
_SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class _Random:
    """Draws a graph; every value has the full shape or broadcasts to it."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rank = draw(st.integers(1, 4))
        self.sizes = [draw(st.sampled_from([1, 2, 3, 7, 16, 17, 40])) for _ in range(self.rank)]
        self.env: dict[str, int] = {}
        self.dims: list[Any] = []
        for k, size in enumerate(self.sizes):
            symbolic = draw(st.booleans())
            self.dims.append(sym(f"S{k}") if symbolic else size)
            if symbolic:
                self.env[f"S{k}"] = size
        self.graph = Graph("body")
        self.b = Builder(self.graph)
        self.floats: list[Value] = []
        self.ints: list[Value] = []
        self.bools: list[Value] = []
        for k in range(draw(st.integers(1, 4))):
            kept = [draw(st.booleans()) for _ in range(self.rank)]
            shape = tuple(d if keep else 1 for d, keep in zip(self.dims, kept, strict=True))
            shape = shape[draw(st.integers(0, self.rank)) if k else 0 :]
            if k == 0:
                shape = tuple(self.dims)
            dtype = draw(st.sampled_from([DType.F32, DType.F32, DType.F16, DType.I32]))
            value = self.graph.add_input(f"x{k}", TensorType(dtype, shape))
            if dtype is DType.F16:
                value = self.b.Cast(value, to=int(DType.F32))
            (self.ints if dtype is DType.I32 else self.floats).append(value)

    def step(self) -> None:
        pick = lambda values: self.draw(st.sampled_from(values))  # noqa: E731
        kind = self.draw(st.integers(0, 6))
        if kind <= 1 and self.floats:
            op = pick(_FLOAT_UNARY)
            self.floats.append(self.b.op(op, pick(self.floats)))
        elif kind <= 3 and self.floats:
            op = pick(_FLOAT_BINARY)
            self.floats.append(self.b.op(op, pick(self.floats), pick(self.floats)))
        elif kind == 4 and self.ints:
            self.ints.append(self.b.op(pick(_INT_BINARY), pick(self.ints), pick(self.ints)))
        elif kind == 5 and self.floats:
            self.bools.append(self.b.Less(pick(self.floats), pick(self.floats)))
            self.floats.append(self.b.Where(pick(self.bools), pick(self.floats), pick(self.floats)))
        elif self.ints:
            # Rounded to f16: small enough for both types.
            low = self.b.BitwiseAnd(pick(self.ints), np.int32(63))
            self.floats.append(self.b.Cast(low, to=int(DType.F32)))

    def full(self, value: Value) -> Value:
        """``value`` with the full shape, so that it may be an output."""
        if value.shape == tuple(self.dims):
            return value
        first = self.graph.inputs[0]
        zero = self.b.Mul(self.b.Cast(first, to=int(value.tensor.dtype)), _zero(value))
        return self.b.Add(zero, value)

    def arrays(self) -> list[Any]:
        rng = np.random.default_rng(self.draw(st.integers(0, 1000)))
        result = []
        for value in self.graph.inputs:
            shape = tuple(evaluate(d, self.env) for d in value.tensor.shape or ())
            if value.tensor.dtype is DType.I32:
                result.append(rng.integers(-(2**31), 2**31, shape).astype(np.int32))
            else:
                result.append(rng.standard_normal(shape).astype(value.tensor.dtype.numpy))
        return result


def _zero(value: Value) -> Any:
    return np.zeros((), value.tensor.dtype.numpy)


@st.composite
def pointwise(draw: st.DrawFn) -> tuple[Graph, list[Any], dict[str, int]]:
    made = _Random(draw)
    for _ in range(draw(st.integers(1, 8))):
        made.step()
    values = (made.floats or made.ints)[-2:]
    for value in values:
        made.graph.add_output(made.full(value))
    return made.graph, made.arrays(), made.env


@st.composite
def reduced(draw: st.DrawFn) -> tuple[Graph, list[Any], dict[str, int]]:
    made = _Random(draw)
    for _ in range(draw(st.integers(0, 4))):
        made.step()
    x = made.full((made.floats or made.ints)[-1])
    b = made.b
    axes = sorted(draw(st.sets(st.integers(0, made.rank - 1), min_size=1)))
    is_float = x.tensor.dtype is DType.F32
    ops = ["ReduceMax", "ReduceMin"] + (["ReduceMean", "ReduceL2"] if is_float else ["ReduceSum"])
    keep = draw(st.booleans())
    y = b.op(draw(st.sampled_from(ops)), x, np.array(axes, np.int64), keepdims=int(keep))
    if is_float and draw(st.booleans()):
        y = b.Tanh(y)
    made.graph.add_output(y)
    if keep and is_float and draw(st.booleans()):
        made.graph.add_output(b.Sub(x, y))
    return made.graph, made.arrays(), made.env


@st.composite
def moved(draw: st.DrawFn) -> tuple[Graph, list[Any], dict[str, int]]:
    made = _Random(draw)
    b = made.b
    x = made.full((made.floats or made.ints)[0])
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["Transpose", "Slice", "Pad", "Concat", "Neg"]))
        axis = draw(st.integers(0, made.rank - 1))
        if kind == "Transpose":
            x = b.Transpose(x, perm=tuple(draw(st.permutations(range(made.rank)))))
        elif kind == "Slice":
            step = draw(st.sampled_from([1, 2, -1]))
            ends = (np.iinfo(np.int64).max, -1) if step > 0 else (np.iinfo(np.int64).min, 0)
            start = draw(st.sampled_from([0, 1, -1]))
            end = draw(st.sampled_from(ends))
            operands = [np.array([v], np.int64) for v in (start, end, axis, step)]
            x = b.Slice(x, *operands)
        elif kind == "Pad":
            pads = np.zeros(2 * made.rank, np.int64)
            pads[axis], pads[axis + made.rank] = draw(st.integers(0, 3)), draw(st.integers(0, 3))
            x = b.Pad(x, pads, mode=draw(st.sampled_from(["constant", "edge"])))
        elif kind == "Concat":
            x = b.Concat(x, b.Neg(x), axis=axis)
        else:
            x = b.Neg(x)
    made.graph.add_output(x)
    return made.graph, made.arrays(), made.env


def _check(case: tuple[Graph, list[Any], dict[str, int]], folder: Path) -> None:
    graph, arrays, env = case
    # Chains of a dozen f32 operations; magnitudes stay within a few orders.
    check(graph, arrays, folder, env=env, rtol=5e-6, atol=1e-6)


@_SETTINGS
@given(pointwise())
def test_pointwise(tmp_path: Path, case: tuple[Graph, list[Any], dict[str, int]]) -> None:
    _check(case, tmp_path)


@_SETTINGS
@given(reduced())
def test_reduced(tmp_path: Path, case: tuple[Graph, list[Any], dict[str, int]]) -> None:
    _check(case, tmp_path)


@_SETTINGS
@given(moved())
def test_moved(tmp_path: Path, case: tuple[Graph, list[Any], dict[str, int]]) -> None:
    _check(case, tmp_path)
