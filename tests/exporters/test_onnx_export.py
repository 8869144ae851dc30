"""Graphs as ONNX models: valid, equal in numbers, names and metadata kept, files whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ArtifactError, OptionError, UnsupportedError
from graphopt.exporters.onnx import to_onnx
from graphopt.exporters.onnx_proto import tensor_proto
from graphopt.frontends.onnx import from_onnx
from graphopt.frontends.onnx_tensor import TensorReader
from graphopt.ir import (
    Builder,
    Constant,
    DType,
    Graph,
    OpDef,
    TensorType,
    sym,
    verify,
)
from graphopt.ops.interpreter import run_graph
from tests.frontends.onnx_models import F32, I64, all_models, info, model_of

RNG = np.random.default_rng(3)


def session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options)


FEEDS = {
    "convolutional": {"x": RNG.standard_normal((2, 3, 8, 6)).astype(np.float32)},
    "shapes": {"x": RNG.standard_normal((5, 2, 4)).astype(np.float32)},
    "control": {
        "x": np.array([1.5, -2], np.float32), "flag": np.array(True), "trips": np.array(3),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FEEDS))
def test_a_round_trip_keeps_the_numbers(name: str) -> None:
    source = all_models()[name]
    exported = to_onnx(from_onnx(source))
    onnx.checker.check_model(exported, full_check=True)
    expected = session(source).run(None, FEEDS[name])
    actual = session(exported).run(None, FEEDS[name])
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_round_trip_keeps_tensors_of_every_form() -> None:
    # onnxruntime has no kernel for some of these types.
    source = from_onnx(all_models()["tensors"])
    exported = to_onnx(source)
    onnx.checker.check_model(exported, full_check=True)
    x = RNG.standard_normal(4).astype(np.float32)
    for a, b in zip(run_graph(from_onnx(exported), [x]), run_graph(source, [x]), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sorted(all_models()))
def test_a_round_trip_keeps_the_interface(name: str) -> None:
    source = all_models()[name]
    exported = to_onnx(from_onnx(source))
    inner = {i.name for i in source.graph.initializer}
    assert [i.name for i in exported.graph.input] == [
        i.name for i in source.graph.input if i.name not in inner
    ]
    assert [o.name for o in exported.graph.output] == [o.name for o in source.graph.output]
    assert [p.SerializeToString() for p in exported.metadata_props] == [
        p.SerializeToString() for p in source.metadata_props
    ]
    assert exported.doc_string == source.doc_string
    assert exported.graph.name == source.graph.name
    if source.producer_name:
        assert exported.producer_name == source.producer_name
    versions = {o.domain: o.version for o in exported.opset_import}
    assert versions[""] >= max(o.version for o in source.opset_import if not o.domain)


@pytest.mark.parametrize("name", sorted(all_models()))
def test_a_second_round_trip_changes_nothing(name: str) -> None:
    once = to_onnx(from_onnx(all_models()[name]))
    again = to_onnx(from_onnx(once))
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_export_is_deterministic() -> None:
    source = all_models()["functions"].SerializeToString()
    texts = {to_onnx(from_onnx(source)).SerializeToString(deterministic=True) for _ in range(3)}
    assert len(texts) == 1


# ---- opsets ----


def graph_of(build: Any, opset: int | None = None, shape: Any = (2, 3)) -> Graph:
    graph = Graph("g")
    if opset is not None:
        graph.metadata["onnx.opset"] = str(opset)
    x = graph.add_input("x", TensorType(DType.F32, shape))
    graph.add_output(build(Builder(graph, origin=["n"]), x), "y")
    return graph


def opset_of(model: Any) -> int:
    return next(o.version for o in model.opset_import if not o.domain)


@pytest.mark.parametrize(("build", "source", "opset"), [
    (lambda b, x: b.Relu(x), None, 18),
    (lambda b, x: b.Relu(x), 14, 14),
    (lambda b, x: b.Relu(x), 26, 26),
    (lambda b, x: b.Relu(x), 9, 9),
    (lambda b, x: b.Softmax(x, axis=1), 11, 11),
    (lambda b, x: b.Softmax(x, axis=0), 11, 13),
    (lambda b, x: b.Squeeze(b.Unsqueeze(x, [0]), [0]), 9, 9),
    (lambda b, x: b.ReduceMean(x, [1]), 13, 13),
    (lambda b, x: b.Gelu(x), 13, 20),
    (lambda b, x: b.Cast(x, to=int(DType.BF16)), 9, 13),
    (lambda b, x: b.Cast(x, to=int(DType.I4)), 9, 21),
    (lambda b, x: b.Reshape(x, [3, 2]), 7, 7),
    (lambda b, x: b.Reshape(x, [3, 2], allowzero=1), 7, 7),
    (lambda b, x: b.GridSample(b.Reshape(x, [1, 1, 2, 3]), np.zeros((1, 2, 2, 2), np.float32),
                               mode="linear"), 16, 16),
])  # fmt: skip
def test_the_lowest_opset_that_will_do(build: Any, source: int | None, opset: int) -> None:
    model = to_onnx(graph_of(build, source))
    assert opset_of(model) == opset
    onnx.checker.check_model(model, full_check=True)


def test_an_opset_can_be_asked_for() -> None:
    graph = graph_of(lambda b, x: b.CumSum(x, np.array(0, np.int64)))
    assert opset_of(to_onnx(graph, opset=15)) == 15
    with pytest.raises(OptionError, match=r"opset 10 has no CumSum .* it takes opset 11"):
        to_onnx(graph, opset=10)
    with pytest.raises(OptionError, match="opset 99 does not exist"):
        to_onnx(graph, opset=99)


def test_types_that_no_opset_takes() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.STRING, (2,)))
    node = graph.add(
        next(iter(graph_of(lambda b, v: b.Relu(v)))).op, [x], types=[x.type], origin=["n"], name="n"
    )
    graph.add_output(node.output)
    with pytest.raises(UnsupportedError, match=r"node 'n' \(Relu\): no ONNX opset has it"):
        to_onnx(graph)


def test_lowered_graphs_are_refused() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    op = OpDef("Packed", "graphopt.cpu", inputs=("x",))
    graph.add_output(graph.add(op, [x], types=[x.type], origin=["n"], name="n").output)
    with pytest.raises(UnsupportedError, match="internal to graphopt"):
        to_onnx(graph)


# ---- names ----


def test_outputs_that_share_a_value_or_have_no_node() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    b = Builder(graph, origin=["n"])
    y = b.Relu(x)
    c = graph.add_constant(np.ones(2, np.float32), "c")
    for value, name in ((y, "first"), (y, "second"), (x, "third"), (c, "fourth")):
        graph.add_output(value, name)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    feed = np.array([-1, 2], np.float32)
    results = session(model).run(["fourth", "third", "second", "first"], {"x": feed})
    np.testing.assert_array_equal(results[0], [1, 1])
    np.testing.assert_array_equal(results[1], feed)
    np.testing.assert_array_equal(results[2], [0, 2])
    np.testing.assert_array_equal(results[3], [0, 2])


def test_an_output_takes_its_name_from_another_value() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    b = Builder(graph, origin=["n"])
    inner = b.Relu(x, _name="y")
    graph.add_output(b.Neg(inner, _name="z"), "y")
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == ["y"]
    [result] = session(model).run(None, {"x": np.array([-1, 2], np.float32)})
    np.testing.assert_array_equal(result, [0, -2])


def test_sizes_are_written_as_text() -> None:
    graph = graph_of(lambda b, x: b.Concat(x, x, axis=0), shape=(sym("N"), 3))
    model = to_onnx(graph)
    dims = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == ["2*N", 3]
    assert [v.type for v in from_onnx(model).outputs] == [v.type for v in graph.outputs]


def test_origins_survive_a_round_trip() -> None:
    def build(b: Builder, x: Any) -> Any:
        fused = b.graph.add(
            b.Relu(x).producer.op, [x], origin=["conv\tx", "relu"], name="relu"
        ).output
        return b.graph.add(fused.producer.op, [fused], origin=["own"], name="own").output

    graph = graph_of(build)
    graph.remove_dead()
    exported = to_onnx(graph)
    props = [{p.key: p.value for p in n.metadata_props} for n in exported.graph.node]
    assert props == [{"graphopt.origin": "conv\tx\nrelu"}, {}]
    assert [n.origin for n in from_onnx(exported)] == [{"conv\tx", "relu"}, {"own"}]


# ---- regions ----


def scan_model() -> Any:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["s2"]), helper.make_node("Mul", ["s2", "k"], ["o"])],
        "body", [info("s", F32, [2]), info("x", F32, [2])],
        [info("s2", F32, [2]), info("o", F32, [2])],
        [numpy_helper.from_array(np.array([2.0], np.float32), "k")],
    )  # fmt: skip
    node = helper.make_node("Scan", ["init", "xs"], ["f", "ys"], body=body, num_scan_inputs=1)
    return model_of(
        helper.make_graph(
            [node], "scan", [info("init", F32, [2]), info("xs", F32, ["T", 2])],
            [info("f", F32, [2]), info("ys", F32, ["T", 2])],
        )
    )  # fmt: skip


def capture_model() -> Any:
    """Branches that yield a captured value, an initializer, and nest."""
    deep = helper.make_graph([], "deep", [], [info("h", F32, ["N", 4])])
    flat = helper.make_graph([helper.make_node("Neg", ["h"], ["m"])], "flat", [], [info("m")])
    then = helper.make_graph(
        [helper.make_node("If", ["flag"], ["r"], then_branch=deep, else_branch=flat)],
        "then", [], [info("r")],
    )  # fmt: skip
    other = helper.make_graph(
        [], "else", [], [info("k", F32, [1, 4])],
        [numpy_helper.from_array(np.ones((1, 4), np.float32), "k")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
    ]
    inputs = [info("x", F32, ["N", 4]), info("flag", TensorProto.BOOL, [])]
    return model_of(helper.make_graph(nodes, "capture", inputs, [info("y")]))


@pytest.mark.parametrize("flag", [True, False])
def test_regions_with_captures(flag: bool) -> None:
    graph = from_onnx(capture_model())
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    feeds = {"x": RNG.standard_normal((2, 4)).astype(np.float32), "flag": np.array(flag)}
    [expected] = run_graph(graph, feeds)
    np.testing.assert_array_equal(session(model).run(None, feeds)[0], expected)


def test_scans() -> None:
    source = scan_model()
    model = to_onnx(from_onnx(source))
    onnx.checker.check_model(model, full_check=True)
    feeds = {"init": np.ones(2, np.float32), "xs": RNG.standard_normal((3, 2)).astype(np.float32)}
    expected = session(source).run(None, feeds)
    for a, b in zip(session(model).run(None, feeds), expected, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- constants ----


NUMBERS = [d for d in DType if d is not DType.STRING]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(NUMBERS), st.integers(0, 40), st.randoms(use_true_random=False))
def test_every_constant_survives(dtype: DType, count: int, random: Any) -> None:
    bits = dtype.bits
    if dtype is DType.BOOL:
        array = np.array([random.random() < 0.5 for _ in range(count)], bool)
    elif dtype.is_integer:
        limits = ml_dtypes.iinfo(dtype.numpy)
        values = [random.randint(int(limits.min), int(limits.max)) for _ in range(count)]
        array = np.array(values, object).astype(dtype.numpy)
    else:
        codes = bytes(random.getrandbits(min(bits, 8)) for _ in range(count * dtype.nbytes))
        array = np.frombuffer(codes, dtype.numpy)
    back = TensorReader("t").constant(tensor_proto(Constant(array), "t")).array
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


def weighted(count: int = 5000) -> Any:
    weight = numpy_helper.from_array(np.arange(count, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [info("x", F32, [count])],
        [info("y", F32, [count])], [weight],
    )  # fmt: skip
    return model_of(graph)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_holds_what_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    returned = to_onnx(from_onnx(weighted()), path)
    assert onnx.load(path).SerializeToString(deterministic=True) == returned.SerializeToString(
        deterministic=True
    )
    assert listing(tmp_path) == ["m.onnx"]
    assert path.stat().st_mode & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    returned = to_onnx(from_onnx(weighted()), path, external_data=1024)
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 1000
    assert not returned.graph.initializer[0].HasField("raw_data")
    onnx.checker.check_model(str(path), full_check=True)
    x = np.ones(5000, np.float32)
    expected = np.arange(1, 5001, dtype=np.float32)
    np.testing.assert_array_equal(session(path).run(None, {"x": x})[0], expected)
    again = from_onnx(path)
    np.testing.assert_array_equal(run_graph(again, [x])[0], expected)
    # Written over the file that it is read from.
    to_onnx(again, path, external_data=1024)
    np.testing.assert_array_equal(run_graph(from_onnx(path), [x])[0], expected)


def test_large_models_get_external_data_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.exporters import onnx as exporter

    monkeypatch.setattr(exporter, "_INLINE_LIMIT", 10_000)
    to_onnx(from_onnx(weighted()), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 20_000


def test_external_tensors_are_aligned(tmp_path: Path) -> None:
    graph = Graph("g")
    for k in range(3):
        graph.add_output(graph.add_constant(np.full(1001 + k, k, np.float32), f"c{k}"), f"y{k}")
    model = to_onnx(graph, tmp_path / "m.onnx", external_data=1)
    offsets = [
        int(next(e.value for e in t.external_data if e.key == "offset"))
        for t in model.graph.initializer
    ]
    assert offsets == [0, 4096, 8192]
    for k, result in enumerate(run_graph(from_onnx(tmp_path / "m.onnx"), [])):
        np.testing.assert_array_equal(result, np.full(1001 + k, k, np.float32))


def test_a_path_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    graph = from_onnx(weighted())
    with pytest.raises(ArtifactError, match=r"none/m\.onnx: cannot be written: No such file"):
        to_onnx(graph, tmp_path / "none" / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="folder.onnx: cannot be written".replace(".", r"\.")):
        to_onnx(graph, tmp_path / "folder.onnx")
    assert listing(tmp_path) == ["folder.onnx"]


def test_custom_ops_are_written_as_they_came() -> None:
    source = all_models()["functions"]
    model = to_onnx(from_onnx(source))
    [node] = [n for n in model.graph.node if n.op_type == "Gizmo"]
    assert (node.domain, node.attribute[0].name, node.attribute[0].i) == ("vendor", "level", 3)
    assert {o.domain: o.version for o in model.opset_import}["vendor"] == 3
    assert [v.name for v in model.graph.value_info] == ["u"]
    verify(from_onnx(model))


def test_attributes_of_every_kind() -> None:
    node = helper.make_node(
        "Gizmo", ["x"], ["y"], domain="vendor", i=1, f=0.5, s="text", b=b"\xff\x00", ints=[1, 2],
        floats=[0.5], strings=["a", "b"], t=numpy_helper.from_array(np.arange(3)),
        tp=helper.make_tensor_type_proto(F32, [2, "N"]),
    )  # fmt: skip
    graph = helper.make_graph([node], "g", [info("x", F32, [2])], [info("y", I64, [3])])
    source = model_of(graph, imports=[helper.make_opsetid("vendor", 1)])
    exported = to_onnx(from_onnx(source))
    before = {a.name: helper.get_attribute_value(a) for a in source.graph.node[0].attribute}
    after = {a.name: helper.get_attribute_value(a) for a in exported.graph.node[0].attribute}
    assert re.sub(r"name: .*\n", "", str(before.pop("t").dims)) == str(after["t"].dims)
    np.testing.assert_array_equal(numpy_helper.to_array(after.pop("t")), np.arange(3))
    assert before == after
