"""One op in the interpreter beside the same op in onnxruntime, and its inferred types checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

from graphopt import ops
from graphopt.ir import Constant, DType, Graph, TensorType, evaluate, sym
from graphopt.ops.interpreter import run_graph

__all__ = ["assert_same", "interpret", "onnxruntime_result"]

Array = np.ndarray[Any, Any]


def interpret(
    name: str,
    inputs: Sequence[Array | None],
    attrs: Mapping[str, Any],
    outputs: int = 1,
    domain: str = "",
) -> list[Array]:
    """Results of the interpreter, after types inferred for symbolic sizes were checked on them."""
    graph, env, values = Graph(), {}, []
    for i, x in enumerate(inputs):
        if x is None:
            values.append(None)
            continue
        dims = []
        for axis, size in enumerate(x.shape):
            env[f"i{i}_{axis}"] = size
            # Sizes 1 and 0 are often special: they stay numbers.
            dims.append(sym(f"i{i}_{axis}") if size > 1 else size)
        values.append(graph.add_input(f"x{i}", TensorType(DType.from_numpy(x.dtype), tuple(dims))))
    given = {
        k: Constant(v) if isinstance(v, np.ndarray) else tuple(v) if isinstance(v, list) else v
        for k, v in attrs.items()
    }
    node = graph.add(ops.get(name, domain), values, given, n_outputs=outputs, name=name)
    for value in node.outputs:
        graph.add_output(value)
    results = run_graph(graph, [x for x in inputs if x is not None])
    for value, result in zip(node.outputs, results, strict=True):
        kind = value.tensor
        assert DType.from_numpy(result.dtype) is kind.dtype
        assert kind.shape is not None and len(kind.shape) == result.ndim
        for dim, size in zip(kind.shape, result.shape, strict=True):
            try:
                assert evaluate(dim, env) == size, f"{kind} does not fit {result.shape}"
            except KeyError:
                continue  # a size that only the run knows
    return results


def onnxruntime_result(
    name: str,
    inputs: Sequence[Array | None],
    attrs: Mapping[str, Any],
    outputs: int = 1,
    domain: str = "",
    opset: int = 22,
) -> list[Array]:
    """Results of onnxruntime with its optimizations off."""
    given = {
        k: numpy_helper.from_array(v, k) if isinstance(v, np.ndarray) else v
        for k, v in attrs.items()
    }
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    node = helper.make_node(name, names, [f"y{i}" for i in range(outputs)], domain=domain, **given)
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    infos = [
        helper.make_tensor_value_info(n, int(DType.from_numpy(x.dtype)), x.shape)
        for n, x in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    versions = [helper.make_opsetid(domain, opset)]
    if domain:
        versions.append(helper.make_opsetid("", 22))
    model = helper.make_model(
        helper.make_graph([node], "g", infos, results), opset_imports=versions, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found: list[Array] = session.run(None, feeds)
    return found


def assert_same(
    name: str,
    inputs: Sequence[Array | None],
    attrs: Mapping[str, Any],
    outputs: int = 1,
    domain: str = "",
    opset: int = 22,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Both agree in type, shape and value (to rounding of f32 sums, in different orders)."""
    ours = interpret(name, inputs, attrs, outputs, domain)
    theirs = onnxruntime_result(name, inputs, attrs, outputs, domain, opset)
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape, f"output {index}: {a.shape}, onnxruntime {b.shape}"
        if a.dtype == object:
            assert a.ravel().tolist() == [str(item) for item in b.ravel()]
            continue
        assert a.dtype == b.dtype, f"output {index}: {a.dtype}, onnxruntime {b.dtype}"
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"output {index}")
