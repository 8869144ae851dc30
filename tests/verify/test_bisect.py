"""A wrong rule among many right ones is named, with a few nodes that show the error."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import zoo
from graphopt.errors import InputError, UnsupportedError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Graph, parse, verify
from graphopt.passes import TABLE
from graphopt.passes.pipelines import LEVELS
from graphopt.rewrite import PassTable, Pipeline
from graphopt.verify import compare
from graphopt.verify.bisect import bisect
from graphopt.verify.execute import execute
from tests.verify.wrong_rules import PASSES

ALL = TABLE.including(PassTable(PASSES))
RULES = {
    "wrong-constant": "WrongConstant",
    "drops-activation": "DropsActivation",
    "drops-bias": "DropsBias",
    "wrong-perm": "WrongPerm",
    "wrong-axis": "WrongAxis",
    "swaps-operands": "SwapsOperands",
    "ignores-readers": "IgnoresReaders",
    "ignores-nan": "IgnoresNaN",
}

# What each rule matches stands once, amid identities, factors of one and transposes that cancel.
BLOCK = """  %i{n} = Identity(%v{n}) @["i{n}"]
  %u{n} = Mul(%i{n}, %one) @["u{n}"]
  %t{n} = Transpose(%u{n}) {{perm = [0, 2, 1]}} @["t{n}"]
  %b{n} = Transpose(%t{n}) {{perm = [0, 2, 1]}} @["b{n}"]
  %v{m} = Tanh(%b{n}) @["v{n}"]
"""
BAIT = """  %sq = Mul(%v{n}, %v{n}) @["sq"]
  %root = Sqrt(%sq) @["root"]
  %relu = Relu(%v{n}) @["relu"]
  %sum = Add(%relu, %root) @["sum"]
  %mm = MatMul(%sum, %w) @["mm"]
  %biased = Add(%mm, %bias) @["biased"]
  %p = Transpose(%biased) {{perm = [1, 2, 0]}} @["p"]
  %q = Transpose(%p) {{perm = [0, 2, 1]}} @["q"]
  %back = Transpose(%q) {{perm = [1, 0, 2]}} @["back"]
  %flat = Softmax(%back) {{axis = -1}} @["flat"]
  %exp = Exp(%flat) @["exp"]
  %sub = Sub(%biased, %exp) @["sub"]
  %abs = Abs(%sub) @["abs"]
  %neg = Neg(%abs) @["neg"]
  %other = Floor(%abs) @["other"]
  %zero = Mul(%e, %nought) @["zero"]
  %most = Add(%neg, %other) @["most"]
  %end = Add(%most, %sub) @["end"]
  %v{m} = Add(%end, %zero) @["v{n}"]
