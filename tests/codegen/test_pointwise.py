"""Pointwise kernels against the interpreter: every op, types, broadcasting, symbolic sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from harness import Library, check, compare, machine_levels, needs_tools, outputs_for

import graphopt.ops  # noqa: F401
from graphopt.codegen import KernelRequest, can_emit, pointwise_reason
from graphopt.ir import Builder, DType, Graph, TensorType, sym
from graphopt.ops.interpreter import run_graph

pytestmark = needs_tools
Array = np.ndarray[Any, Any]
# Below, at and above the vector lengths, odd, and nothing at all.
SIZES = (0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 100, 1023, 1025, 5000)
RNG = np.random.default_rng(7)

# op -> range of inputs, relative error allowed (f32 functions are right to a few ulp)
UNARY = {
    "Abs": (-3, 3), "Neg": (-3, 3), "Sign": (-3, 3), "Floor": (-30, 30), "Ceil": (-30, 30),
    "Round": (-30, 30), "Sqrt": (-1, 30), "Reciprocal": (-3, 3), "Exp": (-95, 85),
    "Log": (-1, 100), "Erf": (-5, 5), "Sin": (-300, 300), "Cos": (-300, 300), "Tan": (-20, 20),
    "Asin": (-1.1, 1.1), "Acos": (-1.1, 1.1), "Atan": (-30, 30), "Sinh": (-88, 88),
    "Cosh": (-88, 88), "Tanh": (-12, 12), "Asinh": (-50, 50), "Acosh": (0, 50),
    "Atanh": (-1.1, 1.1), "Sigmoid": (-95, 95), "LeakyRelu": (-3, 3), "Elu": (-30, 5),
    "Selu": (-30, 5), "Celu": (-30, 5), "ThresholdedRelu": (-3, 3), "HardSigmoid": (-5, 5),
    "HardSwish": (-5, 5), "Mish": (-20, 20), "Gelu": (-6, 6), "Softplus": (-90, 90),
    "Softsign": (-5, 5), "Swish": (-20, 20), "Relu": (-3, 3), "Shrink": (-3, 3),
}  # fmt: skip
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0, 3e38, -3e38])


def graph_of(op: str, inputs: list[tuple[DType, tuple[Any, ...]]], **attrs: Any) -> Graph:
    """A graph of one node."""
    graph = Graph("body")
    values = [
        graph.add_input(f"x{k}", TensorType(dtype, shape))
        for k, (dtype, shape) in enumerate(inputs)
    ]
    graph.add_output(Builder(graph).op(op, *values, **attrs))
    return graph


@pytest.fixture(scope="module")
def unary_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    """All unary ops on f32 and f64 vectors of unknown length, one module a level."""
    requests = [
        KernelRequest(graph_of(op, [(dtype, (sym("N"),))]))
        for op in UNARY
        for dtype in (DType.F32, DType.F64)
    ]
    folder = tmp_path_factory.mktemp("unary")
    return {level: Library(requests, level, folder) for level in machine_levels()}


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_unary(op: str, dtype: DType, unary_libraries: dict[str, Library]) -> None:
    low, high = UNARY[op]
    position = 2 * list(UNARY).index(op) + (dtype is DType.F64)
    graph = graph_of(op, [(dtype, (sym("N"),))])
    values = RNG.uniform(low, high, 4000)
    special = SPECIAL[:-2] if op in ("Sin", "Cos", "Tan") else SPECIAL
    values = np.concatenate([values, special, RNG.uniform(-1, 1, 1000) * 1e-3])
    x = values.astype(dtype.numpy)
    want = run_graph(graph, [x])[0]
    for level, library in unary_libraries.items():
        info = library.kernels[position]
        env = {"N": x.size}
        y = library.run(info, [x], outputs_for(graph, env), env, cuts=(0.5,))[0]
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(want), err_msg=level)
        infinite = np.isinf(want)
        np.testing.assert_array_equal(y[infinite], want[infinite], err_msg=level)
        # Elementwise: a few ulp of the result, with the smallest normal number as the floor.
        eps, tiny = np.finfo(dtype.numpy).eps, np.finfo(dtype.numpy).tiny
        error = np.abs(y[finite].astype(np.float64) - want[finite])
        # Cancellation in x + f(x) near 0 is judged against the operand.
        part = 1.0 if op == "Gelu" else 0.05
        operand = np.where(np.isfinite(x[finite]), x[finite].astype(np.float64), 0)
        ratio = error / np.maximum(np.abs(want[finite]), np.abs(operand) * part + tiny)
        limit = 40 * eps if dtype is DType.F64 else 8 * eps
        worst = ratio.argmax()
        assert ratio[worst] <= limit, (
            f"{level}: {ratio[worst] / eps:.1f} ulp at {x[finite][worst]}: {y[finite][worst]}"
        )


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int, tmp_path: Path) -> None:
    """Static sizes around the vector lengths; nothing is read or written outside."""
    graph = graph_of("Swish", [(DType.F32, (size,))])
    check(graph, [RNG.standard_normal(size).astype(np.float32)], tmp_path)


def test_symbolic_sizes(tmp_path: Path) -> None:
    """One kernel serves every size."""
    n = sym("N")
    graph = graph_of("Add", [(DType.F32, (n, 3)), (DType.F32, (3,))])
    libraries = [Library([KernelRequest(graph)], level, tmp_path) for level in machine_levels()]
    for size in SIZES:
        x = RNG.standard_normal((size, 3)).astype(np.float32)
        b = RNG.standard_normal(3).astype(np.float32)
        for library in libraries:
            env = {"N": size}
            y = library.run(library.kernels[0], [x, b], outputs_for(graph, env), env, (0.4,))[0]
            compare(y, x + b, 0, 0, str(size))


BROADCASTS = [
    ((5, 7, 9), (9,)),
    ((5, 7, 9), (7, 1)),
    ((5, 7, 9), (5, 1, 9)),
    ((5, 7, 9), (1,)),
    ((5, 7, 9), ()),
    ((5, 1, 9), (1, 7, 1)),
    ((1, 3, 5, 5), (3, 1, 1)),
    ((2, 3, 49, 17), (2, 1, 1, 17)),
    ((2, 300, 700), (300, 1)),
    ((1, 1), (1, 1)),
    ((4, 0, 3), (4, 1, 3)),
]


@pytest.mark.parametrize(("left", "right"), BROADCASTS)
def test_broadcast(left: tuple[int, ...], right: tuple[int, ...], tmp_path: Path) -> None:
    graph = graph_of("Mul", [(DType.F32, left), (DType.F32, right)])
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in (left, right))
    check(graph, [a, b], tmp_path)


@pytest.mark.parametrize("m", [1, 6])
@pytest.mark.parametrize("k", [1, 20])
def test_unknown_broadcast(m: int, k: int, tmp_path: Path) -> None:
    """Axes that may or may not be broadcast when the model runs."""
    graph = graph_of(
        "Sub",
        [(DType.F32, (sym("A"), sym("B"))), (DType.F32, (sym("M"), sym("K")))],
    )
    a = RNG.standard_normal((6, 20)).astype(np.float32)
    b = RNG.standard_normal((m, k)).astype(np.float32)
    check(graph, [a, b], tmp_path, env={"A": 6, "B": 20, "M": m, "K": k})


INTEGERS = [
    DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "op", ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "BitwiseXor", "Less", "Equal"]
)
def test_integers(op: str, dtype: DType, tmp_path: Path) -> None:
    """Arithmetic wraps around, division truncates."""
    info = np.iinfo(dtype.numpy)
    a = RNG.integers(info.min, info.max, 333, dtype.numpy, endpoint=True)
    b = RNG.integers(info.min, info.max, 333, dtype.numpy, endpoint=True)
    b[::3] = RNG.integers(1, 7, b[::3].size)
    b[b == 0] = 1
    if info.min < 0:
        # numpy warns about this quotient, which wraps around.
        a[0], b[0] = info.min, -1
    graph = graph_of(op, [(dtype, (333,)), (dtype, (333,))])
    check(graph, [a, b], tmp_path)


def test_integer_division_by_zero_is_zero(tmp_path: Path) -> None:
    for op in ("Div", "Mod"):
        graph = graph_of(op, [(DType.I32, (20,)), (DType.I32, (20,))])
        a, b = np.arange(20, dtype=np.int32), np.zeros(20, np.int32)
        check(graph, [a, b], tmp_path, expected=[np.zeros(20, np.int32)])


CASTS = [*INTEGERS, DType.F32, DType.F64, DType.F16, DType.BF16, DType.BOOL]


@pytest.mark.parametrize("source", CASTS)
def test_casts(source: DType, tmp_path: Path) -> None:
    """Every pair of types; values in the range of both, where numpy's answer is defined."""
    graph = Graph("body")
    x = graph.add_input("x", TensorType(source, (77,)))
    b = Builder(graph)
    for to in CASTS:
        graph.add_output(b.Cast(x, to=int(to)))
    if source is DType.BOOL:
        data = RNG.random(77) < 0.5
    else:
        data = RNG.uniform(0, 100, 77).astype(source.numpy)
    check(graph, [np.asarray(data)], tmp_path)


