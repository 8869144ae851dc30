"""Conv and ConvTranspose through the CPU pipe: every form of window, group, layout and bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

Attrs = dict[str, Any]


def _conv(
    shape: Sequence[int],
    weight: Sequence[int],
    attrs: Attrs,
    *,
    bias: bool = True,
    op: str = "Conv",
) -> Net:
    net = Net()
    channels = weight[1] * attrs.get("group", 1) if op == "ConvTranspose" else weight[0]
    operands = [net.input("x", shape), net.weight(*weight)]
    operands += [net.weight(channels)] if bias else []
    return net.output(net(op, *operands, **attrs))


@pytest.mark.parametrize(
    ("shape", "weight", "attrs"),
    [
        ((1, 3, 8, 8), (8, 3, 3, 3), {}),
        ((2, 3, 9, 7), (16, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 5, 9, 7), (17, 5, 1, 1), {}),
        ((1, 5, 9, 7), (3, 5, 1, 1), {"strides": [2, 2]}),
        ((1, 4, 11, 13), (6, 4, 5, 3), {"strides": [2, 3], "pads": [2, 1, 2, 1]}),
        ((1, 4, 11, 13), (6, 4, 3, 3), {"pads": [0, 1, 2, 3]}),
        ((1, 4, 11, 13), (6, 4, 3, 3), {"dilations": [2, 2]}),
        ((1, 4, 11, 13), (6, 4, 3, 2), {"dilations": [3, 1], "pads": [3, 0, 3, 1]}),
        ((1, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER"}),
        ((1, 4, 7, 8), (6, 4, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((1, 4, 7, 8), (6, 4, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
        ((1, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "VALID"}),
        ((1, 4, 5, 5), (6, 4, 5, 5), {"pads": [4, 4, 4, 4]}),
        ((1, 3, 40, 40), (32, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
        ((1, 64, 6, 6), (64, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ],
    ids=str,
)
def test_windows(shape: Sequence[int], weight: Sequence[int], attrs: Attrs) -> None:
    net = _conv(shape, weight, attrs)
    _, c, h, w = shape
    more = [{"x": (2, c, h + 3, w + 2)}, {"x": (1, c, h + 6, w)}]
    artifact = check(net, {"x": ("N", c, "H", "W")}, more)
    assert {"conv", "conv_winograd"} & set(kernels(artifact))
    assert "host" not in kernels(artifact)


@pytest.mark.parametrize(
    ("channels", "weight", "group"),
    [
        (8, (8, 1, 3, 3), 8),
        (8, (16, 1, 3, 3), 8),
        (33, (33, 1, 3, 3), 33),
        (5, (5, 1, 5, 5), 5),
        (8, (12, 2, 3, 3), 4),
        (8, (8, 4, 1, 1), 2),
        (32, (64, 16, 3, 3), 2),
        (6, (9, 2, 2, 2), 3),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "attrs",
    [{}, {"strides": [2, 2], "pads": [1, 2, 1, 0]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}],
    ids=str,
)
def test_groups(channels: int, weight: Sequence[int], group: int, attrs: Attrs) -> None:
    net = _conv((1, channels, 11, 10), weight, {**attrs, "group": group})
    check(net, {"x": ("N", channels, "H", 10)}, [{"x": (3, channels, 13, 10)}])


@pytest.mark.parametrize(
    ("shape", "weight", "attrs"),
    [
        ((2, 3, 20), (8, 3, 3), {}),
        ((1, 3, 20), (8, 3, 4), {"strides": [3], "pads": [2, 1], "dilations": [2]}),
        ((1, 6, 20), (6, 1, 3), {"group": 6, "pads": [1, 1]}),
        ((1, 6, 20), (8, 3, 1), {"group": 2}),
        ((1, 3, 20), (8, 3, 5), {"auto_pad": "SAME_LOWER", "strides": [2]}),
        ((1, 2, 5, 6, 7), (4, 2, 3, 3, 3), {}),
        ((2, 2, 5, 6, 7), (4, 2, 2, 3, 1), {"strides": [1, 2, 3], "pads": [0, 1, 0, 1, 1, 0]}),
        ((1, 4, 5, 6, 7), (4, 1, 3, 3, 3), {"group": 4, "pads": [1] * 6}),
        ((1, 4, 5, 6, 7), (6, 2, 1, 2, 2), {"group": 2, "dilations": [1, 2, 2]}),
    ],
    ids=str,
)
def test_one_and_three_dimensions(
    shape: Sequence[int], weight: Sequence[int], attrs: Attrs
) -> None:
    net = _conv(shape, weight, attrs)
    free = ("N", shape[1], *(f"S{k}" for k in range(len(shape) - 2)))
    larger = (2, shape[1], *(size + 2 for size in shape[2:]))
    artifact = check(net, {"x": free}, [{"x": larger}])
    assert "conv" in kernels(artifact)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_optional(bias: bool) -> None:
    check(_conv((1, 3, 6, 6), (10, 3, 3, 3), {}, bias=bias))


def test_weights_that_are_inputs() -> None:
    net = Net()
    y = net("Conv", net.input("x", (1, 4, 7, 7)), net.input("w", (6, 2, 3, 3)), group=2)
    artifact = check(net.output(y), {"x": ("N", 4, "H", "W")}, [{"x": (2, 4, 9, 8)}])
    assert kernels(artifact) == ["conv_nd_plain"]


def test_bias_that_is_an_input() -> None:
    net = Net()
    y = net("Conv", net.input("x", (1, 4, 7, 7)), net.weight(6, 4, 3, 3), net.input("b", (6,)))
    check(net.output(y))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_element_types(dtype: Any) -> None:
    net = Net()
    x = net.input("x", (1, 4, 7, 7), dtype)
    w = net.const(net.rng.standard_normal((6, 4, 3, 3)).astype(dtype))
    # onnxruntime has no f64 or f16 convolution on the CPU everywhere: the interpreter decides.
    check(net.output(net("Conv", x, w)), oracle=dtype is np.float32, tolerance=4e-3)


def test_zero_sized_batch() -> None:
    net = _conv((1, 3, 8, 8), (8, 3, 3, 3), {"pads": [1, 1, 1, 1]})
    # onnxruntime refuses empty batches in some kernels; shape and type are checked by the other.
    check(net, {"x": ("N", 3, 8, 8)}, [{"x": (0, 3, 8, 8)}], oracle=False)


def test_a_stack_keeps_its_layout_between_convolutions() -> None:
    """Transposes meet and cancel: none is left but those at the ends."""
    net = Net()
    h = net.input("x", (1, 3, 12, 12))
    for cin, cout in ((3, 8), (8, 16), (16, 8)):
        h = net("Relu", net("Conv", h, net.weight(cout, cin, 3, 3), net.weight(cout)))
    artifact = check(net.output(net("GlobalAveragePool", h)), {"x": ("N", 3, "H", "W")})
    assert kernels(artifact).count("conv") == 3
    assert kernels(artifact).count("object") <= 2  # the entry's transpose, and the mean


def test_shared_weights_are_packed_once() -> None:
    net = Net()
    x, w = net.input("x", (1, 4, 6, 6)), net.weight(4, 4, 3, 3)
    h = net("Conv", x, w, pads=[1, 1, 1, 1])
    y = net("Conv", net("Relu", h), w, pads=[1, 1, 1, 1])
    check(net.output(h, y))


# ---- transposed ----


@pytest.mark.parametrize(
    ("shape", "weight", "attrs"),
    [
        ((1, 4, 5, 6), (4, 3, 3, 3), {}),
        ((2, 4, 5, 6), (4, 16, 2, 2), {"strides": [2, 2]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((1, 4, 5, 6), (4, 3, 3, 2), {"dilations": [2, 3]}),
        ((1, 4, 5, 6), (4, 2, 3, 3), {"group": 2}),
        ((1, 4, 5, 6), (4, 1, 3, 3), {"group": 4, "strides": [2, 2]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_shape": [10, 13]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
        ((1, 4, 9), (4, 3, 3), {"strides": [2]}),
        ((1, 2, 3, 4, 3), (2, 3, 2, 2, 2), {"strides": [2, 1, 2]}),
    ],
    ids=str,
)
def test_transposed(shape: Sequence[int], weight: Sequence[int], attrs: Attrs) -> None:
    artifact = check(_conv(shape, weight, attrs, op="ConvTranspose"))
    assert "conv_transpose" in kernels(artifact)


@pytest.mark.parametrize(
    "attrs", [{"strides": [2, 2]}, {"strides": [2, 2], "pads": [1, 1, 1, 1]}], ids=str
)
def test_transposed_with_symbolic_sizes(attrs: Attrs) -> None:
    net = _conv((1, 4, 5, 6), (4, 8, 2, 2), attrs, op="ConvTranspose")
    check(net, {"x": ("N", 4, "H", "W")}, [{"x": (2, 4, 7, 3)}], static=False)


def test_transposed_with_weights_that_are_inputs() -> None:
    """Weights are packed when the model is compiled; what comes later, the interpreter takes."""
    net = Net()
    y = net("ConvTranspose", net.input("x", (1, 4, 5, 5)), net.input("w", (4, 3, 2, 2)))
    check(net.output(y), fallbacks=True)
