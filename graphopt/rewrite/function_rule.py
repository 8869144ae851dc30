"""Rules that are functions: the pattern is the decorator's, the function builds what replaces it.

::

    @rule(lambda op, x: op.Relu(op.Relu(x, _shared=True)))
    def relu_once(op, x):
        "Relu(Relu(x)) -> Relu(x)"
        return op.Relu(x)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from graphopt.ir import Builder, Graph
from graphopt.rewrite.match import Match, Refusal
from graphopt.rewrite.numerics import EXACT, Numerics
from graphopt.rewrite.passes import RulePass
from graphopt.rewrite.pattern import NodePattern, PatternOps, Var
from graphopt.rewrite.rule import Replacement, Rule

__all__ = ["FunctionRule", "rule", "rule_pass"]

Check = Callable[[Match], Refusal | str | None]


class FunctionRule(Rule):
    """A rule made by :func:`rule`."""

    def __init__(
        self,
        build: Callable[..., NodePattern | Sequence[NodePattern]],
        function: Callable[..., Replacement],
        check: Check | None,
    ) -> None:
        self._build = build
        self._function = function
        self._check = check
        self._parameters = tuple(inspect.signature(function).parameters)[1:]

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self._function, "__name__", "rule"))

    @property
    def says(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self._function) or "").partition("\n")[0].replace("``", "")

    def pattern(self, op: PatternOps) -> NodePattern | Sequence[NodePattern]:
        """What the decorator's function gives."""
        parameters = list(inspect.signature(self._build).parameters.values())[1:]
        variables = [p.name for p in parameters if p.default is inspect.Parameter.empty]
        return self._build(op, *map(Var, variables))

    def check(self, m: Match) -> Refusal | None:
        """What ``check`` says; a text alone becomes a refusal of the root."""
        found = self._check(m) if self._check is not None else None
        return Refusal(found, m.root) if isinstance(found, str) else found

    def rewrite(self, op: Builder, m: Match) -> Replacement:
        """Calls the function with what its parameters name."""
        return self._function(op, *(_argument(m, name) for name in self._parameters))


def _argument(m: Match, name: str) -> Any:
    if name in ("m", "match"):
        return m
    if name == "root":
        return m.root
    for table in (m.bindings, m.lists, m.named):
        if name in table:
            return table[name]
    return None


def rule(
    pattern: Callable[..., NodePattern | Sequence[NodePattern]], *, check: Check | None = None
) -> Callable[[Callable[..., Replacement]], FunctionRule]:
    """Makes a function a rule of its name: ``pattern(op, x, ...)`` says where it applies.

    The function's first parameter builds nodes; the others are the values, operand lists
    (``op.rest``) and nodes (``_bind``) that the pattern bound to those names, ``root`` the node
    that is replaced, and ``m`` the whole match. An operand that is absent is None. ``check(m)``
    returns why the rule does not apply: a text, or a Refusal that names a culprit.
    """

    def decorate(function: Callable[..., Replacement]) -> FunctionRule:
        return FunctionRule(pattern, function, check)

    return decorate


def rule_pass(title: str, *rules: Rule, numerics: Numerics = EXACT) -> RulePass:
    """A pass of that name that applies ``rules`` up to a fixed point, first ones first.

    ``numerics`` says how far they may move the numbers.
    """
    declared = numerics

    class Made(RulePass):
        name = title
        numerics = declared
        exact = declared.kind != "lossy"

        def rules(self, graph: Graph) -> list[Rule]:
            return list(rules)

    return Made()
