"""Movement kernels against the interpreter, alone and fused with pointwise code."""

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
RNG = np.random.default_rng(5)
Array = np.ndarray[Any, Any]
I64 = np.int64


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


def fill(shape: tuple[int, ...], dtype: DType = DType.F32) -> Array:
    count = int(np.prod(shape))
    if dtype is DType.BOOL:
        return (RNG.random(shape) < 0.5).astype(np.bool_)
    return (np.arange(count) % 251).astype(dtype.numpy).reshape(shape)


def run(
    shapes: list[tuple[Any, ...]],
    make: Callable[..., Any],
    folder: Path,
    dtype: DType = DType.F32,
    sizes: list[tuple[int, ...]] | None = None,
    env: dict[str, int] | None = None,
) -> None:
    arrays = [fill(shape, dtype) for shape in (sizes or shapes)]
    check(body(shapes, make, dtype), arrays, folder, rtol=0, env=env)


TYPES = [DType.F32, DType.U8, DType.F16, DType.F64, DType.I64, DType.BOOL]
TRANSPOSES = [
    ((64, 96), (1, 0)),
    ((7, 5), (1, 0)),
    ((3, 130), (1, 0)),
    ((130, 4), (1, 0)),
    ((2, 33, 70), (0, 2, 1)),
    ((2, 17, 5, 64), (0, 2, 1, 3)),
    ((1, 3, 20, 21), (0, 2, 3, 1)),
    ((2, 20, 21, 24), (0, 3, 1, 2)),
    ((4, 5, 6, 7), (3, 2, 1, 0)),
    ((2, 3, 4, 5, 6), (4, 0, 2, 1, 3)),
    ((1, 1, 9), (2, 0, 1)),
    ((0, 4), (1, 0)),
    ((16, 16), (1, 0)),
    ((65, 65), (1, 0)),
]


@pytest.mark.parametrize(("shape", "perm"), TRANSPOSES)
def test_transposes(shape: tuple[int, ...], perm: tuple[int, ...], tmp_path: Path) -> None:
    run([shape], lambda b, x: b.Transpose(x, perm=perm), tmp_path)


@pytest.mark.parametrize("dtype", TYPES)
def test_transposed_types(dtype: DType, tmp_path: Path) -> None:
    run([(2, 37, 50)], lambda b, x: b.Transpose(x, perm=(0, 2, 1)), tmp_path, dtype)
    run([(2, 37, 50)], lambda b, x: b.Transpose(x, perm=(1, 0, 2)), tmp_path, dtype)


def test_symbolic_transposes(tmp_path: Path) -> None:
    n, c = sym("N"), sym("C")
    for rows, columns in ((1, 1), (3, 100), (64, 64), (70, 90), (5, 3), (0, 8)):
        run(
            [(2, n, c)],
            lambda b, x: b.Transpose(x, perm=(0, 2, 1)),
            tmp_path,
            sizes=[(2, rows, columns)],
            env={"N": rows, "C": columns},
        )


def test_transpose_within_arithmetic(tmp_path: Path) -> None:
    """One operand turned, one straight, one broadcast."""

    def make(b: Builder, x: Value, y: Value, c: Value) -> Value:
        return b.Relu(b.Add(b.Mul(b.Transpose(x, perm=(0, 3, 1, 2)), c), y))

    shapes = [(2, 20, 18, 32), (2, 32, 20, 18), (32, 1, 1)]
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in shapes]
    check(body(shapes, make), arrays, tmp_path)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(axis: int, dtype: DType, tmp_path: Path) -> None:
    shapes = [(3, 4, 9), (3, 4, 9), (3, 4, 9)]
    parts = [
        tuple(d + k if a == axis else d for a, d in enumerate(s)) for k, s in enumerate(shapes)
    ]
    run(parts, lambda b, *x: b.Concat(*x, axis=axis), tmp_path, dtype)


def test_symbolic_concat_with_epilogue(tmp_path: Path) -> None:
    n, m = sym("N"), sym("M")
    for a, c in ((1, 5), (0, 3), (4, 0), (33, 17)):
        run(
            [(2, n, 8), (2, m, 8)],
            lambda b, x, y: b.Relu(b.Sub(b.Concat(x, y, axis=1), np.float32(90))),
            tmp_path,
            sizes=[(2, a, 8), (2, c, 8)],
            env={"N": a, "M": c},
        )


def test_concat_of_one_operand_twice_and_of_computed_ones(tmp_path: Path) -> None:
    run(
        [(3, 40), (3, 1)],
        lambda b, x, y: b.Concat(x, b.Neg(x), y, x, axis=1),
        tmp_path,
    )


def test_split(tmp_path: Path) -> None:
    n = sym("N")
    for axis, sizes in ((1, [3, 5, 0, 2]), (2, [7, 4])):
        count = len(sizes)
        run(
            [(n, 10, 11)],
            lambda b, x: b.Split(x, np.array(sizes, I64), axis=axis, _outputs=count),  # noqa: B023
            tmp_path,
            sizes=[(3, 10, 11)],
            env={"N": 3},
        )
    run([(4, 2304)], lambda b, x: b.Split(x, axis=1, num_outputs=3, _outputs=3), tmp_path)


