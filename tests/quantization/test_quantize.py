"""Models quantized from end to end: what runs where, what it loses, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt.compress import QuantizeConfig, quantize
from graphopt.compress.affine import block_grid
from graphopt.compress.migrate import migration_factors
from graphopt.compress.rounding import least_squares_codes
from graphopt.errors import BudgetError, InputError, OptionError, UnsupportedError
from graphopt.ir import DType, Graph
from graphopt.ops.interpreter import run_graph
from graphopt.ops.text import parse
from graphopt.quantization.calibrate import observe_layers
from graphopt.quantization.static import Static
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _own_numbers() -> None:
    """Each test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state


NET = """graph @main(%x: f32[N, 3, 12, 12]) -> (%y) {
  %w1 = const f32[8, 3, 3, 3] seed(1)
  %b1 = const f32[8] seed(2)
  %w2 = const f32[8, 1, 3, 3] seed(3)
  %w3 = const f32[8, 8, 1, 1] seed(4)
  %b3 = const f32[8] seed(5)
  %w4 = const f32[8, 10] seed(6)
  %c1 = Conv(%x, %w1, %b1) {pads = [1, 1, 1, 1]} @["stem"]
  %r1 = Relu(%c1) @["relu1"]
  %c2 = Conv(%r1, %w2) {group = 8, pads = [1, 1, 1, 1]} @["depthwise"]
  %r2 = Relu(%c2) @["relu2"]
  %c3 = Conv(%r2, %w3, %b3) @["pointwise"]
  %s = Add(%r1, %c3) @["sum"]
  %p = MaxPool(%s) {kernel_shape = [2, 2], strides = [2, 2]} @["pool"]
  %g = GlobalAveragePool(%p) @["mean"]
  %f = Flatten(%g) @["flat"]
  %y = Gemm(%f, %w4) @["head"]
}"""


def data(count: int = 40) -> dict[str, Any]:
    return {"x": RNG.standard_normal((count, 3, 12, 12)).astype(np.float32)}


def quick(**options: Any) -> QuantizeConfig:
    return QuantizeConfig(
        **{"method": "minmax", "migrate": False, "sensitivity": False, "measure": False, **options}
    )


def runtime(graph: Graph, feed: dict[str, Any], path: Path) -> Any:
    graphopt.to_onnx(graph, path)
    onnx.checker.check_model(path, full_check=True)
    return onnxruntime.InferenceSession(path).run(None, feed)[0]


def test_a_net_runs_in_onnxruntime_with_little_error(tmp_path: Path) -> None:
    source = parse(NET)
    found = quantize(source, data(), quick())
    assert found.met
    assert found.report["accuracy"]["drop"][0] < 0.01
    assert found.report["kept"] == []
    feed = data(5)
    exact = runtime(source, feed, tmp_path / "f.onnx")
    rounded = runtime(found.graph, feed, tmp_path / "q.onnx")
    assert np.linalg.norm(exact - rounded) < 0.05 * np.linalg.norm(exact)
    ours = graphopt.compile(found.graph, verify=False)
    ours.save(tmp_path / "q.gopt")
    mine = graphopt.load(tmp_path / "q.gopt").run(feed)["y"]
    assert np.linalg.norm(mine - rounded) < 0.01 * np.linalg.norm(rounded)


def test_integers_pass_from_layer_to_layer() -> None:
    """No op between two layers reads a value that was not quantized."""
    graph = quantize(parse(NET), data(), quick()).graph
    for node in graph:
        if node.op.name in ("Conv", "Add", "MaxPool", "GlobalAveragePool", "Gemm"):
            for value in node.inputs:
                assert value is not None
                assert value.producer is not None
                assert value.producer.is_a("DequantizeLinear"), node
    scales = {
        node.op.name: [v for v in node.output.users[0].inputs[1:] if v is not None]
        for node in graph
        if node.is_a("Add") or node.is_a("MaxPool")
    }
    a, b = scales["Add"], scales["MaxPool"]
    assert a[0].constant is not None
    assert b[0].constant is not None
    assert a[0].constant.digest == b[0].constant.digest


def test_the_same_input_gives_the_same_model() -> None:
    held = data()
    first, second = (quantize(parse(NET), held, quick()) for _ in range(2))
    assert str(first.graph) == str(second.graph)
    assert first.report == second.report


def test_a_planted_bad_layer_ranks_first() -> None:
    graph = parse(NET)
    bad = graph.constants["w3"]
    assert bad.constant is not None
    array = bad.constant.array.copy()
    # Each output channel is ruled by a weight on an input that hardly ever varies.
    array[:, 0] = 3000.0
    wide = graph.add_constant(array, "wide")
    graph.replace_all_uses(bad, wide)
    first = graph.constants["w1"]
    assert first.constant is not None
    small = first.constant.array.copy()
    small[0] *= 1e-4
    graph.replace_all_uses(first, graph.add_constant(small, "small"))
    bias = graph.constants["b1"]
    assert bias.constant is not None
    offset = bias.constant.array.copy()
    offset[0] = 0.0
    graph.replace_all_uses(bias, graph.add_constant(offset, "offset"))
    found = quantize(graph, data(), quick(sensitivity=True, max_drop=None))
    assert found.report["layers"][0]["name"] == "pointwise"


