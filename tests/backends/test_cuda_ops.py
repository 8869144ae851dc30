"""Kernels and groups one by one: shapes below, at and above a tile, ragged and aligned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.cuda import tiles
from tests.backends.cuda_nets import NEEDS_TOOLS, check
from tests.backends.pipe import Net

pytestmark = NEEDS_TOOLS

BOTH = ("fp32", "fp16")


@pytest.fixture(autouse=True)
def _no_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the text runs here; that NVRTC takes it is for test_cuda_models."""
    monkeypatch.setattr("graphopt.backends.cuda.backend.compile_text", lambda *_: (b"", ""))


def product(net: Net, name: str, m: int, k: int, n: int) -> str:
    x = net.input(name, (m, k))
    y = net("MatMul", x, net.weight(k, n, scale=k**-0.5))
    return str(net("Tanh", net("Add", y, net.weight(n))))


@pytest.mark.parametrize("precision", BOTH)
def test_products(precision: str) -> None:
    net = Net()
    sizes = [(1, 7, 5), (16, 64, 64), (17, 72, 66), (65, 200, 40), (33, 130, 129)]
    check(net.output(*(product(net, f"x{i}", *mkn) for i, mkn in enumerate(sizes))), precision)


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_every_tile(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    precision = {"f16": "fp16", "f32": "fp32"}[kind]
    found = {(t.bm + 3, t.bn + 2): t for t in tiles._TILES[kind]}
    monkeypatch.setattr("graphopt.backends.cuda.dense.choose", lambda kind, m, n, *_: found[m, n])
    net = Net()
    results = [product(net, f"x{m}_{n}", m, 136, n) for m, n in found]
    check(net.output(*results), precision, orders=(3,))


@pytest.mark.parametrize("precision", BOTH)
def test_split_sums(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiles.choose

    def split(*args: Any) -> tiles.Tile:
        found = real(*args)
        return tiles.Tile(**{**found.__dict__, "split": 3})

    monkeypatch.setattr("graphopt.backends.cuda.dense.choose", split)
    net = Net()
    artifact = check(net.output(product(net, "x", 20, 500, 24)), precision)
    assert "SPLIT = 3" in artifact.read("kernels.cu").decode()


def test_products_of_two_inputs() -> None:
    net = Net()
    shapes = [((5, 9), (9, 4)), ((2, 3, 5, 9), (3, 9, 4)), ((3, 5, 8), (8, 16)), ((9,), (9, 3))]
    for i, (a, b) in enumerate(shapes):
        net.output(net("MatMul", net.input(f"x{i}", a), net.input(f"w{i}", b)))
    check(net, *BOTH, orders=(3,))


def test_gemm_with_factors() -> None:
    net = Net()
    x, c = net.input("x", (12, 20)), net.input("c", (1, 9))
    y = net("Gemm", x, net.weight(12, 9), c, transA=1, alpha=0.5, beta=2.0)
    check(net.output(y), *BOTH)


CONVOLUTIONS = {
    "3x3": ((2, 8, 9, 10), (24, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "dilated": ((1, 16, 11, 9), (8, 16, 3, 3), {"strides": [2, 1], "dilations": [2, 2]}),
    "1x1 strided": ((1, 32, 8, 8), (16, 32, 1, 1), {"strides": [2, 2]}),
    "stem": ((1, 3, 16, 16), (16, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "groups": ((1, 12, 7, 7), (18, 4, 3, 3), {"group": 3, "pads": [0, 1, 1, 0]}),
    "depthwise": ((2, 24, 9, 9), (24, 1, 3, 3), {"group": 24, "strides": [2, 2]}),
    "depthwise of odd channels": ((1, 7, 9, 9), (7, 1, 5, 5), {"group": 7, "pads": [2, 2, 2, 2]}),
    "two a channel": ((1, 6, 8, 8), (12, 1, 3, 3), {"group": 6}),
    "one axis": ((2, 8, 17), (16, 8, 3), {"pads": [1, 1]}),
}  # fmt: skip


@pytest.mark.parametrize("precision", BOTH)
def test_convolutions(precision: str) -> None:
    net = Net()
    for i, (shape, weight, attrs) in enumerate(CONVOLUTIONS.values()):
        x = net.input(f"x{i}", shape)
        y = net("Conv", x, net.weight(*weight, scale=0.2), net.weight(weight[0]), **attrs)
        net.output(net("Relu", y))
    check(net, precision)


def test_nearest_resize_and_windows_side_by_side() -> None:
    net = Net()
    x = net.input("x", (1, 8, 5, 6))
    up = net("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    down = net("Resize", x, "", "", net.const([1, 8, 3, 4]), mode="nearest")
    y = net("ConvTranspose", x, net.weight(8, 6, 2, 2), net.weight(6), strides=[2, 2])
    check(net.output(up, down, net("Sigmoid", y)), *BOTH)


def test_pools() -> None:
    net = Net()
    x = net.input("x", (2, 6, 11, 10))
    results = [
        net("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        net("MaxPool", x, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1),
        net("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        net("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        net("GlobalMaxPool", x),
    ]
    check(net.output(*results), *BOTH)


def test_rows() -> None:
    net = Net()
    for length in (5, 32, 40, 1500):
        net.output(*rows(net, length))
    check(net)


def rows(net: Net, length: int) -> list[str]:
    x = net.input(f"x{length}", (3, length))
    return [
        net("Softmax", x, axis=-1),
        net("LogSoftmax", x, axis=-1),
        net("LayerNormalization", x, net.weight(length), net.weight(length), axis=-1),
        net("ReduceMax", x, net.const([1]), keepdims=0),
        net("ReduceSum", x, net.const([0]), keepdims=1),
        net("ReduceL2", x, net.const([0, 1]), keepdims=0),
        net("ArgMax", x, axis=1, keepdims=0),
        net("ArgMin", x, axis=0),
    ]


def test_pointwise_and_movement() -> None:
    net = Net()
    x, b = net.input("x", (2, 3, 8)), net.input("b", (3, 1))
    i = net.input("i", (2, 3, 8), np.int64)
    y = [
        net("Add", net("Exp", x), b),
        net("Erf", net("Mul", x, x)),
        net("Where", net("Greater", x, b), x, b),
        net("Cast", net("Mul", i, i), to=1),
        net("Cast", x, to=6),
        net("Mod", i, net.const([7])),
        net("Transpose", x, perm=[2, 0, 1]),
        net("Concat", x, x, axis=1),
        net("Slice", x, net.const([1]), net.const([7]), net.const([2]), net.const([2])),
        net("Pad", x, net.const([0, 1, 2, 0, 0, 1])),
        net("Gather", x, net.const([2, 0]), axis=1),
        net("Expand", b, net.const([2, 3, 4])),
        net("Pow", net("Abs", x), net.const(1.5)),
        net("Not", net("Less", x, b)),
    ]
    check(net.output(*y))


@pytest.mark.parametrize("kind", ["plain", "mask", "causal"])
def test_attention(kind: str) -> None:
    batch, heads, queries, keys, size = 2, 3, 9, 70, 20
    if kind == "causal":
        keys = queries
    net = Net(opset=23)
    q = net.input("q", (batch, heads, queries, size))
    k, v = (net.input(name, (batch, heads, keys, size)) for name in "kv")
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net("Mul", scores, net.const(size**-0.5))
    if kind == "mask":
        scores = net("Add", scores, net.input("m", (batch, 1, queries, keys)))
    if kind == "causal":
        seen = np.where(np.tri(queries, dtype=bool), 0, -np.inf).astype(np.float32)
        scores = net("Add", scores, net.const(seen))
    y = net("MatMul", net("Softmax", scores, axis=-1), v)
    artifact = check(net.output(y), *BOTH)
    assert any(s["kernel"].startswith("attention") for s in artifact.json("cuda.json")["steps"])
