"""Symbolic inference: shapes, and contents of small tensors, stay exact expressions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.ir import (
    Constant,
    Dim,
    DType,
    SequenceType,
    TensorType,
    Value,
    bcast,
    evaluate,
    parse_dim,
    product,
    sym,
)
from graphopt.ops.movement import slice_length, split_sizes
from tests.ops.bench import Bench, run_op

N = sym("N")
END = (1 << 63) - 1


def dims(value: Value) -> str:
    shape = value.shape
    return "?" if shape is None else ", ".join(map(str, shape))


def contents(value: Value) -> str | None:
    return None if value.elements is None else ", ".join(map(str, value.elements))


# ---- Reshape ----


@pytest.mark.parametrize(
    ("data", "wanted", "expected"),
    [
        ("N, 3, H, W", "N, -1", "N, 3*H*W"),
        ("N, 3, 4", "-1, 12", "N, 12"),
        ("B, S, 384", "0, 0, 12, 32", "B, S, 12, 32"),
        ("B, S, 12, 32", "0, 0, -1", "B, S, 384"),
        ("N, C, H, W", "0, 4, -1, H, W", "N, 4, (C // 4), H, W"),
        ("N, 6", "-1, 4", "((N*3) // 2), 4"),
        ("A + 1, 8", "-1, A + 1", "8, A + 1"),
        ("0, 5", "0, -1", "0, 5"),
        ("2, 3", "6", "6"),
        ("N", "", ""),
    ],
)
def test_reshape(bench: Bench, data: str, wanted: str, expected: str) -> None:
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    pieces: list[Any] = [
        np.array([int(p)]) if p.lstrip("-").isdigit() else bench.shape_of(p) for p in parts
    ]
    shape = bench.Concat(*pieces, axis=0) if pieces else np.zeros(0, np.int64)
    assert dims(bench.Reshape(bench.input(data), shape)) == _canonical(expected)


def _canonical(text: str) -> str:

    parts = re.split(r",(?![^(]*\))", text)
    return ", ".join(str(parse_dim(part)) for part in parts if part.strip())


def test_reshape_allowzero(bench: Bench) -> None:
    x = bench.input("0, 3")
    assert dims(bench.Reshape(x, np.array([3, 0]), allowzero=1)) == "3, 0"
    assert dims(bench.Reshape(x, np.array([0, 3]))) == "0, 3"


def test_reshape_by_a_runtime_shape(bench: Bench) -> None:
    result = bench.Reshape(bench.input("2, 3"), bench.input("2", DType.I64))
    assert result.shape is not None
    assert len(result.shape) == 2
    assert not any(isinstance(dim, int) for dim in result.shape)
    assert dims(bench.Reshape(bench.input("2, 3"), bench.input("K", DType.I64))) == "?"


@pytest.mark.parametrize(
    ("data", "wanted", "cause"),
    [
        ("2, 3", [4, -1], "do not divide"),
        ("2, 3", [7], "cannot become"),
        ("2, 3", [-1, -1], "two sizes of -1"),
        ("2, 3", [2, -2], "size of -2"),
        ("2, 3", [2, 3, 0], "copies size 2"),
    ],
)
def test_reshape_refuses(bench: Bench, data: str, wanted: list[int], cause: str) -> None:
    with pytest.raises(ModelError, match=cause):
        bench.Reshape(bench.input(data), np.array(wanted))


# ---- broadcasting, Expand ----


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("N, 1, W", "H, 1", "N, H, W"),
        ("N, 3", "3", "N, 3"),
        ("N", "1", "N"),
        ("N", "M", "bcast(M, N)"),
        ("N", "4", "4"),
        ("", "N", "N"),
        ("2*N", "2*N", "2*N"),
    ],
)
def test_broadcast(bench: Bench, a: str, b: str, expected: str) -> None:
    assert dims(bench.Add(bench.input(a), bench.input(b))) == expected
    assert dims(bench.Less(bench.input(b), bench.input(a))) == expected


def test_broadcast_refuses(bench: Bench) -> None:
    with pytest.raises(ModelError, match="do not broadcast"):
        bench.Add(bench.input("2, 3"), bench.input("4"))
    with pytest.raises(ModelError, match="types differ"):
        bench.Add(bench.input("2"), bench.input("2", DType.I64))


def test_expand(bench: Bench) -> None:
    x = bench.input("1, 3")
    assert dims(bench.Expand(x, bench.shape_of("N, 1, 3"))) == "N, 1, 3"
    assert dims(bench.Expand(x, np.array([4, 1]))) == "4, 3"
    unknown = bench.Expand(x, bench.input("2", DType.I64))
    assert unknown.shape is not None
    assert unknown.shape[1] == 3


# ---- shape arithmetic ----


def test_contents_survive_shape_arithmetic(bench: Bench) -> None:
    shape = bench.Shape(bench.input("N, 3, H, W"))
    height = bench.Gather(shape, np.array(2))
    assert contents(height) == "H"
    doubled = bench.Mul(height, np.array(2))
    joined = bench.Concat(
        bench.Unsqueeze(doubled, np.array([0])),
        bench.Slice(shape, np.array([-1]), np.array([END])),
        axis=0,
    )
    assert contents(joined) == "2*H, W"
    assert contents(bench.Div(joined, np.array([2, 4]))) == "H, (W // 4)"
    assert contents(bench.ReduceProd(shape, keepdims=0)) == "3*H*N*W"
    assert contents(bench.Cast(bench.Squeeze(bench.Slice(shape, [0], [1])), to=6)) == "N"
    assert contents(bench.Size(bench.input("N, 4"))) == "4*N"


def test_contents_survive_floats(bench: Bench) -> None:
    # How exporters write interpolation by a scale factor.
    size = bench.Gather(bench.Shape(bench.input("N, H")), np.array(1))
    scaled = bench.Mul(bench.Cast(size, to=1), np.array(2, np.float32))
    assert contents(bench.Cast(bench.Floor(scaled), to=7)) == "2*H"
    # 1.5 is no whole number: nothing is known of the product.
    assert contents(bench.Mul(bench.Cast(size, to=1), np.array(1.5, np.float32))) is None
    # Half of H need not be whole, half of 2*H is.
    assert contents(bench.Div(bench.Cast(size, to=1), np.array(2, np.float32))) is None
    assert contents(bench.Div(scaled, np.array(2, np.float32))) == "H"


def test_negative_zero_is_not_known(bench: Bench) -> None:
    zero = bench.graph.add_constant(np.array([-0.0], np.float32))
    assert contents(bench.Identity(zero)) is None
    minus = bench.Mul(bench.Cast(np.array([0]), to=1), np.array([-1.0], np.float32))
    assert contents(minus) is None


def test_contents_decide_where(bench: Bench) -> None:
    # torch writes `expand(-1, ...)` so: -1 stands for the size at hand.
    wanted = bench.Concat(bench.shape_of("N"), np.array([-1]), axis=0)
    ones = bench.ConstantOfShape(np.array([2]), value=Constant(np.array([1])))
    chosen = bench.Where(bench.Equal(wanted, np.array(-1)), ones, wanted)
    assert contents(chosen) == "N, 1"
    # N may be 0 or 1: that is not known.
    assert contents(bench.Equal(bench.shape_of("N"), np.array([1]))) is None
    assert contents(bench.Less(bench.shape_of("N"), np.array([0]))) == "0"
    assert contents(bench.Not(bench.GreaterOrEqual(bench.shape_of("N"), np.array([0])))) == "0"


def test_contents_that_overflow_are_not_known(bench: Bench) -> None:
    big = bench.Add(np.array([200], np.uint8), np.array([100], np.uint8))
    assert contents(big) is None


def test_division_of_what_may_be_negative_is_not_known(bench: Bench) -> None:
    less = bench.Sub(bench.shape_of("N"), np.array([3]))
    assert contents(less) == "N - 3"
    assert contents(bench.Div(less, np.array([2]))) is None
    assert contents(bench.Div(np.array([-7]), np.array([2]))) == "-3"


# ---- Slice, Split ----


@pytest.mark.parametrize(
    ("data", "start", "end", "step", "expected"),
    [
        ("N", 0, END, 1, "N"),
        ("N", 0, END, 2, "((N + 1) // 2)"),
        ("N", 1, END, 1, "max(0, N - 1)"),
        ("N", 0, -1, 1, "max(0, N - 1)"),
        ("N", -1, END, 1, "min(1, N)"),
        ("N", -1, -END - 1, -1, "N"),
        ("10", -1, -END - 1, -3, "4"),
        ("10", 2, 100, 3, "3"),
        ("10", 7, 3, 1, "0"),
        ("N + 8", 0, 4, 1, "4"),
    ],
)
def test_slice(bench: Bench, data: str, start: int, end: int, step: int, expected: str) -> None:
    x = bench.input(data)
    result = bench.Slice(x, np.array([start]), np.array([end]), np.array([0]), np.array([step]))
    assert dims(result) == _canonical(expected)


def test_slice_by_sizes(bench: Bench) -> None:
    cache = bench.input("1, 512, 64")
    length = bench.shape_of("S")
    part = bench.Slice(cache, np.array([0]), length, np.array([1]))
    assert dims(part) == _canonical("1, min(S, 512), 64")
    assert dims(bench.Slice(bench.input("S"), np.array([0]), length)) == "S"


bounds = st.integers(-9, 9) | st.sampled_from([END, -END - 1, (1 << 31) - 1, -(1 << 31)])


def _specified(size: int, start: int, end: int, step: int) -> list[int]:
    """The indices that Slice takes, after the words of the specification."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return list(range(min(max(start, 0), size), min(max(end, 0), size), step))
    if size == 0:
        return []
    return list(range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step))


