"""Every compile ends with a check, and a wrong compile ends without an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError, VerificationError
from graphopt.ir import Builder, Graph
from graphopt.rewrite import Pass, PassContext, Pipeline
from graphopt.runtime.artifact import Artifact
from tests.backends.pipe import Net
from tests.cli.conftest import Cli, cli, listing, model

__all__ = ["cli", "model"]  # fixtures


def _net() -> Net:
    net = Net()
    h = net("Gemm", net.input("x", (2, 4)), net.weight(4, 8), net.weight(8))
    return net.output(net("Sigmoid", net("MatMul", net("Relu", h), net.weight(8, 3))), h)


@dataclass(frozen=True)
class Break(Pass):
    """``Relu(x)  ->  wrong(x)``: by far, by little, or only where numbers are negative."""

    name: ClassVar[str] = "break"
    how: str = "far"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Rewrites the first Relu."""
        for node in graph:
            if not node.is_a("Relu"):
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            x = node.input(0)
            if self.how == "far":
                new = builder.Neg(x)
            elif self.how == "little":
                new = builder.Mul(builder.Relu(x), builder.constant(np.float32(1.0001)))
            else:
                new = builder.LeakyRelu(x, alpha=0.001)
            graph.replace(node, [new])
            return True
        return False


def _broken(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from graphopt.passes.pipelines import level as good

    def level(name: str) -> Pipeline:
        return Pipeline((Break(how), *good(name).passes))

    monkeypatch.setattr("graphopt.compiler.level", level)


@pytest.mark.parametrize("how", ["far", "little", "negative"])
@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_a_wrong_rule_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, target: str
) -> None:
    _broken(monkeypatch, how)
    model, out = _net().model(), tmp_path / "m.gopt"
    with pytest.raises(VerificationError, match=r"output 't\d_0' differs from onnxruntime by"):
        graphopt.compile(model, target, output=out)
    with pytest.raises(VerificationError, match="differs from graphopt interpreter by"):
        graphopt.compile(graphopt.from_onnx(model), target, output=out)
    assert listing(tmp_path) == {}
    # Not asked to verify, nobody notices: the default is to ask.
    graphopt.compile(model, target, output=out, verify=False)
    assert set(listing(tmp_path)) == {"m.gopt"}


def test_a_wrong_compile_has_exit_code_9_and_keeps_the_old_artifact(
    monkeypatch: pytest.MonkeyPatch, cli: Cli, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.gopt"
    assert cli("compile", model, "-o", out).code == 0
    before = listing(tmp_path)
    _broken(monkeypatch, "far")
    found = cli("compile", model, "-o", out)
    assert found.code == 9
    assert "differs from onnxruntime by a relative error of" in found.error
    assert "(allowed 1e-05)" in found.error
    assert listing(tmp_path) == before
    found = cli("compile", model, "-o", out, "--json")
    assert found.code == 9
    assert found.out == ""


def test_a_wrong_lowering_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What comes after the passes counts too: here the weights are packed wrongly."""
    from graphopt import _native

    good = _native.pack_gemm

    def pack(weight: Any) -> Any:
        packed = good(weight).copy()
        packed[0] += 0.5
        return packed

    monkeypatch.setattr("graphopt._native.pack_gemm", pack)
    with pytest.raises(VerificationError):
        graphopt.compile(_net().model(), output=tmp_path / "m.gopt")
    assert listing(tmp_path) == {}


def test_the_result_is_kept_in_the_artifact(tmp_path: Path) -> None:
    out = tmp_path / "m.gopt"
    made = graphopt.compile(_net().model(), output=out)
    found = Artifact.load(out).manifest["verification"]
    assert found == made.manifest["verification"]
    assert found["oracle"] == "onnxruntime"
    assert 0 <= found["relative_error"] <= found["tolerance"] == 1e-5
    assert found["worst_output"] in ("t0_0", "t3_0")


def test_given_inputs_are_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On positive numbers alone, a rule that is wrong on negative ones passes."""
    net = Net()
    model = net.output(net("Relu", net.input("x", (2, 4)))).model()
    _broken(monkeypatch, "negative")
    positive = {"x": np.ones((2, 4), np.float32)}
    graphopt.compile(model, inputs=positive)
    with pytest.raises(VerificationError):
        graphopt.compile(model, inputs={"x": -positive["x"]})
    with pytest.raises(InputError, match="expected f32"):
        graphopt.compile(model, inputs={"x": np.ones((2, 4))})


def test_inputs_on_which_the_source_fails_are_an_input_error() -> None:
    net = Net()
    y = net("Gather", net.weight(4, 3), net.input("i", (2,), np.int64))
    with pytest.raises(InputError, match="cannot run the source model on these inputs"):
        graphopt.compile(net.output(y).model(), inputs={"i": np.array([0, 9])})


def test_models_that_no_made_up_input_fits_are_not_verified() -> None:
    """Reshape to a given shape: random numbers are no shape of 24 elements."""
    net = Net()
    y = net("Reshape", net.input("x", (4, 6)), net.input("s", (2,), np.int64))
    with pytest.warns(graphopt.compiler.FallbackWarning):
        found = graphopt.compile(net.output(y).model()).manifest["verification"]
    assert set(found) == {"skipped"}


def test_models_that_magnify_rounding_are_measured_by_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """exp of large products: neither engine knows more than a few digits. A wrong rule is further
    off than that and still found out."""
    net = Net()
    rng = np.random.default_rng(0)
    w = net.const((300 * rng.standard_normal((64, 8))).astype(np.float32))
    x = net("Relu", net.input("x", (2, 64)))
    h = net("MatMul", x, w)
    h = net("Mul", h, net.const(np.float32(0.01)))
    y = net("Sin", net("Mul", h, net.const(np.float32(3000.0))))
    model = net.output(y).model()
    found = graphopt.compile(model).manifest["verification"]
    if found["relative_error"] > 1e-5:
        assert found["rounding_error"] * 2 >= found["tolerance"] * 0.99
        assert found["tolerance"] < 0.5
    _broken(monkeypatch, "far")
    with pytest.raises(VerificationError):
        graphopt.compile(model)


def test_sizes_are_tried_until_the_source_runs() -> None:
    """Two halves must be equal: of the sizes tried, odd ones fail."""
    net = Net()
    x = net.input("x", (1, 6))
    y = net("Reshape", x, net.const([2, -1]))
    found = graphopt.compile(net.output(y).model({"x": (1, "T")})).manifest["verification"]
    assert found["relative_error"] == 0
