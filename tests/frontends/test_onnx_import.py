"""Names, order, functions, sizes, metadata: how a model becomes a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError, OptionError, UnsupportedError
from graphopt.frontends.onnx import from_onnx
from graphopt.frontends.onnx_types import symbol_name
from graphopt.ir import Graph, TensorType, parse, print_graph, sym, verify
from graphopt.ops.interpreter import run_graph
from tests.frontends.onnx_models import F32, I64, all_models, info, model_of


def make(
    nodes: list[Any], inputs: list[Any] | None = None, outputs: list[str] | None = None, **more: Any
) -> Any:
    """A model of ``nodes``; its input is x: f32[N, 4] and its output y unless said otherwise."""
    inputs = [info("x", F32, ["N", 4])] if inputs is None else inputs
    initializers = more.pop("initializers", [])
    value_info = more.pop("value_info", [])
    outs = [info(name) for name in outputs or ["y"]]
    graph = helper.make_graph(
        nodes, "g", inputs, outs, initializers, value_info=value_info, doc_string="the graph"
    )
    return model_of(graph, **more)


def relu(source: str, target: str, name: str = "") -> Any:
    return helper.make_node("Relu", [source], [target], name)


@pytest.mark.parametrize("name", sorted(all_models()))
def test_models_are_read_and_print_and_parse(name: str) -> None:
    graph = from_onnx(all_models()[name])
    verify(graph)
    text = print_graph(graph)
    assert print_graph(parse(text)) == text


@pytest.mark.parametrize("name", sorted(all_models()))
def test_reading_is_deterministic(name: str) -> None:
    data = all_models()[name].SerializeToString()
    assert print_graph(from_onnx(data)) == print_graph(from_onnx(data))


def test_bytes_proto_and_path_read_alike(tmp_path: Any) -> None:
    model = all_models()["convolutional"]
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    texts = {print_graph(from_onnx(source)) for source in (data, model, path, str(path))}
    assert len(texts) == 1


# ---- names and origins ----


def test_every_node_has_a_name_and_is_its_own_origin() -> None:
    graph = from_onnx(make([relu("x", "a", "same"), relu("a", "b", "same"), relu("b", "y")]))
    names = [node.name for node in graph]
    assert names == ["same", "same.1", "Relu_2"]
    assert [node.origin for node in graph] == [{name} for name in names]
    assert [node.output.name for node in graph] == ["a", "b", "y"]


def test_an_upgraded_node_stands_for_its_source() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], "soft", axis=1)]
    graph = from_onnx(make(nodes, [info("x", F32, [2, 3, 4])], opset=11))
    assert [n.op.name for n in graph] == ["Flatten", "Softmax", "Shape", "Reshape"]
    assert {frozenset(n.origin) for n in graph} == {frozenset({"soft"})}
    assert graph.outputs[0].name == "y"


def test_a_constant_node_is_a_constant() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Constant", [], ["w"], value_string="hi"),
        helper.make_node("Add", ["x", "k"], ["y"]),
        helper.make_node("Identity", ["w"], ["z"]),
    ]
    graph = from_onnx(make(nodes, outputs=["y", "z"]))
    assert sorted(graph.constants) == ["k", "w"]
    assert [n.op.name for n in graph] == ["Add", "Identity"]


def test_outputs_may_be_inputs_constants_and_repeated_values() -> None:
    model = make(
        [relu("x", "y")], outputs=["y", "x", "c"],
        initializers=[numpy_helper.from_array(np.ones(2, np.float32), "c")],
    )  # fmt: skip
    graph = from_onnx(model)
    verify(graph)
    assert graph.output_names == ("y", "x", "c")
    x = np.array([[-1, 1, 2, 3]], np.float32)
    y, same, ones = run_graph(graph, [x])
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(ones, 1)


# ---- order ----


def test_unsorted_nodes_are_sorted() -> None:
    graph = from_onnx(make([relu("b", "y", "3"), relu("x", "a", "1"), relu("a", "b", "2")]))
    assert [n.name for n in graph] == ["1", "2", "3"]


def test_captures_count_for_the_order() -> None:
    branch = helper.make_graph([relu("late", "r")], "b", [], [info("r")])
    other = helper.make_graph([relu("x", "s")], "c", [], [info("s")])
    nodes = [
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=branch, else_branch=other),
        relu("x", "late", "late"),
    ]
    inputs = [info("x", F32, [4]), info("flag", TensorProto.BOOL, [])]
    assert [n.name for n in from_onnx(make(nodes, inputs))] == ["late", "if"]


def test_a_cycle_is_named() -> None:
    with pytest.raises(ModelError, match=r"'(one|two)'.*on a cycle"):
        from_onnx(make([relu("b", "a", "one"), relu("a", "b", "two"), relu("x", "y")]))


@pytest.mark.parametrize(("nodes", "message"), [
    ([relu("nowhere", "y", "bad")], r"node 'bad' \(Relu\) reads 'nowhere', which nothing defines"),
    ([relu("x", "a"), relu("x", "a", "again"), relu("a", "y")], "'again' defines 'a' again"),
    ([relu("x", "x", "again")], "on a cycle|defines 'x' again"),
    ([relu("x", "a")], "outputs of graph 'g' reads 'y', which nothing defines"),
    ([helper.make_node("Relu", ["x", "x"], ["y"], "r")], r"node 'r' \(Relu\): it takes at most 1"),
    ([helper.make_node("Add", ["x"], ["y"], "r")], r"node 'r' \(Add\): it takes at least 2"),
    ([helper.make_node("Relu", ["x"], ["y", "z"], "r")], r"node 'r' \(Relu-18\): it yields at"),
    ([helper.make_node("", ["x"], ["y"], "r")], "node 'r' has no operator"),
])  # fmt: skip
def test_broken_graphs_are_refused(nodes: list[Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(make(nodes))


def test_the_file_is_named_in_errors(tmp_path: Any) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(make([relu("nowhere", "y")]).SerializeToString())
    with pytest.raises(ModelError, match=r"^/.*broken\.onnx: node"):
        from_onnx(path)


# ---- opsets ----


def test_opsets_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match="uses opset 99, but the installed onnx"):
        from_onnx(make([relu("x", "y")], opset=99))
    model = make([relu("x", "y")])
    del model.opset_import[:]
    with pytest.raises(ModelError, match="imports no opset"):
        from_onnx(model)
    model.ir_version = 2
    assert from_onnx(model).metadata["onnx.opset"] == "1"


def test_both_spellings_of_the_onnx_domain() -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    model.opset_import[0].domain = "ai.onnx"
    assert next(iter(from_onnx(model))).op.qualified == "Relu"


# ---- sizes ----


def input_types(model: Any, **shapes: Any) -> list[str]:
    return [str(v.type) for v in from_onnx(model, input_shapes=shapes or None).inputs]


def test_named_and_unnamed_sizes_are_symbols() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    types = input_types(make(nodes, [info("x", F32, ["N", None, 3]), info("z", F32, [None])]))
    assert types == ["f32[N, x_1, 3]", "f32[z_0]"]


def test_negative_sizes_are_unknown() -> None:
    assert input_types(make([relu("x", "y")], [info("x", F32, [-1, 3])])) == ["f32[x_0, 3]"]


def test_made_up_symbols_leave_the_names_of_the_model_alone() -> None:
    model = make([relu("x", "y")], [info("x", F32, [None]), info("z", F32, ["x_0"])])
    assert input_types(model) == ["f32[x_0.1]", "f32[x_0]"]


@pytest.mark.parametrize(("raw", "clean"), [
    ("N", "N"), ("batch size", "batch_size"), ("2*N", "_2_N"), ("", "_"), ("min", "_min"),
    ("p2o.Dim.0", "p2o.Dim.0"), ("größe", "gr__e"),
])  # fmt: skip
def test_symbols_are_cleaned(raw: str, clean: str) -> None:
    assert symbol_name(raw) == clean


def test_sizes_that_clean_to_one_name_stay_apart() -> None:
    model = make([relu("x", "y")], [info("x", F32, ["a b", "a_b", "a b"])])
    assert input_types(model) == ["f32[a_b, a_b.1, a_b]"]


def test_input_shapes_replace_sizes_everywhere() -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    model = make(nodes, [info("x", F32, ["N", "C"]), info("z", F32, ["N", "C"])])
    assert input_types(model, x=[2, "C"]) == ["f32[2, C]", "f32[2, C]"]
    assert input_types(model, x=["B", 8]) == ["f32[B, 8]", "f32[B, 8]"]
    assert input_types(model, x=[2, 3], z=[2, 3]) == ["f32[2, 3]", "f32[2, 3]"]


@pytest.mark.parametrize(("shapes", "message"), [
    ({"q": [1]}, "given for 'q', but the inputs are 'x', 'z'"),
    ({"x": [1]}, "'x' has 2 axes, not 1"),
    ({"x": [1, -2]}, "cannot be negative"),
    ({"x": [1, "a b"]}, "no name for a dynamic size"),
    ({"x": [2, 4], "z": [3, 4]}, "'N' is given as 2 and as 3"),
])  # fmt: skip
def test_input_shapes_that_do_not_fit(shapes: dict[str, Any], message: str) -> None:
    inputs = [info("x", F32, ["N", 4]), info("z", F32, ["N", 4])]
    with pytest.raises(OptionError, match=message):
        from_onnx(make([relu("x", "y")], inputs), input_shapes=shapes)


def test_shapes_stay_symbolic_through_arithmetic() -> None:
    graph = from_onnx(all_models()["shapes"])
    assert graph.outputs[0].type == TensorType(graph.inputs[0].tensor.dtype, (sym("batch"), 1))


def test_declared_types_never_beat_inference() -> None:
    model = make([relu("x", "y")])
    model.graph.output[0].CopyFrom(info("y", F32, [7, 7, 7]))
    assert str(from_onnx(model).outputs[0].type) == "f32[N, 4]"


# ---- initializers, metadata ----


def test_an_initializer_listed_as_input_is_a_constant() -> None:
    model = make(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [info("w", F32, [4]), info("x", F32, [1, 4])], ir_version=3,
        initializers=[numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )  # fmt: skip
    graph = from_onnx(model)
    assert [v.name for v in graph.inputs] == ["x"]
    assert list(graph.constants) == ["w"]


def test_metadata_is_kept() -> None:
    graph = from_onnx(all_models()["convolutional"])
    assert graph.metadata == {
        "author": "nobody", "task": "none", "onnx.producer_name": "tests",
        "onnx.doc_string": "a model", "onnx.opset": "17",
    }  # fmt: skip
    assert from_onnx(make([relu("x", "y")])).doc == "the graph"


# ---- functions and custom ops ----


def test_functions_are_inlined_with_their_attributes() -> None:
    graph = from_onnx(all_models()["functions"])
    assert [n.op.qualified for n in graph] == ["Mul", "Mul", "vendor::Gizmo", "Selu"]
    factors = [float(n.inputs[1].constant.array) for n in graph if n.op.name == "Mul"]  # type: ignore[union-attr]
    assert factors == [2.0, 3.0]
    assert [n.name for n in graph][:2] == ["call/inner/Mul_3", "call/Scaled_4/Mul_6"]


def test_custom_ops_pass_through() -> None:
    graph = from_onnx(all_models()["functions"])
    [gizmo] = [n for n in graph if n.op.name == "Gizmo"]
    assert gizmo.op.opaque
    assert dict(gizmo.attrs) == {"level": 3}
    assert str(gizmo.output.type) == "f32[N, 4]"
    with pytest.raises(UnsupportedError, match="vendor::Gizmo"):
        run_graph(graph, [np.ones((1, 4), np.float32)])


def test_a_custom_op_without_types_is_taken_for_its_operand() -> None:
    node = helper.make_node("Gizmo", ["x"], ["y"], domain="vendor")
    model = make([node], imports=[helper.make_opsetid("vendor", 1)])
    assert str(from_onnx(model).outputs[0].type) == "f32[*]"
    alone = make([helper.make_node("Gizmo", [], ["y"], "g", domain="vendor")])
    alone.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match=r"node 'g' \(vendor::Gizmo\): the type of output 'y'"):
        from_onnx(alone)


def test_a_function_that_calls_itself_is_refused() -> None:
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="local")],
        [helper.make_opsetid("local", 1)],
    )  # fmt: skip
    model = make([helper.make_node("F", ["x"], ["y"], domain="local")], functions=[function])
    with pytest.raises(ModelError, match="'F' calls itself"):
        from_onnx(model)


def test_functions_that_explode_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.frontends import onnx_import

    monkeypatch.setattr(onnx_import, "_MAX_NODES", 10_000)
    functions = [
        helper.make_function(
            "local", f"F{k}", ["a"], ["b"],
            [helper.make_node(f"F{k + 1}", ["a"], [f"b{j}" if j else "b"], domain="local")
             for j in range(10)],
            [helper.make_opsetid("local", 1)],
        )
        for k in range(9)
    ]  # fmt: skip
    functions.append(
        helper.make_function(
            "local", "F9", ["a"], ["b"], [relu("a", "b")], [helper.make_opsetid("", 18)]
        )
    )
    model = make([helper.make_node("F0", ["x"], ["y"], domain="local")], functions=functions)
    with pytest.raises(ModelError, match="expand to more than"):
        from_onnx(model)


def test_absent_operands_of_a_function_are_absent_inside() -> None:
    function = helper.make_function(
        "local", "Bound", ["a", "low", "high"], ["b"],
        [helper.make_node("Clip", ["a", "low", "high"], ["b"])], [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["top"], value_float=1.0),
        helper.make_node("Bound", ["x", "", "top"], ["y"], domain="local"),
    ]
    graph = from_onnx(make(nodes, functions=[function]))
    [clip] = list(graph)
    assert clip.inputs[1] is None and clip.inputs[2] is not None


def test_a_default_of_a_function_attribute_counts() -> None:
    function = helper.make_function(
        "local", "Leak", ["a"], ["b"], [helper.make_node("LeakyRelu", ["a"], ["b"])],
        [helper.make_opsetid("", 18)],
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )  # fmt: skip
    reference = function.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    reference.ref_attr_name = "slope"
    for given, expected in (({}, 0.5), ({"slope": 0.25}, 0.25)):
        model = make(
            [helper.make_node("Leak", ["x"], ["y"], domain="local", **given)], functions=[function]
        )
        assert next(iter(from_onnx(model))).attr("alpha") == expected


def test_subgraphs_inside_functions_see_its_operands() -> None:
    then = helper.make_graph([relu("a", "t")], "t", [], [info("t")])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["e"])], "e", [], [info("e")])
    function = helper.make_function(
        "local", "Pick", ["a", "c"], ["b"],
        [helper.make_node("If", ["c"], ["b"], then_branch=then, else_branch=other)],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    inputs = [info("x", F32, ["N", 4]), info("flag", TensorProto.BOOL, [])]
    nodes = [helper.make_node("Pick", ["x", "flag"], ["y"], domain="local")]
    graph = from_onnx(make(nodes, inputs, functions=[function]))
    verify(graph)
    x = np.array([[-1, 2, -3, 4]], np.float32)
    for flag, expected in ((True, np.maximum(x, 0)), (False, -x)):
        np.testing.assert_array_equal(run_graph(graph, [x, np.array(flag)])[0], expected)


# ---- regions ----


def loop_model(nodes: list[Any], start: Any, carried: Any, opset: int = 18) -> Graph:
    """A Loop that carries ``v`` (from input ``x``) to ``w``, and yields ``w``."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go2"]), *nodes], "body",
        [info("i", I64, []), info("go", TensorProto.BOOL, []), carried],
        [info("go2", TensorProto.BOOL, []), info("w")],
    )  # fmt: skip
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], "loop", body=body)
    graph = from_onnx(make([node], [info("n", I64, []), start], opset=opset))
    verify(graph)
    return graph