def test_a_budget_leaves_the_worst_layers_in_floats() -> None:
    held = data()
    loss = quantize(parse(NET), held, quick(max_drop=None)).report["accuracy"]["drop"][0]
    budget = quick(max_drop=loss / 2, precision="mixed")
    found = quantize(parse(NET), held, budget)
    strict = quantize(parse(NET), held, quick(max_drop=loss / 2, precision="int8"))
    assert found.met
    assert found.report["accuracy"]["drop"][0] <= loss / 2
    assert 0 < len(found.report["kept"]) < 4
    assert not strict.met


def test_two_samples_are_too_few() -> None:
    found = quantize(parse(NET), data(3), quick())
    assert not found.report["calibration"]["enough"]
    assert "too few" in found.report["calibration"]["text"]
    with pytest.raises(InputError, match="holds 1 sample"):
        quantize(parse(NET), data(1), quick())


def test_overlapping_data_is_refused() -> None:
    both = data()
    with pytest.raises(InputError, match="also in the calibration data"):
        quantize(parse(NET), both, quick(), evaluation=both)


def test_nothing_to_quantize_is_said() -> None:
    graph = parse('graph @main(%x: f32[N, 3]) -> (%y) {\n  %y = Relu(%x) @["y"]\n}')
    with pytest.raises(UnsupportedError, match="there is nothing to quantize"):
        quantize(graph, {"x": RNG.standard_normal((4, 3)).astype(np.float32)}, quick())


def test_broken_data_is_named() -> None:
    nothing = {"x": np.full((8, 3, 12, 12), np.nan, np.float32)}
    nothing["x"] += np.arange(8, dtype=np.float32)[:, None, None, None]
    with pytest.raises(InputError, match="is NaN or infinite on all of"):
        quantize(parse(NET), nothing, quick(), evaluation=data(4))


def test_observation_sees_every_sample_once() -> None:
    graph = parse(NET)
    from graphopt.data import from_arrays

    held = data(6)
    found = observe_layers(graph, from_arrays(held, graph))
    assert found["x"].histogram.count == held["x"].size
    assert found["x"].histogram.low == held["x"].min()
    assert {"x", "r1", "r2", "c3", "s", "p"} <= found.keys()


def test_the_method_with_the_least_error_is_chosen() -> None:
    graph = parse(NET)
    from graphopt.data import from_arrays

    static = Static(graph, from_arrays(data(8), graph), QuantizeConfig(migrate=False))
    static.choose()
    errors = {step["step"]: step["error"] for step in static.steps}
    assert min(errors.values()) == errors[f"ranges by {static.method}"]


