"""What follows a product runs on its tile: bias, residual and activation, in every order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

Build = Callable[[Net], tuple[str, tuple[int, ...]]]


def _gemm(net: Net) -> tuple[str, tuple[int, ...]]:
    return net("Gemm", net.input("x", (6, 8)), net.weight(8, 20)), (6, 20)


def _matmul(net: Net) -> tuple[str, tuple[int, ...]]:
    a, b = net.input("x", (2, 6, 8)), net.input("b", (2, 8, 20))
    return net("MatMul", a, b), (2, 6, 20)


def _conv(net: Net) -> tuple[str, tuple[int, ...]]:
    x = net.input("x", (2, 8, 5, 6))
    return net("Conv", x, net.weight(20, 8, 3, 3), pads=[1, 1, 1, 1]), (2, 20, 5, 6)


def _depthwise(net: Net) -> tuple[str, tuple[int, ...]]:
    x = net.input("x", (2, 20, 5, 6))
    y = net("Conv", x, net.weight(20, 1, 3, 3), pads=[1, 1, 1, 1], group=20)
    return y, (2, 20, 5, 6)


def _transposed(net: Net) -> tuple[str, tuple[int, ...]]:
    x = net.input("x", (2, 8, 5, 6))
    return net("ConvTranspose", x, net.weight(8, 20, 2, 2), strides=[2, 2]), (2, 20, 10, 12)


HEAVY: dict[str, Build] = {
    "gemm": _gemm,
    "matmul": _matmul,
    "conv": _conv,
    "depthwise": _depthwise,
    "conv_transpose": _transposed,
}


def _channel_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a per-channel constant beside an output of that shape."""
    return (20,) if len(shape) < 4 else (20, 1, 1)


def _bias(net: Net, y: str, shape: tuple[int, ...]) -> str:
    result: str = net("Add", y, net.weight(*_channel_shape(shape)))
    return result


def _residual(net: Net, y: str, shape: tuple[int, ...]) -> str:
    result: str = net("Add", net.input("r", shape), y)
    return result


def _activation(net: Net, y: str, shape: tuple[int, ...]) -> str:
    result: str = net("Relu", y)
    return result


STEPS = {"bias": _bias, "residual": _residual, "relu": _activation}
ORDERS = [order for n in range(1, 4) for order in itertools.permutations(STEPS, n)]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("heavy", HEAVY)
def test_every_order(heavy: str, order: tuple[str, ...]) -> None:
    net = Net()
    y, shape = HEAVY[heavy](net)
    for step in order:
        y = STEPS[step](net, y, shape)
    check(net.output(y))


@pytest.mark.parametrize("heavy", HEAVY)
def test_bias_residual_and_activation_leave_one_step(heavy: str) -> None:
    net = Net()
    y, shape = HEAVY[heavy](net)
    for step in ("bias", "residual", "relu"):
        y = STEPS[step](net, y, shape)
    found = kernels(check(net.output(y)))
    # What is left are the transposes of a lone convolution: of its input, residual and output.
    assert len(found) - found.count("object") - found.count("view") == 1
    assert found.count("object") <= (0 if heavy in ("gemm", "matmul") else 3)


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}),
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
    ("Elu", {"alpha": 0.7}),
    ("Softplus", {}),
    ("Mish", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Selu", {}),
    ("Celu", {"alpha": 0.8}),
    ("Softsign", {}),
    ("ThresholdedRelu", {"alpha": 0.4}),
]


@pytest.mark.parametrize(("op", "attrs"), ACTIVATIONS, ids=str)
@pytest.mark.parametrize("heavy", ["gemm", "conv", "matmul"])
def test_activations(heavy: str, op: str, attrs: dict[str, Any]) -> None:
    net = Net()
    y, _ = HEAVY[heavy](net)
    check(net.output(net(op, y, **attrs)))


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-0.5, 0.5), (None, 1.0), (-1.0, None)], ids=str)
@pytest.mark.parametrize("heavy", ["gemm", "depthwise"])
def test_clip(heavy: str, bounds: tuple[float | None, float | None]) -> None:
    net = Net()
    y, _ = HEAVY[heavy](net)
    operands = ["" if b is None else net.const(np.float32(b)) for b in bounds]
    check(net.output(net("Clip", y, *operands)))


def test_silu_spelled_out() -> None:
    net = Net()
    y, _ = _conv(net)
    found = kernels(check(net.output(net("Mul", y, net("Sigmoid", y)))))
    assert found.count("conv") == 1


