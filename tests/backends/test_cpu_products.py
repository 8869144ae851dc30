"""MatMul and Gemm through the CPU pipe: every operand form, transposition, bias and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 9)),
        ((1, 7), (7, 1)),
        ((3, 17), (17, 33)),
        ((2, 5, 7), (7, 16)),
        ((2, 3, 5, 7), (7, 15)),
        ((7,), (7, 9)),
        ((5, 7), (7,)),
        ((7,), (7,)),
        ((2, 5, 7), (7,)),
        ((7,), (2, 7, 3)),
        ((2, 5, 7), (2, 7, 3)),
        ((2, 1, 5, 7), (3, 7, 4)),
        ((1, 5, 7), (4, 7, 2)),
        ((3, 5, 7), (1, 7, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_matmul_operands(a: Sequence[int], b: Sequence[int], constant: str) -> None:
    net = Net()
    left = net.weight(*a) if constant == "a" else net.input("a", a)
    right = net.weight(*b) if constant == "b" else net.input("b", b)
    artifact = check(net.output(net("MatMul", left, right)))
    assert "host" not in kernels(artifact)


def test_matmul_with_symbolic_batch_and_rows() -> None:
    net = Net()
    y = net("MatMul", net.input("x", (2, 5, 8)), net.weight(8, 6))
    artifact = check(net.output(y), {"x": ("N", "S", 8)}, [{"x": (1, 1, 8)}, {"x": (3, 70, 8)}])
    assert kernels(artifact) == ["gemm"]


def test_matmul_of_two_inputs_with_symbols_everywhere() -> None:
    net = Net()
    y = net("MatMul", net.input("a", (2, 3, 5, 7)), net.input("b", (2, 1, 7, 4)))
    more = [
        {"a": (1, 1, 9, 3), "b": (1, 1, 3, 2)},
        {"a": (2, 4, 1, 1), "b": (2, 1, 1, 33)},
    ]
    check(net.output(y), {"a": ("N", "H", "S", "K"), "b": ("N", 1, "K", "M")}, more)


@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_transposes_are_read_in_place(side: str) -> None:
    net = Net()
    a = net.input("a", (2, 7, 5) if side != "b" else (2, 5, 7))
    b = net.input("b", (2, 4, 7) if side != "a" else (2, 7, 4))
    if side != "b":
        a = net("Transpose", a, perm=[0, 2, 1])
    if side != "a":
        b = net("Transpose", b, perm=[0, 2, 1])
    tails = {"a": _tail(side, 0), "b": _tail(side, 1)}
    symbols = {name: ("N", *tail) for name, tail in tails.items()}
    single = {name: (1, *tail) for name, tail in tails.items()}
    artifact = check(net.output(net("MatMul", a, b)), symbols, [single])
    assert kernels(artifact) == ["matmul"]


def _tail(side: str, operand: int) -> tuple[int, int]:
    if operand == 0:
        return (7, 5) if side != "b" else (5, 7)
    return (4, 7) if side != "a" else (7, 4)


def test_a_transpose_that_others_read_stays() -> None:
    net = Net()
    t = net("Transpose", net.input("a", (7, 5)), perm=[1, 0])
    check(net.output(net("MatMul", t, net.input("b", (7, 3))), net("Relu", t)))


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("constant", [True, False], ids=["weights", "input"])
@pytest.mark.parametrize("scaling", [{}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}], ids=str)
def test_gemm_transposes_and_factors(
    trans_a: int, trans_b: int, constant: bool, scaling: dict[str, float]
) -> None:
    net = Net()
    a = net.input("a", (6, 4) if trans_a else (4, 6))
    shape = (9, 6) if trans_b else (6, 9)
    b = net.weight(*shape) if constant else net.input("b", shape)
    y = net("Gemm", a, b, net.weight(9), transA=trans_a, transB=trans_b, **scaling)
    artifact = check(net.output(y))
    assert "host" not in kernels(artifact)


@pytest.mark.parametrize("shape", [None, (), (1,), (9,), (1, 9), (4, 1), (4, 9), (1, 1)], ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["weights", "input"])
@pytest.mark.parametrize("product", [True, False], ids=["gemm", "matmul"])
def test_gemm_bias_forms(shape: tuple[int, ...] | None, constant: bool, product: bool) -> None:
    net = Net()
    a = net.input("a", (4, 6))
    b = net.weight(6, 9) if product else net.input("b", (6, 9))
    c: list[str] = []
    if shape is not None:
        c = [net.weight(*shape) if constant else net.input("c", shape)]
    check(net.output(net("Gemm", a, b, *c, beta=1.5)))


def test_gemm_with_symbolic_rows() -> None:
    net = Net()
    y = net("Gemm", net.input("x", (3, 8)), net.weight(5, 8), net.weight(5), transB=1)
    more = [{"x": (1, 8)}, {"x": (0, 8)}, {"x": (100, 8)}]
    artifact = check(net.output(y), {"x": ("N", 8)}, more)
    assert kernels(artifact) == ["gemm"]


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "int64", "uint32", "uint64"])
def test_other_element_types(dtype: str) -> None:
    kind = np.dtype(dtype).type
    net = Net()
    y = net("MatMul", net.input("a", (2, 4, 6), kind), net.input("b", (6, 5), kind))
    # onnxruntime sums f16 in f16 or f32 as it likes: half a unit in the last place either way.
    check(net.output(y), tolerance=4e-3 if dtype == "float16" else None)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "int64"])
def test_gemm_in_other_element_types(dtype: str) -> None:
    kind = np.dtype(dtype).type
    net = Net()
    operands = [
        net.input("a", (4, 6), kind),
        net.input("b", (5, 6), kind),
        net.input("c", (5,), kind),
    ]
    # onnxruntime has no Gemm of integers.
    check(
        net.output(net("Gemm", *operands, transB=1)),
        oracle=dtype.startswith("float"),
        tolerance=4e-3 if dtype == "float16" else None,
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [((0, 4), (4, 3)), ((2, 0), (0, 3)), ((2, 4), (4, 0)), ((0, 2, 4), (0, 4, 3))],
    ids=str,
)
def test_empty_operands(a: Sequence[int], b: Sequence[int]) -> None:
    net = Net()
    check(net.output(net("MatMul", net.input("a", a), net.input("b", b))))


def test_special_values_pass_through() -> None:
    """A NaN or infinity poisons its own row alone, zeros in the other operand or not."""
    rows: Any = np.ones((3, 4), np.float32)
    rows[0, 1], rows[1, 2] = np.nan, np.inf
    net = Net()
    x = net.input("x", (3, 4), make=lambda rng, shape: rows.copy())
    weight = np.ones((4, 20), np.float32)
    weight[2, 3] = 0.0
    check(net.output(net("MatMul", x, net.const(weight))))


def test_chains_of_products_share_nothing() -> None:
    net = Net()
    x = net.input("x", (4, 6))
    weight = net.weight(6, 6)
    y = net("MatMul", net("MatMul", x, weight), weight)
    check(net.output(y, net("MatMul", x, x_transposed(net, x))))


def x_transposed(net: Net, x: str) -> str:
    result: str = net("Transpose", x, perm=[1, 0])
    return result


@pytest.mark.parametrize(("k", "n"), [(1, 16), (7, 16), (1, 48), (33, 160)])
@pytest.mark.parametrize("offset", [0, 2])
def test_whole_panels_are_packed_as_the_kernel_packs_them(k: int, n: int, offset: int) -> None:
    from graphopt import _native
    from graphopt.backends.cpu.lower_dense import _columns

    w = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32)
    raw = np.zeros(w.nbytes + offset, np.uint8)
    raw[offset:] = w.reshape(-1).view(np.uint8)
    lying = raw[offset:].view(np.float32).reshape(k, n)
    assert _columns(lying).tobytes() == np.asarray(_native.pack_gemm(w)).tobytes()