# ---- the command ----


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    graphopt.to_onnx(parse(NET), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", **data())
    return tmp_path / "m.onnx", tmp_path / "c.npz"


def test_the_command_writes_model_and_report(
    cli: Cli, files: tuple[Path, Path], tmp_path: Path
) -> None:
    model, calibration = files
    out = tmp_path / "q.onnx"
    options = ("--data", calibration, "-o", out, "--no-sensitivity", "--no-measure")
    result = cli("quantize", model, *options)
    assert result.code == 0, result.err
    assert "0 of 4 layers stay in floats" in result.out
    onnx.checker.check_model(out, full_check=True)
    report = json.loads((tmp_path / "q.report.json").read_text())
    assert report["met"]


def test_a_missed_budget_writes_the_report_alone(
    cli: Cli, files: tuple[Path, Path], tmp_path: Path
) -> None:
    model, calibration = files
    out = tmp_path / "q.onnx"
    options = ("--precision", "int8", "--max-drop", "0", "--no-sensitivity", "--no-measure")
    result = cli("quantize", model, "--data", calibration, "-o", out, *options)
    assert result.code == 11
    assert "no model was written" in result.error
    assert not out.exists()
    assert not json.loads((tmp_path / "q.report.json").read_text())["met"]


def test_the_report_shows_the_worst_first(
    cli: Cli, files: tuple[Path, Path], tmp_path: Path
) -> None:
    model, calibration = files
    out = tmp_path / "q.onnx"
    assert cli("quantize", model, "--data", calibration, "-o", out).code == 0
    report = tmp_path / "q.report.json"
    result = cli("report", report, "-o", tmp_path / "r.html")
    assert result.code == 0, result.err
    layers = json.loads(report.read_text())["layers"]
    errors = [row["error"] for row in layers]
    assert errors == sorted(errors, reverse=True)
    assert any(row["us_before"] for row in layers)
    page = (tmp_path / "r.html").read_text()
    assert page.index(layers[0]["name"]) < page.index(f"<td>{layers[1]['name']}")
    assert "http" not in page
    report.write_text("{}")
    assert "is no report of" in cli("report", report).error


def test_compile_takes_integers_only_where_they_pay(tmp_path: Path) -> None:
    held = data()
    graphopt.to_onnx(parse(NET), tmp_path / "m.onnx")
    artifact = graphopt.compile(tmp_path / "m.onnx", precision="auto", data=held)
    found = artifact.manifest["quantization"]
    assert found["chosen"] == ("int8" if found["speedup"] >= 1.02 else "fp32")
    forced = graphopt.compile(tmp_path / "m.onnx", precision="int8", data=held, quantize=quick())
    assert forced.manifest["quantization"]["chosen"] == "int8"
    with pytest.raises(BudgetError, match="drops by"):
        tight = quick(max_drop=0.0, precision="int8")
        graphopt.compile(tmp_path / "m.onnx", precision="int8", data=held, quantize=tight)
    impossible = graphopt.compile(
        tmp_path / "m.onnx",
        precision="auto",
        data=held,
        quantize=quick(max_drop=0.0, precision="int8"),
    )
    assert impossible.manifest["quantization"]["chosen"] == "fp32"
    assert impossible.manifest["verification"]
    with pytest.raises(OptionError, match="need data"):
        graphopt.compile(tmp_path / "m.onnx", precision="int8")


# ---- weights alone ----

DENSE = """graph @main(%x: f32[N, 256]) -> (%y) {
  %w1 = const f32[256, 512] seed(1)
  %w2 = const f32[300, 512] seed(2)
  %a = MatMul(%x, %w1) @["first"]
  %r = Relu(%a) @["relu"]
  %y = Gemm(%r, %w2) {transB = 1} @["second"]
}"""


def correlated(count: int) -> dict[str, Any]:
    base = np.random.default_rng(0).standard_normal((16, 256))
    return {"x": (RNG.standard_normal((count, 16)) @ base).astype(np.float32)}


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
@pytest.mark.parametrize("zeros", [True, False])
def test_weights_in_groups_run_in_onnxruntime(precision: str, zeros: bool, tmp_path: Path) -> None:
    source = parse(DENSE)
    config = quick(precision=precision, zeros=zeros, group=64, max_drop=None)
    found = quantize(source, correlated(40), config)
    feed = correlated(6)
    exact = runtime(source, feed, tmp_path / "f.onnx")
    rounded = runtime(found.graph, feed, tmp_path / "q.onnx")
    limit = 0.2 if precision == "int4" else 0.01
    assert np.linalg.norm(exact - rounded) < limit * np.linalg.norm(exact)
    bits = 4 if precision == "int4" else 8
    assert {row["bits"] for row in found.report["layers"]} == {bits}
    share = (tmp_path / "q.onnx").stat().st_size / (tmp_path / "f.onnx").stat().st_size
    assert share < (0.17 if bits == 4 else 0.3)


def test_least_squares_round_better_where_inputs_are_alike() -> None:
    source = parse(DENSE)
    held, feed = correlated(80), correlated(20)
    exact = run_graph(source, feed)[0]
    errors = {}
    for rounding in ("nearest", "gptq"):
        config = quick(precision="int4", rounding=rounding, max_drop=None)
        rounded = run_graph(quantize(source, held, config).graph, feed)[0]
        errors[rounding] = np.linalg.norm(rounded - exact)
    assert errors["gptq"] < 0.5 * errors["nearest"]


def test_least_squares_of_white_inputs_are_the_nearest() -> None:
    weight = RNG.standard_normal((32, 5)).astype(np.float32)
    grid = block_grid(weight, 0, 16, DType.U4, symmetric=False)
    codes = least_squares_codes(weight, np.eye(32) * 7, grid)
    np.testing.assert_array_equal(codes.astype(int), grid.codes(weight).astype(int))


def test_columns_that_stick_out_move_into_the_weights() -> None:
    source = parse(DENSE)
    # The error is that on the calibration data: clamping elsewhere would hide how fine grids are.
    feed, other = correlated(40), correlated(8)
    for arrays in (feed, other):
        arrays["x"][:, 7] *= 60
    exact = run_graph(source, feed)[0]
    errors = {}
    for migrate in (False, None):
        config = quick(migrate=migrate, max_drop=None)
        found = quantize(source, feed, config, evaluation=other)
        errors[migrate] = np.linalg.norm(run_graph(found.graph, feed)[0] - exact)
    assert errors[None] < 0.5 * errors[False]
    assert migration_factors(np.ones(8)) is None
    assert migration_factors(np.array([1.0, 1.0, 1.0, 25.0])) == (1.0, 1.0, 1.0, 10.0)
