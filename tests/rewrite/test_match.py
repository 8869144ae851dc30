"""Patterns: every way to match is tried, and a refusal says how far the best one came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from graphopt.ir import Builder, Graph, Node, Value, parse
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, Var, match_node


def pattern(build: Any) -> NodePattern:
    """The pattern that ``build(op, x, y, z)`` gives."""
    names = build.__code__.co_varnames[1 : build.__code__.co_argcount]
    built: NodePattern = build(PatternOps(), *(Var(name) for name in names))
    return built


def graph(body: str, inputs: str = "%p: f32[2], %q: f32[2]") -> Graph:
    return parse(f"graph @g({inputs}) -> (%y) {{\n{body}\n}}")


def root(g: Graph) -> Node:
    found = g.outputs[0].producer
    assert found is not None
    return found


def matched(build: Any, g: Graph) -> Match:
    found = match_node(pattern(build), root(g))
    assert isinstance(found, Match), str(found)
    return found


def refused(build: Any, g: Graph) -> str:
    found = match_node(pattern(build), root(g))
    assert isinstance(found, Refusal)
    return found.text


def test_variables_bind() -> None:
    found = matched(lambda op, x, y: op.Sub(x, y), graph("%y = Sub(%p, %q)"))
    assert (found["x"].name, found["y"].name) == ("p", "q")
    assert found.get("z") is None


def test_one_variable_is_one_value() -> None:
    assert matched(lambda op, x: op.Mul(x, x), graph("%y = Mul(%p, %p)"))["x"].name == "p"
    text = refused(lambda op, x: op.Mul(x, x), graph("%y = Mul(%p, %q)"))
    assert text == "'x' is both %p and %q"


def test_commutative_operands_match_in_either_order() -> None:
    found = matched(
        lambda op, x, y: op.Add(x, op.Relu(y)), graph("%r = Relu(%q)\n%y = Add(%r, %p)")
    )
    assert (found["x"].name, found["y"].name) == ("p", "q")
    assert "expected Relu" in refused(
        lambda op, x, y: op.Sub(x, op.Relu(y)), graph("%r = Relu(%q)\n%y = Sub(%r, %p)")
    )


def test_choices_are_undone_when_a_later_operand_disagrees() -> None:
    # x * y - x: the inner product must be turned round for x to be q.
    g = graph("%m = Mul(%p, %q)\n%y = Sub(%m, %q)")
    found = matched(lambda op, x, y: op.Sub(op.Mul(x, y), x), g)
    assert (found["x"].name, found["y"].name) == ("q", "p")


def test_alternatives_are_undone_when_a_later_operand_disagrees() -> None:
    g = graph("%r = Relu(%p)\n%y = Sub(%r, %r)")
    found = matched(lambda op, x: op.Sub(op.any_of(op.Relu(x), x), x), g)
    assert found["x"].name == "r"
    assert [n.op.name for n in found.nodes] == ["Sub"]


def test_one_node_may_stand_for_two_places_of_a_pattern() -> None:
    g = graph("%r = Relu(%p)\n%y = Add(%r, %r)")
    found = matched(lambda op, x, y: op.Add(op.Relu(x), op.Relu(y)), g)
    assert found["x"] is found["y"]
    assert len(found.nodes) == 2


def test_attributes_are_compared_with_defaults() -> None:
    g = graph("%y = Softmax(%p)")
    assert matched(lambda op, x: op.Softmax(x, _attrs={"axis": -1}), g)
    assert refused(lambda op, x: op.Softmax(x, _attrs={"axis": 0}), g) == (
        "attribute axis of Softmax is -1, not 0"
    )
    assert refused(lambda op, x: op.Softmax(x, _attrs={"axis": lambda a: a > 0}), g) == (
        "attribute axis of Softmax is -1"
    )


def test_optional_and_remaining_operands() -> None:
    bare = graph("%y = Clip(%p)")
    assert matched(lambda op, x, lo: op.Clip(x, op.optional(lo)), bare).get("lo") is None
    assert "is absent" in refused(lambda op, x, lo: op.Clip(x, lo), bare)
    full = graph("%lo = const f32[] [0.0]\n%hi = const f32[] [1.0]\n%y = Clip(%p, %lo, %hi)")
    found = matched(lambda op, x: op.Clip(x, op.rest("bounds")), full)
    assert [v.name for v in found.values("bounds") if v is not None] == ["lo", "hi"]
    assert "3 operands, not 1" in refused(lambda op, x: op.Clip(x), full)


def test_scalars_are_compared_in_their_own_precision() -> None:
    g = graph("%c = const f32[1] [0.1]\n%y = Mul(%p, %c)")
    assert matched(lambda op, x: op.Mul(x, 0.1), g)
    assert refused(lambda op, x: op.Mul(x, 0.2), g).startswith("expected the scalar 0.2, found 0.1")
    wide = graph("%c = const f32[2] [0.1, 0.1]\n%y = Mul(%p, %c)")
    assert "expected the scalar 0.1" in refused(lambda op, x: op.Mul(x, 0.1), wide)


def test_predicates_say_what_they_ask() -> None:
    g = graph("%y = Relu(%p)")
    ask = "being large"
    text = refused(lambda op, x: op.Relu(x.where(lambda v: False, ask)), g)
    assert text == "being large does not hold for %p: f32[2]"


def test_outputs_are_told_apart() -> None:
    g = graph("%a, %b = Split(%p) {num_outputs = 2}\n%y = Relu(%b)")
    assert matched(lambda op, x: op.Relu(op.Split(x, _outputs=2)[1]), g)
    assert "expected output 0 of Split, found 1" in refused(
        lambda op, x: op.Relu(op.Split(x, _outputs=2)[0]), g
    )
    with pytest.raises(IndexError):
        pattern(lambda op, x: op.Relu(op.Split(x, _outputs=2)[2]))


def test_inner_nodes_must_not_be_read_by_others() -> None:
    body = "%r = Relu(%p)\n%y = Neg(%r)\n%z = Exp(%r)"
    g = parse(f"graph @g(%p: f32[2]) -> (%y, %z) {{\n{body}\n}}")
    assert refused(lambda op, x: op.Neg(op.Relu(x)), g) == "%r is also read by %z = Exp(%r)"
    assert matched(lambda op, x: op.Neg(op.Relu(x, _shared=True)), g)
    marked = parse("graph @g(%p: f32[2]) -> (%y, %r) {\n%r = Relu(%p)\n%y = Neg(%r)\n}")
    assert refused(lambda op, x: op.Neg(op.Relu(x)), marked) == "%r is an output of the graph"


def test_readers_decide_between_alternatives() -> None:
    body = "%r = Relu(%p)\n%y = Sub(%r, %r)\n%z = Exp(%r)"
    g = parse(f"graph @g(%p: f32[2]) -> (%y, %z) {{\n{body}\n}}")
    found = matched(lambda op, x: op.Sub(op.any_of(op.Relu(x), x), op.any_of(op.Relu(x), x)), g)
    assert found["x"].name == "r"


def test_the_refusal_that_came_furthest_is_told() -> None:
    g = graph("%e = Exp(%p)\n%a = Add(%e, %q)\n%y = Mul(%q, %a)")
    text = refused(lambda op, x, y: op.Mul(op.Add(op.Erf(x), y), y), g)
    assert text == "expected Erf, found Exp (%e)"


class _Swap(Rule):
    def pattern(self, op: PatternOps, x: Var, y: Var) -> Sequence[NodePattern]:
        return [op.Sub(x, y), op.Div(x, y, _bind="div")]

    def check(self, m: Match) -> Refusal | None:
        return Refusal("never") if "div" in m.named else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        result: Value = op.Sub(m["y"], m["x"])
        return result


def test_rules_try_their_alternatives() -> None:
    rule = _Swap()
    assert rule.name == "_Swap"
    assert rule.roots == {("", "Sub"), ("", "Div")}
    assert isinstance(rule.match(root(graph("%y = Sub(%p, %q)"))), Match)
    found = rule.match(root(graph("%y = Div(%p, %q)")))
    assert isinstance(found, Refusal) and found.text == "never"


def test_a_refusal_names_its_culprit() -> None:
    g = graph("%y = Relu(%p)")
    assert str(Refusal("too large", g.outputs[0])) == "too large (at %y: f32[2])"
    assert str(Refusal(lambda: "late")) == "late"


def test_only_ops_make_patterns() -> None:
    with pytest.raises(AttributeError):
        _ = PatternOps().relu