SLICES: list[tuple[list[int], list[int], list[int], list[int]]] = [
    ([1], [5], [0], [1]),
    ([0, 2], [9, 30], [0, 1], [2, 3]),
    ([-1], [-100], [0], [-1]),
    ([30], [0], [1], [-2]),
    ([-4, 3], [2**31 - 1, 8], [0, 1], [1, 1]),
    ([5], [5], [0], [1]),
    ([2**63 - 1], [-(2**63)], [1], [-1]),
    ([0, 0], [8, 16], [0, 1], [1, 1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slices(
    starts: list[int], ends: list[int], axes: list[int], steps: list[int], tmp_path: Path
) -> None:
    operands = [np.array(v, I64) for v in (starts, ends, axes, steps)]
    run([(9, 31)], lambda b, x: b.Slice(x, *operands), tmp_path)


def test_symbolic_slices(tmp_path: Path) -> None:
    n = sym("N")

    def make(b: Builder, x: Value) -> list[Value]:
        length = b.Shape(x, start=1, end=2)
        half = b.Div(length, np.array([2], I64))
        one = np.array([1], I64)
        zero = np.array([0], I64)
        return [
            b.Slice(x, zero, half, one),
            b.Slice(x, half, length, one),
            b.Slice(x, np.array([-3], I64), np.array([2**40], I64), one),
            b.Slice(x, np.array([-1], I64), np.array([-(2**40)], I64), one, np.array([-1], I64)),
        ]

    for size in (1, 2, 3, 9, 40):
        run([(3, n)], make, tmp_path, sizes=[(3, size)], env={"N": size})


PADS = [
    ((5, 7), [1, 2, 0, 3]),
    ((5, 7), [0, 4, 0, 0]),
    ((2, 3, 20, 19), [0, 0, 1, 1, 0, 0, 1, 1]),
    ((5, 7), [0, -2, 1, -1]),
    ((1, 30), [0, 0, 0, 0]),
]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize(("shape", "pads"), PADS)
def test_pads(mode: str, shape: tuple[int, ...], pads: list[int], tmp_path: Path) -> None:
    run([shape], lambda b, x: b.Pad(x, np.array(pads, I64), mode=mode), tmp_path)


def test_pads_longer_than_the_data(tmp_path: Path) -> None:
    for mode in ("edge", "reflect", "wrap"):
        run([(3, 4)], lambda b, x: b.Pad(x, np.array([7, 0, 2, 9], I64), mode=mode), tmp_path)  # noqa: B023


def test_pad_value_and_symbolic_size(tmp_path: Path) -> None:
    n = sym("N")
    pads = np.array([0, 1, 2, 0, 3, 0], I64)
    for mode in ("constant", "edge", "reflect"):
        run(
            [(2, n, 9)],
            lambda b, x: (
                b.Pad(x, pads, np.float32(-7), mode=mode)  # noqa: B023
                if mode == "constant"  # noqa: B023
                else b.Pad(x, pads, mode=mode)  # noqa: B023
            ),
            tmp_path,
            sizes=[(2, 6, 9)],
            env={"N": 6},
        )


def test_expand_and_tile(tmp_path: Path) -> None:
    run([(3, 1, 5)], lambda b, x: b.Expand(x, np.array([2, 3, 4, 5], I64)), tmp_path)
    run([(3, 5)], lambda b, x: b.Tile(x, np.array([2, 3], I64)), tmp_path)
    n = sym("N")
    run(
        [(n, 4)],
        lambda b, x: b.Relu(b.Tile(x, np.array([3, 2], I64))),
        tmp_path,
        sizes=[(5, 4)],
        env={"N": 5},
    )


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks(mode: str, tmp_path: Path) -> None:
    h = sym("H")
    run(
        [(2, 12, h, 7)],
        lambda b, x: b.DepthToSpace(x, blocksize=2, mode=mode),
        tmp_path,
        sizes=[(2, 12, 5, 7)],
        env={"H": 5},
    )
    run([(2, 3, 8, 12)], lambda b, x: b.SpaceToDepth(x, blocksize=4), tmp_path)


def test_reshape_between_moves(tmp_path: Path) -> None:
    def shuffle_channels(b: Builder, x: Value) -> Value:
        split = b.Reshape(x, np.array([0, 2, 6, 5, 7], I64))
        turned = b.Transpose(split, perm=(0, 2, 1, 3, 4))
        return b.Relu(b.Reshape(turned, np.array([0, 12, 5, 7], I64)))

    run([(2, 12, 5, 7)], shuffle_channels, tmp_path)
    run([(4, 6)], lambda b, x: b.Neg(b.Reshape(x, np.array([3, 8], I64))), tmp_path)
    run([(4, 6)], lambda b, x: b.Transpose(b.Reshape(x, np.array([8, 3], I64))), tmp_path)


@pytest.mark.parametrize("index_type", [DType.I32, DType.I64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(axis: int, index_type: DType, tmp_path: Path) -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (6, sym("M"), 20)))
    i = graph.add_input("i", TensorType(index_type, (sym("N"), 3)))
    graph.add_output(Builder(graph).Gather(x, i, axis=axis))
    data = fill((6, 7, 20))
    size = data.shape[axis]
    indices = RNG.integers(-size, size, (5, 3)).astype(index_type.numpy)
    check(graph, [data, indices], tmp_path, rtol=0, env={"N": 5, "M": 7})


def test_embedding_with_epilogue(tmp_path: Path) -> None:
    graph = Graph("body")
    table = graph.add_input("t", TensorType(DType.F32, (100, 64)))
    ids = graph.add_input("i", TensorType(DType.I64, (sym("B"), sym("T"))))
    place = graph.add_input("p", TensorType(DType.F32, (sym("T"), 64)))
    b = Builder(graph)
    graph.add_output(b.Add(b.Gather(table, ids), place))
    arrays = [fill((100, 64)), RNG.integers(0, 100, (2, 9)), fill((9, 64))]
    check(graph, arrays, tmp_path, rtol=0, env={"B": 2, "T": 9})


def test_wild_indices_stay_inside(tmp_path: Path) -> None:
    """An index that is out of range reads the nearest element there is."""
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (5, 3)))
    i = graph.add_input("i", TensorType(DType.I64, (4,)))
    graph.add_output(Builder(graph).Gather(x, i))
    data = fill((5, 3))
    indices = np.array([2**62, -(2**62), 5, -6])
    check(graph, [data, indices], tmp_path, expected=[data[[4, 0, 4, 0]]])


def test_gather_elements_one_hot_trilu_and_generators(tmp_path: Path) -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (5, 30)))
    i = graph.add_input("i", TensorType(DType.I64, (5, 30)))
    b = Builder(graph)
    graph.add_output(b.GatherElements(x, i, axis=1))
    graph.add_output(b.Trilu(x, np.int64(1)))
    graph.add_output(b.Trilu(x, upper=0))
    graph.add_output(b.EyeLike(x, k=2, dtype=int(DType.I32)))
    arrays = [fill((5, 30)), RNG.integers(-30, 30, (5, 30))]
    check(graph, arrays, tmp_path, rtol=0)
    graph = Graph("body")
    i = graph.add_input("i", TensorType(DType.I32, (3, 4)))
    values = graph.add_input("v", TensorType(DType.F32, (2,)))
    graph.add_output(Builder(graph).OneHot(i, np.int64(7), values, axis=1))
    check(graph, [RNG.integers(-8, 8, (3, 4)).astype(np.int32), fill((2,))], tmp_path, rtol=0)


