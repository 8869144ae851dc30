"""Matching a pattern against the graph, and saying why it does not match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir import Node, Trait, Value
from graphopt.rewrite.pattern import (
    AnyOf,
    NodePattern,
    Optional_,
    Pattern,
    Rest,
    Scalar,
    Var,
)

__all__ = ["Match", "Refusal", "match_node"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule does not apply: the predicate that failed, with its values, and where."""

    reason: str | Callable[[], str]
    culprit: Node | Value | None = None
    # How far the match came: of several refusals, the one that came furthest tells most.
    reached: int = field(default=0, compare=False)
    # What the pattern had bound when a rule's check refused: nodes and values by name.
    bound: tuple[tuple[str, Node | Value], ...] = field(default=(), compare=False, repr=False)

    @property
    def text(self) -> str:
        """The reason as text. Reasons are formatted only when somebody asks."""
        return self.reason if isinstance(self.reason, str) else self.reason()

    def __str__(self) -> str:
        where = f" (at {self.culprit!r})" if self.culprit is not None else ""
        return self.text + where


class Match:
    """What a pattern matched: ``match["x"]`` values by variable, ``match.node("conv")`` nodes."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.bindings: dict[str, Value] = {}
        self.lists: dict[str, tuple[Value | None, ...]] = {}
        self.named: dict[str, Node] = {}
        # Matched nodes, root first. Those in `kept` may have other readers and stay when they do.
        self.nodes: list[Node] = []
        self.kept: set[Node] = set()

    def __getitem__(self, name: str) -> Value:
        return self.bindings[name]

    def get(self, name: str) -> Value | None:
        """The value bound to ``name``; None for an optional operand that is absent."""
        return self.bindings.get(name)

    def node(self, name: str) -> Node:
        """The node bound by ``_bind=name``."""
        return self.named[name]

    def values(self, name: str) -> tuple[Value | None, ...]:
        """Operands bound by ``op.rest(name)``."""
        return self.lists[name]

    @property
    def origin(self) -> frozenset[str]:
        """Source nodes that the matched nodes stand for."""
        return frozenset().union(*(node.origin for node in self.nodes))

    def check_uses(self) -> Refusal | None:
        """Why a matched node other than the root must stay: somebody else reads it."""
        return _check_uses(self)

    def _save(self) -> tuple[Any, ...]:
        return (
            dict(self.bindings),
            dict(self.lists),
            dict(self.named),
            list(self.nodes),
            set(self.kept),
        )

    def _restore(self, saved: tuple[Any, ...]) -> None:
        self.bindings, self.lists, self.named, self.nodes, self.kept = (
            dict(saved[0]),
            dict(saved[1]),
            dict(saved[2]),
            list(saved[3]),
            set(saved[4]),
        )


# A goal is a pattern and what it has to match: a value, None where an operand is absent, or the
# root node. Goals form a linked list, so that alternatives share their tails.
_Subject = Value | Node | None
_Goal = tuple[Pattern, _Subject]
_Goals = tuple[_Goal, "_Goals"] | None


def match_node(pattern: NodePattern, node: Node) -> Match | Refusal:
    """Matches ``pattern`` with ``node`` as its root; all ways to order operands are tried.

    Of several refusals the one that came furthest is returned.
    """
    match = Match(node)
    search = _Search(match)
    if search.solve(((pattern, node), None), 0):
        return match
    assert search.refusal is not None
    return search.refusal


class _Search:
    """Depth-first search over the choices that a pattern leaves."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.refusal: Refusal | None = None

    def solve(self, goals: _Goals, done: int) -> bool:
        """True when all goals hold together; the match is then complete."""
        while goals is not None:
            (pattern, subject), goals = goals
            found = _expand(pattern, subject, self.match)
            if isinstance(found, Refusal):
                return self.refuse(found, done)
            done += 1
            if len(found) > 1:
                return self.choose(found, goals, done)
            goals = _prepend(found[0], goals)
        # Readers are checked last: one matched node may be read by another that is matched later.
        refusal = _check_uses(self.match)
        return True if refusal is None else self.refuse(refusal, done)

    def choose(self, options: list[list[_Goal]], goals: _Goals, done: int) -> bool:
        saved = self.match._save()
        for option in options:
            if self.solve(_prepend(option, goals), done):
                return True
            self.match._restore(saved)
        return False

    def refuse(self, refusal: Refusal, done: int) -> bool:
        reached = 2 * done + refusal.reached
        if self.refusal is None or reached > self.refusal.reached:
            self.refusal = Refusal(refusal.reason, refusal.culprit, reached)
        return False