def test_wild_floats_saturate(tmp_path: Path) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e20, -1e20, -1.9, 300.7], np.float32)
    for dtype in (DType.I32, DType.U8, DType.I64, DType.I8):
        graph = graph_of("Cast", [(DType.F32, x.shape)], to=int(dtype))
        info = np.iinfo(dtype.numpy)
        want = [0, info.max, info.min, info.max, info.min, max(-1, info.min), min(300, info.max)]
        check(graph, [x], tmp_path, expected=[np.array(want, dtype.numpy)])


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_narrow_floats_round_to_nearest(dtype: DType, tmp_path: Path) -> None:
    """All halves, subnormals and specials included, and f32 values between them."""
    bits = np.arange(65536, dtype=np.uint16).view(dtype.numpy)
    widen = graph_of("Cast", [(dtype, bits.shape)], to=int(DType.F32))
    check(widen, [bits], tmp_path, rtol=0)
    with np.errstate(all="ignore"):
        x = bits.astype(np.float32)
        x = np.concatenate([x, x * np.float32(1 + 2**-10), x * np.float32(1 + 2**-7.5)])
        want = x.astype(dtype.numpy)
    narrow = graph_of("Cast", [(DType.F32, x.shape)], to=int(dtype))
    check(narrow, [x], tmp_path, rtol=0, expected=[want])


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_narrow_arithmetic(dtype: DType, tmp_path: Path) -> None:
    graph = graph_of("Mul", [(dtype, (50, 9)), (dtype, (9,))])
    a, b = (RNG.standard_normal(s).astype(dtype.numpy) for s in ((50, 9), (9,)))
    check(graph, [a, b], tmp_path, rtol=0)