"""


def _source(blocks: int = 6) -> Graph:
    parts = [BLOCK.format(n=n, m=n + 1) for n in range(blocks)]
    middle = blocks // 2
    parts[middle] = BAIT.format(n=middle, m=middle + 1)
    return parse(
        f"""graph @g(%v0: f32[4, 4, 4], %e: f32[4, 4, 4]) -> (%v{blocks}) {{
  %one = const f32[] [1.0]
  %nought = const f32[] [0.0]
  %w = const f32[4, 4] seed(1)
  %bias = const f32[4] seed(2)
{"".join(parts)}}}"""
    )


def _pipeline(wrong: str) -> Pipeline:
    if wrong == "wrong-perm":  # before the right rule composes them
        return ALL.parse(f"merge-common,{wrong},simplify")
    return ALL.parse(f"simplify,{wrong},repeat[2](fold-constants,simplify,eliminate-dead)")


@pytest.mark.parametrize("wrong", sorted(RULES))
def test_a_wrong_rule_is_named_and_shown(wrong: str) -> None:
    source = _source()
    before = str(source)
    inputs = None
    if wrong == "ignores-nan":
        inputs = {name: np.ones((4, 4, 4), np.float32) for name in ("v0", "e")}
        inputs["e"][1, 2, 3] = np.nan
    found = bisect(source, _pipeline(wrong), inputs)
    assert str(source) == before
    assert found.edits > 15
    assert len(found.tried) <= 10
    culprit = found.culprit
    assert culprit is not None, found.comparisons
    assert (culprit.edit.pass_name, culprit.edit.rule) == (wrong, RULES[wrong])
    assert set(culprit.edit.origin) <= {
        "sq", "root", "relu", "sum", "mm", "biased", "p", "q", "back", "flat", "exp", "sub", "abs",
        "neg", "other", "zero",
    }  # fmt: skip
    assert "output 'v6' is off by" in culprit.problem
    repro = culprit.repro
    assert repro is not None and repro.shows
    for graph in (repro.before, repro.after):
        verify(graph)
        assert sum(1 for _ in graph.walk()) <= 10
        assert {v.name for v in graph.inputs} == set(repro.inputs)
    found_again = compare(execute(repro.after, repro.inputs), execute(repro.before, repro.inputs))
    assert not all(c.ok for c in found_again)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    found = bisect(_source(), ALL.parse(LEVELS["O2"]))
    assert found.culprit is None
    assert found.edits > 0 and len(found.tried) == 1
    assert all(c.ok for c in found.comparisons)


def test_special_numbers_show_what_others_do_not() -> None:
    assert bisect(_source(), _pipeline("ignores-nan")).culprit is None
    found = bisect(_source(), _pipeline("ignores-nan"), special=True).culprit
    assert found is not None and found.edit.rule == "IgnoresNaN"


def test_a_rule_wrong_inside_a_branch_is_cut_out_of_it() -> None:
    source = parse("""graph @g(%c: bool[], %x: f32[2, 3]) -> (%y) {
  %i = Identity(%x) @["i"]
  %s = If(%c) @["if"] regions {
    else_branch = @e() -> (%r) {
      %r = Softmax(%i) {axis = -1} @["inner"]
    }
    then_branch = @t() -> (%q) {
      %q = Softmax(%i) {axis = -1} @["other"]
    }
  }
  %y = Neg(%s) @["neg"]
}""")
    for taken, origin in ((False, "inner"), (True, "other")):
        inputs = {"c": np.array(taken), "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
        found = bisect(source, ALL.parse("simplify,wrong-axis"), inputs).culprit
        assert found is not None and found.edit.rule == "WrongAxis"
        assert found.edit.origin == (origin,)
        assert found.repro is not None and found.repro.shows
        assert [n.op.name for n in found.repro.before] == ["Softmax"]


def test_a_rule_wrong_inside_a_loop_is_cut_out_with_what_the_loop_carries() -> None:
    source = parse("""graph @g(%x: f32[2, 3]) -> (%y) {
  %times = const i64[] [3]
  %on = const bool[] [1]
  %y = Loop(%times, %on, %x) @["loop"] regions {
    body = @b(%i: i64[], %go: bool[], %s: f32[2, 3]) -> (%go as "still", %t) {
      %m = Mul(%s, %x) @["mul"]
      %t = Softmax(%m) {axis = -1} @["soft"]
    }
  }
}""")
    found = bisect(source, ALL.parse("simplify,wrong-axis")).culprit
    assert found is not None and found.edit.origin == ("soft",)
    assert found.repro is not None and found.repro.shows
    assert [v.name for v in found.repro.before.inputs] == ["m"]


def test_an_edit_of_many_nodes_is_shown_by_ten_at_most() -> None:
    lines = [f'  %v{n + 1} = Relu(%v{n}) @["n{n}"]' for n in range(25)]
    source = parse("graph @g(%v0: f32[4]) -> (%v25) {\n" + "\n".join(lines) + "\n}")

    from dataclasses import dataclass
    from typing import ClassVar

    from graphopt.ir import Builder
    from graphopt.rewrite import Pass, PassContext, record_edit

    @dataclass(frozen=True)
    class Shortcut(Pass):
        name: ClassVar[str] = "shortcut"

        def run(self, graph: Graph, ctx: PassContext) -> bool:
            nodes = graph.nodes
            new = Builder(graph, before=nodes[-1], origin=nodes[-1].origin).Neg(graph.inputs[0])
            assert new.producer is not None
            record_edit(ctx.log, self.name, "Shortcut", nodes, [new.producer])
            graph.replace(nodes[-1], [new])
            for node in reversed(nodes[:-1]):
                graph.erase(node)
            return True

    found = bisect(source, Shortcut()).culprit
    assert found is not None and found.repro is not None and found.repro.shows
    assert len(found.repro.before) == 10 and len(found.repro.after) == 1


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from graphopt.rewrite import Pass, PassContext, record_edit

    @dataclass(frozen=True)
    class Breaks(Pass):
        name: ClassVar[str] = "breaks"

        def run(self, graph: Graph, ctx: PassContext) -> bool:
            node = next(n for n in graph if n.is_a("MatMul"))
            record_edit(ctx.log, self.name, "Breaks", [node], [node])
            graph.set_input(node, 1, graph.constants["bias"])
            graph.set_input(node, 0, graph.constants["one"])
            return True

    found = bisect(_source(), Breaks()).culprit
    assert found is not None and found.edit.rule == "Breaks"
    assert "the graph does not run: node 'mm' (MatMul)" in found.problem
    assert found.comparison is None


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="unknown input 'z'"):
        bisect(_source(), _pipeline("wrong-axis"), {"z": np.zeros(3)})


def test_ops_that_nothing_here_runs_are_refused() -> None:
    source = parse("""graph @g(%x: f32[2]) -> (%y) {
  %y: f32[2] = custom::Thing(%x) @["t"]
}""")
    with pytest.raises(UnsupportedError, match=r"nothing here can run node 't' \(custom::Thing\)"):
        bisect(source, ALL.parse("simplify"))


@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_a_wrong_rule_in_a_real_model() -> None:
    source = from_onnx(zoo.path("minilm-l6"))
    pipeline = ALL.parse(f"fold-constants,drops-bias,{LEVELS['O2']}")
    found = bisect(source, pipeline).culprit
    assert found is not None and found.edit.rule == "DropsBias"
    assert found.repro is not None and found.repro.shows
    assert [n.op.name for n in found.repro.before] == ["MatMul", "Add"]
