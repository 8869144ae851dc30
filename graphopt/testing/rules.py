"""Testing one rule by graphs in text: before and after, and why it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir import Graph, Node, clone, parse, print_graph, verify
from graphopt.rewrite import EditLog, Match, Rule, apply_rules
from graphopt.testing.equal import difference
from graphopt.testing.numbers import bits_differ, run_seeded, worst_error

__all__ = ["check_refusal", "check_rule"]

Rules = Rule | Sequence[Rule]


def check_rule(
    rule: Rules,
    before: str,
    after: str,
    *,
    tolerance: float = 0.0,
    sizes: Mapping[str, int] | None = None,
    special: bool = True,
) -> EditLog:
    """Asserts that ``rule`` makes the graph ``before`` the graph ``after``; returns the edits.

    Names of values are free, those of outputs are not. Also asserts that both graphs are
    well-formed, that every node says which source nodes it stands for, that a second run changes
    nothing, and that the numbers stay: to the bit for random inputs and for special ones (NaN,
    infinities, zeros of both signs), or within the relative L2 error ``tolerance``. ``sizes`` are
    values of symbols. Raises AssertionError, ModelError for text that is no graph.
    """
    graph = _graph(before)
    source, log = clone(graph), EditLog()
    apply_rules(graph, _rules(rule), pass_name="check-rule", log=log)
    verify(graph, types=True)
    found = difference(graph, _graph(after))
    if found is not None:
        raise AssertionError(f"{found}{_reasons(rule, graph, log)}\n--- actual\n{graph}")
    settled = print_graph(graph)
    if apply_rules(graph, _rules(rule)) or print_graph(graph) != settled:
        raise AssertionError(f"a second run changes the graph again, to\n{graph}")
    if all(node.op.evaluate is not None for node in graph.walk()):
        for seed, extremes in ((0, False), (1, special and not tolerance)):
            want = run_seeded(source, sizes=sizes, seed=seed, special=extremes)
            got = run_seeded(graph, sizes=sizes, seed=seed, special=extremes)
            if tolerance and not worst_error(got, want) <= tolerance:
                raise AssertionError(f"the numbers differ by {worst_error(got, want):.3g}")
            if not tolerance and bits_differ(got, want):
                raise AssertionError(f"the numbers differ: {got} instead of {want}")
    return log


def check_refusal(rule: Rules, text: str, reason: str, *, at: str | None = None) -> None:
    """Asserts that ``rule`` leaves the graph ``text`` alone, and says ``reason`` (a part of it).

    ``at`` names the value whose node is asked; without it any node that the rule could match will
    do. Raises AssertionError.
    """
    graph = _graph(text)
    nodes = [node for node in graph.walk() if at is None or _yields(node, at)]
    if not nodes:
        raise AssertionError(f"no node yields %{at}")
    given = []
    for item in _rules(rule):
        for node in nodes:
            found = item.match(node)
            if isinstance(found, Match):
                raise AssertionError(f"{item.name} matches {node!r}")
            given.append(found.text)
    if not any(reason in one for one in given):
        raise AssertionError(f"it refuses for other reasons: {'; '.join(given)}")
    if apply_rules(graph, _rules(rule)):
        raise AssertionError(f"it should stay as it is, but became\n{graph}")


def _rules(rule: Rules) -> list[Rule]:
    return [rule] if isinstance(rule, Rule) else list(rule)


def _graph(text: str) -> Graph:
    """A graph from its text; ``graph @name`` may be left out."""
    stripped = text.strip()
    graph = parse(stripped if stripped.startswith("graph") else f"graph @main{stripped}")
    verify(graph, types=True)
    return graph


def _yields(node: Node, name: str) -> bool:
    return any(value.name == name.removeprefix("%") for value in node.outputs)


def _reasons(rule: Rules, graph: Graph, log: EditLog) -> str:
    """Why nothing happened, where nothing did."""
    if len(log):
        return ""
    lines = []
    for item in _rules(rule):
        for node in graph.walk():
            found = item.match(node)
            if (node.op.domain, node.op.name) in item.roots and not isinstance(found, Match):
                lines.append(f"\n{item.name} at {node!r}: {found}")
    return "".join(lines)