@given(
    size=st.integers(0, 6),
    start=bounds | st.tuples(st.just("N"), st.integers(-8, 8)),
    end=bounds | st.tuples(st.just("N"), st.integers(-8, 8)),
    step=st.sampled_from([1, 2, 3, -1, -2]),
)
def test_slice_is_exact(size: int, start: Any, end: Any, step: int) -> None:
    """Whatever the symbol turns out to be, the formula gives the number of elements taken."""
    symbolic = [N + b[1] if isinstance(b, tuple) else b for b in (start, end)]
    numbers = [size + b[1] if isinstance(b, tuple) else b for b in (start, end)]
    expected = _specified(size, *numbers, step)
    assert evaluate(slice_length(N, *symbolic, step), {"N": size}) == len(expected)
    assert slice_length(size, *numbers, step) == len(expected)
    taken = run_op("Slice", np.arange(size), *(np.array([v]) for v in (*numbers, 0, step)))
    assert taken.tolist() == expected


@given(size=st.integers(0, 40), count=st.integers(1, 7))
def test_split_sizes_add_up(size: int, count: int) -> None:
    known = split_sizes(size, count)
    assert sum(int(evaluate(s, {})) for s in known) == size
    assert tuple(evaluate(s, {"N": size}) for s in split_sizes(N, count)) == known


