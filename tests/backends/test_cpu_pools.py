"""Pools through the CPU pipe: windows, ceil_mode, counted padding, indices, types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

Attrs = dict[str, Any]

_WINDOWS: list[tuple[Sequence[int], Attrs]] = [
    ((1, 3, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 17, 9, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ((1, 3, 9, 7), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 1, 1, 0]}),
    ((1, 3, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((1, 3, 10, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    (
        (1, 3, 10, 8),
        {"kernel_shape": [2, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    ((1, 3, 9, 9), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 3, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((1, 3, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"}),
    ((2, 3, 15), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ((1, 2, 5, 6, 7), {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2]}),
]


def _symbols(shape: Sequence[int]) -> tuple[int | str, ...]:
    return ("N", shape[1], *(f"S{k}" for k in range(len(shape) - 2)))


def _larger(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0] + 1, shape[1], *(size + 3 for size in shape[2:]))


@pytest.mark.parametrize(("shape", "attrs"), _WINDOWS, ids=str)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_windows(op: str, shape: Sequence[int], attrs: Attrs) -> None:
    net = Net()
    net.output(net(op, net.input("x", shape), **attrs))
    # onnxruntime's LpPool ignores ceil_mode.
    oracle = not (op == "LpPool" and attrs.get("ceil_mode"))
    artifact = check(net, {"x": _symbols(shape)}, [{"x": _larger(shape)}], oracle=oracle)
    assert "host" not in kernels(artifact)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_dilations(op: str, ceil_mode: int) -> None:
    net = Net(opset=22)
    attrs = {"kernel_shape": [2, 3], "dilations": [2, 2], "strides": [2, 2]}
    net.output(net(op, net.input("x", (1, 4, 10, 11)), ceil_mode=ceil_mode, **attrs))
    check(net)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 1, 0]], ids=str)
def test_padding_that_counts(include: int, ceil_mode: int, pads: list[int]) -> None:
    net = Net(opset=22)
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads}
    x = net.input("x", (1, 4, 8, 7))
    net.output(net("AveragePool", x, count_include_pad=include, ceil_mode=ceil_mode, **attrs))
    check(net, {"x": ("N", 4, "H", "W")}, [{"x": (2, 4, 11, 6)}])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms_of_lp_pool(p: int) -> None:
    net = Net()
    net.output(net("LpPool", net.input("x", (1, 4, 8, 7)), p=p, kernel_shape=[3, 2]))
    check(net)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize(
    "attrs",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [1, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    ],
    ids=str,
)
def test_indices(attrs: Attrs, storage_order: int) -> None:
    net = Net()
    y, where = net(
        "MaxPool", net.input("x", (2, 3, 9, 8)), outputs=2, storage_order=storage_order, **attrs
    )
    check(net.output(y, where), {"x": ("N", 3, "H", "W")}, [{"x": (1, 3, 12, 10)}])


def test_indices_of_one_and_three_dimensions() -> None:
    net = Net()
    one = net("MaxPool", net.input("a", (2, 3, 9)), outputs=2, kernel_shape=[3], strides=[2])
    three = net("MaxPool", net.input("b", (1, 2, 5, 6, 4)), outputs=2, kernel_shape=[2, 2, 2])
    check(net.output(*one, *three))


def test_unread_indices_are_not_computed() -> None:
    net = Net()
    y, _ = net("MaxPool", net.input("x", (1, 3, 8, 8)), outputs=2, kernel_shape=[2, 2])
    check(net.output(y))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint8])
def test_max_of_other_element_types(dtype: Any) -> None:
    net = Net()
    net.output(net("MaxPool", net.input("x", (1, 3, 8, 8), dtype), kernel_shape=[3, 3]))
    check(net)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_mean_of_other_element_types(dtype: Any) -> None:
    net = Net()
    net.output(net("AveragePool", net.input("x", (1, 3, 8, 8), dtype), kernel_shape=[3, 3]))
    check(net, oracle=False)


def test_special_values() -> None:
    """-inf everywhere, NaN somewhere, signed zeros: as the interpreter has them."""

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        x = rng.standard_normal(shape).astype(np.float32)
        x[:, 0] = -np.inf
        x[:, 1, ::3] = np.inf
        x[:, 2] = -0.0
        return x

    net = Net()
    x = net.input("x", (1, 3, 8, 8), make=make)
    attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    # onnxruntime starts from the lowest finite number: it has no -inf in a result.
    check(net.output(net("MaxPool", x, **attrs)), oracle=False)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global(op: str) -> None:
    net = Net()
    net.output(net(op, net.input("x", (2, 5, 6, 7))))
    more = [{"x": (1, 5, 1, 3)}]
    check(net, {"x": ("N", 5, "H", "W")}, more, fallbacks=op == "GlobalLpPool")


def test_pool_between_convolutions_stays_channels_last() -> None:
    net = Net()
    h = net("Conv", net.input("x", (1, 3, 12, 12)), net.weight(8, 3, 3, 3))
    h = net("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    y = net("Conv", h, net.weight(8, 8, 3, 3))
    artifact = check(net.output(y))
    assert kernels(artifact) == ["object", "conv", "max_pool", "conv", "object"]
