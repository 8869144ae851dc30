"""Transposes move past every op that can carry them; the numbers must not notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

Op = Callable[[Net, str], Any]

NHWC = [0, 3, 1, 2]  # [2, 5, 6, 4] -> [2, 4, 5, 6]


def _after(build: Op, shape: tuple[int, ...] = (2, 5, 6, 4), perm: Any = NHWC) -> Net:
    """Transpose, the op, and a transpose back wherever the rank is still four."""
    net = Net()
    x = net("Transpose", net.input("x", shape), perm=perm)
    found = build(net, x)
    return net.output(*([found] if isinstance(found, str) else found))


def _f32(net: Net, *values: float) -> str:
    return net.const(np.asarray(values, np.float32).reshape(() if len(values) == 1 else (-1,)))


CARRIED: dict[str, Op] = {
    "relu": lambda net, x: net("Relu", x),
    "add scalar": lambda net, x: net("Add", x, _f32(net, 2.0)),
    "add row": lambda net, x: net("Add", x, net.weight(6)),
    "add channel": lambda net, x: net("Mul", x, net.weight(4, 1, 1)),
    "add full": lambda net, x: net("Add", net.weight(2, 4, 5, 6), x),
    "add input": lambda net, x: net("Sub", x, net.input("r", (2, 4, 5, 6))),
    "add row input": lambda net, x: net("Sub", net.input("r", (6,)), x),
    "add higher rank": lambda net, x: net("Add", x, net.input("r", (3, 1, 1, 1, 1))),
    "where": lambda net, x: net("Where", net("Greater", x, _f32(net, 0.0)), x, net.weight(4, 1, 1)),
    "clip": lambda net, x: net("Clip", x, _f32(net, -1.0), _f32(net, 1.0)),
    "prelu": lambda net, x: net("PRelu", x, net.weight(4, 1, 1)),
    "cast": lambda net, x: net("Cast", net("Cast", x, to=7), to=1),
    "sum axes": lambda net, x: net("ReduceSum", x, net.const([2, 3])),
    "sum axes drop": lambda net, x: net("ReduceSum", x, net.const([1, 3]), keepdims=0),
    "sum negative": lambda net, x: net("ReduceSum", x, net.const([-3]), keepdims=0),
    "sum all": lambda net, x: net("ReduceSum", x, keepdims=0),
    "sum none": lambda net, x: net("ReduceSum", x, noop_with_empty_axes=1),
    "mean": lambda net, x: net("ReduceMean", x, net.const([1])),
    "max": lambda net, x: net("ReduceMax", x, net.const([1, 2]), keepdims=0),
    "argmax": lambda net, x: net("ArgMax", x, axis=1),
    "argmax drop": lambda net, x: net("ArgMax", x, axis=-2, keepdims=0),
    "argmin last": lambda net, x: net("ArgMin", x, axis=3, select_last_index=1),
    "softmax": lambda net, x: net("Softmax", x, axis=1),
    "softmax default": lambda net, x: net("Softmax", x),
    "log softmax": lambda net, x: net("LogSoftmax", x, axis=-3),
    "hardmax": lambda net, x: net("Hardmax", x, axis=2),
    "concat with itself": lambda net, x: net("Concat", x, net("Neg", x), axis=1),
    "concat with input": lambda net, x: net("Concat", x, net.input("r", (2, 3, 5, 6)), axis=1),
    "concat with weights": lambda net, x: net("Concat", net.weight(2, 4, 5, 1), x, axis=-1),
    "split": lambda net, x: net("Split", x, net.const([1, 3]), outputs=2, axis=1),
    "split even": lambda net, x: net("Split", x, outputs=2, axis=-1, num_outputs=2),
    "split uneven": lambda net, x: net("Split", x, outputs=2, axis=2, num_outputs=2),
    "slice": lambda net, x: net(
        "Slice", x, net.const([1, 0]), net.const([3, 5]), net.const([1, 3])
    ),
    "slice all": lambda net, x: net("Slice", x, net.const([0, 1]), net.const([1, 3])),
    "slice steps": lambda net, x: net(
        "Slice", x, net.const([-1, 0]), net.const([-9, 6]), net.const([-2, 1]), net.const([-1, 2])
    ),
    "pad": lambda net, x: net("Pad", x, net.const([0, 1, 2, 0, 0, 0, 1, 3])),
    "pad value": lambda net, x: net("Pad", x, net.const([0, 1, 0, 0, 0, 1, 0, 0]), _f32(net, 7.0)),
    "pad axes": lambda net, x: net("Pad", x, net.const([1, 2, 0, 1]), "", net.const([1, -1])),
    "pad reflect": lambda net, x: net(
        "Pad", x, net.const([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect"
    ),
    "pad edge": lambda net, x: net("Pad", x, net.const([0, 1, 0, 2, 0, 0, 2, 1]), mode="edge"),
    "pad wrap": lambda net, x: net("Pad", x, net.const([0, 1, 0, 2, 0, 0, 2, 1]), mode="wrap"),
    "pad crop": lambda net, x: net("Pad", x, net.const([0, -1, 2, 0, 0, 0, -1, -2])),
    "unsqueeze": lambda net, x: net("Unsqueeze", x, net.const([1, 4])),
    "unsqueeze ends": lambda net, x: net("Unsqueeze", x, net.const([-1, 0])),
    "resize scales": lambda net, x: net("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0])),
    "resize sizes": lambda net, x: net("Resize", x, "", "", net.const([2, 4, 9, 3]), mode="linear"),
    "resize axes": lambda net, x: net(
        "Resize", x, "", "", net.const([9, 3]), axes=[2, 3], mode="linear"
    ),
    "gather": lambda net, x: net("Gather", x, net.const([2, 0]), axis=1),
    "reshape": lambda net, x: net("Reshape", x, net.const([2, -1])),
    "flatten": lambda net, x: net("Flatten", x, axis=2),
    "transpose": lambda net, x: net("Transpose", x, perm=[1, 0, 3, 2]),
    "transpose back": lambda net, x: net("Transpose", x, perm=[0, 2, 3, 1]),
    "matmul": lambda net, x: net("MatMul", x, net.weight(6, 3)),
    "conv": lambda net, x: net("Conv", x, net.weight(8, 4, 3, 3)),
    "depth to space": lambda net, x: net("DepthToSpace", x, blocksize=2),
    "tile": lambda net, x: net("Tile", x, net.const([1, 2, 1, 3])),
    "expand": lambda net, x: net("Expand", x, net.const([3, 2, 4, 5, 6])),
    "cumsum": lambda net, x: net("CumSum", x, net.const(2)),
    "topk": lambda net, x: net("TopK", x, net.const([2]), outputs=2, axis=1),
    "instance norm": lambda net, x: net("InstanceNormalization", x, net.weight(4), net.weight(4)),
    "layer norm": lambda net, x: net("LayerNormalization", x, net.weight(6), net.weight(6)),
    "group norm": lambda net, x: net(
        "GroupNormalization", x, net.weight(4), net.weight(4), num_groups=2
    ),
    "shape": lambda net, x: net("Shape", x),
}


@pytest.mark.parametrize("op", CARRIED)
def test_ops_after_a_transpose(op: str) -> None:
    check(_after(CARRIED[op]), fallbacks=True)


@pytest.mark.parametrize("op", CARRIED)
def test_ops_between_two_transposes(op: str) -> None:
    """The demand of a transpose that undoes the first draws it through the op."""

    def build(net: Net, x: str) -> Any:
        found = CARRIED[op](net, x)
        found = [found] if isinstance(found, str) else found
        return [*found, *(net("Transpose", y) for y in found), net("Neg", x)]

    check(_after(build), fallbacks=True)


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("axes", [[0], [1], [2], [0, 2]], ids=str)
def test_squeeze_and_unsqueeze_keep_axes_apart(perm: list[int], axes: list[int]) -> None:
    """[3, 4, 5] widened, transposed, narrowed: sizes differ, so any mix-up shows."""

    def widen(net: Net, x: str) -> Any:
        y = net("Unsqueeze", x, net.const(axes))
        z = net("Relu", y)
        return [y, net("Squeeze", z, net.const(axes)), net("Squeeze", z)]

    check(_after(widen, (3, 4, 5), list(perm)))


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3)))[1:], ids=str)
def test_two_transposed_branches_meet(perm: list[int]) -> None:
    shape = (3, 4, 5)
    net = Net()
    a = net("Transpose", net.input("a", shape), perm=list(perm))
    other = tuple(shape[axis] for axis in perm)
    inverse = [list(perm).index(axis) for axis in range(3)]
    b = net("Transpose", net.input("b", tuple(other[axis] for axis in inverse)), perm=list(perm))
    y = net("Relu", net("Add", net("Tanh", a), net("Sigmoid", b)))
    check(net.output(y, net("Transpose", y, perm=inverse)))


def test_branches_with_different_permutations_meet() -> None:
    net = Net()
    a = net("Transpose", net.input("a", (3, 4, 5)), perm=[2, 0, 1])  # [5, 3, 4]
    b = net("Transpose", net.input("b", (4, 5, 3)), perm=[1, 2, 0])  # [5, 3, 4]
    y = net("Mul", a, b)
    z = net("Concat", a, b, y, axis=1)
    symbols = {"a": ("A", "B", "C"), "b": ("B", "C", "A")}
    check(net.output(y, z), symbols, [{"a": (1, 2, 3), "b": (2, 3, 1)}])


def test_transpose_and_its_inverse_leave_nothing() -> None:
    net = Net()
    y = net("Transpose", net.input("x", (2, 3, 4)), perm=[1, 2, 0])
    y = net("Transpose", net("Relu", y), perm=[2, 0, 1])
    artifact = check(net.output(y), {"x": ("A", "B", "C")}, [{"x": (1, 5, 7)}])
    assert kernels(artifact) == ["object"]
    assert b"Transpose" not in artifact.read("graph.gir")


def test_channels_last_network_exported_from_a_channels_last_framework() -> None:
    """Every convolution between transposes of its own, as converters leave it."""
    net = Net()
    h = net.input("x", (1, 9, 8, 3))
    for cin, cout in ((3, 8), (8, 8)):
        h = net("Transpose", h, perm=NHWC)
        h = net("Conv", h, net.weight(cout, cin, 3, 3), pads=[1, 1, 1, 1])
        h = net("Relu", net("Transpose", h, perm=[0, 2, 3, 1]))
        h = net("Add", h, net.weight(cout))
    artifact = check(net.output(h), {"x": ("N", "H", "W", 3)}, [{"x": (2, 5, 6, 3)}])
    assert b"Transpose" not in artifact.read("graph.gir")


def test_resize_with_sizes_computed_from_the_shape() -> None:
    net = Net()
    x = net("Conv", net.input("x", (1, 3, 8, 8)), net.weight(4, 3, 3, 3), pads=[1, 1, 1, 1])
    shape = net("Shape", x)
    spatial = net("Slice", shape, net.const([2]), net.const([4]))
    twice = net("Mul", spatial, net.const([2, 2]))
    sizes = net("Concat", net("Slice", shape, net.const([0]), net.const([2])), twice, axis=0)
    y = net("Resize", x, "", "", sizes, mode="nearest")
    y = net("Conv", y, net.weight(3, 4, 1, 1))
    check(net.output(y), {"x": ("N", 3, "H", "W")}, [{"x": (2, 3, 5, 9)}])