def test_split(bench: Bench) -> None:
    parts = bench.Split(bench.input("N, 3*C"), axis=1, num_outputs=3, _outputs=3)
    assert [dims(p) for p in parts] == ["N, C"] * 3
    parts = bench.Split(bench.input("N"), num_outputs=2, _outputs=2)
    assert [dims(p) for p in parts] == _canonical("(N + 1)//2, N - (N + 1)//2").split(", ")
    parts = bench.Split(bench.input("4, N"), np.array([1, 3]), _outputs=2)
    assert [dims(p) for p in parts] == ["1, N", "3, N"]
    with pytest.raises(ModelError, match="differ"):
        bench.Split(bench.input("4"), np.array([1, 2]), _outputs=2)


# ---- the rest of the movement ops ----


def test_movement(bench: Bench) -> None:
    x = bench.input("N, C, H, W")
    assert dims(bench.Transpose(x, perm=(0, 2, 3, 1))) == "N, H, W, C"
    assert dims(bench.Transpose(x)) == "W, H, C, N"
    assert dims(bench.Flatten(x, axis=2)) == "C*N, H*W"
    assert dims(bench.Flatten(x, axis=0)) == "1, C*H*N*W"
    assert dims(bench.Concat(x, bench.input("N, 3, H, W"), axis=1)) == "N, C + 3, H, W"
    assert dims(bench.Tile(x, np.array([1, 2, 1, 3]))) == "N, 2*C, H, 3*W"
    assert dims(bench.Pad(x, np.array([0, 0, 1, 1, 0, 0, 2, 2]))) == "N, C, H + 3, W + 3"
    assert dims(bench.Pad(x, np.array([1, 2]), None, np.array([-1]))) == "N, C, H, W + 3"
    assert dims(bench.DepthToSpace(bench.input("N, 4*C, H, W"), blocksize=2)) == "N, C, 2*H, 2*W"
    assert dims(bench.SpaceToDepth(bench.input("N, C, 2*H, 4"), blocksize=2)) == "N, 4*C, H, 2"
    assert dims(bench.CenterCropPad(x, np.array([8, 9]), axes=(2, 3))) == "N, C, 8, 9"
    assert dims(bench.Gather(x, bench.input("K, 2", DType.I64), axis=1)) == "N, K, 2, H, W"
    assert dims(bench.GatherND(x, bench.input("5, 2", DType.I64))) == "5, H, W"
    assert dims(bench.GatherND(x, bench.input("N, 7, 1", DType.I64), batch_dims=1)) == "N, 7, H, W"
    assert dims(bench.OneHot(bench.input("N", DType.I64), np.array(10), np.zeros(2))) == "N, 10"
    assert dims(bench.TopK(bench.input("N, 9"), np.array([5]), _outputs=2)[1]) == "N, 5"
    assert dims(bench.Range(np.array(0), bench.Squeeze(bench.shape_of("N")), np.array(1))) == "N"
    assert dims(bench.ConstantOfShape(bench.shape_of("N, 2"))) == "N, 2"


