"""What happened to a node, and why a rule did not apply to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from graphopt.errors import OptionError
from graphopt.ir import Graph, Node, Value, clone, print_node
from graphopt.rewrite.log import Edit, EditLog
from graphopt.rewrite.match import Match, Refusal
from graphopt.rewrite.passes import Pass, PassContext, Pipeline, RulePass
from graphopt.rewrite.rule import Rule

__all__ = ["History", "WhyNot", "describe", "history", "leaves", "nodes_called", "why_not"]


@dataclass(frozen=True, slots=True)
class History:
    """What became of a node: the edits that touched it, and the nodes that stand for it now."""

    name: str
    source: tuple[str, ...]
    edits: tuple[Edit, ...]
    now: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a rule does not apply to a node.

    ``verdict`` is one of

    - ``refused``: ``reason`` names the predicate that failed with its values, ``culprit`` the node
      or value that it failed for, ``bound`` what the pattern's names stood for where it matched
      and only the rule's check refused, ``step`` the run of a pass (counted from 1) after which
      (or, where that run removed the node, before which) the rule looked; ``edit`` is what took
      the node away later, if anything did;
    - ``fired``: it did apply, in edit ``edit``;
    - ``other-op``: the rule starts at another op;
    - ``gone``: edit ``edit`` had removed the node, or made it part of another, by then;
    - ``not-run``: the pipeline does not run the pass ``pass_name`` that has the rule.
    """

    rule: str
    node: str
    verdict: str
    reason: str
    culprit: str = ""
    bound: tuple[str, ...] = ()
    pass_name: str = ""
    step: int = 0
    edit: Edit | None = None

    def __str__(self) -> str:
        where = f" (run {self.step} of the pipeline, {self.pass_name})" if self.step else ""
        lines = [f"{self.rule} at '{self.node}': {self.verdict}{where}", f"  {self.reason}"]
        if self.culprit:
            lines.append(f"  at {self.culprit}")
        lines.extend(f"  where {text}" for text in self.bound)
        if self.edit is not None:
            when = "later " if self.verdict == "refused" else ""
            lines.append(f"  {when}{self.edit}")
        return "\n".join(lines)


def describe(culprit: Node | Value | None) -> str:
    """A node's line; for a value that of its producer, or what else it is."""
    if culprit is None:
        return ""
    if isinstance(culprit, Node):
        return print_node(culprit)
    if culprit.producer is not None:
        return print_node(culprit.producer)
    constant = culprit.constant
    if constant is None:
        return f"%{culprit.name}: {culprit.type}, an input"
    few = constant.numel <= 16 and constant.available
    held = f" {constant.array.ravel().tolist()}" if few else ""
    return f"%{culprit.name}: {culprit.type}, a constant{held}"


def nodes_called(graph: Graph, name: str) -> list[Node]:
    """Nodes that yield the value ``name`` or are called so; else those that stand for the source
    node of that name."""
    nodes = list(graph.walk())
    exact = [n for n in nodes if n.name == name or any(v.name == name for v in n.outputs)]
    alone = [n for n in nodes if n.origin == {name} and n not in exact]
    return [*exact, *alone] or [n for n in nodes if name in n.origin]


def _known_names(graph: Graph) -> set[str]:
    names: set[str] = set()
    for node in graph.walk():
        names.update(node.origin, (v.name for v in node.outputs), filter(None, [node.name]))
    return names


