"""Nodes that no kernel runs: interpreted with a warning, refused when strict, listed by check."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.compiler import FallbackWarning, unsupported
from graphopt.errors import ArtifactError, ExecutionError, UnsupportedError
from graphopt.ops.interpreter import run_graph
from tests.backends.pipe import Net, kernels, loaded


def _partly() -> Net:
    """Native before, between and after two nodes that only the interpreter runs."""
    net = Net()
    s = net.input("s", (2,), np.int64, make=lambda rng, shape: np.array([2, 3]))
    h = net("Relu", net("MatMul", net.input("x", (4, 6)), net.weight(6, 6)))
    h = net("Tanh", net("Tile", h, s))
    return net.output(net("Reshape", h, net("Mul", s, net.const([6, 4]))))


def test_a_warning_names_node_op_and_reason() -> None:
    with pytest.warns(FallbackWarning) as seen:
        artifact = graphopt.compile(_partly().model(), verify=False)
    (warning,) = seen
    text = str(warning.message)
    assert text.startswith("the reference interpreter runs 2 node(s) that 'cpu' cannot lower: ")
    assert "'n2' (Tile: a size of %t2_0 is only known when the model runs)" in text
    assert "'n5' (Reshape: " in text
    assert warning.filename == __file__
    assert kernels(artifact).count("host") == 2


def test_the_rest_runs_natively_and_the_whole_is_right() -> None:
    net = _partly()
    model = net.model({"x": ("N", 6)})
    with pytest.warns(FallbackWarning):
        artifact = graphopt.compile(model, verify=False)
    assert "gemm" in kernels(artifact)
    session = loaded(artifact)
    assert len(session.host_nodes) == 2
    source = graphopt.from_onnx(model)
    for seed, shape in enumerate(((2, 3), (1, 6), (4, 1))):
        feeds = {**net.feeds(seed), "s": np.array(shape)}
        (wanted,) = run_graph(source, feeds)
        (got,) = session.run(feeds).values()
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_what_the_interpreter_refuses_is_an_error_of_the_run() -> None:
    with pytest.warns(FallbackWarning):
        artifact = graphopt.compile(_partly().model({"x": ("N", 6)}), verify=False)
    session = loaded(artifact)
    sizes = np.array([2, 3])
    with pytest.raises(ExecutionError, match=r"n5.*cannot become"):
        session.run({"x": np.ones((5, 6), np.float32), "s": sizes})
    # And the session is as good as before.
    assert session.run({"x": np.ones((4, 6), np.float32), "s": sizes})


def test_strict_makes_it_an_error() -> None:
    with pytest.raises(UnsupportedError, match=r"2 node\(s\) that 'cpu' cannot lower: 'n2' \(Tile"):
        graphopt.compile(_partly().model(), strict=True)


def test_strict_accepts_what_runs_natively() -> None:
    net = Net()
    net.output(net("Relu", net("MatMul", net.input("x", (4, 6)), net.weight(6, 6))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphopt.compile(net.model(), strict=True)


def test_check_lists_all_with_a_proposal_each() -> None:
    rows = unsupported(_partly().model())
    assert [(row["node"], row["op"]) for row in rows] == [("n2", "Tile"), ("n5", "Reshape")]
    for row in rows:
        assert set(row) == {"node", "op", "reason", "proposal"}
        assert "--input-shape" in row["proposal"]
    net = Net()
    net.output(net("Relu", net.input("x", (2,))))
    assert unsupported(net.model()) == []
    assert unsupported(_partly().model(), "reference") == []


def test_more_than_five_nodes_are_counted() -> None:
    net = Net()
    h = net.input("x", (2, 3))
    s = net.input("s", (2,), np.int64)
    net.output(*(net("Tile", h, s) for _ in range(1)))
    for k in range(7):
        h = net("Add", h, net.const(np.float32(k)))
        net.output(net("Tile", h, s))
    with pytest.warns(FallbackWarning, match=r"8 node\(s\).* and 3 more$"):
        graphopt.compile(net.model(), verify=False)
    assert len(unsupported(net.model())) == 8


def test_fallbacks_inside_branches_and_loops_are_found() -> None:
    from onnx import TensorProto, helper

    net = Net()
    x, s = net.input("x", (2, 3)), net.input("s", (2,), np.int64)
    c = net.input("c", (), bool, make=lambda rng, shape: np.array(True))

    def branch(name: str, op: str, *operands: str) -> Any:
        node = helper.make_node(op, operands, [f"{name}_y"], f"{name}_node")
        info = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [info])

    y = net("If", c, then_branch=branch("a", "Tile", x, s), else_branch=branch("b", "Neg", x))
    (row,) = unsupported(net.output(y).model())
    assert (row["node"], row["op"]) == ("a_node", "Tile")


def test_strings_and_sequences_are_interpreted_whole() -> None:
    """No plan holds them: the graph between plain inputs and outputs runs in the interpreter."""
    net = Net()
    x, y = net.input("x", (2, 3)), net.input("y", (4, 3))
    sequence = net("SequenceConstruct", x, y)
    z = net("ConcatFromSequence", sequence, axis=0)
    model = net.output(net("Relu", z), net("SequenceLength", sequence)).model()
    with pytest.warns(FallbackWarning, match="not a tensor of numbers"):
        artifact = graphopt.compile(model)
    feeds = net.feeds()
    got = list(loaded(artifact).run(feeds).values())
    assert np.array_equal(got[0], np.maximum(np.concatenate([feeds["x"], feeds["y"]]), 0))
    assert int(got[1]) == 2


# ---- custom ops ----


def _custom(*, dead: bool = False) -> Net:
    net = Net()
    x = net.input("x", (2, 3))
    y = net("Gizmo", x, domain="com.vendor", level=3)
    return net.output(net("Relu", x if dead else y))


@pytest.mark.parametrize("target", ["cpu", "reference"])
@pytest.mark.parametrize("verify", [True, False])
def test_an_op_that_nobody_defines_is_one_error(target: str, verify: bool, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as error:
        graphopt.compile(_custom().model(), target, verify=verify, output=tmp_path / "m.gopt")
    text = str(error.value)
    assert "'n0' (com.vendor::Gizmo)" in text
    assert "export the model without this custom op, or define it by graphopt.ops.register" in text
    assert "\n" not in text
    assert list(tmp_path.iterdir()) == []
    (row,) = unsupported(_custom().model(), target)
    assert (row["node"], row["op"]) == ("n0", "com.vendor::Gizmo")
    assert "OpDef" in row["proposal"]


def test_an_op_that_nobody_defines_and_nobody_reads_is_no_matter() -> None:
    net = _custom(dead=True)
    artifact = graphopt.compile(net.model(), verify=False)
    x = net.feeds()["x"]
    assert np.array_equal(next(iter(loaded(artifact).run([x]).values())), np.maximum(x, 0))


def test_a_function_of_the_model_is_no_custom_op() -> None:
    from onnx import helper

    net = _custom()
    model = net.model()
    body = [helper.make_node("Neg", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", net.opset)]
    model.functions.append(
        helper.make_function("com.vendor", "Gizmo", ["a"], ["b"], body, opsets, ["level"])
    )
    artifact = graphopt.compile(model)
    x = net.feeds()["x"]
    assert np.array_equal(next(iter(loaded(artifact).run([x]).values())), np.maximum(-x, 0))


def test_a_registered_op_is_no_custom_op() -> None:
    """An OpDef brings inference and numpy semantics: the interpreter runs it, with a warning."""
    from graphopt import ops
    from graphopt.ir import OpDef
    from graphopt.ops.schema import attr_specs

    def evaluate(ctx: Any, x: Any) -> Any:
        return x + np.float32(ctx.attr("level"))

    if ops.known("Gadget", "com.vendor") is None:
        ops.register(
            OpDef(
                "Gadget", "com.vendor", inputs=("x",), outputs=("y",), attrs=attr_specs(level="i"),
                infer=lambda ctx: ctx.inputs[0].type, evaluate=evaluate,
            )
        )  # fmt: skip
    net = Net()
    x = net.input("x", (2, 3))
    model = net.output(net("Relu", net("Gadget", x, domain="com.vendor", level=3))).model()
    with pytest.warns(FallbackWarning, match=r"'n0' \(com.vendor::Gadget"):
        artifact = graphopt.compile(model)
    x = net.feeds()["x"]
    got = next(iter(loaded(artifact).run([x]).values()))
    assert np.array_equal(got, np.maximum(x + 3, 0))


def test_artifacts_with_interpreted_nodes_say_what_they_need(tmp_path: Path) -> None:
    """Where only the runtime is installed, the nodes' text tells what is missing."""
    with pytest.warns(FallbackWarning):
        graphopt.compile(_partly().model(), verify=False, output=tmp_path / "m.gopt")
    artifact = graphopt.load(tmp_path / "m.gopt").artifact()
    assert [text.count("Tile") + text.count("Reshape") for text in artifact.json("host.json")]
    with pytest.raises(ArtifactError, match="no member"):
        artifact.read("nothing")