def test_squeeze_without_axes(bench: Bench) -> None:
    assert dims(bench.Squeeze(bench.input("1, 3, 1"))) == "3"
    # N may be 1: not even the rank is known.
    assert dims(bench.Squeeze(bench.input("1, N"))) == "?"
    with pytest.raises(ModelError, match="cannot be dropped"):
        bench.Squeeze(bench.input("1, 3"), np.array([1]))


def test_data_dependent_sizes_are_fresh(bench: Bench) -> None:
    x = bench.input("N, 3")
    rows, count = bench.NonZero(x).shape
    assert rows == 2
    other = bench.NonZero(x).shape[1]
    assert count != other
    assert bench.NonZero(np.array([0, 3, 4])).shape == (1, 2)
    assert bench.Compress(x, np.array([True, False, True]), axis=1).shape == (N, 2)


def test_unknown_ranks_pass(bench: Bench) -> None:
    x = bench.input(None)
    assert dims(bench.Relu(x)) == "?"
    assert dims(bench.Add(x, bench.input("3"))) == "?"
    assert dims(bench.Reshape(x, np.array([2, -1]))).startswith("2, ")
    assert dims(bench.Transpose(x)) == "?"
    assert dims(bench.Slice(x, np.array([0]), np.array([1]))) == "?"
    assert dims(bench.ReduceSum(x, np.array([0]))) == "?"
    assert len(bench.Flatten(x).shape) == 2


