"""The optimizer benchmarks: chains of known ideal, counts of nodes, and what counts as missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import chains, optimize_scale, optimizers
from benchmarks.optimize import _missed
from benchmarks.optimize_models import subjects
from graphopt import api
from graphopt.exporters.onnx_opset import acceptor
from graphopt.rewrite import PassContext
from graphopt.testing import run_seeded, worst_error

BLOCKS = 12


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_chain_becomes_its_ideal(dynamic: bool) -> None:
    model = chains.chain(BLOCKS, dynamic=dynamic)
    onnx.checker.check_model(model, full_check=True)
    source = api.from_onnx(model)
    assert len(source) == BLOCKS * chains.BLOCK_NODES
    ctx = PassContext(accepts=acceptor(source))
    result = api.optimize(source, "onnx", ctx=ctx)
    assert [n.op.name for n in result] == ["Conv", "Relu"] * BLOCKS
    assert worst_error(run_seeded(result), run_seeded(source)) < 1e-5
    written = api.to_onnx(result)
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == 17


def test_the_command_line_keeps_the_numbers(tmp_path: Path) -> None:
    source, target = tmp_path / "chain.onnx", tmp_path / "out.onnx"
    chains.write_chain(3 * chains.BLOCK_NODES, source)
    outcome = optimizers.optimize("graphopt", source, target)
    assert not outcome.error
    assert outcome.seconds > 0
    assert outcome.peak_bytes > 1 << 20
    assert optimizers.count_nodes(source) == 3 * chains.BLOCK_NODES
    assert optimizers.count_nodes(target) == 3 * chains.IDEAL_NODES
    assert optimizers.problem(target) == ""


def test_failures_tell_why(tmp_path: Path) -> None:
    outcome = optimizers.optimize("graphopt", tmp_path / "none.onnx", tmp_path / "out.onnx")
    assert "No such file" in outcome.error


def test_external_weights_stay_external(tmp_path: Path) -> None:
    source, target = tmp_path / "large.onnx", tmp_path / "out.onnx"
    size = chains.write_large(0.003, source, width=256)
    assert size > 2.9e6
    assert not optimizers.optimize("graphopt", source, target).error
    assert optimizers.problem(target) == ""
    assert [n.op_type for n in onnx.load(target).graph.node][:2] == ["Gemm", "Relu"]
    assert (tmp_path / "out.onnx.data").stat().st_size > 2.9e6


def test_nodes_of_subgraphs_count_and_constants_do_not(tmp_path: Path) -> None:
    def constant(name: str) -> onnx.NodeProto:
        value = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
        return helper.make_node("Constant", [], [name], value=value)

    def branch(name: str) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        nodes = [constant(f"{name}c"), helper.make_node("Relu", [f"{name}c"], [name])]
        return helper.make_graph(nodes, name, [], [info])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "if.onnx")
    assert optimizers.count_nodes(tmp_path / "if.onnx") == 3


def test_what_is_missed_is_said() -> None:
    def found(nodes: int, error: float = 0.0, problem: str = "") -> dict[str, object]:
        return {"nodes": nodes, "error": error, "problem": problem}

    names = ["graphopt", "onnxslim", "onnxsim"]
    record = {
        "graphopt": found(5),
        "onnxslim": found(3, problem="checker: no"),
        "onnxsim": found(5),
    }
    assert _missed(record, names, 1e-5) == []
    record["onnxsim"] = found(4)
    assert _missed(record, names, 1e-5) == ["onnxsim leaves 4 nodes, graphopt 5"]
    record["graphopt"] = found(4, error=1e-3, problem="checker: bad")
    assert _missed(record, names, 1e-5) == ["checker: bad", "error 1.0e-03 is over 1.0e-05"]


def test_bars_of_scale() -> None:
    def record(nodes: int, seconds: float, left: int = 2, peer: float = 99.0) -> dict[str, object]:
        mine = {"seconds": seconds, "nodes": nodes // 14 * left, "correct": True}
        return {
            "blocks": nodes // 14,
            "nodes": nodes,
            "graphopt": mine,
            "onnxsim": {"seconds": peer, "nodes": nodes // 14 * 2, "correct": True},
            "ort-basic": {"seconds": 0.1, "nodes": nodes // 14 * 3, "correct": True},
        }

    good = [record(5012, 0.7), record(20006, 2.5), record(50008, 6.0), record(100002, 12.0)]
    assert optimize_scale._missed(good) == []
    bad = [record(5012, 0.1), record(50008, 9.0, left=3), record(100002, 12.0, peer=11.0)]
    missed = optimize_scale._missed(bad)
    assert missed[0].startswith("50008 nodes: 10716 are left")
    assert "50008 nodes: over 8 s" in missed
    assert "100002 nodes: a peer takes 11.00 s" in missed
    assert missed[-1].startswith("time per node grows by 6.0")


def test_light_models_are_found_with_their_inputs() -> None:
    found = {subject.name: subject for subject in subjects("light")}
    assert len(found) == 9
    feed = found["light-squeezenet"].feeds()[0]
    assert [array.shape for array in feed.values()] == [(1, 3, 224, 224)]
