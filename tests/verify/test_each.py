"""Verification around every pass: what a pass may do to numbers is what it declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import zoo
from graphopt.errors import InputError, VerificationError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Builder, Graph, clone
from graphopt.ops.text import parse
from graphopt.passes import TABLE, parse_pipeline
from graphopt.passes.pipelines import level
from graphopt.rewrite import EXACT, EditLog, Numerics, Pass, PassContext, PassTable, lossy
from graphopt.verify.each import VerifyEach
from tests.verify.wrong_rules import PASSES

ALL = TABLE.including(PassTable(PASSES))

NET = """graph @g(%x: f32[N, 2, 6, 6]) -> (%y, %z) {
  %w = const f32[4, 2, 3, 3] seed(1)
  %s = const f32[4, 1, 1] [1.5, 0.5, 2.0, 0.25]
  %i = Identity(%x) @["i"]
  %c = Conv(%i, %w) @["conv"]
  %m = Mul(%c, %s) @["scale"]
  %y = Softmax(%m) {axis = -1} @["y"]
  %z = Shape(%m) @["z"]
}"""


def _run(pass_: Pass, source: Graph, inputs: object = None, record: bool = True) -> VerifyEach:
    check = VerifyEach(source, inputs)  # type: ignore[arg-type]
    pass_(clone(source), check.install(PassContext(log=EditLog(record=record))))
    return check


def test_every_run_of_a_pass_is_judged_by_what_it_declares() -> None:
    check = _run(parse_pipeline("simplify,fold-affine,simplify"), parse(NET))
    first, second, third = check.checks
    assert (first.error, first.allowed) == (0.0, 0.0)
    assert 0 < second.error <= second.allowed == 1e-5
    assert second.output == "y"
    assert third.skipped == "it changed nothing"


def test_without_recording_all_passes_are_run_again() -> None:
    check = _run(parse_pipeline("simplify,simplify"), parse(NET), record=False)
    assert [c.skipped for c in check.checks] == ["", ""]


def test_the_error_names_pass_output_and_figure() -> None:
    with pytest.raises(VerificationError) as info:
        _run(ALL.parse("simplify,wrong-axis,fold-affine"), parse(NET))
    text = str(info.value)
    assert text.startswith("pass 'wrong-axis' moves output 'y' by a relative error of ")
    assert text.endswith("; it is exact (allowed 0)")


@dataclass(frozen=True)
class Nudge(Pass):
    """Multiplies the first output by a little more than 1."""

    name: ClassVar[str] = "nudge"
    numerics: ClassVar[Numerics] = EXACT
    factor: float = 1.0

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        builder = Builder(graph, origin=["y"])
        value = graph.outputs[0]
        graph.set_output(0, builder.Mul(value, builder.constant(self.factor)))
        return True


@dataclass(frozen=True)
class Lossy(Nudge):
    name: ClassVar[str] = "lossy-nudge"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy(1e-2)


@dataclass(frozen=True)
class Careless(Lossy):
    name: ClassVar[str] = "careless"
    numerics: ClassVar[Numerics] = lossy()


@dataclass(frozen=True)
class Rounds(Nudge):
    name: ClassVar[str] = "rounds"
    numerics: ClassVar[Numerics] = Pass.numerics


def test_what_exact_and_lossy_mean() -> None:
    source = parse(NET)
    with pytest.raises(VerificationError, match="it is exact"):
        _run(Nudge(factor=1.000001), source)
    assert _run(Rounds(factor=1.000001), source).checks[0].error > 0
    with pytest.raises(VerificationError, match="reassociates up to 1e-05"):
        _run(Rounds(factor=1.001), source)
    assert _run(Lossy(factor=1.001), source).checks[0].allowed == 1e-2
    with pytest.raises(VerificationError, match=r"it is lossy up to 0.01 \(allowed 0.01\)"):
        _run(Lossy(factor=1.1), source)
    assert [str(cls.numerics) for cls in (Nudge, Rounds, Careless)] == [
        "exact",
        "reassociates up to 1e-05",
        "lossy",
    ]
    assert _run(Careless(factor=2.0), source).checks[0].error == pytest.approx(1.0)


def test_signed_zeros_count_for_exact_passes() -> None:
    source = parse("""graph @g(%x: f32[3]) -> (%y) {
  %y = Neg(%x) @["y"]
}""")

    @dataclass(frozen=True)
    class DropsSign(Pass):
        name: ClassVar[str] = "drops-sign"
        numerics: ClassVar[Numerics] = EXACT

        def run(self, graph: Graph, ctx: PassContext) -> bool:
            builder = Builder(graph, origin=["y"])
            zero = builder.constant(0.0)
            graph.replace(graph.nodes[0], [builder.Sub(zero, graph.inputs[0])])
            return True

    # Positions in which only the sign of a zero differs are equal numbers all the same.
    inputs = {"x": np.array([0.0, 1.0, -2.0], np.float32)}
    with pytest.raises(VerificationError, match="pass 'drops-sign' moves output 'y'"):
        _run(DropsSign(), source, inputs)


def test_ops_without_semantics_are_left_out_with_a_reason() -> None:
    from graphopt.backends import Target, find

    target = Target.parse("cpu")
    source = parse(NET)
    check = VerifyEach(source)
    graph, ctx = clone(source), check.install(PassContext(target=target))
    find("cpu").pipeline(target)(graph, ctx)
    assert check.checks[-1].skipped.startswith("the interpreter cannot run graphopt.cpu::")


def test_inputs_must_fit() -> None:
    with pytest.raises(InputError, match="unknown input 'q'"):
        VerifyEach(parse(NET), {"q": np.zeros(1)})


@pytest.mark.zoo
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["magika", "minilm-l6", "ppocr-cls", "ppocr-det", "ppocr-rec"])
def test_passes_keep_to_what_they_declare_on_real_models(name: str) -> None:
    source = from_onnx(zoo.path(name))
    inputs = zoo.inputs(name, 0, 0)
    for spec in ("onnx", "O2"):
        check = VerifyEach(source, inputs)
        level(spec)(clone(source), check.install(PassContext(log=EditLog(record=True))))
        assert any(not c.skipped for c in check.checks)
