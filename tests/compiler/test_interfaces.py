"""Interfaces that models have in the wild, and the ways to hand a model in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.runtime.artifact import Artifact
from tests.backends.pipe import Net, compiled, loaded, onnxruntime_outputs

F32 = TensorProto.FLOAT


def _info(name: str, shape: Any = (2, 3), dtype: int = F32) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def _model(nodes: Any, inputs: Any, outputs: Any, weights: Any = ()) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _check(model: Any, feeds: dict[str, Any]) -> graphopt.Session:
    session = loaded(compiled(model))
    got = session.run(feeds)
    wanted = onnxruntime_outputs(model, feeds)
    assert list(got) == [output.name for output in model.graph.output]
    for mine, right in zip(got.values(), wanted, strict=True):
        assert mine.dtype == right.dtype
        np.testing.assert_allclose(mine, right, rtol=1e-6, atol=1e-7)
    return session


X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


def test_an_output_that_is_an_input() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    session = _check(_model([node], [_info("x")], [_info("x"), _info("y")]), {"x": X})
    kept = X.copy()
    session.run([X])["x"][:] = 9  # a copy: the caller's array is the caller's
    assert np.array_equal(X, kept)


def test_an_output_that_is_a_weight() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    w = np.ones((2, 2), np.float32)
    model = _model([node], [_info("x")], [_info("w", (2, 2)), _info("y")], {"w": w})
    session = _check(model, {"x": X})
    session.run([X])["w"][:] = 9  # nor is it the file's memory
    assert np.array_equal(session.run([X])["w"], w)


def test_an_output_twice_under_two_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
        helper.make_node("Relu", ["x"], ["u"]),
    ]
    session = _check(_model(nodes, [_info("x")], [_info(n) for n in "yzu"]), {"x": X})
    outputs = session.run([X])
    outputs["y"][:] = 9
    assert outputs["z"].max() < 9


def test_a_model_of_constants_alone() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    weights = {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    _check(_model([node], [], [_info("y")], weights), {})


def test_an_input_that_nobody_reads() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = _model([node], [_info("x"), _info("unused", (4,))], [_info("y")])
    session = _check(model, {"x": X, "unused": np.zeros(4, np.float32)})
    with pytest.raises(InputError, match="'unused' is missing"):
        session.run({"x": X})


def test_an_unread_input_binds_a_size_all_the_same() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    inputs = [_info("x", ("N", 3)), _info("mask", ("N",))]
    session = _check(
        _model(nodes, inputs, [_info("y", ("N", 3))]), {"x": X, "mask": np.zeros(2, np.float32)}
    )
    with pytest.raises(InputError, match="N is 2"):
        session.run({"x": X, "mask": np.zeros(3, np.float32)})


def test_scalars_in_and_out() -> None:
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    _check(_model([node], [_info("x", ())], [_info("y", ())]), {"x": np.array(3, np.float32)})


def test_unnamed_dimensions_are_free_and_independent() -> None:
    node = helper.make_node("Add", ["x", "y"], ["z"])
    inputs = [_info("x", (None, 3)), _info("y", (None, 3))]
    model = _model([node], inputs, [_info("z", (None, 3))])
    session = _check(model, {"x": X, "y": X})
    assert session.run({"x": X, "y": X[:1]})["z"].shape == (2, 3)


@pytest.mark.parametrize("name", ["x:0", "a/b.c", "with space", "größe", "a=b", "x-y[0]", "0", '"'])
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    node = helper.make_node("Relu", [name], ["out:0"], name="node/of any:kind")
    model = _model([node], [_info(name)], [_info("out:0")])
    session = _check(model, {name: X})
    assert session.inputs[0].name == name
    path = tmp_path / "m.gopt"
    graphopt.compile(model, output=path)
    artifact = Artifact.load(path)
    assert artifact.manifest["inputs"][0]["name"] == name
    text = artifact.read("graph.gir").decode()
    assert str(graphopt.parse(text)) == text


def test_inputs_with_defaults_are_inputs_no_more() -> None:
    """Before IR version 4 weights were listed as inputs: they stay weights."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    weights = {"w": np.ones(3, np.float32)}
    model = _model([node], [_info("x"), _info("w", (3,))], [_info("y")], weights)
    session = _check(model, {"x": X})
    assert [spec.name for spec in session.inputs] == ["x"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64", "float16", "float64"])
def test_element_types_pass_through(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("Transpose", ["x"], ["y"])
    model = _model([node], [_info("x", dtype=kind)], [_info("y", (3, 2), kind)])
    _check(model, {"x": (X > 0).astype(dtype)})


def test_ways_to_hand_a_model_in(tmp_path: Path) -> None:
    net = Net()
    model = net.output(net("Relu", net.input("x", (2, 3)))).model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    made = [
        graphopt.compile(source, verify=False)
        for source in (model, path, str(path), model.SerializeToString(), graphopt.from_onnx(model))
    ]
    assert len({artifact.read("plan") for artifact in made}) == 1


@pytest.mark.parametrize("source", [None, 3, b"", b"no model", "", ["m.onnx"], object()])
def test_what_is_no_model(source: Any) -> None:
    with pytest.raises((ModelError, OptionError, TypeError)) as error:
        graphopt.compile(source)
    assert "\n" not in str(error.value)


def test_shapes_fixed_and_renamed() -> None:
    net = Net()
    model = net.output(net("Relu", net.input("x", (2, 3)))).model({"x": ("N", "M")})
    for shapes, wanted in (
        ({"x": [4, 3]}, "x: float32[4, 3]"),
        ({"x": ["B", 3]}, "x: float32[B, 3]"),
        ({"x": ["K", "K"]}, "x: float32[K, K]"),
    ):
        session = loaded(graphopt.compile(model, input_shapes=shapes))
        assert str(session.inputs[0]) == wanted
    with pytest.raises(InputError):
        session.run([X])  # 2 and 3 are not one K


def test_the_manifest_and_the_report_say_what_was_done(tmp_path: Path) -> None:
    net = Net()
    h = net("Gemm", net.input("x", (2, 4)), net.weight(4, 8), net.weight(8))
    y = net("Softmax", net("Add", net("Relu", h), net("ConstantOfShape", net.const([8]))))
    model = net.output(y).model({"x": ("N", 4)})
    helper.set_model_props(model, {"author": "nobody"})
    path = tmp_path / "m.gopt"
    graphopt.compile(model, "cpu{levels=v3}", output=path)
    artifact = Artifact.load(path)
    manifest = artifact.manifest
    assert manifest["graphopt_version"] == graphopt.__version__
    assert manifest["target"] == "cpu{levels=v3}"
    assert manifest["metadata"]["author"] == "nobody"
    assert manifest["inputs"] == [{"name": "x", "type": "f32[N, 4]"}]
    assert manifest["outputs"][0]["type"] == "f32[N, 8]"
    assert "fold-constants" in manifest["pipeline"]
    assert "cpu-fuse-groups" in manifest["pipeline"]
    report = artifact.json("report.json")
    assert report["fallbacks"] == []
    assert report["passes"]
    assert sum(report["edits"].values()) > 0
    assert report["notes"]["kernels"] >= 1


def test_every_step_knows_the_nodes_that_it_stands_for() -> None:
    net = Net()
    h = net("Conv", net.input("x", (1, 3, 8, 8)), net.weight(4, 3, 3, 3))
    h = net("BatchNormalization", h, *(net.const(np.ones(4, np.float32)) for _ in range(4)))
    h = net("Relu", h)
    y = net("Softmax", net("Flatten", net("GlobalAveragePool", h)))
    steps = compiled(net.output(y).model()).json("plan")["steps"]
    names = {part for step in steps for part in step["name"].split("+")}
    assert names <= {f"n{k}" for k in range(6)}
    assert {"n0", "n2", "n5"} <= names
    assert all(step["name"] for step in steps)
