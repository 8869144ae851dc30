"""Every command on what it is for: its text, its JSON, its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt.runtime.artifact import Artifact
from tests.backends.pipe import Net
from tests.cli.conftest import ROOT, Cli, listing, spawn
from tests.wheel.model import small_model


def _json(text: str) -> Any:
    """One strict JSON document: NaN and Infinity are no JSON."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---- the program itself ----


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"graphopt {graphopt.__version__}\n"
    text = cli("--help").out
    commands = ("compile", "run", "bench", "inspect", "check", "optimize", "passes", "targets")
    for command in (*commands, "explain", "bisect", "diff"):
        assert command in text
        found = cli(command, "--help")
        assert found.code == 0
        assert "--json" in found.out
    assert cli().code == 2


def test_module_and_console_script_are_the_same_program() -> None:
    assert spawn("--version").out == f"graphopt {graphopt.__version__}\n"
    script = Path(sys.executable).with_name("graphopt")
    if not script.exists():
        pytest.skip("graphopt is not installed here, only importable")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"graphopt {graphopt.__version__}\n"


# ---- compile ----


def test_compile_writes_beside_the_model(cli: Cli, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small.onnx"
    copy.write_bytes(model.read_bytes())
    found = cli("compile", copy)
    assert found.code == 0
    assert found.err == ""
    assert f"{tmp_path / 'small.gopt'}: " in found.out
    assert "verified against onnxruntime: relative L2 error" in found.out
    assert set(listing(tmp_path)) == {"small.onnx", "small.gopt"}


def test_compile_as_json(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    found = cli("compile", model, "-o", out, "--json")
    assert found.code == 0
    result = _json(found.out)
    assert result["artifact"] == str(out)
    assert result["bytes"] == out.stat().st_size
    assert result["target"] == "cpu"
    assert result["warnings"] == []
    assert result["verification"]["oracle"] == "onnxruntime"
    assert result["verification"]["relative_error"] <= 1e-5
    assert Artifact.load(out).manifest["verification"] == result["verification"]


def test_compile_without_verification(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    assert "not verified" in cli("compile", model, "-o", out, "--no-verify").out
    assert "verification" not in Artifact.load(out).manifest


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_compile_at_every_level_for_every_target(
    cli: Cli, model: Path, tmp_path: Path, level: str, target: str
) -> None:
    out = tmp_path / "m.gopt"
    found = cli("compile", model, "-o", out, "-O", level, "--target", target)
    assert found.code == 0, found.err
    x = np.ones((3, 4), np.float32)
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"x": x})
    np.testing.assert_allclose(graphopt.load(out)(x), expected, rtol=1e-5)


def test_compile_with_fixed_shapes(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    assert cli("compile", model, "-o", out, "--input-shape", "x:5,4").code == 0
    assert str(graphopt.load(out).inputs[0]) == "x: float32[5, 4]"
    assert cli("compile", model, "-o", out, "--input-shape", "x: batch, 4").code == 0
    assert str(graphopt.load(out).inputs[0]) == "x: float32[batch, 4]"


def test_compile_checks_on_given_arrays(
    cli: Cli, model: Path, inputs: Path, tmp_path: Path
) -> None:
    found = cli("compile", model, "-o", tmp_path / "m.gopt", "--inputs", inputs, "--json")
    assert found.code == 0
    assert _json(found.out)["verification"]["oracle"] == "onnxruntime"


def test_compile_replaces_an_artifact(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    out.write_bytes(b"old")
    assert cli("compile", model, "-o", out).code == 0
    assert set(listing(tmp_path)) == {"m.gopt"}
    assert graphopt.load(out).inputs[0].name == "x"


# ---- run ----


def test_run_on_given_arrays(cli: Cli, artifact: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.npz"
    found = cli("run", artifact, "--inputs", inputs, "-o", out, "--threads", 2)
    assert found.code == 0
    assert "float32" in found.out
    assert "[3, 3]" in found.out
    with np.load(inputs) as given, np.load(out) as results:
        (name,) = results.files
        expected = graphopt.load(artifact).run(dict(given))[name]
        assert results[name].tobytes() == expected.tobytes()
    assert set(listing(tmp_path)) == {"inputs.npz", "y.npz"}


def test_run_on_made_up_arrays(cli: Cli, artifact: Path) -> None:
    outputs = [
        _json(cli("run", artifact, "--json", "--size", "N=7", "--seed", seed).out)["outputs"]
        for seed in (1, 1, 2)
    ]
    assert outputs[0][0]["shape"] == [7, 3]
    assert outputs[0][0]["dtype"] == "float32"
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]
    low, mean, high = (outputs[0][0][key] for key in ("min", "mean", "max"))
    assert low <= mean <= high


def test_run_on_an_empty_batch(cli: Cli, artifact: Path) -> None:
    (output,) = _json(cli("run", artifact, "--json", "--size", "N=0").out)["outputs"]
    assert output["shape"] == [0, 3]
    assert output["min"] is None
    assert cli("run", artifact, "--size", "N=0").code == 0


def test_run_reports_what_is_not_a_number(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "nan.npz"
    np.savez(path, x=np.full((1, 4), np.nan, np.float32))
    found = cli("run", artifact, "--inputs", path, "--json")
    assert found.code == 0
    (output,) = _json(found.out)["outputs"]
    assert output["max"] is None
    assert "nan" in cli("run", artifact, "--inputs", path).out


# ---- bench ----


def test_bench(cli: Cli, artifact: Path, inputs: Path) -> None:
    found = cli("bench", artifact, "--runs", 3, "--warmup", 1, "--threads", 1, "--inputs", inputs)
    assert found.code == 0
    assert "p50" in found.out
    assert "1 threads" in found.out


def test_bench_as_json_with_a_profile(cli: Cli, artifact: Path) -> None:
    found = cli("bench", artifact, "--runs", 3, "--size", "N=2", "--profile", "--json")
    assert found.code == 0
    result = _json(found.out)
    times = [result["milliseconds"][key] for key in ("min", "p50", "p90", "p99", "max")]
    assert times == sorted(times)
    assert times[0] > 0
    assert result["runs"] == 3
    assert {step["kernel"] for step in result["steps"]} >= {"gemm"}
    assert all(step["microseconds"] >= 0 for step in result["steps"])


def test_bench_shows_a_profile(cli: Cli, artifact: Path) -> None:
    found = cli("bench", artifact, "--runs", 3, "--profile")
    assert found.code == 0
    assert "gemm" in found.out
    assert "%" in found.out


# ---- inspect ----


def test_inspect_a_model(cli: Cli, model: Path) -> None:
    found = cli("inspect", model)
    assert found.code == 0
    assert "f32[N, 4]" in found.out
    assert "Gemm" in found.out
    result = _json(cli("inspect", model, "--json").out)
    assert result["nodes"] == 4
    assert result["ops"] == {"Gemm": 1, "MatMul": 1, "Relu": 1, "Softsign": 1}
    assert result["inputs"] == [{"name": "x", "type": "f32[N, 4]"}]
    assert result["weight_bytes"] == 4 * (4 * 8 + 8 + 8 * 3)
    text = cli("inspect", model, "--text").out
    assert str(graphopt.parse(text)) == text
    assert "f32[7, 4]" in cli("inspect", model, "--input-shape", "x:7,4").out


def test_inspect_an_artifact(cli: Cli, artifact: Path) -> None:
    found = cli("inspect", artifact)
    assert found.code == 0
    assert "weights" in found.out
    assert "f32[N, 4]" in found.out
    result = _json(cli("inspect", artifact, "--json").out)
    assert result["target"] == "cpu"
    assert result["report"]["fallbacks"] == []
    assert "plan" in result["members"]
    text = cli("inspect", artifact, "--text").out
    assert "graphopt.cpu::gemm" in text
    assert str(graphopt.parse(text)) == text


def test_inspect_knows_an_artifact_by_its_bytes(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "renamed.bin"
    path.write_bytes(artifact.read_bytes())
    assert _json(cli("inspect", path, "--json").out)["target"] == "cpu"


# ---- check ----


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """A model with two nodes that the CPU backend leaves to the interpreter."""
    net = Net()
    s = net.input("s", (2,), np.int64)
    a = net("Reshape", net.input("x", (4, 6)), s)
    b = net("Tile", a, s)
    path = tmp_path / "partly.onnx"
    path.write_bytes(net.output(net("Relu", b)).model().SerializeToString())
    return path


def test_check_a_model_that_runs_natively(cli: Cli, model: Path) -> None:
    found = cli("check", model)
    assert found.code == 0
    assert "every node runs natively on 'cpu'" in found.out
    assert _json(cli("check", model, "--json").out)["unsupported"] == []


def test_check_lists_every_node_with_a_proposal(cli: Cli, partly: Path) -> None:
    found = cli("check", partly)
    assert found.code == 4
    assert "2 node(s)" in found.out
    assert found.err == ""
    result = cli("check", partly, "--json")
    assert result.code == 4
    items = _json(result.out)["unsupported"]
    assert [item["op"] for item in items] == ["Reshape", "Tile"]
    assert [item["node"] for item in items] == ["n0", "n1"]
    assert all("only known when the model runs" in item["reason"] for item in items)
    assert all("--input-shape" in item["proposal"] for item in items)


def test_check_lists_custom_ops_beside_the_others(cli: Cli, tmp_path: Path) -> None:
    net = Net()
    x, s = net.input("x", (4, 6)), net.input("s", (2,), np.int64)
    custom = net("Secret", net("Reshape", x, s), domain="my.own")
    model = net.output(net("Relu", custom)).model()
    info = onnx.helper.make_tensor_value_info(custom, onnx.TensorProto.FLOAT, ["A", "B"])
    model.graph.value_info.append(info)
    path = tmp_path / "custom.onnx"
    path.write_bytes(model.SerializeToString())
    found = cli("check", path, "--json")
    assert found.code == 4
    rows = {item["op"]: item for item in _json(found.out)["unsupported"]}
    assert rows["my.own::Secret"]["node"] == "n1"
    assert "graphopt.ops.register" in rows["my.own::Secret"]["proposal"]
    assert rows["Reshape"]["node"] == "n0"


def test_compile_warns_of_what_it_interprets(cli: Cli, partly: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    found = cli("compile", partly, "-o", out)
    assert found.code == 0
    assert found.err.startswith("warning: ")
    assert "'n0' (Reshape: " in found.err
    assert "'n1' (Tile: " in found.err
    assert len(found.err.strip().splitlines()) == 1
    result = _json(cli("compile", partly, "-o", out, "--json").out)
    assert len(result["warnings"]) == 1
    assert "interpreted: n0" in cli("inspect", out).out


def test_strict_refuses_what_would_be_interpreted(cli: Cli, partly: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    found = cli("compile", partly, "-o", tmp_path / "m.gopt", "--strict")
    assert found.code == 4
    assert "'n0' (Reshape" in found.error
    assert listing(tmp_path) == before


# ---- optimize ----


def test_optimize_writes_a_model_with_the_same_outputs(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out.onnx", tmp_path / "edits.jsonl"
    found = cli("optimize", model, "-o", out, "--log", log)
    assert found.code == 0
    assert "4 nodes to" in found.out
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    ours, theirs = (onnxruntime.InferenceSession(p).run(None, {"x": x})[0] for p in (out, model))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert all(json.loads(line)["pass"] for line in log.read_text().splitlines())
    assert set(listing(tmp_path)) == {"out.onnx", "edits.jsonl"}


def test_optimize_folds_a_normalisation(cli: Cli, tmp_path: Path) -> None:
    path, out, log = (tmp_path / name for name in ("in.onnx", "out.onnx", "edits.jsonl"))
    onnx.save(small_model(), path)
    found = cli("optimize", path, "-o", out, "--log", log, "--json")
    assert found.code == 0
    onnx.checker.check_model(out, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(out).graph.node}
    edits = log.read_text().splitlines()
    assert len(edits) == sum(_json(found.out)["edits"].values()) > 0


def test_optimize_as_json_by_a_pipeline(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = ("--passes", "fold-constants,simplify", "--opset", 20, "--stop-after", 1, "--json")
    found = cli("optimize", model, "-o", out, *options)
    assert found.code == 0, found.err
    result = _json(found.out)
    assert result["output"] == str(out)
    assert result["nodes_before"] == result["nodes_after"] == 4
    assert list(result["seconds"]) == ["fold-constants"]


def test_optimize_says_which_lossy_passes_ran(cli: Cli, tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(small_model(), path)
    spec = "lossy-replace-relu{kind=elu},lossy-replace-max-pool"
    found = cli("optimize", path, "-o", out, "--passes", spec)
    assert found.code == 0, found.err
    assert "lossy passes changed what the model computes: lossy-replace-relu\n" in found.out
    assert "Elu" in {node.op_type for node in onnx.load(out).graph.node}
    assert _json(cli("optimize", path, "-o", out, "--json").out)["lossy"] == []


# ---- passes, targets ----


def test_passes(cli: Cli) -> None:
    assert "fold-constants" in cli("passes").out
    result = _json(cli("passes", "--json").out)
    assert {"O0", "O1", "O2"} <= set(result["levels"])
    names = [item["name"] for item in result["passes"]]
    assert names == sorted(names)
    assert all(item["summary"] for item in result["passes"])


def test_targets(cli: Cli) -> None:
    assert "reference" in cli("targets").out
    rows = {row["name"]: row for row in _json(cli("targets", "--json").out)["targets"]}
    assert rows["cpu"]["available"] is True
    assert rows["cpu"]["why_not"] is None
    assert "levels" in rows["cpu"]["options"]
    assert rows["reference"]["available"] is True


def test_targets_lists_the_others_beside_a_broken_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    from graphopt.backends import registry

    broken = EntryPoint("broken", "nowhere_at_all:Backend", "graphopt.backends")
    monkeypatch.setitem(registry._entries(), "broken", broken)
    found = cli("targets", "--json")
    assert found.code == 0
    rows = {row["name"]: row for row in _json(found.out)["targets"]}
    assert rows["cpu"]["available"] is True
    assert rows["broken"]["available"] is False
    assert "nowhere_at_all" in rows["broken"]["why_not"]
    assert "nowhere_at_all" in cli("targets").out


def test_output_into_a_pipe_that_closes_early() -> None:
    """``graphopt passes | head -1`` ends without a word."""
    command = f"{sys.executable} -m graphopt passes --json | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}; echo code ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == ""
