"""explain, bisect, diff, and the options that trace, check and log passes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import api
from graphopt.ir import print_graph
from graphopt.ops.text import parse
from graphopt.passes import TABLE
from graphopt.rewrite import EditLog, replay
from tests.cli.conftest import Cli, listing
from tests.verify.wrong_rules import PASSES
from tests.wheel.model import small_model


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    """Conv, BatchNormalization, Relu and more, as ONNX."""
    path = tmp_path / "conv.onnx"
    onnx.save(small_model(), path)
    return path


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pipelines name passes that are wrong on purpose."""
    monkeypatch.setattr(TABLE, "_entries", {**TABLE._entries, **PASSES})


GIR = """graph @g(%x: f32[2, 3]) -> (%y) {
  %i = Identity(%x) @["first"]
  %s = Softmax(%i) {axis = -1} @["soft"]
  %t = Tanh(%s) @["tan"]
  %y = Mul(%s, %t) @["product"]
}
"""


@pytest.fixture
def gir(tmp_path: Path) -> Path:
    path = tmp_path / "net.gir"
    path.write_text(GIR)
    return path


# ---- explain ----


def test_explain_counts_edits_by_rule(cli: Cli, conv: Path) -> None:
    found = cli("explain", conv)
    assert found.code == 0 and "FoldBatchNorm" in found.out
    rules = json.loads(cli("explain", conv, "--json").out)["rules"]
    assert {"pass": "fold-affine", "rule": "FoldBatchNorm", "edits": 1} in rules


def test_explain_tells_the_history_of_a_node(cli: Cli, gir: Path) -> None:
    found = cli("explain", gir, "--node", "first", "--passes", "simplify")
    assert found.code == 0
    assert found.out.splitlines() == [
        'source: %i: f32[2, 3] = Identity(%x) @["first"]',
        "  #1 simplify/DropIdentity: Identity(x) -> x; Dropout without training and its like too.",
        "      - %i = Identity(%x)",
        "      +0 flops, -48 bytes",
        "now:    nothing stands for it any more",
    ]
    options = ("--passes", "simplify", "--json")
    data = json.loads(cli("explain", gir, "--node", "tan", *options).out)
    assert data["edits"] == [] and len(data["now"]) == 1


def test_explain_says_why_not(cli: Cli, gir: Path) -> None:
    found = cli("explain", gir, "--why-not", "FuseSwish", "product")
    assert found.code == 0
    assert "FuseSwish at 'product': refused" in found.out
    assert "expected Sigmoid, found " in found.out
    data = json.loads(cli("explain", gir, "--why-not", "FuseSwish", "tan", "--json").out)
    assert data["why_not"]["verdict"] == "other-op"
    found = cli("explain", gir, "--passes", "O1", "--why-not", "FuseSwish", "product")
    assert "not-run" in found.out and "fuse-activation" in found.out


def test_explain_reads_a_saved_log(cli: Cli, gir: Path, tmp_path: Path) -> None:
    log = tmp_path / "edits.jsonl"
    assert cli("explain", gir, "--log").code == 0
    model = tmp_path / "net.onnx"
    api.to_onnx(parse(GIR), model)
    assert cli("optimize", model, "-o", tmp_path / "o.onnx", "--log", log).code == 0
    found = cli("explain", log, "--node", "first")
    assert found.code == 0 and "#1 simplify/DropIdentity" in found.out
    assert "#1 simplify/DropIdentity" in cli("explain", log, "--log").out
    assert "DropIdentity" in cli("explain", log).out
    assert cli("explain", log, "--node", "i").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["net.gir", "--node", "fist"], 2, "no node 'fist'; did you mean first"),
        (["net.gir", "--why-not", "Fuse", "tan"], 2, "no rule or pass 'Fuse'"),
        (["none.gir"], 3, "cannot read"),
        (["bad.gir"], 3, "line 1"),
        (["net.gir", "--passes", "simplfy"], 2, "no pass 'simplfy'"),
        (["net.gir", "--input-shape", "x:1"], 2, "--input-shape is for ONNX models"),
        (["bad.jsonl"], 3, "line 1 of the edit log is damaged"),
        (["empty.jsonl", "--node", "a"], 2, "no edit of this log touched"),
        (["empty.jsonl", "--why-not", "A", "b"], 2, "give the model, not its edit log"),
    ],
)
def test_explain_errors(
    cli: Cli, gir: Path, tmp_path: Path, arguments: list[str], code: int, cause: str
) -> None:
    (tmp_path / "bad.gir").write_text("nonsense")
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    (tmp_path / "empty.jsonl").write_text("")
    found = cli("explain", tmp_path / arguments[0], *arguments[1:])
    assert found.code == code
    assert cause in found.error


