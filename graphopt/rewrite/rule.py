"""Rules: where (pattern), whether and if not why (check), and what (rewrite)."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from graphopt.ir import Builder, Node, OpDef, Value, resolve_op
from graphopt.rewrite.match import Match, Refusal, match_node
from graphopt.rewrite.pattern import NodePattern, PatternOps, Var
from graphopt.rewrite.prefilter import Test, compile_test

__all__ = ["Rule", "first_line"]

# A match that only the check refuses came further than any that the pattern refuses.
_CHECKED = 1 << 30

Replacement = Value | Sequence[Value | None]


def first_line(cls: type) -> str:
    """What a class is for, in one line: the first of its docstring, as plain text."""
    text = inspect.getdoc(cls) or ""
    return text.splitlines()[0].replace("``", "") if text else ""


class Rule(ABC):
    """A local rewrite. Subclass it, or see :func:`graphopt.rewrite.rule.Rule.pattern`.

    The name of the class is the name of the rule. The root's outputs are replaced by what
    ``rewrite`` returns; matched nodes that nobody reads afterwards are erased; new nodes take over
    the origins of all matched nodes.
    """

    @property
    def name(self) -> str:
        """The name under which edits are logged."""
        return type(self).__name__

    @cached_property
    def says(self) -> str:
        """What the rule does, in one line: the first of its docstring."""
        return first_line(type(self))

    @abstractmethod
    def pattern(self, *args: Any, **kwargs: Any) -> NodePattern | Sequence[NodePattern]:
        """``pattern(self, op, x, ...)``: the pattern, or several, over :class:`PatternOps`.

        Parameters after ``op`` are variables: their names bind.
        """

    def check(self, m: Match) -> Refusal | None:
        """Why the rule does not apply to this match; None when it does."""
        return None

    @abstractmethod
    def rewrite(self, op: Builder, m: Match) -> Replacement:
        """Builds what replaces the root's outputs, before the root, with ``op``."""

    @cached_property
    def patterns(self) -> tuple[NodePattern, ...]:
        """The pattern's alternatives."""
        names = list(inspect.signature(self.pattern).parameters)[1:]
        built = self.pattern(PatternOps(), *(Var(name) for name in names))
        return (built,) if isinstance(built, NodePattern) else tuple(built)

    @cached_property
    def roots(self) -> frozenset[tuple[str, str]]:
        """(domain, name) of the ops that a match can be rooted at."""
        return frozenset((p.domain, p.op) for p in self.patterns)

    @cached_property
    def _tests(self) -> dict[OpDef, list[tuple[NodePattern, Test | None]]]:
        found: dict[OpDef, list[tuple[NodePattern, Test | None]]] = {}
        for pattern in self.patterns:
            root = resolve_op(pattern.op, pattern.domain)
            found.setdefault(root, []).append((pattern, compile_test(pattern)))
        return found

    def find(self, node: Node) -> Match | None:
        """The match at ``node`` that the check accepts: :meth:`match` for those who need no reason,
        and faster."""
        for pattern, test in self._tests.get(node.op, ()):
            if test is None or test(node):
                result = match_node(pattern, node)
                if isinstance(result, Match) and self.check(result) is None:
                    return result
        return None

    def match(self, node: Node) -> Match | Refusal:
        """Matches at ``node``, the check included.

        Of several refusals, that of the alternative which came furthest is returned.
        """
        best: Refusal | None = None
        for pattern in self.patterns:
            result = match_node(pattern, node)
            if isinstance(result, Match):
                refused = self.check(result)
                if refused is None:
                    return result
                named: dict[str, Node | Value] = {**result.named, **result.bindings}
                result = replace(refused, reached=_CHECKED, bound=tuple(named.items()))
            if best is None or result.reached > best.reached:
                best = result
        assert best is not None
        return best