def _require(graph: Graph, name: str) -> list[Node]:
    found = nodes_called(graph, name)
    if not found:
        close = difflib.get_close_matches(name, _known_names(graph), 3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise OptionError(f"the model has no node '{name}'{hint}")
    return found


def history(source: Graph, result: Graph, log: EditLog, name: str) -> History:
    """The history of a node of ``source``, named by itself or by a value that it yields.

    Raises OptionError, with close names, when there is none.
    """
    nodes = _require(source, name)
    origins = frozenset().union(*(node.origin for node in nodes))
    edits = tuple(edit for edit in log if origins & set(edit.origin))
    now = tuple(print_node(node) for node in result.walk() if origins & node.origin)
    return History(name, tuple(map(print_node, nodes)), edits, now)


def leaves(item: Pass) -> Iterator[Pass]:
    """The passes that a pipeline runs, each as often as it is written."""
    if isinstance(item, Pipeline):
        for inner in item.passes:
            yield from leaves(inner)
    else:
        yield item


def _rules(item: Pass, graph: Graph, name: str) -> list[Rule]:
    """The rules called ``name``; all those of the pass when that is the pass's name."""
    if not isinstance(item, RulePass):
        return []
    rules = item.rules(graph)
    return rules if item.name == name else [rule for rule in rules if rule.name == name]


@dataclass
class _Watch:
    """Looks at a node whenever a pass that has the rule runs."""

    rule: str
    node: str
    ctx: PassContext
    passes: set[str] = field(default_factory=set)
    # Where the pass last saw the node; where the rule last saw it: it starts at its op there.
    seen: WhyNot | None = None
    refused: WhyNot | None = None
    before: WhyNot | None = None

    def look_before(self, item: Pass, graph: Graph) -> None:
        self.before = self.look(item, graph, len(self.ctx.log.steps) + 1)

    def look_after(self, item: Pass, graph: Graph) -> None:
        found = self.look(item, graph, len(self.ctx.log.steps)) or self.before
        if found is not None:
            self.seen = found
            if found.verdict == "refused":
                self.refused = found

    def look(self, item: Pass, graph: Graph, step: int) -> WhyNot | None:
        rules = _rules(item, graph, self.rule)
        if not rules and item.name != self.rule:
            return None
        self.passes.add(item.name)
        nodes = nodes_called(graph, self.node)
        if not nodes:
            return None
        answer = _refusal(rules, nodes) if rules else _by_hand(item, nodes)
        return replace(answer, rule=self.rule, node=self.node, pass_name=item.name, step=step)


def _by_hand(item: Pass, nodes: Sequence[Node]) -> WhyNot:
    for node in nodes:
        refused = item.refuses(node)
        if refused is not None:
            return _answer(refused)
    return WhyNot("", "", "refused", "the pass found nothing to do here and gives no reason")


def _answer(refused: Refusal) -> WhyNot:
    bound = tuple(f"{name} is {_brief(found)}" for name, found in refused.bound)
    return WhyNot("", "", "refused", refused.text, describe(refused.culprit), bound)


def _brief(found: Node | Value) -> str:
    if isinstance(found, Value) and found.producer is not None:
        return f"%{found.name}: {found.type}"
    return repr(found) if isinstance(found, Node) else describe(found)


def _refusal(rules: Sequence[Rule], nodes: Sequence[Node]) -> WhyNot:
    """The refusal that came furthest, of all rules at all nodes."""
    best: Refusal | None = None
    for rule in rules:
        for node in nodes:
            if (node.op.domain, node.op.name) not in rule.roots:
                continue
            found = rule.match(node)
            if isinstance(found, Match):
                reason = f"{rule.name} matches {node!r} now; the pass did not come back to it"
                return WhyNot("", "", "refused", reason, describe(node))
            if best is None or found.reached > best.reached:
                best = found
    if best is not None:
        return _answer(best)
    roots = sorted({f"{d}::{n}" if d else n for rule in rules for d, n in rule.roots})
    node = nodes[0]
    reason = f"the rule starts at {' or '.join(roots)}, this is {node.op.qualified}"
    return WhyNot("", "", "other-op", reason, describe(node))


def why_not(
    source: Graph,
    pipeline: Pass,
    rule: str,
    node: str,
    *,
    library: Iterable[type[Pass]] = (),
    ctx: PassContext | None = None,
) -> WhyNot:
    """Why ``rule`` (or a whole pass, by its name) leaves ``node`` alone when ``pipeline`` runs on
    ``source``, which is left as it is.

    The rule looks at the node where its pass last saw it. ``library`` are passes that may have the
    rule without being in the pipeline. Raises OptionError, with close names, when there is no such
    rule or node.
    """
    _require(source, node)
    ctx = ctx or PassContext()
    watch = _Watch(rule, node, ctx)
    ctx.before.append(watch.look_before)
    ctx.after.append(watch.look_after)
    graph = clone(source)
    pipeline(graph, ctx)
    fired = _fired(ctx.log, source, rule, node)
    if fired is not None:
        reason = f"it did apply, in edit #{fired.number}"
        return WhyNot(
            rule, node, "fired", reason, pass_name=fired.pass_name, step=fired.step, edit=fired
        )
    if not watch.passes:
        return _not_run(source, pipeline, rule, node, library)
    return _judge(watch, source, ctx.log)


def _judge(watch: _Watch, source: Graph, log: EditLog) -> WhyNot:
    removed = _removal(log, source, watch.node)
    if watch.refused is not None:
        later = removed is not None and removed.step >= watch.refused.step
        return replace(watch.refused, edit=removed if later else None)
    if watch.seen is not None:
        if removed is None or removed.step > watch.seen.step:
            return watch.seen
        reason = f"edit #{removed.number} had made it part of another node by then"
        return replace(watch.seen, verdict="gone", reason=reason, edit=removed)
    name = ", ".join(sorted(watch.passes))
    by = f"edit #{removed.number} had removed it" if removed is not None else "nothing is left"
    reason = f"the node was gone when {name} ran: {by}"
    return WhyNot(watch.rule, watch.node, "gone", reason, pass_name=name, edit=removed)


def _removal(log: EditLog, source: Graph, name: str) -> Edit | None:
    """The first edit that took away a node of that name."""
    nodes = nodes_called(source, name)
    shown = {repr(node) for node in nodes}
    values = {value.name for node in nodes for value in node.outputs}
    for edit in log:
        for text in edit.removed:
            outputs = text.partition(" = ")[0].split(", ")
            if text in shown or any(out.removeprefix("%") in values for out in outputs):
                return edit
    return None


def _fired(log: EditLog, source: Graph, rule: str, name: str) -> Edit | None:
    nodes = nodes_called(source, name)
    values = {f"%{value.name}" for node in nodes for value in node.outputs}
    for edit in log:
        if rule in (edit.rule, edit.pass_name):
            outputs = {o for text in edit.removed for o in text.partition(" = ")[0].split(", ")}
            if outputs & values:
                return edit
    return None


def _not_run(
    source: Graph, pipeline: Pass, rule: str, node: str, library: Iterable[type[Pass]]
) -> WhyNot:
    known: dict[str, str] = {}
    for cls in library:
        item = cls()
        known[item.name] = item.name
        if isinstance(item, RulePass):
            known.update((found.name, item.name) for found in item.rules(source))
    if rule in known:
        owner = known[rule]
        reason = f"the pipeline '{pipeline}' does not run the pass '{owner}'"
        reason += "" if owner == rule else " that has the rule"
        return WhyNot(rule, node, "not-run", reason, pass_name=owner)
    close = difflib.get_close_matches(rule, known, 3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise OptionError(f"there is no rule or pass '{rule}'{hint}")
