"""Small networks that touch every kind of step: native kernels, generated code, control flow,
sizes that depend on data, and nodes that the interpreter runs."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["INTERPRETED", "models", "small_model"]

# Its artifact has a node that the interpreter runs: it needs Python.
INTERPRETED = "interpreted"


def models() -> dict[str, tuple[Any, dict[str, Any]]]:
    """ONNX models by name, each with inputs to run it on."""
    from tests.backends.pipe import Net
    from tests.e2e.models import NETS, SHAPES

    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    found: dict[str, tuple[Any, dict[str, Any]]] = {"small": (small_model(), {"x": x})}
    for name, make in NETS.items():
        net = make()
        found[name] = (net.model(SHAPES[name]), net.feeds())
    net = Net()
    sizes = net.input("s", (2,), np.int64, make=lambda rng, shape: np.array([2, 3]))
    net.output(net("Tanh", net("Tile", net.input("x", (2, 3)), sizes)))
    found[INTERPRETED] = (net.model(), net.feeds())
    return found


def small_model() -> Any:
    """Conv, BatchNormalization, Relu, pooling, Gemm and Softmax over [n, 3, 16, 16]."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Any:
        values = rng.standard_normal(shape).astype(np.float32) / 4
        return numpy_helper.from_array(np.abs(values) if name == "var" else values, name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "bias"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"]),
    ]
    weights = [
        weight("w", 8, 3, 3, 3),
        *(weight(name, 8) for name in ("b", "scale", "shift", "mean", "var")),
        weight("head", 5, 8),
        weight("bias", 5),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)