def test_a_loop_that_keeps_its_shape() -> None:
    graph = loop_model([relu("v", "w")], info("x", F32, ["N", 4]), info("v", F32, [9, 9]))
    assert str(graph.outputs[0].type) == "f32[N, 4]"


def test_a_loop_that_grows_one_axis() -> None:
    nodes = [helper.make_node("Concat", ["v", "v"], ["w"], axis=0)]
    graph = loop_model(nodes, info("x", F32, [1, 4]), info("v"))
    [node] = list(graph)
    assert node.regions[0].inputs[2].tensor.shape == (sym("v_0"), 4)
    shape = graph.outputs[0].shape
    assert shape is not None and shape[1] == 4 and not isinstance(shape[0], int)
    [y] = run_graph(graph, [np.array(3), np.ones((1, 4), np.float32)])
    assert y.shape == (8, 4)


def test_a_loop_that_changes_its_rank() -> None:
    nodes = [helper.make_node("Constant", [], ["axes"], value_ints=[0]),
             helper.make_node("Unsqueeze", ["v", "axes"], ["w"])]  # fmt: skip
    graph = loop_model(nodes, info("x", F32, [4]), info("v"))
    assert graph.outputs[0].shape is None
    [y] = run_graph(graph, [np.array(3), np.ones(4, np.float32)])
    assert y.shape == (1, 1, 1, 4)


def test_a_loop_that_changes_the_element_type_is_refused() -> None:
    nodes = [helper.make_node("Cast", ["v"], ["w"], to=I64)]
    with pytest.raises(ModelError, match=r"'loop'.*takes 'v' as f32.* but yields i64"):
        loop_model(nodes, info("x", F32, [4]), info("v"))


def test_names_in_regions_are_unique() -> None:
    branches = [
        helper.make_graph([relu("x", "same", "n"), relu("same", "r")], "b", [], [info("r")])
        for _ in range(2)
    ]
    nodes = [
        helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    ]
    inputs = [info("x", F32, ["N", 4]), info("flag", TensorProto.BOOL, [])]
    verify(from_onnx(make(nodes, inputs)))