def _prepend(goals: list[_Goal], rest: _Goals) -> _Goals:
    for goal in reversed(goals):
        rest = (goal, rest)
    return rest


def _expand(pattern: Pattern, subject: _Subject, match: Match) -> list[list[_Goal]] | Refusal:
    """What is left to show when ``pattern`` meets ``subject``: alternatives, lists of goals."""
    if isinstance(subject, Node):
        assert isinstance(pattern, NodePattern)
        found = _expand_node(pattern, subject, match)
        if pattern.checks and not isinstance(found, Refusal):
            return _check_value(pattern, subject.outputs[pattern.output]) or found
        return found
    if isinstance(pattern, Optional_):
        return [[]] if subject is None else [[(pattern.inner, subject)]]
    if subject is None:
        return Refusal("an operand that the pattern needs is absent", match.root)
    found = _expand_kind(pattern, subject, match)
    # What a value is not tells more than which condition it breaks.
    return found if isinstance(found, Refusal) else _check_value(pattern, subject) or found


def _expand_kind(pattern: Pattern, value: Value, match: Match) -> list[list[_Goal]] | Refusal:
    if isinstance(pattern, NodePattern):
        return _expand_value(pattern, value, match)
    if isinstance(pattern, Var):
        return _match_var(pattern, value, match) or [[]]
    if isinstance(pattern, Scalar):
        return _match_scalar(pattern, value, match) or [[]]
    if isinstance(pattern, AnyOf):
        return [[(option, value)] for option in pattern.options]
    raise TypeError(f"{type(pattern).__name__} cannot stand here")


def _check_value(pattern: Pattern, value: Value) -> Refusal | None:
    for predicate, reason in pattern.checks:
        if not predicate(value):
            return Refusal(_failed(reason, value), value, reached=1)
    return None


def _failed(reason: str, value: Value) -> Callable[[], str]:
    return lambda: f"{reason} does not hold for {value!r}"


def _expand_value(pattern: NodePattern, value: Value, match: Match) -> list[list[_Goal]] | Refusal:
    node = value.producer
    if node is None or node.op.name != pattern.op or node.op.domain != pattern.domain:
        return Refusal(lambda: f"expected {pattern.op}, found {_describe(value)}", value)
    if value.index != pattern.output:
        return Refusal(
            lambda: f"expected output {pattern.output} of {pattern.op}, found {value.index}", value
        )
    return _expand_node(pattern, node, match)


def _match_var(pattern: Var, value: Value, match: Match) -> Refusal | None:
    if pattern.constant and not value.is_constant:
        return Refusal(lambda: f"expected a constant, found {_describe(value)}", value)
    if not pattern.name:
        return None
    bound = match.bindings.setdefault(pattern.name, value)
    if bound is not value:
        return Refusal(lambda: f"'{pattern.name}' is both %{bound.name} and %{value.name}", value)
    return None


