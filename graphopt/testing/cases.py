"""Cases of passes as text: a graph before, and the graph after or the reason to stay.

A file opens with a comment that says what the pass does. Each case is::

    // CASE: name in words
    // PASS: simplify
    graph @main(%x: f32[N]) -> (%y) { ... }
    // EXPECT:
    graph @main(%x: f32[N]) -> (%y) { ... }

or, where nothing may change, ``// UNCHANGED: RuleName at %value: part of the reason`` in place of
``// EXPECT:`` and its graph (for a pass that is not made of rules, ``// UNCHANGED: part of the
reason``, if it gives any). Before the first graph may stand

- ``// TOLERANCE: 1e-6``: the relative L2 error allowed; without it results are equal to the bit;
- ``// SIZES: N=2, H=5``: values of symbols (3 by default);
- ``// SPECIAL: no``: leave NaN, infinities and signed zeros out of the inputs;
- ``// NUMBERS: no``: graphs after the pass cannot run in the interpreter.

A directive that is unknown, misplaced or given twice is an error, and so is any other comment
inside a case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.errors import ParseError
from graphopt.ir import Graph, Node, clone, parse, print_graph, verify
from graphopt.passes import TABLE
from graphopt.rewrite import (
    EditLog,
    Pass,
    PassContext,
    PassTable,
    Pipeline,
    Refusal,
    Rule,
    RulePass,
)
from graphopt.testing.equal import difference
from graphopt.testing.numbers import bits_differ, run_seeded, worst_error

__all__ = ["Case", "CaseFile", "Failure", "parse_cases", "run_case"]

_DIRECTIVE = re.compile(r"//\s*([A-Za-z_]+)(\s*:)?\s*(.*)")
_KNOWN = ("CASE", "PASS", "TOLERANCE", "SIZES", "SPECIAL", "NUMBERS", "EXPECT", "UNCHANGED")
_OPTIONS = ("PASS", "TOLERANCE", "SIZES", "SPECIAL", "NUMBERS")
_REASON = re.compile(r"(?P<rule>[A-Z]\w*) at %(?P<value>[\w.\-/]+): (?P<reason>.+)\Z")


class Failure(AssertionError):
    """A case that does not hold; the text says how."""


@dataclass
class Case:
    """One case: what to run, on which graph, and what must come of it."""

    name: str
    line: int
    options: dict[str, str] = field(default_factory=dict)
    before: str = ""
    after: str | None = None
    unchanged: str | None = None

    @property
    def spec(self) -> str:
        """The pass or pipeline that runs."""
        return self.options["PASS"]


@dataclass
class CaseFile:
    """The comment at the head of a file, and its cases."""

    header: str
    cases: list[Case]


def parse_cases(text: str) -> CaseFile:
    """The cases in ``text``. Raises ParseError, naming the line, for anything malformed."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.cases: list[Case] = []
        self.header: list[str] = []
        self.part: list[str] = []

    def fail(self, number: int, cause: str) -> ParseError:
        return ParseError(f"line {number}: {cause}")

    def read(self) -> CaseFile:
        for number, line in enumerate(self.lines, 1):
            match = _DIRECTIVE.match(line.strip())
            if match is not None and (match[1] in _KNOWN or self.cases):
                self.directive(number, match[1], match[2] or "", match[3].strip())
            elif not self.cases:
                if line.strip() and not line.startswith("//"):
                    raise self.fail(number, "the file must open with a comment, then // CASE:")
                self.header.append(line.removeprefix("//").removeprefix(" "))
            else:
                self.part.append(line)
        self.finish(len(self.lines))
        if not self.cases:
            raise self.fail(len(self.lines) or 1, "the file holds no case")
        return CaseFile("\n".join(self.header).strip(), self.cases)

    def directive(self, number: int, name: str, colon: str, value: str) -> None:
        if name not in _KNOWN:
            # Remarks have no place inside a case: a misspelt directive would pass for one.
            known = ", ".join(_KNOWN)
            raise self.fail(number, f"there is no directive '{name}' (there are: {known})")
        if not colon:
            raise self.fail(number, f"the directive {name} lacks its colon")
        if name == "CASE":
            self.finish(number)
            if not value or any(case.name == value for case in self.cases):
                raise self.fail(number, f"the case needs a name of its own, not '{value}'")
            self.cases.append(Case(value, number))
            return
        if not self.cases:
            raise self.fail(number, f"{name} stands before the first case")
        case = self.cases[-1]
        if name in _OPTIONS:
            if any(line.strip() for line in self.part) or case.before:
                raise self.fail(number, f"{name} must stand before the graph")
            if name in case.options or not value:
                raise self.fail(number, f"{name} is given twice, or without a value")
            case.options[name] = value
            return
        if case.before:
            raise self.fail(number, f"the case has a second {name} or EXPECT")
        case.before = "\n".join(self.part)
        self.part = []
        if name == "UNCHANGED":
            if not value:
                raise self.fail(number, "UNCHANGED needs a reason")
            case.unchanged = value
        elif value:
            raise self.fail(number, "EXPECT takes no value: the graph follows")
        else:
            case.after = ""

    def finish(self, number: int) -> None:
        """Closes the case at hand."""
        if not self.cases:
            return
        case, text = self.cases[-1], "\n".join(self.part)
        self.part = []
        if "PASS" not in case.options:
            raise self.fail(number, f"the case '{case.name}' has no PASS")
        if not case.before.strip():
            raise self.fail(number, f"the case '{case.name}' has no graph, EXPECT or UNCHANGED")
        if case.after is not None:
            case.after = text
            if not text.strip():
                raise self.fail(number, f"the case '{case.name}' has no graph after EXPECT")
        elif text.strip():
            raise self.fail(number, f"the case '{case.name}' has text after UNCHANGED")