def test_gelu_spelled_out() -> None:
    net = Net()
    y, _ = _gemm(net)
    inner = net("Erf", net("Mul", y, net.const(np.float32(0.7071067811865476))))
    half = net("Mul", y, net.const(np.float32(0.5)))
    check(net.output(net("Mul", half, net("Add", inner, net.const(np.float32(1.0))))))


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_result_that_others_read_keeps_its_value(heavy: str) -> None:
    net = Net()
    y, shape = HEAVY[heavy](net)
    b = net("Add", y, net.weight(*_channel_shape(shape)))
    check(net.output(net("Relu", b), b, net("Tanh", y)))


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_result_that_is_an_output_keeps_its_value(heavy: str) -> None:
    net = Net()
    y, _ = HEAVY[heavy](net)
    check(net.output(y, net("Relu", y)))


@pytest.mark.parametrize("heavy", HEAVY)
def test_added_to_itself(heavy: str) -> None:
    net = Net()
    y, _ = HEAVY[heavy](net)
    check(net.output(net("Relu", net("Add", y, y))))


def test_two_products_meet() -> None:
    """Either may take the other as its residual: the one that runs later."""
    net = Net()
    x = net.input("x", (6, 8))
    a, b = net("MatMul", x, net.weight(8, 20)), net("MatMul", x, net.weight(8, 20))
    found = kernels(check(net.output(net("Relu", net("Add", a, b)))))
    assert found == ["gemm", "gemm"]


def test_two_products_meet_after_activations() -> None:
    net = Net()
    x = net.input("x", (6, 8))
    a = net("Relu", net("MatMul", x, net.weight(8, 20)))
    b = net("Sigmoid", net("MatMul", x, net.weight(8, 20)))
    check(net.output(net("Add", a, b)))


def test_a_residual_that_depends_on_the_product_itself() -> None:
    net = Net()
    y, _ = _gemm(net)
    check(net.output(net("Add", y, net("Softsign", y))))


def test_a_residual_computed_after_the_product() -> None:
    """The sum's other operand is made later than the product: order must hold."""
    net = Net()
    y, shape = _gemm(net)
    late = net("Tanh", net("Mul", net.input("r", shape), net.const(np.float32(2.0))))
    check(net.output(net("Relu", net("Add", y, late))))


@pytest.mark.parametrize("shape", [(6, 1), (1, 20), (1, 1), (20,), (1,), ()], ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["weights", "input"])
def test_sums_that_broadcast(shape: tuple[int, ...], constant: bool) -> None:
    net = Net()
    y, _ = _gemm(net)
    other = net.weight(*shape) if constant else net.input("r", shape)
    check(net.output(net("Relu", net("Add", y, other))))


def test_sums_that_broadcast_the_product() -> None:
    net = Net()
    y, _ = _gemm(net)
    check(net.output(net("Relu", net("Add", y, net.input("r", (3, 6, 20))))))


def test_constants_of_higher_rank_than_the_product() -> None:
    net = Net()
    y, _ = _gemm(net)
    check(net.output(net("Add", y, net.weight(2, 1, 20)), net("Add", y, net.weight(1, 1, 20))))


def test_scale_and_shift_fold_into_weights() -> None:
    net = Net()
    y, _ = _conv(net)
    y = net("Mul", y, net.weight(20, 1, 1))
    y = net("Add", y, net.weight(20, 1, 1))
    y = net("Mul", y, net.const(np.float32(3.0)))
    found = kernels(check(net.output(net("Relu", y))))
    assert found == ["object", "conv", "object"]


def test_differences_and_quotients_after_a_product() -> None:
    net = Net()
    y, _ = _conv(net)
    y = net("Div", net("Sub", y, net.weight(20, 1, 1)), net.const(np.float32(3.0)))
    check(net.output(net("Relu", y), net("Sub", net.weight(20, 1, 1), y)))


def test_residual_with_symbolic_sizes() -> None:
    net = Net()
    x = net.input("x", (1, 8, 6, 6))
    h = net("Relu", net("Conv", x, net.weight(8, 8, 3, 3), pads=[1, 1, 1, 1]))
    y = net("Relu", net("Add", net("Conv", h, net.weight(8, 8, 1, 1)), x))
    more = [{"x": (2, 8, 3, 9)}, {"x": (1, 8, 1, 1)}]
    check(net.output(y), {"x": ("N", 8, "H", "W")}, more)


def test_sizes_that_may_broadcast_are_no_residual() -> None:
    """Equal symbols are equal sizes; two symbols may differ, one of them being 1."""
    net = Net()
    y = net("MatMul", net.input("x", (4, 8)), net.weight(8, 20))
    y = net("Relu", net("Add", y, net.input("r", (4, 20))))
    more = [{"x": (5, 8), "r": (1, 20)}, {"x": (1, 8), "r": (3, 20)}]
    check(net.output(y), {"x": ("N", 8), "r": ("M", 20)}, more)