def test_nan_in_extremes(tmp_path: Path) -> None:
    a = np.array([np.nan, 1, np.nan, 2, -0.0, np.inf] * 7, np.float32)
    b = np.array([1, np.nan, np.nan, 3, 0.0, -np.inf] * 7, np.float32)
    for op in ("Max", "Min"):
        check(graph_of(op, [(DType.F32, a.shape)] * 2), [a, b], tmp_path)
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, a.shape))
    builder = Builder(graph)
    graph.add_output(builder.Clip(x, np.float32(-1), np.float32(1.5)))
    graph.add_output(builder.Relu(x))
    graph.add_output(builder.IsNaN(x))
    graph.add_output(builder.IsInf(x))
    check(graph, [a], tmp_path)


POW_X = np.array([0, -0.0, 1, -1, 2, -2, 0.5, np.inf, -np.inf, np.nan, 1e30, 3.7, -8], np.float64)
POW_Y = np.array([0, 1, -1, 2, 3, -3, 0.5, 1 / 3, np.inf, -np.inf, np.nan, 10, 1e10], np.float64)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_pow(dtype: DType, tmp_path: Path) -> None:
    graph = graph_of("Pow", [(dtype, (13, 1)), (dtype, (13,))])
    check(graph, [POW_X.reshape(13, 1).astype(dtype.numpy), POW_Y.astype(dtype.numpy)], tmp_path)
    x, y = RNG.uniform(0.01, 20, 3000), RNG.uniform(-9, 9, 3000)
    graph = graph_of("Pow", [(dtype, (3000,)), (dtype, (3000,))])
    rtol = 1e-7 if dtype is DType.F32 else 1e-14
    check(graph, [x.astype(dtype.numpy), y.astype(dtype.numpy)], tmp_path, rtol=rtol)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 2.5, -2.0])
def test_pow_by_constant(power: float, tmp_path: Path) -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (200,)))
    graph.add_output(Builder(graph).Pow(x, np.float32(power)))
    data = RNG.uniform(-4, 4, 200).astype(np.float32)
    check(graph, [data], tmp_path)


def test_float_mod(tmp_path: Path) -> None:
    x = RNG.uniform(-50, 50, 300).astype(np.float32)
    y = RNG.uniform(-5, 5, 300).astype(np.float32)
    x[:4], y[:4] = [6, -6, 7, -0.0], [3, 3, np.inf, 2]
    for fmod in (0, 1):
        graph = graph_of("Mod", [(DType.F32, (300,))] * 2, fmod=fmod)
        if fmod == 0:
            # numpy's mod with an infinite divisor follows the sign; ours too.
            y[2] = 4
        check(graph, [x, y], tmp_path)


def test_bool_logic_and_where(tmp_path: Path) -> None:
    graph = Graph("body")
    a = graph.add_input("a", TensorType(DType.BOOL, (70,)))
    b = graph.add_input("b", TensorType(DType.BOOL, (70,)))
    x = graph.add_input("x", TensorType(DType.F16, (70,)))
    y = graph.add_input("y", TensorType(DType.F16, ()))
    builder = Builder(graph)
    for op in ("And", "Or", "Xor", "Equal"):
        graph.add_output(builder.op(op, a, b))
    graph.add_output(builder.Not(a))
    graph.add_output(builder.Where(builder.And(a, b), x, y))
    data = [RNG.random(70) < 0.5, RNG.random(70) < 0.5]
    halves = [RNG.standard_normal(70).astype(np.float16), np.float16(3).reshape(())]
    check(graph, [*data, *halves], tmp_path)