def _match_scalar(pattern: Scalar, value: Value, match: Match) -> Refusal | None:
    constant = value.constant
    if constant is None or constant.numel != 1:
        return Refusal(
            lambda: f"expected the scalar {pattern.value}, found {_describe(value)}", value
        )
    found = constant.array.reshape(())[()]
    # The constant is compared in its own precision: 0.1 in f32 is not 0.1 in f64.
    if np.asarray(pattern.value).astype(constant.type.dtype.numpy) != found:
        reason = f"expected the scalar {pattern.value}, found {found}"
        return Refusal(reason, value, reached=1)
    if pattern.name:
        match.bindings[pattern.name] = value
    return None


def _expand_node(pattern: NodePattern, node: Node, match: Match) -> list[list[_Goal]] | Refusal:
    if node.op.name != pattern.op or node.op.domain != pattern.domain:
        return Refusal(lambda: f"expected {pattern.op}, found {node.op.qualified}", node)
    for name, wanted in pattern.attrs.items():
        found = node.attr(name)
        accepted = wanted(found) if callable(wanted) else found == wanted
        if not accepted:
            # The op was the right one: that is a step further than another op.
            return Refusal(_attr_reason(node, name, wanted, found), node, reached=1)
    # A node may stand for several places of the pattern, as the square in x * x + x * x does.
    if node not in match.nodes:
        match.nodes.append(node)
    if pattern.shared:
        match.kept.add(node)
    if pattern.bind and match.named.setdefault(pattern.bind, node) is not node:
        other = match.named[pattern.bind]
        return Refusal(lambda: f"'{pattern.bind}' is both {other!r} and {node!r}", node)
    return _operand_goals(pattern, node, match)


def _attr_reason(node: Node, name: str, wanted: Any, found: Any) -> Callable[[], str]:
    if callable(wanted):
        return lambda: f"attribute {name} of {node.op.name} is {found}"
    return lambda: f"attribute {name} of {node.op.name} is {found}, not {wanted}"


def _check_uses(match: Match) -> Refusal | None:
    """Matched nodes other than the root must be read by matched nodes alone, or be kept."""
    matched = set(match.nodes)
    for node in match.nodes[1:]:
        if node in match.kept:
            continue
        for value in node.outputs:
            if value.is_output:
                return Refusal(f"%{value.name} is an output of the graph", node)
            strangers = [user for user in value.users if user not in matched]
            if strangers:
                return Refusal(_shared_reason(value, strangers[0]), node)
    return None


def _shared_reason(value: Value, stranger: Node) -> Callable[[], str]:
    return lambda: f"%{value.name} is also read by {stranger!r}"


def _operand_goals(pattern: NodePattern, node: Node, match: Match) -> list[list[_Goal]] | Refusal:
    operands = pattern.operands
    values = list(node.inputs)
    further: list[_Goal] = []
    if operands and isinstance(operands[-1], Rest):
        each, fixed = operands[-1].each, len(operands) - 1
        missing = operands[len(values) : fixed]
        if not all(isinstance(item, Optional_) for item in missing):
            return Refusal(f"{node.op.name} has {len(values)} operands, not {fixed}", node)
        rest = tuple(values[fixed:])
        if match.lists.setdefault(operands[-1].name, rest) != rest:
            return Refusal(f"'{operands[-1].name}' stands for two lists of operands", node)
        if each is not None:
            further = [(each, value) for value in rest]
        operands, values = operands[:-1], values[:fixed]
    if len(values) > len(operands):
        return Refusal(
            lambda: f"{node.op.name} has {len(values)} operands, not {len(operands)}", node
        )
    values += [None] * (len(operands) - len(values))
    goals: list[_Goal] = list(zip(operands, values, strict=True))
    if len(goals) == 2 and node.op.has(Trait.COMMUTATIVE) and values[0] is not values[1]:
        (first, a), (second, b) = goals
        return [goals + further, [(first, b), (second, a), *further]]
    return [goals + further]


def _describe(value: Value) -> str:
    if value.is_constant:
        return f"the constant %{value.name}"
    if value.producer is None:
        return f"the input %{value.name}"
    return f"{value.producer.op.qualified} (%{value.name})"