# ---- the log ----


def test_a_saved_log_rebuilds_the_result(cli: Cli, conv: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "edits.jsonl", tmp_path / "out.onnx"
    options = ("--passes", "O2", "--dump-dir", tmp_path / "dump", "--log", log)
    assert cli("optimize", conv, "-o", out, *options).code == 0
    beside = log.with_suffix(".constants.npz")
    constants: dict[str, Any] = dict(np.load(beside)) if beside.exists() else {}
    edits = EditLog.from_json_lines(log.read_text(), constants)
    last = sorted((tmp_path / "dump").iterdir())[-1].read_text()
    assert print_graph(replay(api.from_onnx(conv), edits)) == last.partition("\n")[2]


def test_the_log_holds_what_an_older_opset_asks_for(cli: Cli, tmp_path: Path) -> None:
    model, log, dump = tmp_path / "net.onnx", tmp_path / "edits.jsonl", tmp_path / "dump"
    api.to_onnx(parse(GIR.replace("Tanh", "Mish")), model)
    options = ("--opset", 17, "--log", log, "--dump-dir", dump)
    found = cli("optimize", model, "-o", tmp_path / "out.onnx", *options)
    assert found.code == 0, found.err
    assert json.loads(log.read_text().splitlines()[0])["pass"] == "expand-ops"
    beside = log.with_suffix(".constants.npz")
    constants: dict[str, Any] = dict(np.load(beside)) if beside.exists() else {}
    edits = EditLog.from_json_lines(log.read_text(), constants)
    last = sorted(dump.iterdir())[-1].read_text()
    assert print_graph(replay(api.from_onnx(model), edits)) == last.partition("\n")[2]


# ---- bisect ----


@pytest.mark.usefixtures("wrong")
def test_bisect_writes_a_repro_that_shows_the_error(cli: Cli, gir: Path, tmp_path: Path) -> None:
    found = cli("bisect", gir, "--passes", "simplify,wrong-axis,eliminate-dead")
    assert found.code == 9
    assert "pass wrong-axis, rule WrongAxis, edit #2" in found.out
    assert "origin: soft" in found.out
    folder = tmp_path / "net.bisect"
    assert set(listing(folder)) >= {"before.gir", "after.gir", "inputs.npz"}
    command = shlex.split(found.out.splitlines()[-1])
    assert command[:2] == ["graphopt", "diff"]
    again = cli(*command[1:])
    assert again.code == 9
    assert "numbers: they differ" in again.out
    for name in ("before", "after"):
        onnx.checker.check_model(folder / f"{name}.onnx", full_check=True)
        assert len(onnx.load(folder / f"{name}.onnx").graph.node) <= 10


@pytest.mark.usefixtures("wrong")
def test_bisect_as_json(cli: Cli, gir: Path, inputs: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "x.npz", tmp_path / "repro"
    np.savez(given, x=np.arange(6, dtype=np.float32).reshape(2, 3))
    options = ("--inputs", given, "-o", out, "--json", "--passes", "wrong-axis")
    found = cli("bisect", gir, *options)
    assert found.code == 9
    culprit = json.loads(found.out)["culprit"]
    assert (culprit["rule"], culprit["edit"], culprit["origin"]) == ("WrongAxis", 1, ["soft"])
    assert culprit["repro"]["shows"] and culprit["repro"]["nodes_before"] == 1
    assert all(Path(file).exists() for file in culprit["repro"]["files"])
    assert not [name for name in listing(out) if name.endswith(".tmp")]


def test_bisect_finds_nothing_where_nothing_is_wrong(cli: Cli, gir: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    found = cli("bisect", gir)
    assert found.code == 0
    assert "all outputs agree after" in found.out and "--special" in found.out
    assert listing(tmp_path) == before


def test_bisect_errors(cli: Cli, gir: Path, inputs: Path, tmp_path: Path) -> None:
    found = cli("bisect", gir, "--inputs", inputs)
    assert found.code == 8 and "input 'x': expected f32[2, 3]" in found.error
    assert cli("bisect", gir, "--passes", "nothing").code == 2
    assert cli("bisect", tmp_path / "none.onnx").code == 3


@pytest.mark.usefixtures("wrong")
def test_bisect_needs_a_folder_that_can_be_made(cli: Cli, gir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cli("bisect", gir, "--passes", "wrong-axis", "-o", tmp_path / "file" / "x")
    assert found.code == 7 and "cannot make the folder" in found.error


# ---- diff ----


def test_diff_of_a_model_and_its_optimized_form(cli: Cli, conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert cli("optimize", conv, "-o", out).code == 0
    found = cli("diff", conv, out)
    assert found.code == 0
    assert "numbers: the same within tolerance" in found.out and "removed" in found.out
    data = json.loads(cli("diff", conv, out, "--json").out)
    assert not data["structure"]["same"] and data["numbers"]["same"]
    assert cli("diff", conv, out, "--strict").code == 9
    assert cli("diff", conv, out, "--no-numbers").code == 9
    assert cli("diff", conv, out, "--no-structure").code == 0


def test_diff_of_a_model_with_itself(cli: Cli, conv: Path) -> None:
    found = cli("diff", conv, conv, "--strict")
    assert found.code == 0
    assert "structure: the same" in found.out


def test_diff_tells_what_changed_and_where_first(cli: Cli, gir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gir"
    other.write_text(GIR.replace("axis = -1", "axis = 0").replace("Tanh", "Sigmoid"))
    found = cli("diff", gir, other)
    assert found.code == 9
    assert "~ soft: axis = -1  ->  axis = 0" in found.out
    assert "~ tan: Tanh  ->  Sigmoid" in found.out
    assert 'first at %s: f32[2, 3] = Softmax(%i) {axis = -1} @["soft"]' in found.out
    data = json.loads(cli("diff", gir, other, "--json").out)
    assert data["numbers"]["first"]["name"] == "s"


def test_diff_tells_another_interface(cli: Cli, gir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gir"
    other.write_text(GIR.replace("(%y)", '(%y as "z")'))
    found = cli("diff", gir, other)
    assert found.code == 9
    assert "- y: f32[2, 3]" in found.out and "+ z: f32[2, 3]" in found.out


def test_diff_of_weights(cli: Cli, tmp_path: Path) -> None:
    text = """graph @g(%x: f32[2]) -> (%y) {{
  %{name} = const f32[2] [{values}]
  %y = Add(%x, %{name}) @["y"]
}}"""
    a, b, c = (tmp_path / f"{name}.gir" for name in "abc")
    a.write_text(text.format(name="w", values="1.0, 2.0"))
    b.write_text(text.format(name="w", values="1.0, 3.0"))
    c.write_text(text.format(name="v", values="1.0, 2.0"))
    assert "~ w: f32[2] [1.0, 2.0]  ->  f32[2] [1.0, 3.0]" in cli("diff", a, b).out
    found = cli("diff", a, c)
    assert found.code == 0 and "renamed to v" in found.out


def test_diff_runs_artifacts(cli: Cli, model: Path, artifact: Path) -> None:
    found = cli("diff", model, artifact)
    assert found.code == 0, found.err
    assert "numbers: the same within tolerance" in found.out


def test_diff_errors(cli: Cli, gir: Path, conv: Path, inputs: Path, tmp_path: Path) -> None:
    assert cli("diff", gir, tmp_path / "none.gopt").code == 7
    found = cli("diff", gir, gir, "--inputs", inputs)
    assert found.code == 8 and "expected f32[2, 3]" in found.error
    strange = tmp_path / "strange.gir"
    strange.write_text(GIR.replace("%t = Tanh", "%t: f32[2, 3] = custom::Thing"))
    found = cli("diff", strange, strange)
    assert found.code == 4 and "custom::Thing" in found.error
    assert cli("diff", strange, strange, "--no-numbers").code == 0


# ---- tracing and checking ----


@pytest.mark.parametrize("flag", ["--verify-each", "--verify=each"])
def test_optimize_verifies_every_pass(cli: Cli, conv: Path, tmp_path: Path, flag: str) -> None:
    out = tmp_path / "out.onnx"
    found = cli("optimize", conv, "-o", out, flag)
    assert found.code == 0 and "pass runs verified; the worst is " in found.out
    rows = json.loads(cli("optimize", conv, "-o", out, flag, "--json").out)["verified"]
    assert any(not row["skipped"] for row in rows)
    assert all(row["error"] <= row["allowed"] for row in rows)


@pytest.mark.usefixtures("wrong")
def test_verify_each_names_the_pass_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    model, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    api.to_onnx(parse(GIR), model)
    before = listing(tmp_path)
    found = cli("optimize", model, "-o", out, "--passes", "wrong-axis", "--verify=each")
    assert found.code == 9
    assert "pass 'wrong-axis' moves output 'y' by a relative error of" in found.error
    assert listing(tmp_path) == before


def test_compile_verifies_every_pass(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    found = cli("compile", model, "-o", out, "--verify=each", "--timing")
    assert found.code == 0, found.err
    assert "verified against onnxruntime" in found.out and "pass runs verified" in found.out
    assert "cpu-lower-dense" in found.out
    assert "not verified" in cli("compile", model, "-o", out, "--verify=none").out
    assert "verified against" in cli("compile", model, "-o", out, "--verify=end").out


def test_compile_writes_artifact_and_log_or_neither(cli: Cli, model: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "m.gopt", tmp_path / "edits.jsonl"
    found = cli("compile", model, "-o", out, "--log", tmp_path / "no" / "edits.jsonl")
    assert found.code == 7
    assert listing(tmp_path) == {}
    (tmp_path / "folder").mkdir()
    assert cli("compile", model, "-o", tmp_path / "folder", "--log", log).code == 7
    assert set(listing(tmp_path)) == {"folder"}
    assert cli("compile", model, "-o", out, "--log", log).code == 0
    assert "cpu-lower-dense" in log.read_text()


def test_graphs_are_printed_on_standard_error(cli: Cli, gir: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    api.to_onnx(parse(GIR), model)
    options = ("--passes", "fold-constants,simplify", "--json")
    found = cli("optimize", model, "-o", out, *options, "--print-after", "simplify")
    assert found.err.startswith("// after simplify\ngraph @g(")
    assert "Identity" not in found.err
    json.loads(found.out)
    found = cli("optimize", model, "-o", out, *options, "--print-before", "all")
    assert found.err.count("// before ") == 2 and "Identity" in found.err


def test_graphs_are_dumped_numbered(cli: Cli, conv: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.onnx", tmp_path / "dump" / "here"
    found = cli(
        "optimize", conv, "-o", out, "--passes", "simplify,fold-affine", "--dump-dir", folder
    )
    assert found.code == 0
    names = ["000-source.gir", "001-simplify.gir", "002-fold-affine.gir"]
    assert sorted(listing(folder)) == names
    for name in names:
        parse((folder / name).read_text())


def test_a_run_stops_after_a_number_or_a_pass(cli: Cli, conv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = ("--passes", "simplify,fold-affine,eliminate-dead", "--json", "--stop-after")
    for stop in ("2", "fold-affine"):
        rows = json.loads(cli("optimize", conv, "-o", out, *options, stop).out)["passes"]
        assert [row["pass"] for row in rows] == ["simplify", "fold-affine"]
        assert all(row["runs"] == 1 and row["seconds"] >= 0 for row in rows)
    found = cli("optimize", conv, "-o", out, *options, "fold-afine")
    assert found.code == 2 and "did you mean fold-affine" in found.error


def test_timing_is_a_table(cli: Cli, conv: Path, tmp_path: Path) -> None:
    found = cli("optimize", conv, "-o", tmp_path / "out.onnx", "--timing")
    assert "fold-affine" in found.out and "share" in found.out


def test_unknown_passes_cannot_be_printed(cli: Cli, conv: Path, tmp_path: Path) -> None:
    found = cli("optimize", conv, "-o", tmp_path / "o.onnx", "--print-after", "simplfy")
    assert found.code == 2 and "does not run a pass 'simplfy'; did you mean simplify" in found.error


# ---- the order of passes ----


def test_the_order_of_a_pipeline_is_checked(cli: Cli, conv: Path, tmp_path: Path) -> None:
    assert cli("passes", "--lint", "O2").out == "every pass comes after what it builds on\n"
    found = cli("passes", "--lint", "decompose,fold-affine")
    assert found.code == 0
    assert found.out == (
        "warning: 'decompose' runs before 'fold-affine', whose results it looks for\n"
    )
    data = json.loads(cli("passes", "--lint", "decompose,fold-affine", "--json").out)
    assert data["findings"][0]["other"] == "fold-affine"
    found = cli("optimize", conv, "-o", tmp_path / "o.onnx", "--passes", "decompose,fold-affine")
    assert found.code == 0 and found.err.startswith("warning: 'decompose' runs before")


def test_a_pass_that_cannot_run_where_it_stands_is_refused(
    cli: Cli, conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"emit": "tests.rewrite.test_lint:Emit", "lower": "tests.rewrite.test_lint:Lower"}
    monkeypatch.setattr(TABLE, "_entries", {**TABLE._entries, **entries})
    assert cli("passes", "--lint", "emit,lower").code == 2
    found = cli("optimize", conv, "-o", tmp_path / "o.onnx", "--passes", "emit,lower")
    assert found.code == 2
    assert "'emit' takes a lowered graph" in found.error and "needs 'lower'" in found.error
