"""Models that between them use every kind of step that a plan has."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.backends.pipe import Net

__all__ = ["NETS", "SHAPES", "control_net", "dense_net", "native_net", "selecting_net"]

# Symbolic shapes of the inputs of each net.
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {"x": ("N", 3, "H", "W")},
    "selecting": {"x": ("N", 6)},
    "control": {"x": ("N", 4)},
    "native": {"x": ("N", 4)},
}


def dense_net() -> Net:
    """Convolutions, pools, a product, softmax, layer norm: native kernels and generated code."""
    net = Net(seed=3)
    h = net("Conv", net.input("x", (2, 3, 12, 10)), net.weight(16, 3, 3, 3), net.weight(16))
    h = net("MaxPool", net("Relu", h), kernel_shape=[2, 2], strides=[2, 2])
    h = net("Add", net("Conv", h, net.weight(16, 16, 3, 3), pads=[1, 1, 1, 1]), h)
    h = net("Flatten", net("GlobalAveragePool", h))
    h = net("LayerNormalization", h, net.weight(16), net.weight(16))
    y = net("Softmax", net("Gemm", h, net.weight(16, 10), net.weight(10)))
    return net.output(y, net("ReduceMax", h, net.const([1])))


def selecting_net() -> Net:
    """Rows that are kept depend on the data: sizes that only the run knows, integer outputs."""
    net = Net(seed=4)
    x = net.input("x", (5, 6))
    rows = net("ReduceMax", x, net.const([1]), keepdims=0)
    where = net("NonZero", net("Greater", rows, net.const(np.float32(0.5))))
    kept = net("Gather", x, net("Squeeze", where, net.const([0])))
    y = net("Tanh", net("MatMul", kept, net.weight(6, 4)))
    return net.output(y, where, net("Shape", kept))


def control_net() -> Net:
    """A loop with a branch in its body."""

    def info(name: str, type: int = TensorProto.FLOAT, shape: Any = None) -> Any:
        return helper.make_tensor_value_info(name, type, shape)

    def node(op: str, inputs: list[str], output: str, **attrs: Any) -> Any:
        return helper.make_node(op, inputs, [output], name=output, **attrs)

    net = Net(seed=5)
    x = net.input("x", (3, 4))
    w = net.weight(4, 4)
    then = helper.make_graph([node("Neg", ["s"], "p")], "then", [], [info("p")])
    other = helper.make_graph([node("MatMul", ["s", w], "q")], "other", [], [info("q")])
    two, zero = (numpy_helper.from_array(np.array(v), f"c{v}") for v in (2, 0))
    body = helper.make_graph(
        [
            node("Identity", ["go"], "go2"),
            node("Mod", ["i", "c2"], "rest"),
            node("Equal", ["rest", "c0"], "even"),
            node("If", ["even"], "r", then_branch=then, else_branch=other),
            node("Add", ["r", x], "s2"),
            node("ReduceMax", ["s2"], "m", keepdims=0),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s")],
        [info("go2", TensorProto.BOOL, []), info("s2"), info("m")],
        [two, zero],
    )
    return net.output(*net("Loop", net.const(np.int64(5)), "", x, outputs=2, body=body))


def native_net() -> Net:
    """Native kernels and control flow alone: no machine code of the artifact's own."""
    net = Net(seed=6)
    x = net.input("x", (3, 4))
    w = net.weight(4, 4)
    head = [
        ("i", TensorProto.INT64, []),
        ("go", TensorProto.BOOL, []),
        ("s", TensorProto.FLOAT, None),
    ]
    infos = [helper.make_tensor_value_info(*item) for item in head]
    ends = [("go2", TensorProto.BOOL, []), ("s2", TensorProto.FLOAT, None)]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go2"]),
            helper.make_node("MatMul", ["s", w], ["s2"], "product"),
        ],
        "body",
        infos,
        [helper.make_tensor_value_info(*item) for item in ends],
    )
    h = net("Loop", net.const(np.int64(3)), "", x, body=body)
    h = net("Relu", net("Gemm", h, net.weight(4, 8), net.weight(8)))
    h = net("Reshape", h, net.const([-1, 2, 2, 2]))
    values, order = net("TopK", h, net.const([2]), outputs=2, axis=1)
    return net.output(values, order, net("NonZero", h), net("Shape", h))


NETS = {
    "dense": dense_net,
    "selecting": selecting_net,
    "control": control_net,
    "native": native_net,
}
