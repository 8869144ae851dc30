"""Convolutions around a depthwise one through the CPU pipe: forms, windows, what is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import graphopt
from graphopt.runtime.roofline import plan_work
from tests.backends.pipe import Net, check, compiled, host_level, kernels

Window = dict[str, Any]
SAME: Window = {"pads": [1, 1, 1, 1]}
HALF: Window = {"pads": [1, 1, 1, 1], "strides": [2, 2]}


def _relu6(net: Net, x: str) -> str:
    return str(net("Clip", x, net.const(0.0), net.const(6.0)))


def _dense(net: Net, x: str, cin: int, cout: int, kernel: int = 1, **window: Any) -> str:
    return str(net("Conv", x, net.weight(cout, cin, kernel, kernel), net.weight(cout), **window))


def _depthwise(net: Net, x: str, channels: int, kernel: tuple[int, int], **window: Any) -> str:
    weight = net.weight(channels, 1, *kernel)
    return str(net("Conv", x, weight, net.weight(channels), group=channels, **window))


def _residual(
    shape: Sequence[int],
    channels: int,
    cout: int,
    kernel: tuple[int, int] = (3, 3),
    add: bool = False,
    **window: Any,
) -> Net:
    """An inverted residual."""
    net = Net()
    x = net.input("x", shape)
    if add:
        x = _dense(net, x, shape[1], shape[1])
    y = _relu6(net, _dense(net, x, shape[1], channels))
    y = _relu6(net, _depthwise(net, y, channels, kernel, **window))
    y = _dense(net, y, channels, cout)
    return net.output(net("Add", x, y) if add else y)


@pytest.mark.parametrize(
    ("channels", "kernel", "window"),
    [
        (24, (3, 3), SAME),
        (40, (3, 3), HALF),
        (33, (5, 5), {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
        (17, (3, 3), {}),
        (65, (3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
        (16, (2, 4), {"pads": [1, 0, 0, 3], "strides": [1, 3]}),
        (16, (3, 3), {"pads": [2, 3, 2, 3], "dilations": [2, 3]}),
        (20, (3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ],
    ids=str,
)
def test_windows(channels: int, kernel: tuple[int, int], window: Window) -> None:
    net = _residual((1, 12, 15, 18), channels, 19, kernel, **window)
    more = [{"x": (3, 12, 9, 31)}, {"x": (2, 12, 40, 5)}, {"x": (0, 12, 9, 9)}]
    dynamic = {"x": ("N", 12, "H", "W")} if "auto_pad" not in window else None
    assert "conv_chain" in kernels(check(net, dynamic, more if dynamic else ()))


def test_a_residual_is_part_of_the_step() -> None:
    artifact = check(_residual((2, 24, 14, 14), 96, 24, add=True, **SAME))
    assert kernels(artifact) == ["object", "conv", "conv_chain", "object"]  # layout at both ends


def test_an_expanded_tensor_beyond_the_cache() -> None:
    check(
        _residual((1, 8, 100, 90), 96, 16, **SAME),
        {"x": ("N", 8, "H", "W")},
        [{"x": (2, 8, 131, 77)}],
    )


@pytest.mark.parametrize("activation", ["HardSwish", "Sigmoid", "Relu"])
def test_a_pair_that_ends_with_the_depthwise_convolution(activation: str) -> None:
    net = Net()
    x = net.input("x", (1, 20, 13, 11))
    y = net(activation, _dense(net, x, 20, 35))
    net.output(net(activation, _depthwise(net, y, 35, (5, 5), **HALF)))
    artifact = check(net, {"x": ("N", 20, "H", "W")}, [{"x": (2, 20, 6, 31)}])
    assert [k for k in kernels(artifact) if "conv" in k] == ["conv_chain"]


@pytest.mark.parametrize("activation", ["HardSwish", "Relu"])
def test_a_pair_that_ends_with_the_product(activation: str) -> None:
    net = Net()
    x = net.input("x", (2, 40, 90, 85))
    y = net(activation, _depthwise(net, x, 40, (3, 3), **SAME))
    net.output(net(activation, _dense(net, y, 40, 19)))
    assert [k for k in kernels(check(net)) if "conv" in k] == ["conv_chain"]


def test_a_pair_with_little_between_stays_two_steps() -> None:
    net = Net()
    y = _depthwise(net, net.input("x", (1, 40, 50, 50)), 40, (3, 3), **SAME)
    artifact = check(net.output(_dense(net, y, 40, 19)), {"x": ("N", 40, "H", "W")})
    assert kernels(artifact).count("conv") == 2


def test_a_stem_before_the_first_block() -> None:
    net = Net()
    x = net.input("x", (1, 3, 64, 50))
    y = _relu6(net, _dense(net, x, 3, 32, 3, **HALF))
    y = _relu6(net, _depthwise(net, y, 32, (3, 3), **SAME))
    artifact = check(
        net.output(_dense(net, y, 32, 16)), {"x": ("N", 3, "H", "W")}, [{"x": (2, 3, 9, 30)}]
    )
    assert kernels(artifact).count("conv_chain") == 1


def test_what_others_read_stays() -> None:
    net = Net()
    x = net.input("x", (1, 16, 12, 12))
    y = _relu6(net, _dense(net, x, 16, 48))
    z = _relu6(net, _depthwise(net, y, 48, (3, 3), **SAME))
    artifact = check(net.output(_dense(net, z, 48, 16), y, z))
    assert "conv_chain" not in kernels(artifact)


def test_bfloat16_products_stay_on_their_own() -> None:
    net = _residual((1, 24, 14, 14), 96, 24, **SAME)
    found = kernels(compiled(net.model(), f"cpu{{levels={host_level()},precision=bf16}}"))
    assert "conv_chain" not in found
    assert found.count("conv") == 3


def test_exact_keeps_chains() -> None:
    net = _residual((1, 24, 14, 14), 96, 24, **SAME)
    assert "conv_chain" in kernels(compiled(net.model(), f"cpu{{levels={host_level()},exact=on}}"))


def test_every_source_node_is_named() -> None:
    artifact = compiled(_residual((1, 24, 14, 14), 96, 24, add=True, **SAME).model())
    lowered = graphopt.parse(artifact.read("graph.gir").decode())
    step = next(node for node in lowered if node.op.name == "conv_chain")
    assert step.origin == {f"n{i}" for i in range(1, 7)}


def test_a_profile_counts_all_convolutions() -> None:
    artifact = compiled(_residual((1, 12, 10, 8), 24, 19, **HALF).model())
    plan = artifact.json("plan")
    [work] = [w for _, w in plan_work(plan, {"x": (1, 12, 10, 8)}) if w and w.flops]
    assert work.flops == 2 * (10 * 8 * 12 * 24 + 5 * 4 * 24 * 9 + 5 * 4 * 24 * 19)