def test_fill(tmp_path: Path) -> None:
    """A fill has no operand, and must not become a call of memset."""
    graph = Graph("body")
    b = Builder(graph)
    graph.add_output(b.ConstantOfShape(b.constant([300, 7])))
    check(graph, [], tmp_path, rtol=0)


def test_large_copy_is_not_memcpy(tmp_path: Path) -> None:
    for dtype in TYPES:
        run(
            [(40, 1000)],
            lambda b, x: b.Slice(x, np.array([3], I64), np.array([30], I64)),
            tmp_path,
            dtype,
        )


def test_refusals() -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (3, 4)))
    pads = graph.add_input("pads", TensorType(DType.I64, (4,)))
    node = Builder(graph).Pad(x, pads).producer
    assert "only known when the model runs" in str(can_emit(node))


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_narrow_last_axes(steps: int, tmp_path: Path) -> None:
    """Pixels: planes to interleaved, arithmetic on interleaved, other types, symbolic sizes."""
    run([(2, steps, 9, 11)], lambda b, x: b.Transpose(x, perm=(0, 2, 3, 1)), tmp_path)
    for dtype in (DType.U8, DType.F64, DType.BOOL):
        run([(steps, 70)], lambda b, x: b.Transpose(x), tmp_path, dtype)

    def scaled(b: Builder, x: Value, s: Value, c: Value) -> list[Value]:
        y = b.Mul(b.Sub(x, c), s)
        return [y, b.Greater(y, np.float32(0))]

    n = sym("N")
    graph = body([(2, n, steps), (steps,), (1,)], scaled)
    for size in (0, 1, 7, 16, 50, 2100):
        shapes = [(2, size, steps), (steps,), (1,)]
        arrays = [RNG.standard_normal(s).astype(np.float32) for s in shapes]
        check(graph, arrays, tmp_path, env={"N": size})

    def image(b: Builder, x: Value, s: Value) -> Value:
        return b.Mul(b.Cast(x, to=int(DType.F32)), s)

    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.U8, (20, 21, steps)))
    s = graph.add_input("s", TensorType(DType.F32, (steps,)))
    graph.add_output(image(Builder(graph), x, s))
    check(graph, [fill((20, 21, steps), DType.U8), fill((steps,))], tmp_path)
