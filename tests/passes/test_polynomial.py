"""Arithmetic read as polynomials."""

from __future__ import annotations

import pytest

from graphopt.ir import parse
from graphopt.passes.polynomial import Polynomial, Terms, number


def _terms(body: str) -> Terms | None:
    head = "graph @g(%x: f32[2], %z: f32[2]) -> (%y) {\n"
    constants = "%half = const f32[] [0.5]\n%two = const f32[1] [2.0]\n%three = const f32[] [3.0]\n"
    graph = parse(f"{head}{constants}%row = const f32[2] [1, 2]\n{body}\n}}")
    return Polynomial(graph.outputs[0], list(graph.inputs)).terms


@pytest.mark.parametrize(
    ("body", "terms"),
    [
        ("%y = Mul(%x, %half)", {(1, 0): 0.5}),
        ("%a = Add(%x, %z)\n%y = Div(%a, %two)", {(1, 0): 0.5, (0, 1): 0.5}),
        ("%a = Sub(%x, %z)\n%y = Mul(%a, %a)", {(2, 0): 1.0, (1, 1): -2.0, (0, 2): 1.0}),
        ("%a = Neg(%x)\n%y = Pow(%a, %three)", {(3, 0): -1.0}),
        ("%a = Add(%x, %three)\n%y = Mul(%two, %a)", {(1, 0): 2.0, (0, 0): 6.0}),
        ("%y = Sub(%x, %x)", {}),
    ],
)
def test_formulas(body: str, terms: Terms) -> None:
    assert _terms(body) == terms


@pytest.mark.parametrize(
    "body",
    ["%y = Relu(%x)", "%y = Div(%x, %z)", "%y = Pow(%x, %half)", "%y = Mul(%x, %row)"],
)
def test_what_is_no_polynomial(body: str) -> None:
    assert _terms(body) is None


def test_large_ones_are_given_up() -> None:
    lines = ["%a0 = Add(%x, %z)", *(f"%a{i} = Mul(%a{i - 1}, %a{i - 1})" for i in range(1, 5))]
    assert _terms("\n".join([*lines, "%y = Neg(%a4)"])) is None


def test_the_atoms_are_not_looked_into() -> None:
    graph = parse("graph @g(%x: f32[2]) -> (%y) {\n%a = Mul(%x, %x)\n%y = Mul(%a, %x)\n}")
    a = graph.nodes[0].output
    found = Polynomial(graph.outputs[0], [graph.inputs[0], a])
    assert found.terms == {(1, 1): 1.0}
    assert found.nodes == [graph.nodes[1]]


def test_closeness_is_relative() -> None:
    graph = parse("graph @g(%x: f32[2]) -> (%y) {\n%c = const f32[] [0.7071]\n%y = Mul(%x, %c)\n}")
    found = Polynomial(graph.outputs[0], list(graph.inputs))
    assert found.is_close({(1,): 0.70710678}, 1e-4)
    assert not found.is_close({(1,): 0.70710678}, 1e-6)
    assert not found.is_close({(2,): 0.7071}, 1e-4)


def test_numbers_are_constants_of_one_element() -> None:
    graph = parse("""graph @g(%x: f32[]) -> (%a, %b, %x) {
  %a = const f32[1, 1] [2.5]
  %b = const f32[2] [1, 2]
}""")
    assert [number(v) for v in graph.outputs] == [2.5, None, None]
    assert number(None) is None
