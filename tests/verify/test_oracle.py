"""Who says what a model computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.verify import find_oracle
from tests.backends.pipe import Net


def _model() -> Net:
    net = Net()
    return net.output(net("Relu", net.input("x", (2, 3))))


def test_onnxruntime_speaks_for_onnx_models(tmp_path: Path) -> None:
    model = _model().model()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    graph = graphopt.from_onnx(model)
    for source in (model, str(path), path, model.SerializeToString()):
        oracle = find_oracle(source, graph)
        assert oracle.name == "onnxruntime"
        x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
        assert np.array_equal(oracle.run({"x": x})[graph.output_names[0]], np.maximum(x, 0))


def test_the_interpreter_speaks_for_graphs_and_where_onnxruntime_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model().model()
    graph = graphopt.from_onnx(model)
    assert find_oracle(graph, graph).name == "graphopt interpreter"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    oracle = find_oracle(model, graph)
    assert oracle.name == "graphopt interpreter"
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    assert np.array_equal(oracle.run({"x": x})[graph.output_names[0]], np.maximum(x, 0))


def test_the_interpreter_speaks_where_onnxruntime_refuses_the_model() -> None:
    """It has no Gemm of integers."""
    net = Net()
    operands = (net.input("a", (2, 3), np.int32), net.input("b", (3, 2), np.int32))
    model = net.output(net("Gemm", *operands)).model()
    oracle = find_oracle(model, graphopt.from_onnx(model))
    assert oracle.name == "graphopt interpreter"
    (y,) = oracle.run({"a": np.ones((2, 3), np.int32), "b": np.ones((3, 2), np.int32)}).values()
    assert y.tolist() == [[3, 3], [3, 3]]
