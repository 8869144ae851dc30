"""Sizes: every expression means what it was built from, however it is simplified."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.ir import (
    Dim,
    Expr,
    bcast,
    ceildiv,
    dim_max,
    dim_min,
    evaluate,
    ne1,
    parse_dim,
    product,
    substitute,
    sym,
    symbols,
)
from graphopt.ir.dim import is_nonnegative

NAMES = ("N", "H", "W")
SETTINGS = settings(max_examples=300, deadline=None)


class Undefined(Exception):
    """The formula has no value for these sizes."""


def _broadcast(a: int, b: int) -> int:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise Undefined


def _checked(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def run(a: int, b: int) -> int:
        if b == 0:
            raise Undefined
        return function(a, b)

    return run


# How a node is built as a size, and what it means for numbers.
BINARY: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "+": (operator.add, operator.add),
    "-": (operator.sub, operator.sub),
    "*": (operator.mul, operator.mul),
    "//": (operator.floordiv, _checked(operator.floordiv)),
    "%": (operator.mod, _checked(operator.mod)),
    "min": (dim_min, min),
    "max": (dim_max, max),
    "bcast": (bcast, _broadcast),
}


@dataclass(frozen=True)
class Tree:
    """A formula before it is simplified."""

    kind: str
    operands: tuple[Any, ...]

    def build(self) -> Dim:
        if self.kind == "leaf":
            leaf = self.operands[0]
            return sym(leaf) if isinstance(leaf, str) else leaf
        built = [tree.build() for tree in self.operands]
        return ne1(built[0]) if self.kind == "ne1" else BINARY[self.kind][0](*built)

    def value(self, env: dict[str, int]) -> int:
        if self.kind == "leaf":
            leaf = self.operands[0]
            return env[leaf] if isinstance(leaf, str) else leaf
        values = [tree.value(env) for tree in self.operands]
        if self.kind == "ne1":
            return 0 if values[0] == 1 else 1
        return BINARY[self.kind][1](*values)


leaves = st.one_of(st.sampled_from(NAMES), st.integers(-3, 9)).map(lambda x: Tree("leaf", (x,)))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda kind, a, b: Tree(kind, (a, b)), st.sampled_from(sorted(BINARY)), inner, inner
        ),
        st.builds(lambda a: Tree("ne1", (a,)), inner),
    ),
    max_leaves=8,
)
environments = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES})


def _build(tree: Tree) -> Dim:
    try:
        return tree.build()
    except (ZeroDivisionError, ValueError):
        assume(False)
        raise


def _value(tree: Tree, env: dict[str, int]) -> int:
    try:
        return tree.value(env)
    except Undefined:
        assume(False)
        raise


@SETTINGS
@given(tree=trees, env=environments)
def test_a_size_evaluates_to_what_its_formula_means(tree: Tree, env: dict[str, int]) -> None:
    expected = _value(tree, env)
    assert evaluate(_build(tree), env) == expected


@SETTINGS
@given(tree=trees)
def test_text_parses_back(tree: Tree) -> None:
    dim = _build(tree)
    assert parse_dim(str(dim)) == dim


@SETTINGS
@given(tree=trees, env=environments, name=st.sampled_from(NAMES), inner=trees)
def test_substitution_is_evaluation_later(
    tree: Tree, env: dict[str, int], name: str, inner: Tree
) -> None:
    value = _value(inner, env)
    assume(value >= 0)
    expected = _value(tree, {**env, name: value})
    try:
        replaced = substitute(_build(tree), {name: _build(inner)})
    except (ZeroDivisionError, ValueError):
        assume(False)
    assert evaluate(replaced, env) == expected


@SETTINGS
@given(tree=trees, env=environments)
def test_substituting_every_symbol_gives_a_number(tree: Tree, env: dict[str, int]) -> None:
    expected = _value(tree, env)
    assert substitute(_build(tree), env) == expected


@SETTINGS
@given(tree=trees, env=environments)
def test_what_is_called_nonnegative_is_so(tree: Tree, env: dict[str, int]) -> None:
    dim = _build(tree)
    assume(is_nonnegative(dim))
    assert _value(tree, env) >= 0


@SETTINGS
@given(a=trees, b=trees, c=trees)
def test_equal_polynomials_are_equal(a: Tree, b: Tree, c: Tree) -> None:
    x, y, z = _build(a), _build(b), _build(c)
    assert x + y == y + x
    assert x * (y + z) == x * y + z * x
    assert (x + y) + z == x + (y + z)
    assert x - x == 0
    assert hash(x + y) == hash(y + x)


@SETTINGS
@given(tree=trees)
def test_symbols_are_those_that_evaluation_needs(tree: Tree) -> None:
    dim = _build(tree)
    names = symbols(dim)
    try:
        evaluate(dim, dict.fromkeys(names, 2))
    except ZeroDivisionError:
        assume(False)
    for name in names:
        with pytest.raises((KeyError, ZeroDivisionError)):
            evaluate(dim, dict.fromkeys(names - {name}, 2))


N, H = sym("N"), sym("H")


@pytest.mark.parametrize(
    ("built", "text"),
    [
        (N * 2 + 3, "2*N + 3"),
        (3 - N, "-N + 3"),
        (N * N * H, "H*N*N"),
        ((N * 4 + 6) // 2, "2*N + 3"),
        ((N * 6 + 3) // 4, "((2*N + 3) // 4) + N"),
        (((N + 1) // 2 + 1) // 2, "((N + 3) // 4)"),
        ((N * H) // N, "H"),
        ((N * H) % N, "0"),
        ((N * 4 + 5) % 4, "1"),
        (dim_min(N, N + 1), "N"),
        (dim_max(N, 0), "N"),
        (dim_max(N - 1, 0), "max(0, N - 1)"),
        (bcast(N, 1), "N"),
        (bcast(N, 5), "5"),
        (bcast(bcast(N, H), N), "bcast(H, N)"),
        (ne1(N), "ne1(N)"),
        (ceildiv(N, 4), "((N + 3) // 4)"),
        (product([N, 2, H]), "2*H*N"),
    ],
)
def test_canonical_forms(built: Dim, text: str) -> None:
    assert str(built) == text
    assert parse_dim(text) == built


def test_sizes_have_no_truth_value() -> None:
    with pytest.raises(TypeError, match="symbolic"):
        bool(N)


def test_sizes_that_cannot_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4"):
        bcast(3, 4)


def test_an_unbound_symbol_is_named() -> None:
    with pytest.raises(KeyError, match="H"):
        evaluate(N + H, {"N": 1})


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        N // 0


@pytest.mark.parametrize("text", ["", "N +", "(N", "min(N", "N $ 2", "3 4", "*N", "foo(N, 2)"])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_dim(text)


def test_only_a_bare_symbol_is_one() -> None:
    assert isinstance(N, Expr) and N.is_symbol
    doubled = N * 2
    assert isinstance(doubled, Expr) and not doubled.is_symbol
