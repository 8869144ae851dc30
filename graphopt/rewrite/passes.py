"""Passes and pipelines: named, ordered transformations of a graph, as data.

A pass is a frozen dataclass; its fields are its options and its text form is
``name{option=value}``. A pipeline is a pass: it prints, parses, nests and can run to a fixed point.
"""

from __future__ import annotations

import ast
import importlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from graphopt.errors import GraphoptError, OptionError
from graphopt.ir import Graph, Node, Stage
from graphopt.rewrite.driver import apply_rules
from graphopt.rewrite.log import EditLog
from graphopt.rewrite.match import Refusal
from graphopt.rewrite.numerics import REASSOCIATES, Numerics
from graphopt.rewrite.rule import Rule, first_line

__all__ = ["Pass", "PassContext", "PassTable", "Pipeline", "RulePass"]

# What splits a pipeline's text; quoted text is skipped as a whole.
_MARK = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[{}\[\](),]")

Instrument = Callable[["Pass", Graph], None]


@dataclass
class PassContext:
    """What passes share: the edit log, instruments around every pass, and timing.

    ``before`` and ``after`` are called around every leaf pass (not around pipelines).
    ``stop_after`` ends the run after that many leaf passes, or after the first run of the pass of
    that name. ``target`` is what is compiled for.
    ``accepts`` says of a node that a rule wants to build why the result may not hold it.
    """

    log: EditLog = field(default_factory=EditLog)
    before: list[Instrument] = field(default_factory=list)
    after: list[Instrument] = field(default_factory=list)
    stop_after: int | str | None = None
    target: Any = None
    accepts: Callable[[Node], str | None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """True once the run is to end."""
        if isinstance(self.stop_after, str):
            return any(name.partition("{")[0] == self.stop_after for name in self.ran)
        return self.stop_after is not None and len(self.ran) >= self.stop_after


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation of a graph, in place.

    ``requires`` is the stage that a graph must have reached, ``ensures`` the one that it then has;
    ``follows`` names passes whose results this one looks for (:func:`graphopt.rewrite.lint`).
    ``exact``: it keeps what the model means; ``numerics`` says how far rounding may move outputs
    (lossy passes say how much they may lose).
    """

    name: ClassVar[str]
    requires: ClassVar[Stage] = Stage.SOURCE
    ensures: ClassVar[Stage | None] = None
    follows: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = True
    numerics: ClassVar[Numerics] = REASSOCIATES

    @abstractmethod
    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Transforms ``graph`` in place; True when something changed."""

    def refuses(self, node: Node) -> Refusal | None:
        """Why the pass leaves ``node`` alone, where it can tell. Rules tell by themselves."""
        return None

    def __call__(self, graph: Graph, ctx: PassContext | None = None) -> bool:
        """Runs the pass with instruments and timing; the entry for users and pipelines."""
        ctx = ctx or PassContext()
        if ctx.stopped:
            return False
        for instrument in ctx.before:
            instrument(self, graph)
        started = time.perf_counter()
        try:
            with ctx.log.step(graph, self.name, first_line(type(self))):
                changed = self.run(graph, ctx)
        except GraphoptError:
            raise
        except Exception as error:
            error.add_note(f"in pass '{self}'")
            raise
        ctx.durations.append(time.perf_counter() - started)
        ctx.seconds[self.name] = ctx.seconds.get(self.name, 0.0) + ctx.durations[-1]
        ctx.ran.append(str(self))
        for instrument in ctx.after:
            instrument(self, graph)
        return changed

    def __str__(self) -> str:
        options = []
        for item in fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                options.append(f"{item.name}={_format(value)}")
        return self.name + ("{" + ", ".join(options) + "}" if options else "")


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that is a set of rules, applied up to a fixed point."""

    def rules(self, graph: Graph) -> list[Rule]:
        """The rules, in order of preference."""
        raise TypeError(f"pass '{self.name}' defines no rules")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Applies the rules; True when one fired."""
        rules = self.rules(graph)
        edits = apply_rules(graph, rules, pass_name=self.name, log=ctx.log, accepts=ctx.accepts)
        return edits > 0


@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes in order, repeated until nothing changes or ``max_rounds`` are done."""

    name: ClassVar[str] = "pipeline"

    passes: tuple[Pass, ...] = ()
    max_rounds: int = 1

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Runs the passes; True when one changed the graph."""
        changed = False
        for _ in range(self.max_rounds):
            round_changed = False
            for item in self.passes:
                if ctx.stopped:
                    return changed or round_changed
                round_changed |= item(graph, ctx)
            changed |= round_changed
            if not round_changed:
                break
        return changed

    def __call__(self, graph: Graph, ctx: PassContext | None = None) -> bool:
        """Runs the passes; instruments see each of them, not the pipeline itself."""
        return self.run(graph, ctx or PassContext())

    def __str__(self) -> str:
        text = ",".join(map(str, self.passes))
        return text if self.max_rounds == 1 else f"repeat[{self.max_rounds}]({text})"


class PassTable:
    """Passes by name, loaded when asked for: ``name -> "module:Class"``."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def register(self, name: str, where: str) -> None:
        """Adds a pass. Raises OptionError when the name is taken."""
        if name in self._entries:
            raise OptionError(f"the pass name '{name}' is taken by {self._entries[name]}")
        self._entries[name] = where

    def including(self, other: PassTable) -> PassTable:
        """A table of the passes of both. Raises OptionError when a name is taken."""
        result = PassTable(self._entries)
        for name, where in other._entries.items():
            result.register(name, where)
        return result

    def load(self, name: str) -> type[Pass]:
        """The class of a pass. Raises OptionError listing close names when there is none."""
        where = self._entries.get(name)
        if where is None:
            import difflib

            close = difflib.get_close_matches(name, self._entries, 3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise OptionError(f"there is no pass '{name}'{hint}")
        module, _, class_name = where.partition(":")
        found: type[Pass] = getattr(importlib.import_module(module), class_name)
        return found

    def parse(self, spec: str) -> Pipeline:
        """The pipeline that ``spec`` describes. Raises OptionError."""
        return Pipeline(tuple(self._parse_item(item) for item in _split(spec)))

    def _parse_item(self, item: str) -> Pass:
        if item.startswith("repeat[") and item.endswith(")"):
            rounds, _, inner = item[len("repeat[") : -1].partition("](")
            if not rounds.isdigit():
                raise OptionError(f"bad repeat count in '{item}'")
            return Pipeline(self.parse(inner).passes, int(rounds))
        name, _, options = item.partition("{")
        cls = self.load(name.strip())
        if not options:
            return cls()
        if not options.endswith("}"):
            raise OptionError(f"'{item}' lacks its closing brace")
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        for option in _split(options[:-1]):
            key, _, text = option.partition("=")
            key = key.strip()
            if key not in known:
                raise OptionError(f"pass '{name}' has no option '{key}' (it has {sorted(known)})")
            values[key] = _parse_value(text.strip())
            default = known[key].default
            if not isinstance(values[key], _accepted(default)):
                kind = type(default).__name__
                raise OptionError(
                    f"option '{key}' of pass '{name}' is of type {kind}, not '{text.strip()}'"
                )
        return cls(**values)


def _accepted(default: Any) -> type | tuple[type, ...]:
    """Types of the values that an option with that default takes."""
    return (int, float) if isinstance(default, float) else type(default)


def _split(text: str) -> list[str]:
    """Splits at commas outside brackets and quotes."""
    items: list[str] = []
    depth, begin = 0, 0
    for match in _MARK.finditer(text):
        mark, position = match.group(), match.start()
        if mark in "{[(":
            depth += 1
        elif mark in "}])":
            depth -= 1
            if depth < 0:
                raise OptionError(f"unbalanced '{mark}' in '{text}'")
        elif mark == "," and depth == 0:
            items.append(text[begin:position])
            begin = position + 1
    if depth:
        raise OptionError(f"unbalanced brackets in '{text}'")
    items.append(text[begin:])
    return [item.strip() for item in items if item.strip()]


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, str) else str(value)


def _parse_value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