def test_reductions(bench: Bench) -> None:
    x = bench.input("N, C, H, W")
    assert dims(bench.ReduceMean(x, np.array([-1, 2]))) == "N, C, 1, 1"
    assert dims(bench.ReduceMean(x, np.array([-1, 2]), keepdims=0)) == "N, C"
    assert dims(bench.ReduceSum(x, keepdims=0)) == ""
    assert dims(bench.ReduceSum(x, noop_with_empty_axes=1)) == "N, C, H, W"
    assert dims(bench.ArgMax(x, axis=1, keepdims=0)) == "N, H, W"
    unknown = bench.ReduceSum(x, bench.input("2", DType.I64), keepdims=0)
    assert len(unknown.shape) == 2
    with pytest.raises(ModelError, match="out of range"):
        bench.ReduceSum(x, np.array([4]))
    with pytest.raises(ModelError, match="twice"):
        bench.ReduceSum(x, np.array([1, -3]))


def test_sequences(bench: Bench) -> None:
    a, b = bench.input("N, 3"), bench.input("M, 3")
    mixed = bench.SequenceConstruct(a, b)
    assert isinstance(mixed.type, SequenceType)
    first, second = (bench.SequenceAt(mixed, np.array(i)) for i in (0, 1))
    # Two elements need not agree in what differs between elements.
    assert first.shape[1] == 3
    assert first.shape[0] != second.shape[0]
    alike = bench.SequenceConstruct(a, a)
    assert dims(bench.SequenceAt(alike, np.array(0))) == "N, 3"
    assert dims(bench.ConcatFromSequence(alike, axis=0, new_axis=1)).endswith(", N, 3")
    chunks = bench.SplitToSequence(bench.input("6, N"), np.array(2))
    assert dims(bench.SequenceAt(chunks, np.array(0))) == "2, N"
    with pytest.raises(ModelError, match="differ"):
        bench.SequenceConstruct(a, bench.input("N", DType.I64))


@given(
    parts=st.lists(st.sampled_from(["N", "M", "min(N, 8)", "min(min(M, 4), 9)", "1"]), min_size=2),
    n=st.integers(0, 9),
    m=st.integers(0, 9),
)
def test_broadcast_chains_are_exact(parts: list[str], n: int, m: int) -> None:
    """However sizes are broadcast together, the result is numpy's wherever numpy has one."""
    result: Any = 1
    for part in parts:
        result = bcast(result, parse_dim(part))
    env = {"N": n, "M": m}
    try:
        (expected,) = np.broadcast_shapes(*((evaluate(parse_dim(p), env),) for p in parts))
    except ValueError:
        return
    assert evaluate(result, env) == expected


def test_broadcast_chains_stay_short(bench: Bench) -> None:
    # A table of 512 positions, cut to the sequence and added to it, layer after layer.
    x = bench.input("B, S, 64")
    table = bench.Slice(bench.input("1, 512, 64"), [0], bench.shape_of("S"), [1])
    for _ in range(3):
        x = bench.Add(bench.Add(x, table), bench.input("M, 1"))
    assert dims(x) == "B, bcast(M, S), 64"


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    cuts=st.lists(st.booleans(), min_size=4, max_size=4),
    hole=st.integers(0, 4),
    copy=st.booleans(),
)
def test_reshape_is_exact(sizes: list[int], cuts: list[bool], hole: int, copy: bool) -> None:
    """Merging neighbouring axes, one size inferred, others copied: numpy's shape for any sizes."""
    names = [f"S{k}" for k in range(len(sizes))]
    groups: list[list[int]] = [[0]]
    for axis in range(1, len(sizes)):
        if cuts[axis]:
            groups.append([axis])
        else:
            groups[-1].append(axis)
    env = dict(zip(names, sizes, strict=True))
    wanted: list[Dim] = [product(sym(names[k]) for k in group) for group in groups]
    expected = [evaluate(dim, env) for dim in wanted]
    if copy and groups[0] == [0]:
        wanted[0] = 0
    if hole < len(wanted) and 0 not in expected[:hole] + expected[hole + 1 :]:
        wanted[hole] = -1
    bench = Bench()
    x = bench.input(", ".join(names))
    shape = bench.graph.add_input("shape", TensorType(DType.I64, (len(wanted),)))
    shape.set_elements(wanted)
    found = bench.Reshape(x, shape, allowzero=0).shape
    assert [evaluate(dim, env) for dim in found] == expected