def test_several_outputs_and_shared_values(tmp_path: Path) -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (3, sym("N"))))
    s = graph.add_input("s", TensorType(DType.F32, (3, 1)))
    b = Builder(graph)
    scaled = b.Mul(x, b.Exp(s))
    graph.add_output(scaled)
    graph.add_output(b.Add(b.Tanh(scaled), scaled))
    graph.add_output(b.Greater(scaled, np.float32(0)))
    for n in (1, 40, 5000):
        data = [RNG.standard_normal(d).astype(np.float32) for d in ((3, n), (3, 1))]
        check(graph, data, tmp_path, env={"N": n})


def test_large_symbolic_constant_operands(tmp_path: Path) -> None:
    """A constant of one element is part of the kernel, whatever its rank."""
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (4, 5)))
    b = Builder(graph)
    graph.add_output(b.Add(x, np.full((1, 1), 2.5, np.float32)))
    check(graph, [RNG.standard_normal((4, 5)).astype(np.float32)], tmp_path)


def test_bit_shifts(tmp_path: Path) -> None:
    for dtype in (DType.U8, DType.U32, DType.U64):
        for direction in ("LEFT", "RIGHT"):
            graph = graph_of("BitShift", [(dtype, (90,))] * 2, direction=direction)
            a = RNG.integers(0, 200, 90).astype(dtype.numpy)
            b = RNG.integers(0, 80, 90).astype(dtype.numpy)
            check(graph, [a, b], tmp_path)


def test_refusals_say_why() -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.STRING, (3,)))
    node = Builder(graph).Identity(x).producer
    assert "string" in str(can_emit(node))
    y = graph.add_input("y", TensorType(DType.F8E4M3FN, (3,)))
    assert can_emit(Builder(graph).Identity(y).producer) is None
    assert "not generated" in str(pointwise_reason("Add", [DType.F8E4M3FN]))
    assert pointwise_reason("Add", [DType.F32, DType.F32]) is None
    assert "not a generated pointwise op" in str(pointwise_reason("Conv", [DType.F32]))


def test_moves_of_odd_types(tmp_path: Path) -> None:
    """Elements without arithmetic are copied bit by bit."""
    for dtype in (DType.F8E4M3FN, DType.BF16, DType.F16, DType.C64, DType.BOOL):
        graph = graph_of("Identity", [(dtype, (1000,))])
        size = 1000 * dtype.nbytes
        raw = RNG.integers(0, 2 if dtype is DType.BOOL else 256, size).astype(np.uint8)
        data = raw.view(dtype.numpy)
        library = Library([KernelRequest(graph)], machine_levels()[-1], tmp_path)
        y = library.run(library.kernels[0], [data], outputs_for(graph, {}), {})[0]
        assert y.tobytes() == data.tobytes()


def test_bfloat16_nan_stays_nan(tmp_path: Path) -> None:
    graph = graph_of("Cast", [(DType.F32, (3,))], to=int(DType.BF16))
    x = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    check(graph, [x], tmp_path, expected=[np.full(3, np.nan).astype(ml_dtypes.bfloat16)])


def test_quantization(tmp_path: Path) -> None:
    """Per tensor, per axis and per block, with and without a zero point; ties go to even."""
    x = RNG.uniform(-300, 300, (4, 6, 10)).astype(np.float32)
    x[0, 0] = np.arange(10) + 0.5
    vector = np.linspace(0.5, 2, 6, dtype=np.float32)
    blocks = RNG.uniform(0.5, 2, (4, 2, 10)).astype(np.float32)
    cases: list[tuple[Array, dict[str, int]]] = [
        (np.float32(1).reshape(()), {}),
        (vector, {"axis": 1}),
        (blocks, {"axis": 1, "block_size": 3}),
    ]
    for scale, attrs in cases:
        for dtype in (DType.I8, DType.U8, DType.I16):
            graph = Graph("body")
            value = graph.add_input("x", TensorType(DType.F32, x.shape))
            factor = graph.add_input("s", TensorType(DType.F32, scale.shape))
            zero = graph.add_input("z", TensorType(dtype, scale.shape))
            b = Builder(graph)
            low = b.QuantizeLinear(value, factor, zero, **attrs)
            graph.add_output(low)
            graph.add_output(b.DequantizeLinear(low, factor, zero, **attrs))
            points = RNG.integers(0, 100, scale.shape).astype(dtype.numpy)
            check(graph, [x, scale, np.asarray(points)], tmp_path, levels=machine_levels()[-2:])


def test_bit_cast(tmp_path: Path) -> None:
    graph = graph_of("BitCast", [(DType.F32, (50,))], to=int(DType.I32))
    check(graph, [RNG.standard_normal(50).astype(np.float32)], tmp_path)
