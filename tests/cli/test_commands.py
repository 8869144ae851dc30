"""Every command on a small model: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.cli.main import run
from tests.wheel.model import small_model

Result = tuple[int, str, str]
Command = Callable[..., Result]


@pytest.fixture
def graphopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process; answers exit code, standard output and error."""

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnx

    file = tmp_path_factory.mktemp("cli") / "small.onnx"
    onnx.save(small_model(), file)
    return file


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    import graphopt

    file = model.with_suffix(".gopt")
    graphopt.compile(model, output=file, verify=False)
    return file


def test_compile_verifies_and_prints_the_error(
    graphopt: Command, model: Path, tmp_path: Path
) -> None:
    code, out, _ = graphopt("compile", model, "-o", tmp_path / "m.gopt")
    assert code == 0
    assert (tmp_path / "m.gopt").exists()
    assert "relative L2 error" in out


def test_compile_speaks_json(graphopt: Command, model: Path, tmp_path: Path) -> None:
    code, out, _ = graphopt("compile", model, "-o", tmp_path / "m.gopt", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["bytes"] == (tmp_path / "m.gopt").stat().st_size
    assert found["verification"]["relative_error"] <= 1e-5
    assert found["warnings"] == []


def test_compile_fixes_a_dynamic_size(graphopt: Command, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gopt"
    code, _, _ = graphopt("compile", model, "-o", file, "--input-shape", "x:2,3,16,16")
    assert code == 0
    code, out, _ = graphopt("inspect", file, "--json")
    assert json.loads(out)["inputs"][0]["type"] == "f32[2, 3, 16, 16]"


def test_run_gives_the_same_outputs_as_a_session(
    graphopt: Command, artifact: Path, tmp_path: Path
) -> None:
    from graphopt.runtime import load

    x = np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    code, _, _ = graphopt(
        "run", artifact, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "o.npz"
    )
    assert code == 0
    with np.load(tmp_path / "o.npz") as saved:
        assert np.array_equal(saved["y"], load(artifact)(x))


def test_run_makes_inputs_of_the_size_asked_for(graphopt: Command, artifact: Path) -> None:
    code, out, _ = graphopt("run", artifact, "--size", "n=4", "--json")
    assert code == 0
    assert json.loads(out)["outputs"][0]["shape"] == [4, 5]


def test_bench_prints_percentiles_and_a_profile(graphopt: Command, artifact: Path) -> None:
    arguments = ("bench", artifact, "--runs", "3", "--threads", "1", "--profile")
    code, out, _ = graphopt(*arguments)
    assert code == 0
    assert "p99" in out
    assert "slowest first" in out
    code, out, _ = graphopt(*arguments, "--json")
    found: dict[str, Any] = json.loads(out)
    assert found["runs"] == 3
    assert found["threads"] == 1
    assert all(step["microseconds"] >= 0 for step in found["steps"])


def test_inspect_shows_types_with_their_shapes(
    graphopt: Command, model: Path, artifact: Path
) -> None:
    for file in (model, artifact):
        code, out, _ = graphopt("inspect", file)
        assert code == 0
        assert "f32[n, 3, 16, 16]" in out


def test_inspect_prints_the_graph_in_a_form_that_parses(
    graphopt: Command, model: Path, artifact: Path
) -> None:
    from graphopt.ops.text import parse

    for file in (model, artifact):
        code, out, _ = graphopt("inspect", file, "--text")
        assert code == 0
        assert str(parse(out)) == out


def test_check_is_silent_about_a_model_that_runs(graphopt: Command, model: Path) -> None:
    code, out, _ = graphopt("check", model)
    assert (code, "natively" in out) == (0, True)


def test_check_lists_every_node_that_cannot_run(graphopt: Command, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    nodes = [
        helper.make_node("Secret", ["x"], ["h"], name="first", domain="my.own"),
        helper.make_node("Secret", ["h"], ["y"], name="second", domain="my.own"),
    ]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.own", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    code, out, _ = graphopt("check", tmp_path / "m.onnx", "--json")
    assert code == 4
    assert [item["node"] for item in json.loads(out)["unsupported"]] == ["first", "second"]


def test_optimize_writes_a_model_and_its_edits(
    graphopt: Command, model: Path, tmp_path: Path
) -> None:
    import onnx

    out_file, log = tmp_path / "o.onnx", tmp_path / "edits.jsonl"
    code, out, _ = graphopt("optimize", model, "-o", out_file, "--log", log, "--json")
    assert code == 0
    onnx.checker.check_model(out_file, full_check=True)
    ops = [node.op_type for node in onnx.load(out_file).graph.node]
    assert "BatchNormalization" not in ops
    edits = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(edits) == sum(json.loads(out)["edits"].values()) > 0


@pytest.mark.parametrize("command", ["passes", "targets"])
def test_lists_print_and_speak_json(graphopt: Command, command: str) -> None:
    code, out, _ = graphopt(command)
    assert (code, bool(out.strip())) == (0, True)
    code, out, _ = graphopt(command, "--json")
    assert code == 0
    assert all(row["summary"] for row in json.loads(out)[command])


def test_version(graphopt: Command) -> None:
    from graphopt import __version__

    assert graphopt("--version")[:2] == (0, f"graphopt {__version__}\n")


def _fails(result: Result, code: int, *parts: str) -> None:
    found, out, err = result
    assert found == code, err
    assert "Traceback" not in err
    for part in parts:
        assert part in out + err


def test_errors_have_a_message_and_an_exit_code(
    graphopt: Command, model: Path, artifact: Path, tmp_path: Path
) -> None:
    missing, text = tmp_path / "no.onnx", tmp_path / "text.onnx"
    text.write_text("this is no model")
    cut = tmp_path / "cut.gopt"
    cut.write_bytes(artifact.read_bytes()[:-100])
    np.savez(tmp_path / "wrong.npz", z=np.zeros(1))
    np.savez(tmp_path / "shape.npz", x=np.zeros((1, 3, 16, 15), np.float32))
    nowhere = tmp_path / "no" / "folder" / "m.gopt"

    _fails(graphopt("compile", missing), 3, "no.onnx")
    _fails(graphopt("compile", text, "-o", tmp_path / "t.gopt"), 3, "text.onnx")
    _fails(graphopt("compile", model, "-o", tmp_path / "t.gopt", "--target", "abacus"), 2, "abacus")
    _fails(graphopt("compile", model, "-o", tmp_path / "t.gopt", "-O", "O9"), 2, "O9")
    _fails(graphopt("compile", model, "-o", nowhere), 7, "m.gopt")
    _fails(graphopt("optimize", model, "-o", tmp_path / "t.onnx", "--passes", "fold-everything"), 2)
    _fails(graphopt("run", cut), 7, "cut.gopt")
    _fails(graphopt("run", text), 7, "text.onnx")
    _fails(graphopt("run", artifact, "--inputs", tmp_path / "wrong.npz"), 8, "'z'")
    _fails(graphopt("run", artifact, "--inputs", tmp_path / "shape.npz"), 8, "x")
    _fails(graphopt("run", artifact, "--size", "q=3"), 2, "'q'")
    _fails(graphopt("nonsense"), 2, "nonsense")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"text.onnx", "cut.gopt", "wrong.npz", "shape.npz"}
