"""What users write rules with: conditions in patterns, functions as rules, and their checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import Builder, DType, Graph, Value, parse
from graphopt.rewrite import Match, PatternOps, Refusal, Rule, apply_rules, match_node, rule
from graphopt.testing import check_refusal, check_rule
from tests.rewrite.test_match import graph, matched, pattern, refused, root


def test_types_are_asked_for() -> None:
    g = graph("%y = Relu(%p)", "%p: f32[2, N]")
    assert matched(lambda op, x: op.Relu(x.typed(DType.F32, rank=2, shape=(2, None))), g)


@pytest.mark.parametrize(("asked", "text"), [
    ({"dtype": {DType.F16, DType.BF16}}, "bf16 or f16"),
    ({"rank": 3}, "rank 3"),
    ({"shape": (3, None)}, "shape [3, any]"),
    ({"static": True}, "a static shape"),
])  # fmt: skip
def test_types_that_do_not_fit_are_named(asked: dict[str, Any], text: str) -> None:
    g = graph("%y = Relu(%p)", "%p: f32[2, N]")
    found = refused(lambda op, x: op.Relu(x.typed(**asked)), g)
    assert found == f"being {text} does not hold for %p: f32[2, N]"


def test_contents_are_asked_for() -> None:
    g = graph("%c = const f32[2] [1.0, -1.0]\n%y = Mul(%p, %c)")
    positive = "positive"

    def build(op: PatternOps, x: Any) -> Any:
        return op.Mul(x, op.constant("c").holds(lambda array: (array > 0).all(), positive))

    assert refused(build, g) == "being a constant that is positive does not hold for %c: f32[2]"
    assert matched(build, graph("%c = const f32[2] [1.0, 2.0]\n%y = Mul(%p, %c)"))
    assert "expected a constant" in refused(build, graph("%y = Mul(%p, %q)"))


def test_uses_are_counted() -> None:
    g = graph("%r = Relu(%p)\n%y = Mul(%r, %r)")
    assert matched(lambda op, x, r: op.Mul(r.uses(2), r), g)
    text = refused(lambda op, x, r: op.Mul(r.uses(1), r), g)
    assert text == "being read 1 times does not hold for %r: f32[2]"


def test_conditions_hold_for_the_root_and_inner_nodes() -> None:
    g = graph("%r = Relu(%p)\n%y = Neg(%r)")
    assert matched(lambda op, x: op.Neg(op.Relu(x).uses(1)).typed(DType.F32), g)
    text = refused(lambda op, x: op.Neg(op.Relu(x)).typed(DType.F16), g)
    assert text == "being f16 does not hold for %y: f32[2]"
    text = refused(lambda op, x: op.Neg(op.Relu(x).typed(rank=3)), g)
    assert text == "being rank 3 does not hold for %r: f32[2]"


def test_each_further_operand_is_matched() -> None:
    g = graph("%r = Relu(%p)\n%s = Relu(%q)\n%y = Concat(%r, %s) {axis = 0}")
    found = matched(lambda op: op.Concat(op.rest("xs", each=op.Relu(op.any()))), g)
    assert [v.name for v in found.values("xs") if v is not None] == ["r", "s"]
    assert [n.op.name for n in found.nodes] == ["Concat", "Relu", "Relu"]
    mixed = graph("%r = Relu(%p)\n%y = Concat(%r, %q) {axis = 0}")
    text = refused(lambda op: op.Concat(op.rest("xs", each=op.Relu(op.any()))), mixed)
    assert text == "expected Relu, found the input %q"


def test_values_that_are_not_bound_may_differ() -> None:
    found = matched(lambda op: op.Add(op.any(), op.any()), graph("%y = Add(%p, %q)"))
    assert not found.bindings


@rule(lambda op, x: op.Relu(op.Relu(x, _shared=True)))
def relu_once(op: Builder, x: Value) -> Value:
    """``Relu(Relu(x)) -> Relu(x)``"""
    return op.Relu(x)  # type: ignore[no-any-return]


TWICE = "(%x: f32[3]) -> (%y) {\n%r = Relu(%x)\n%y = Relu(%r)\n}"
ONCE = "(%x: f32[3]) -> (%y) {\n%y = Relu(%x)\n}"


def test_a_function_is_a_rule() -> None:
    log = check_rule(relu_once, TWICE, ONCE)
    assert [(e.rule, e.reason) for e in log] == [("relu_once", "Relu(Relu(x)) -> Relu(x)")]
    check_refusal(relu_once, ONCE, "expected Relu, found the input %x", at="%y")


def test_a_check_gives_reasons() -> None:
    def small(m: Match) -> str | Refusal | None:
        dim = m["x"].tensor.shape
        return None if dim == (3,) else f"the shape is {dim}"

    limited = rule(lambda op, x: op.Relu(op.Relu(x)), check=small)(lambda op, x: op.Relu(x))
    check_rule(limited, TWICE, ONCE)
    found = limited.match(root(parse("graph @g" + TWICE.replace("f32[3]", "f32[4]"))))
    assert isinstance(found, Refusal)
    assert found.text == "the shape is (4,)"
    assert found.culprit is not None


def test_parameters_are_what_the_pattern_bound() -> None:
    seen: list[Any] = []

    @rule(lambda op, x, lo: op.Clip(x, op.optional(lo), op.rest("more"), _bind="clip"))
    def look(op: Builder, x: Value, lo: Any, more: Any, clip: Any, root: Any, m: Any) -> Value:
        seen.extend([x.name, lo, more, clip is root, type(m)])
        return x

    g = parse("graph @g(%x: f32[3]) -> (%y) {\n%y = Clip(%x)\n}")
    apply_rules(g, [look])
    assert seen == ["x", None, (), True, Match]


class Doubles(Rule):
    """Wrong: ``Relu(x) -> x + x``."""

    def pattern(self, op: PatternOps, x: Any) -> Any:
        return op.Relu(x)

    def rewrite(self, op: Builder, m: Match) -> Value:
        return op.Add(m["x"], m["x"])  # type: ignore[no-any-return]


def test_wrong_rules_are_found_out() -> None:
    added = "(%x: f32[3]) -> (%y) {\n%y = Add(%x, %x)\n}"
    with pytest.raises(AssertionError, match="the numbers differ"):
        check_rule(Doubles(), ONCE, added)
    with pytest.raises(AssertionError, match="--- actual"):
        check_rule(Doubles(), ONCE, ONCE)
    with pytest.raises(AssertionError, match=r"relu_once at .*expected Relu, found the input"):
        check_rule(relu_once, ONCE, added)
    with pytest.raises(AssertionError, match="matches"):
        check_refusal(Doubles(), ONCE, "anything")
    with pytest.raises(AssertionError, match="for other reasons: expected Relu"):
        check_refusal(relu_once, ONCE, "the moon is full")
    with pytest.raises(AssertionError, match="no node yields"):
        check_refusal(relu_once, ONCE, "", at="%z")


def test_the_quick_test_turns_no_match_away() -> None:
    """Patterns of every kind: what a full match accepts, ``find`` finds."""
    builds: list[Any] = [
        lambda op, x: op.Add(op.Relu(x), op.any()),
        lambda op, x: op.Add(x, op.any_of(op.Relu(op.any()), op.Neg(op.any()))),
        lambda op, x: op.Add(x, op.constant("c")),
        lambda op, x: op.Add(1.0, x),
        lambda op, x: op.Add(x, op.any_of(op.Relu(op.any()), op.any())),
        lambda op, x: op.Add(op.rest("xs", each=op.Relu(op.any()))),
        lambda op, x: op.Add(x, op.optional(op.any())),
    ]
    bodies = [
        "%r = Relu(%p)\n%y = Add(%r, %q)",
        "%r = Relu(%p)\n%y = Add(%q, %r)",
        "%r = Neg(%p)\n%y = Add(%r, %r)",
        "%c = const f32[1] [1.0]\n%y = Add(%c, %q)",
        "%c = const f32[2] [1.0, 2.0]\n%y = Add(%q, %c)",
        "%r = Relu(%p)\n%s = Relu(%q)\n%y = Add(%r, %s)",
    ]
    accepted = 0
    for build in builds:
        one = rule(lambda op, x, build=build: build(op, x))(lambda op, x: x)
        for body in bodies:
            node = root(graph(body))
            full = isinstance(match_node(pattern(build), node), Match)
            assert (one.find(node) is not None) == full
            accepted += full
    assert accepted > 15


def test_rewrites_that_the_result_may_not_hold_are_taken_back() -> None:
    g: Graph = parse("graph @g" + TWICE)
    before = str(g)
    reason = "not here"
    assert apply_rules(g, [relu_once], accepts=lambda node: reason) == 0
    assert str(g) == before
    assert np.prod(g.inputs[0].shape or ()) == 3
