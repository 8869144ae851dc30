"""Runs ONNX nodes on the native step kernels, one kernel call a node."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from graphopt import _native

# The sizes of their outputs depend on values: the kernel allocates them.
DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}

SPELLED = {
    "Col2Im": "col2im",
    "DFT": "dft",
    "STFT": "stft",
    "LSTM": "lstm",
    "GRU": "gru",
    "RNN": "rnn",
    "MatMulInteger": "matmul_integer",
    "QLinearMatMul": "q_linear_matmul",
}


def kernel_name(op_type: str) -> str:
    """TopK -> top_k."""
    spelled = SPELLED.get(op_type)
    return (
        spelled or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", op_type).lower()
    )


def node_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as the kernels take them."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value

    values = {a.name: plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    # An empty list carries no type; the kernels' defaults mean the same.
    return {name: value for name, value in values.items() if value != []}


def run(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    outputs: Sequence[tuple[str, Any] | None],
    threads: int = 1,
    **attrs: Any,
) -> list[np.ndarray]:
    """Runs one kernel. Outputs are (dtype name, shape), (dtype name, None) or None."""
    return _native.run_kernel(kernel_name(op_type), list(inputs), list(outputs), attrs, threads)


def like(array: np.ndarray) -> tuple[str, list[int]]:
    """The output description of an array."""
    return (array.dtype.name, list(array.shape))


def run_node(
    node: onnx.NodeProto,
    feeds: dict[str, np.ndarray],
    expected: Sequence[np.ndarray | None],
    threads: int = 1,
) -> list[np.ndarray]:
    """Runs a node on named inputs; outputs are described by the arrays that are expected."""
    inputs = [feeds[name] if name else None for name in node.input]
    dynamic = node.op_type in DATA_DEPENDENT
    outputs: list[tuple[str, Any] | None] = []
    for name, array in zip(node.output, expected, strict=True):
        if not name or array is None:
            outputs.append(None)
        else:
            outputs.append((array.dtype.name, None if dynamic else list(array.shape)))
    return _native.run_kernel(
        kernel_name(node.op_type), inputs, outputs, node_attributes(node), threads
    )


def reference(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int = 1,
    opset: int = 22,
    **attrs: Any,
) -> list[np.ndarray]:
    """What onnx.reference computes for one node."""
    model = one_node_model(op_type, inputs, outputs, opset, **attrs)
    feeds = {f"i{k}": a for k, a in enumerate(inputs) if a is not None}
    return list(ReferenceEvaluator(model).run(None, feeds))


def onnxruntime_result(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int = 1,
    opset: int = 22,
    **attrs: Any,
) -> list[np.ndarray]:
    """What onnxruntime computes for one node, its optimizations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = one_node_model(op_type, inputs, outputs, opset, **attrs)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {f"i{k}": a for k, a in enumerate(inputs) if a is not None}
    return list(session.run(None, feeds))


def one_node_model(
    op_type: str, inputs: Sequence[np.ndarray | None], outputs: int, opset: int, **attrs: Any
) -> onnx.ModelProto:
    """A model of one node whose outputs have no declared shape."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(inputs)]
    node = onnx.helper.make_node(op_type, names, [f"o{k}" for k in range(outputs)], **attrs)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(
                f"i{k}", onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for k, a in enumerate(inputs)
            if a is not None
        ],
        [onnx.ValueInfoProto(name=f"o{k}") for k in range(outputs)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


@cache
def backend_cases() -> dict[str, list[Any]]:
    """The single-node cases of onnx's backend test suite, by operator."""
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    cases: dict[str, list[Any]] = {}
    for case in found:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].domain == "":
            cases.setdefault(nodes[0].op_type, []).append(case)
    return cases


def as_array(value: Any) -> np.ndarray:
    """A value of a test case: an array, or a tensor where numpy has no type for it."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def feeds_of(case: Any, data_set: tuple[Any, Any]) -> dict[str, np.ndarray]:
    """A case's inputs by name."""
    return {
        value.name: as_array(array)
        for value, array in zip(case.model.graph.input, data_set[0], strict=True)
    }


def expected_of(case: Any, data_set: tuple[Any, Any]) -> list[np.ndarray | None]:
    """A case's outputs in the order of the node's outputs; None where the node has none."""
    names = [value.name for value in case.model.graph.output]
    by_name = dict(zip(names, data_set[1], strict=True))
    return [
        as_array(by_name[name]) if name in by_name else None
        for name in case.model.graph.node[0].output
    ]


def assert_close(
    actual: np.ndarray, expected: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Same dtype and shape, close values; equal ones for types that do not round."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind in "iub":
        np.testing.assert_array_equal(actual, expected)
    else:
        wide = np.float64 if expected.dtype.kind != "c" else np.complex128
        np.testing.assert_allclose(actual.astype(wide), expected.astype(wide), rtol=rtol, atol=atol)
