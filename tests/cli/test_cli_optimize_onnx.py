"""``graphopt optimize``: the opset stays, and foreign ops come only where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import Cli, cli

__all__ = ["cli"]


def spelled_gelu(opset: int) -> Any:
    """``x * 0.5 * (1 + erf(x / sqrt 2))``, then axes that were an attribute before opset 13."""
    numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    constants = [numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items()]
    steps = (("Div", "x root", "d"), ("Erf", "d", "e"), ("Add", "e one", "a"), ("Mul", "x a", "m"),
             ("Mul", "m half", "g"))  # fmt: skip
    nodes = [helper.make_node(op, i.split(), [o], name=o) for op, i, o in steps]
    if opset < 13:
        nodes.append(helper.make_node("Unsqueeze", ["g"], ["y"], name="y", axes=[0]))
    else:
        constants.append(numpy_helper.from_array(np.array([0]), "axes"))
        nodes.append(helper.make_node("Unsqueeze", ["g", "axes"], ["y"], name="y"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4], "what goes in")
    # The declared shape is wrong: nothing may depend on it.
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "N", 5], "what comes out")
    graph = helper.make_graph(nodes, "g", [x], [y], constants, doc_string="a graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"owner": "somebody"})
    return model


def outputs(model: Any, x: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("opset", "options", "ops"),
    [
        (11, [], ["Div", "Erf", "Add", "Mul", "Mul", "Unsqueeze"]),
        (17, [], ["Div", "Erf", "Add", "Mul", "Mul", "Unsqueeze"]),
        (20, [], ["Gelu", "Unsqueeze"]),
        (17, ["--opset", "20"], ["Gelu", "Unsqueeze"]),
        (20, ["--opset", "11"], ["Div", "Erf", "Add", "Mul", "Mul", "Unsqueeze"]),
        (11, ["--allow-contrib"], ["com.microsoft.Gelu", "Unsqueeze"]),
    ],
)
def test_ops_are_those_of_the_opset(
    cli: Cli, tmp_path: Path, opset: int, options: list[str], ops: list[str]
) -> None:
    source = spelled_gelu(opset)
    onnx.save(source, tmp_path / "in.onnx")
    assert cli("optimize", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), *options)
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [f"{n.domain}.{n.op_type}".strip(".") for n in model.graph.node] == ops
    wanted = int(options[1]) if options[:1] == ["--opset"] else opset
    assert {o.domain: o.version for o in model.opset_import}[""] == wanted
    assert model.metadata_props[0].value == "somebody"
    assert model.graph.doc_string == "a graph"
    assert model.graph.input[0].doc_string == "what goes in"
    assert model.graph.output[0].doc_string == "what comes out"
    dims = model.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [1, "N", 4]
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(outputs(model, x), outputs(source, x), rtol=1e-5, atol=1e-6)
