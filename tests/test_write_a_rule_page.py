"""The page that teaches rules: its code runs, and its rules take at most ten lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from graphopt.testing import check_refusal, check_rule

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "write-a-rule.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the blocks define; a helper that is shown after its use comes before it."""
    ordered = [b for b in BLOCKS if "def powers_of_two" in b]
    ordered += [b for b in BLOCKS if "def powers_of_two" not in b]
    scope: dict[str, Any] = {}
    for block in ordered:
        exec(block, scope)
    return scope


def test_rules_take_at_most_ten_lines() -> None:
    rules = [
        r for b in BLOCKS for r in re.findall(r"^@rule\(.*?^    return [^\n]*\n", b, re.M | re.S)
    ]
    assert len(rules) == 3
    assert all(len(text.splitlines()) <= 10 for text in rules)
    testing = next(b for b in BLOCKS if "check_rule(" in b)
    assert len(testing.splitlines()) <= 5


def test_the_rule_with_a_condition(names: dict[str, Any]) -> None:
    rule = names["divide_by_multiplying"]
    text = "(%x: f32[3]) -> (%y) {{\n %c = const f32[2, 1] [{}]\n %y = {}(%x, %c)\n}}"
    check_rule(rule, text.format("4.0, -0.5", "Div"), text.format("0.25, -2.0", "Mul"))
    check_refusal(rule, text.format("4.0, 3.0", "Div"), "being a constant that is 2 ** k")
    wide = text.format("4.0, 2.0", "Div").replace("f32", "f64")
    check_refusal(rule, wide, "being f32 does not hold for %x: f64[3]")


def test_the_rule_with_a_check(names: dict[str, Any]) -> None:
    rule = names["join_at_once"]
    head = "(%a: f32[2, 2], %b: f32[2, 2], %c: f32[{}, 2]) -> (%y) {{\n "
    inner = "%i = Concat(%a, %b) {{axis = {}}}\n %y = Concat(%i, %c) {{axis = 0}}\n}}"
    once = head.format(2) + "%y = Concat(%a, %b, %c) {axis = 0}\n}"
    check_rule(rule, head.format(2) + inner.format(0), once)
    different = (head.format(2) + inner.format(1)).replace("%c: f32[2, 2]", "%c: f32[2, 4]")
    check_refusal(rule, different, "the two lie along different axes", at="%y")


def test_the_pass_runs(names: dict[str, Any]) -> None:
    import graphopt

    assert len(graphopt.optimize(names["graph"], names["clean"])) == 0
    assert str(names["clean"]) == "drop-signs"
