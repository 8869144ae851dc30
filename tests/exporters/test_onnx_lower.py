"""Nodes in the form that older opsets have for them: same numbers, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import OptionError
from graphopt.exporters import to_onnx
from graphopt.frontends import from_onnx
from graphopt.ir import Builder, DType, Graph, TensorType, Value
from graphopt.testing import run_seeded, worst_error

Build = Callable[[Builder, Value], Any]
F32 = DType.F32


def graph_of(build: Build, shape: tuple[int, ...], dtype: DType = F32) -> Graph:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(dtype, shape))
    result = build(Builder(graph, origin=["n"]), x)
    for value in result if isinstance(result, tuple) else (result,):
        graph.add_output(value)
    return graph


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


IMAGE = (1, 2, 4, 4)
CASES: dict[str, tuple[Build, tuple[int, ...], int, str]] = {
    "squeeze": (lambda b, x: b.Squeeze(x, [0]), (1, 3), 11, "Squeeze"),
    "unsqueeze": (lambda b, x: b.Unsqueeze(x, [-1]), (2, 3), 11, "Unsqueeze"),
    "sum": (lambda b, x: b.ReduceSum(x, [1], keepdims=0), (2, 3), 11, "ReduceSum"),
    "mean": (lambda b, x: b.ReduceMean(x, [0, 2]), (2, 3, 2), 17, "ReduceMean"),
    "mean of all": (lambda b, x: b.ReduceMean(x), (2, 3, 2), 11, "ReduceMean"),
    "parts": (lambda b, x: b.Split(x, axis=1, num_outputs=2, _outputs=2), (2, 4), 17, "Split"),
    "uneven": (lambda b, x: b.Split(x, axis=1, num_outputs=2, _outputs=2), (2, 5), 13, "Split"),
    "sizes": (lambda b, x: b.Split(x, [1, 3], axis=1, _outputs=2), (2, 4), 11, "Split"),
    "uneven attribute": (
        lambda b, x: b.Split(x, axis=1, num_outputs=3, _outputs=3), (2, 7), 11, "Split",
    ),
    "softmax": (lambda b, x: b.Softmax(x, axis=-1), (2, 3, 4), 11, "Softmax"),
    "softmax before ones": (lambda b, x: b.Softmax(x, axis=1), (2, 3, 1), 11, "Softmax"),
    "resize 11": (
        lambda b, x: b.Resize(x, None, np.array([1, 1, 2, 2], np.float32), mode="nearest"),
        IMAGE, 11, "Resize",
    ),
    "resize to sizes": (
        lambda b, x: b.Resize(x, None, None, [1, 2, 8, 8], mode="linear"), IMAGE, 12, "Resize",
    ),
    "resize 10": (
        lambda b, x: b.Resize(
            x, None, np.array([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        IMAGE, 10, "Resize",
    ),
    "upsample": (
        lambda b, x: b.Resize(
            x, None, np.array([1, 1, 2, 2], np.float32), mode="linear",
            coordinate_transformation_mode="asymmetric",
        ),
        IMAGE, 9, "Upsample",
    ),
    "grid": (
        lambda b, x: b.GridSample(x, zeros(1, 2, 2, 2), mode="cubic"), IMAGE, 16, "GridSample",
    ),
    "reshape": (lambda b, x: b.Reshape(x, [3, 2], allowzero=1), (2, 3), 9, "Reshape"),
    "pad axes": (
        lambda b, x: b.Pad(x, [1, 2], np.float32(0.5), [-1]), (2, 3), 13, "Pad",
    ),
    "pad": (lambda b, x: b.Pad(x, [0, 1, 0, 2], np.float32(0.5)), (2, 3), 10, "Pad"),
    "clip": (lambda b, x: b.Clip(x, np.float32(0), np.float32(6)), (2, 3), 10, "Clip"),
    "half open": (lambda b, x: b.Clip(x, np.float32(0)), (2, 3), 7, "Clip"),
    "slice": (lambda b, x: b.Slice(x, [1], [3], [1]), (2, 4), 9, "Slice"),
    "top k": (lambda b, x: b.TopK(x, [2], _outputs=2), (2, 4), 9, "TopK"),
    "dropout": (lambda b, x: b.Dropout(x, np.float32(0.3)), (2, 4), 11, "Dropout"),
    "gemm": (lambda b, x: b.Gemm(x, np.ones((3, 2), np.float32)), (2, 3), 9, "Gemm"),
    "batch norm": (
        lambda b, x: b.BatchNormalization(
            x, *(np.array([v, v + 1], np.float32) for v in (1, 2, 3, 4)), training_mode=0
        ),
        IMAGE, 9, "BatchNormalization",
    ),
    "scatter": (
        lambda b, x: b.ScatterElements(
            x, np.array([[0, 2]], np.int64), np.array([[5, 6]], np.float32), axis=1
        ),
        (2, 3), 9, "Scatter",
    ),
    "shape": (lambda b, x: b.Shape(x, start=0, end=2), (2, 3), 9, "Shape"),
    "dft": (
        lambda b, x: b.DFT(x, None, np.array(1, np.int64)), (1, 4, 1), 17, "DFT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_older_form_means_the_same(name: str) -> None:
    build, shape, opset, op = CASES[name]
    graph = graph_of(build, shape)
    model = to_onnx(graph, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import}[""] == opset
    assert [node.op_type for node in model.graph.node] == [op]
    assert worst_error(run_seeded(from_onnx(model)), run_seeded(graph)) == 0


REFUSALS: dict[str, tuple[Build, tuple[int, ...], int, str]] = {
    "computed": (
        lambda b, x: b.Unsqueeze(x, b.Shape(b.Squeeze(x, [0]))), (1, 0), 11, "axes are computed",
    ),
    "resize": (
        lambda b, x: b.Resize(x, None, np.array([1, 1, 2, 2], np.float32)), IMAGE, 10,
        "divide coordinates",
    ),
    "shrinks": (
        lambda b, x: b.Resize(
            x, None, np.array([1, 1, 0.5, 0.5], np.float32), nearest_mode="ceil",
            coordinate_transformation_mode="asymmetric",
        ),
        IMAGE, 9, "only grow",
    ),
    "steps": (lambda b, x: b.Slice(x, [0], [4], [1], [2]), (2, 4), 9, "no steps"),
    "smallest": (lambda b, x: b.TopK(x, [2], largest=0, _outputs=2), (2, 4), 10, "'largest' is 0"),
    "mask": (lambda b, x: b.Dropout(x, _outputs=2), (2, 4), 11, "mask is read"),
    "a younger op": (
        lambda b, x: b.CumSum(x, np.array(0, np.int64)), (2, 3), 10, "it has no CumSum",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_an_older_opset_cannot_say_is_refused(name: str) -> None:
    build, shape, opset, reason = REFUSALS[name]
    with pytest.raises(OptionError, match=reason):
        to_onnx(graph_of(build, shape), opset=opset)


BODIES: dict[str, tuple[Build, tuple[int, ...], int, list[str]]] = {
    "gelu": (lambda b, x: b.Gelu(x), (2, 3), 17, ["Div", "Erf", "Add", "Mul", "Mul"]),
    "swish": (lambda b, x: b.Swish(x), (2, 3), 13, ["Sigmoid", "Mul"]),
    "hard swish": (lambda b, x: b.HardSwish(x), (2, 3), 11, ["HardSigmoid", "Mul"]),
    "rms norm": (
        lambda b, x: b.RMSNormalization(x, np.ones(4, np.float32)), (2, 4), 11,
        ["Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"],
    ),
    "comparison": (
        lambda b, x: b.GreaterOrEqual(x, np.float32(0)), (2, 4), 11, ["Greater", "Equal", "Or"],
    ),
    "part of a shape": (lambda b, x: b.Shape(x, start=1), (2, 3), 14, ["Shape", "Slice"]),
    "softmax": (
        lambda b, x: b.Softmax(x, axis=1), (2, 3, 4), 11, ["Transpose", "Softmax", "Transpose"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_ops_that_an_older_opset_lacks_are_spelled_out(name: str) -> None:
    build, shape, opset, ops = BODIES[name]
    graph = graph_of(build, shape)
    before = str(graph)
    model = to_onnx(graph, opset=opset)
    assert str(graph) == before
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ops
    assert all(node.metadata_props[0].value == "n" for node in model.graph.node)
    assert worst_error(run_seeded(from_onnx(model)), run_seeded(graph)) < 1e-6


def test_constants_of_older_forms_are_shared_and_unread_ones_go() -> None:
    def build(b: Builder, x: Value) -> Value:
        scales = np.array([1, 1, 2, 2], np.float32)
        return b.Squeeze(b.Resize(b.Resize(x, None, scales), None, scales), [0])  # type: ignore[no-any-return]

    model = to_onnx(graph_of(build, IMAGE), opset=11)
    empty = [t for t in model.graph.initializer if 0 in t.dims]
    assert len(empty) == 1
    assert not any(t.data_type == onnx.TensorProto.INT64 for t in model.graph.initializer)