def run_case(case: Case, table: PassTable = TABLE) -> EditLog:
    """Runs a case; returns the edits that were made. Raises Failure when it does not hold."""
    pipeline = table.parse(case.spec)
    graph = parse(case.before)
    verify(graph, types=True)
    source = clone(graph)
    before = print_graph(graph)
    log = EditLog()
    changed = pipeline(graph, PassContext(log=log))
    verify(graph)
    _check_origins(source, graph)
    after = print_graph(graph)
    if changed != (after != before):
        raise Failure(
            f"the pass says {'' if changed else 'un'}changed, but its text says not:\n{after}"
        )
    if case.unchanged is not None:
        if after != before:
            raise Failure(f"it should stay as it is, but became\n{after}")
        _check_reason(case.unchanged, pipeline, graph)
        return log
    assert case.after is not None
    found = difference(graph, parse(case.after))
    if found is not None:
        raise Failure(f"{found}\n--- actual\n{after}--- expected\n{case.after}")
    _check_settled(pipeline, graph)
    _check_numbers(case, source, graph)
    return log


def _check_origins(source: Graph, graph: Graph) -> None:
    known = frozenset().union(*(node.origin for node in source.walk()))
    for node in graph.walk():
        if not node.origin or not node.origin <= known:
            raise Failure(f"{node!r} has the origin {sorted(node.origin)}, not source nodes")


def _check_settled(pipeline: Pipeline, graph: Graph) -> None:
    before = print_graph(graph)
    again = pipeline(graph)
    after = print_graph(graph)
    if again or after != before:
        raise Failure(f"a second run changes it again, to\n{after}")


def _check_reason(wanted: str, pipeline: Pipeline, graph: Graph) -> None:
    rules = {rule.name: rule for item in _leaves(pipeline) for rule in _rules(item, graph)}
    if not rules:
        _check_refusals(wanted, pipeline, graph)
        return
    match = _REASON.match(wanted)
    if match is None:
        raise Failure(f"UNCHANGED must read 'RuleName at %value: reason', not '{wanted}'")
    rule, node = rules.get(match["rule"]), _producer(graph, match["value"])
    if rule is None:
        raise Failure(f"there is no rule {match['rule']} (there are: {', '.join(rules)})")
    refusal = rule.match(node)
    if not isinstance(refusal, Refusal):
        raise Failure(f"{rule.name} matches {node!r}")
    if match["reason"] not in refusal.text:
        raise Failure(f"{rule.name} refuses {node!r} because: {refusal.text}")


def _check_refusals(wanted: str, pipeline: Pipeline, graph: Graph) -> None:
    """Passes without rules: one of those that give reasons gives this one, at some node."""
    telling = [item for item in _leaves(pipeline) if type(item).refuses is not Pass.refuses]
    found = [item.refuses(node) for item in telling for node in graph.walk()]
    texts = [refusal.text for refusal in found if refusal is not None]
    if telling and not any(wanted in text for text in texts):
        raise Failure(f"nothing is refused because: {wanted}\n--- but because\n" + "\n".join(texts))


def _leaves(item: Pass) -> list[Pass]:
    if isinstance(item, Pipeline):
        return [leaf for inner in item.passes for leaf in _leaves(inner)]
    return [item]


def _rules(item: Pass, graph: Graph) -> list[Rule]:
    return item.rules(graph) if isinstance(item, RulePass) else []


def _producer(graph: Graph, name: str) -> Node:
    for node in graph.walk():
        if any(value.name == name for value in node.outputs):
            return node
    raise Failure(f"no node yields %{name}")


def _check_numbers(case: Case, source: Graph, graph: Graph) -> None:
    runnable = all(node.op.evaluate is not None for node in graph.walk())
    asked = _yes(case, "NUMBERS")
    if asked != runnable:
        says = "can" if runnable else "cannot"
        raise Failure(f"the interpreter {says} run the graph after the pass: correct NUMBERS")
    if not asked:
        return
    sizes = _sizes(case)
    tolerance = float(case.options.get("TOLERANCE", "0"))
    for seed, special in ((0, False), (1, _yes(case, "SPECIAL"))):

        def run(g: Graph, seed: int = seed, special: bool = special) -> list[object]:
            return run_seeded(g, sizes=sizes, seed=seed, special=special)

        _compare(run, source, graph, tolerance)


def _compare(
    run: Callable[[Graph], list[object]], source: Graph, graph: Graph, tolerance: float
) -> None:
    expected, actual = run(source), run(graph)
    if tolerance:
        error = worst_error(actual, expected)
        if not error <= tolerance:
            raise Failure(f"the numbers differ by {error:.3g}, more than {tolerance:g}")
    elif bits_differ(actual, expected):
        raise Failure(f"the numbers differ: {actual} instead of {expected}")


def _yes(case: Case, name: str) -> bool:
    value = case.options.get(name, "yes")
    if value not in ("yes", "no"):
        raise Failure(f"{name} is yes or no, not '{value}'")
    return value == "yes"


def _sizes(case: Case) -> dict[str, int]:
    result: dict[str, int] = {}
    for item in filter(None, case.options.get("SIZES", "").split(",")):
        name, _, value = item.partition("=")
        if not value.strip().isdigit():
            raise Failure(f"bad SIZES '{item.strip()}': expected name=number")
        result[name.strip()] = int(value)
    return result
