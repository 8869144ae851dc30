"""The driver: fixed points, what goes and what stays, the log, and rules that never settle."""

from __future__ import annotations

import pytest

from graphopt.errors import CompileError
from graphopt.ir import Builder, Graph, Value, parse, verify
from graphopt.rewrite import Edit, EditLog, Match, NodePattern, PatternOps, Rule, Var, apply_rules


class ReluTwice(Rule):
    """``Relu(Relu(x)) -> Relu(x)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Relu(op.Relu(x, _shared=True))

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Relu(m["x"])
        return result


class Diamond(Rule):
    """``Add(Neg(e), Abs(e))`` with ``e = Exp(x)`` ``-> Sub(x, x)``: matched nodes share one."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        e = op.Exp(x)
        return op.Add(op.Neg(e), op.Abs(e))

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Sub(m["x"], m["x"])
        return result


class NegToSub(Rule):
    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Neg(x)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Abs(m["x"])
        return result


class SubToNeg(Rule):
    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Abs(x)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Neg(m["x"])
        return result


def _chain(length: int) -> Graph:
    lines = [f'%v{i + 1} = Relu(%v{i}) @["n{i}"]' for i in range(length)]
    return parse(f"graph @g(%v0: f32[2]) -> (%v{length}) {{\n" + "\n".join(lines) + "\n}")


def test_rules_apply_up_to_a_fixed_point() -> None:
    graph = _chain(6)
    log = EditLog()
    assert apply_rules(graph, [ReluTwice()], pass_name="p", log=log) == 5
    verify(graph, types=True)
    (node,) = graph
    assert node.origin == {f"n{i}" for i in range(6)}
    assert node.output.name == "v6"
    assert log.counts() == {("p", "ReluTwice"): 5}
    assert apply_rules(graph, [ReluTwice()]) == 0


def test_shared_nodes_of_a_match_go_with_their_last_reader() -> None:
    graph = parse("""graph @g(%x: f32[2]) -> (%y) {
  %e = Exp(%x) @["e"]
  %n = Neg(%e) @["n"]
  %a = Abs(%e) @["a"]
  %y = Add(%n, %a) @["y"]
}""")
    assert apply_rules(graph, [Diamond()]) == 1
    assert [n.op.name for n in graph] == ["Sub"]
    assert graph.nodes[0].origin == {"e", "n", "a", "y"}


def test_rules_reach_into_regions() -> None:
    graph = parse("""graph @g(%c: bool[], %x: f32[2]) -> (%y) {
  %y = If(%c) @["if"] regions {
    else_branch = @e() -> (%x as "same") {
    }
    then_branch = @t() -> (%r) {
      %q = Relu(%x) @["q"]
      %r = Relu(%q) @["r"]
    }
  }
}""")
    assert apply_rules(graph, [ReluTwice()]) == 1
    verify(graph, types=True)
    assert len(graph.nodes[0].attrs["then_branch"]) == 1


def test_rules_that_undo_each_other_are_stopped() -> None:
    graph = parse('graph @g(%x: f32[2]) -> (%y) {\n%y = Neg(%x) @["n"]\n}')
    with pytest.raises(CompileError, match="pass 'p': rules do not settle"):
        apply_rules(graph, [NegToSub(), SubToNeg()], pass_name="p")


class Halves(Rule):
    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Relu(x)

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Cast(m["x"], to=10)
        return result


class Nothing(Rule):
    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Relu(x)

    def rewrite(self, op: Builder, m: Match) -> tuple[None]:
        return (None,)


class TooMany(Rule):
    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Relu(x)

    def rewrite(self, op: Builder, m: Match) -> tuple[Value, Value]:
        return m["x"], m["x"]


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (Halves(), "rule Halves replaces %v1: f32[2] by a f16[2]"),
        (Nothing(), "rule Nothing drops %v1, which is still read"),
        (TooMany(), "rule TooMany returns 2 values for 1 outputs"),
    ],
)
def test_a_rule_that_breaks_the_contract_is_named(rule: Rule, cause: str) -> None:
    with pytest.raises(CompileError) as info:
        apply_rules(_chain(1), [rule])
    assert cause in str(info.value)


def test_the_log_tells_the_story_of_a_node() -> None:
    log = EditLog()
    seen: list[Edit] = []
    apply_rules(_chain(3), [ReluTwice()], pass_name="p", log=log, on_edit=seen.append)
    assert seen == list(log)
    first = seen[0]
    assert first.removed == ("%v2 = Relu(%v1)", "%v1 = Relu(%v0)")
    assert first.added == ("%v2 = Relu(%v0)",)
    assert log.about("n0") == [e for e in seen if "n0" in e.origin]
    assert list(EditLog.from_json_lines(log.to_json_lines())) == seen
