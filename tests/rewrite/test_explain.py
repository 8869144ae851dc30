"""Why a rule left a node alone: twenty near-misses, each told by its failing predicate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from graphopt.errors import OptionError
from graphopt.ir import Graph, clone
from graphopt.ops.text import parse
from graphopt.passes import TABLE, parse_pipeline
from graphopt.rewrite import EditLog, PassContext
from graphopt.rewrite.explain import history, leaves, why_not
from graphopt.testing import parse_cases

LIBRARY = [TABLE.load(name) for name in TABLE.names()]


@dataclass(frozen=True)
class Miss:
    """A graph in which ``rule`` does not apply to ``node`` because of ``reason``."""

    rule: str
    node: str
    reason: str
    culprit: str
    text: str
    passes: str = "O2"


CONV = "%x: f32[1, 2, 8, 8]"
MISSES = [
    Miss("DropUnit", "y", "the constant is not all 1", "%c: f32[2], a constant [1.0, 2.0]", """
        graph @g(%x: f32[3, 2]) -> (%y) {
          %c = const f32[2] [1.0, 2.0]
          %y = Mul(%x, %c) @["m"]
        }"""),
    Miss("DropUnit", "s", "x - (-0) turns -0 into +0", "%c: f32[], a constant [-0.0]", """
        graph @g(%x: f32[3, 2]) -> (%y) {
          %c = const f32[] [-0.0]
          %y = Sub(%x, %c) @["s"]
        }"""),
    Miss("DropSameShape", "y", "it changes the type from f32[6] to f32[2, 3]", "Reshape", """
        graph @g(%x: f32[6]) -> (%y) {
          %s = const i64[2] [2, 3]
          %y = Reshape(%x, %s) @["r"]
        }"""),
    Miss("DropTranspose", "t", "perm is (1, 0)", "%y: f32[3, 2] = Transpose(%x)", """
        graph @g(%x: f32[2, 3]) -> (%y) {
          %y = Transpose(%x) {perm = [1, 0]} @["t"]
        }"""),
    Miss("ComposeTransposes", "t", "expected Transpose, found Relu (%r)", "Relu(%x)", """
        graph @g(%x: f32[2, 3]) -> (%y) {
          %r = Relu(%x) @["r"]
          %y = Transpose(%r) {perm = [1, 0]} @["t"]
        }"""),
    Miss("CastTwice", "b", "f32 to f16 may lose digits", "%h: f16[2] = Cast(%x)", """
        graph @g(%x: f32[2]) -> (%y) {
          %h = Cast(%x) {to = 10} @["a"]
          %y = Cast(%h) {to = 1} @["b"]
        }"""),
    Miss("DropIdentity", "d", "its mask is read", "%y: f32[2], %mask: bool[2] = Dropout", """
        graph @g(%x: f32[2]) -> (%y, %mask) {
          %y, %mask = Dropout(%x) @["d"]
        }"""),
    Miss("FoldScale", "m", "%c is also read by %z = Relu(%c)", "Conv(%x, %w)", f"""
        graph @g({CONV}) -> (%y, %z) {{
          %w = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
          %s = const f32[2, 1, 1] [2.0, 3.0]
          %c = Conv(%x, %w) @["c"]
          %y = Mul(%c, %s) @["m"]
          %z = Relu(%c) @["z"]
        }}"""),
    Miss("FoldShift", "a", "%c is an output of the graph", "Conv(%x, %w)", f"""
        graph @g({CONV}) -> (%y, %c) {{
          %w = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
          %t = const f32[2, 1, 1] [2.0, 3.0]
          %c = Conv(%x, %w) @["c"]
          %y = Add(%c, %t) @["a"]
        }}"""),
    Miss("FoldScale", "m", "does not vary along output channels alone", "Mul(%c, %s)", f"""
        graph @g({CONV}) -> (%y) {{
          %w = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
          %s = const f32[8] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
          %c = Conv(%x, %w) @["c"]
          %y = Mul(%c, %s) @["m"]
        }}"""),
    Miss("FoldScale", "m", "its weights or bias are not constant", "Conv(%x, %w)", f"""
        graph @g({CONV}, %w: f32[2, 2, 1, 1]) -> (%y) {{
          %s = const f32[2, 1, 1] [2.0, 3.0]
          %c = Conv(%x, %w) @["c"]
          %y = Mul(%c, %s) @["m"]
        }}"""),
    Miss("FoldShiftBefore", "c", "the convolution pads", "pads = [1, 1, 1, 1]", f"""
        graph @g({CONV}) -> (%y) {{
          %w = const f32[2, 2, 3, 3] seed(1)
          %t = const f32[2, 1, 1] [2.0, 3.0]
          %a = Add(%x, %t) @["a"]
          %y = Conv(%a, %w) {{pads = [1, 1, 1, 1]}} @["c"]
        }}"""),
    Miss("FuseSwish", "m", "expected Sigmoid, found Tanh (%s)", "%s: f32[4] = Tanh(%x)", """
        graph @g(%x: f32[4]) -> (%y) {
          %s = Tanh(%x) @["t"]
          %y = Mul(%x, %s) @["m"]
        }"""),
    Miss("FuseSwish", "m", "'x' is both %x and %z", "%z: f32[4], an input", """
        graph @g(%x: f32[4], %z: f32[4]) -> (%y) {
          %s = Sigmoid(%z) @["t"]
          %y = Mul(%x, %s) @["m"]
        }"""),
    Miss("FuseMish", "m", "expected Softplus, found Softsign (%p)", "Softsign(%x)", """
        graph @g(%x: f32[4]) -> (%y) {
          %p = Softsign(%x) @["p"]
          %s = Tanh(%p) @["t"]
          %y = Mul(%x, %s) @["m"]
        }"""),
    Miss("FuseHardSwish", "y", "expected the scalar 3.0, found 2.0", "%two: f32[], a constant",
        """
        graph @g(%x: f32[4]) -> (%y) {
          %two = const f32[] [2.0]
          %zero = const f32[] [0.0]
          %six = const f32[] [6.0]
          %a = Add(%x, %two) @["a"]
          %b = Clip(%a, %zero, %six) @["b"]
          %c = Mul(%x, %b) @["c"]
          %y = Div(%c, %six) @["d"]
        }"""),
    Miss("FuseGelu", "y", "the argument of Erf is another one", "%e: f32[4] = Erf(%d)", """
        graph @g(%x: f32[4]) -> (%y) {
          %root = const f32[] [1.5]
          %one = const f32[] [1.0]
          %half = const f32[] [0.5]
          %d = Div(%x, %root) @["d"]
          %e = Erf(%d) @["e"]
          %a = Add(%e, %one) @["a"]
          %m = Mul(%x, %a) @["m"]
          %y = Mul(%m, %half) @["h"]
        }"""),
    Miss("FuseSwish", "m", "narrow types round after every step", "%y: f16[4] = Mul", """
        graph @g(%x: f16[4]) -> (%y) {
          %s = Sigmoid(%x) @["t"]
          %y = Mul(%x, %s) @["m"]
        }"""),
    Miss("DecomposeBatchNorm", "b", "its parameters are not constant", "BatchNormalization(%x", f"""
        graph @g({CONV}, %p: f32[2]) -> (%y) {{
          %y = BatchNormalization(%x, %p, %p, %p, %p) @["b"]
        }}"""),
    Miss("fold-constants", "y", "operand %x is not constant", "%x: f32[2], an input", """
        graph @g(%x: f32[2]) -> (%y) {
          %c = const f32[2] [1.0, 2.0]
          %y = Sub(%x, %c) @["s"]
        }"""),
    Miss("merge-common", "b", "%a = Cast(%x) has to = 10, this to = 11", "Cast(%x)", """
        graph @g(%x: f32[2]) -> (%a, %b) {
          %a = Cast(%x) {to = 10} @["a"]
          %b = Cast(%x) {to = 11} @["b"]
        }"""),
    Miss("inline-if", "i", "its condition %c is not known", "%c: bool[], an input", """
        graph @g(%c: bool[], %x: f32[2]) -> (%y) {
          %y = If(%c) @["i"] regions {
            else_branch = @e() -> (%x as "same") {
            }
            then_branch = @t() -> (%r) {
              %r = Relu(%x) @["q"]
            }
          }
        }"""),
]  # fmt: skip


@pytest.mark.parametrize("miss", MISSES, ids=[f"{i}-{m.rule}" for i, m in enumerate(MISSES)])
def test_a_near_miss_is_told_by_its_predicate(miss: Miss) -> None:
    source = parse(miss.text)
    before = str(source)
    answer = why_not(source, _pipeline(miss.passes), miss.rule, miss.node)
    assert answer.verdict == "refused", answer
    assert miss.reason in answer.reason
    assert miss.culprit in answer.culprit
    assert answer.step > 0
    assert answer.reason in str(answer) and answer.pass_name in str(answer)
    assert str(source) == before


SPECIFICATIONS = sorted((Path(__file__).parents[2] / "passes").glob("*.gir"))


@pytest.mark.parametrize("file", SPECIFICATIONS, ids=[file.stem for file in SPECIFICATIONS])
def test_every_pass_answers_for_what_its_specification_leaves_alone(file: Path) -> None:
    for case in parse_cases(file.read_text()).cases:
        if case.unchanged is None:
            continue
        pipeline = TABLE.parse(case.spec)
        for name in dict.fromkeys(item.name for item in leaves(pipeline)):
            for node in parse(case.before).walk():
                answer = why_not(parse(case.before), pipeline, name, node.output.name)
                assert answer.verdict in ("refused", "other-op"), (case.name, answer)
                assert answer.reason


def test_there_are_twenty_over_different_rules() -> None:
    assert len(MISSES) >= 20
    assert len({miss.rule for miss in MISSES}) >= 15


def _pipeline(spec: str):  # type: ignore[no-untyped-def]
    from graphopt.passes.pipelines import LEVELS, level

    return level(spec) if spec in LEVELS else parse_pipeline(spec)


CHAIN = """graph @g(%x: f32[1, 2, 8, 8]) -> (%y) {
  %w = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
  %s = const f32[2, 1, 1] [2.0, 3.0]
  %i = Identity(%x) @["identity"]
  %c = Conv(%i, %w) @["conv"]
  %m = Mul(%c, %s) @["scale"]
  %y = Relu(%m) @["relu"]
}"""


def _graph() -> Graph:
    return parse(CHAIN)


def test_a_rule_that_did_apply() -> None:
    answer = why_not(_graph(), parse_pipeline("fold-affine"), "FoldScale", "scale")
    assert answer.verdict == "fired"
    assert answer.edit is not None and answer.edit.number == 1
    assert "it did apply, in edit #1" in str(answer)


def test_what_the_pattern_bound_is_told_where_the_check_refused() -> None:
    answer = why_not(_graph(), parse_pipeline("simplify"), "DropUnit", "scale")
    assert answer.bound == (
        "x is %c: f32[1, 2, 8, 8]",
        "unit is %s: f32[2, 1, 1], a constant [2.0, 3.0]",
    )
    assert "  where x is %c: f32[1, 2, 8, 8]\n" in str(answer)


def test_a_rule_that_starts_at_another_op() -> None:
    answer = why_not(_graph(), parse_pipeline("fold-affine"), "FoldScale", "relu")
    assert answer.verdict == "other-op"
    assert answer.reason.startswith("the rule starts at ")
    assert "Mul" in answer.reason and answer.reason.endswith(", this is Relu")
    assert answer.culprit.startswith("%y: f32[1, 2, 8, 8] = Relu(")


def test_a_node_that_was_gone_by_then() -> None:
    answer = why_not(_graph(), parse_pipeline("simplify,fold-affine"), "FoldScale", "identity")
    assert answer.verdict == "gone"
    assert answer.reason == "the node was gone when fold-affine ran: edit #1 had removed it"
    assert "#1 simplify/DropIdentity: %i = Identity(%x)" in str(answer)


def test_a_node_that_had_become_part_of_another() -> None:
    answer = why_not(_graph(), parse_pipeline("fold-affine,simplify"), "DropUnit", "scale")
    assert answer.verdict == "gone"
    assert answer.reason == "edit #1 had made it part of another node by then"
    assert answer.edit is not None and answer.edit.rule == "FoldScale"


def test_a_node_that_went_later() -> None:
    answer = why_not(_graph(), parse_pipeline("simplify,fold-affine"), "DropUnit", "scale")
    assert answer.verdict == "refused"
    assert answer.reason == "the constant is not all 1"
    assert answer.edit is not None and answer.edit.rule == "FoldScale"
    assert "later #2 fold-affine/FoldScale" in str(answer)


def test_a_pass_that_does_not_run() -> None:
    answer = why_not(_graph(), parse_pipeline("simplify"), "FuseMish", "scale", library=LIBRARY)
    assert answer.verdict == "not-run"
    assert "the pipeline 'simplify' does not run the pass 'fuse-activation'" in answer.reason


def test_names_that_do_not_exist_are_told_with_near_ones() -> None:
    with pytest.raises(OptionError, match="no node 'scal'; did you mean scale"):
        why_not(_graph(), parse_pipeline("simplify"), "DropUnit", "scal")
    with pytest.raises(OptionError, match="no rule or pass 'FuseMisch'; did you mean FuseMish"):
        why_not(_graph(), parse_pipeline("simplify"), "FuseMisch", "scale", library=LIBRARY)


def test_the_history_of_a_node() -> None:
    source = _graph()
    result, log = clone(source), EditLog()
    parse_pipeline("simplify,fold-affine")(result, PassContext(log=log))
    found = history(source, result, log, "scale")
    assert [edit.rule for edit in found.edits] == ["FoldScale"]
    assert found.source[0].startswith("%m: f32[1, 2, 8, 8] = Mul(%c, %s)")
    assert len(found.now) == 1 and "Conv(%x" in found.now[0]
    assert history(source, result, log, "m").edits == found.edits
    assert history(source, result, log, "identity").now == ()
