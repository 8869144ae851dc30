"""The onnx.backend interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.backend.base import Backend, BackendRep

from graphopt import onnx_backend
from graphopt.errors import GraphoptError, InputError, ModelError, OptionError

REFERENCE = {"target": "reference"}


def add_model() -> Any:
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "ab"]
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 2])
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    return helper.make_model(
        helper.make_graph([node], "g", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 18)],
    )


A, B = np.ones((3, 2), np.float32), np.full((3, 2), 2, np.float32)


def test_it_is_a_backend() -> None:
    assert issubclass(onnx_backend.GraphoptBackend, Backend)
    rep = onnx_backend.prepare(add_model(), **REFERENCE)
    assert isinstance(rep, BackendRep)


def test_inputs_by_order_and_by_name() -> None:
    rep = onnx_backend.prepare(add_model(), "CPU", **REFERENCE)
    for inputs in ([A, B], (A, B), {"b": B, "a": A}):
        outputs = rep.run(inputs)
        np.testing.assert_array_equal(outputs[0], A + B)
        np.testing.assert_array_equal(outputs["sum"], A + B)
        np.testing.assert_array_equal(outputs.sum, A + B)


def test_run_model() -> None:
    [y] = onnx_backend.run_model(add_model(), [A, B], **REFERENCE)
    np.testing.assert_array_equal(y, A + B)


def test_the_target_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_ONNX_TARGET", "reference")
    [y] = onnx_backend.run_model(add_model(), [A, B])
    np.testing.assert_array_equal(y, A + B)
    monkeypatch.setenv("GRAPHOPT_ONNX_TARGET", "nowhere")
    with pytest.raises(OptionError, match="nowhere"):
        onnx_backend.prepare(add_model())


def test_run_node() -> None:
    node = helper.make_node("Sub", ["p", "q"], ["r"])
    [r] = onnx_backend.run_node(node, [A, B], **REFERENCE)
    np.testing.assert_array_equal(r, A - B)
    softmax = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    [old] = onnx_backend.run_node(softmax, [x], opset_version=11, **REFERENCE)
    np.testing.assert_allclose(old.sum(), 1, rtol=1e-6)
    [new] = onnx_backend.run_node(softmax, [x], opset_version=13, **REFERENCE)
    np.testing.assert_allclose(new.sum(1), 1, rtol=1e-6)


def test_run_node_on_sequences() -> None:
    node = helper.make_node("SequenceInsert", ["s", "x"], ["t"])
    [t] = onnx_backend.run_node(node, [[A], B], **REFERENCE)
    assert len(t) == 2
    np.testing.assert_array_equal(t[1], B)


def test_devices() -> None:
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.supports_device("CPU:0")
    assert not onnx_backend.supports_device("CUDA")
    assert onnx_backend.is_compatible(add_model())
    with pytest.raises(OptionError, match="CUDA"):
        onnx_backend.prepare(add_model(), "CUDA", **REFERENCE)


@pytest.mark.parametrize(("inputs", "message"), [
    ([A], "takes 2 inputs, not 1"),
    ({"a": A}, "input 'b' is missing"),
    ([A, B.astype(np.float64)], "input 'b' is f32, not f64"),
    ([A, B[0]], "input 'b' has 2 axes, not 1"),
    ([A, np.zeros(1, "M8[s]")], "input 'b'"),
])  # fmt: skip
def test_inputs_that_do_not_fit(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        onnx_backend.prepare(add_model(), **REFERENCE).run(inputs)


def test_a_malformed_model_is_our_error() -> None:
    model = add_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        onnx_backend.prepare(model, **REFERENCE)
    with pytest.raises(GraphoptError):
        onnx_backend.prepare(b"junk", **REFERENCE)
