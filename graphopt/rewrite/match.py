"""Matching a pattern against the graph, and saying why it does not match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


def match_node(pattern: NodePattern, node: Node) -> Match | Refusal:
    """Matches ``pattern`` with ``node`` as its root."""
    match = Match(node)
    refusal = _match_op(pattern, node, match)
    # Readers are checked last: one matched node may be read by another that is matched later.
    refusal = refusal or _check_uses(match)
    return match if refusal is None else refusal


def _match(pattern: Pattern, value: Value | None, match: Match) -> Refusal | None:
    if isinstance(pattern, Optional_):
        return None if value is None else _match(pattern.inner, value, match)
    if value is None:
        return Refusal("an operand that the pattern needs is absent", match.root)
    refusal = _match_kind(pattern, value, match)
    if refusal is not None:
        return refusal
    for predicate, reason in pattern.checks:
        if not predicate(value):
            return _failed(reason, value)
    return None


def _failed(reason: str, value: Value) -> Refusal:
    return Refusal(lambda: f"{reason} does not hold for {value!r}", value)


def _match_kind(pattern: Pattern, value: Value, match: Match) -> Refusal | None:
    if isinstance(pattern, Var):
        return _match_var(pattern, value, match)
    if isinstance(pattern, NodePattern):
        node = value.producer
        if node is None or node.op.name != pattern.op or node.op.domain != pattern.domain:
            return Refusal(lambda: f"expected {pattern.op}, found {_describe(value)}", value)
        if value.index != pattern.output:
            return Refusal(
                lambda: f"expected output {pattern.output} of {pattern.op}, found {value.index}",
                value,
            )
        return _match_op(pattern, node, match)
    if isinstance(pattern, Scalar):
        return _match_scalar(pattern, value, match)
    if isinstance(pattern, AnyOf):
        first: Refusal | None = None
        for option in pattern.options:
            saved = match._save()
            refusal = _match(option, value, match)
            if refusal is None:
                return None
            first = first or refusal
            match._restore(saved)
        return first
    raise TypeError(f"{type(pattern).__name__} cannot stand here")


def _match_var(pattern: Var, value: Value, match: Match) -> Refusal | None:
    if pattern.constant and not value.is_constant:
        return Refusal(lambda: f"expected a constant, found {_describe(value)}", value)
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
        return Refusal(lambda: f"expected the scalar {pattern.value}, found {found}", value)
    if pattern.name:
        match.bindings[pattern.name] = value
    return None


def _match_op(pattern: NodePattern, node: Node, match: Match) -> Refusal | None:
    if node.op.name != pattern.op or node.op.domain != pattern.domain:
        return Refusal(lambda: f"expected {pattern.op}, found {node.op.qualified}", node)
    if node in match.nodes:
        return None
    for name, wanted in pattern.attrs.items():
        found = node.attr(name)
        accepted = wanted(found) if callable(wanted) else found == wanted
        if not accepted:
            return Refusal(_attr_reason(node, name, wanted, found), node)
    match.nodes.append(node)
    if pattern.shared:
        match.kept.add(node)
    if pattern.bind:
        match.named[pattern.bind] = node
    return _match_operands(pattern, node, match)


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


def _match_operands(pattern: NodePattern, node: Node, match: Match) -> Refusal | None:
    operands = pattern.operands
    values = list(node.inputs)
    if operands and isinstance(operands[-1], Rest):
        fixed = len(operands) - 1
        if len(values) < fixed:
            return Refusal(f"{node.op.name} has {len(values)} operands, not {fixed}", node)
        match.lists[operands[-1].name] = tuple(values[fixed:])
        operands, values = operands[:-1], values[:fixed]
    if len(values) > len(operands):
        return Refusal(
            lambda: f"{node.op.name} has {len(values)} operands, not {len(operands)}", node
        )
    values += [None] * (len(operands) - len(values))
    if len(operands) == 2 and node.op.has(Trait.COMMUTATIVE):
        return _match_commuted(operands, values, match)
    for operand, value in zip(operands, values, strict=True):
        refusal = _match(operand, value, match)
        if refusal is not None:
            return refusal
    return None


def _match_commuted(
    operands: tuple[Pattern, ...], values: list[Value | None], match: Match
) -> Refusal | None:
    saved = match._save()
    refusals: list[Refusal] = []
    for order in ((0, 1), (1, 0)):
        refusal = None
        for operand, index in zip(operands, order, strict=True):
            refusal = _match(operand, values[index], match)
            if refusal is not None:
                break
        if refusal is None:
            return None
        refusals.append(refusal)
        match._restore(saved)
    return refusals[0]


def _describe(value: Value) -> str:
    if value.is_constant:
        return f"the constant %{value.name}"
    if value.producer is None:
        return f"the input %{value.name}"
    return f"{value.producer.op.qualified} (%{value.name})"
