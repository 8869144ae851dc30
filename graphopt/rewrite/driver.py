"""The greedy driver: applies rules until none fires, from a worklist.

Rules are indexed by root op, so that a node is shown only to rules that could match it; an edit
puts back only the nodes around it. Work is linear in nodes plus edits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from graphopt.errors import CompileError
from graphopt.ir import Builder, Graph, Node, OpDef, TensorType, Value, resolve_op
from graphopt.rewrite.log import Edit, EditLog
from graphopt.rewrite.match import Match
from graphopt.rewrite.rule import Rule

__all__ = ["apply_rules", "record_edit"]

# Edits beyond this (plus a share a node) mean that two rules undo each other.
_PING_PONG = 1000

Accepts = Callable[[Node], str | None]


class _Worklist:
    """Nodes that a rule may match at, each at most once, first in first out."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.index: dict[OpDef, list[Rule]] = {}
        for rule in rules:
            for domain, name in rule.roots:
                self.index.setdefault(resolve_op(name, domain), []).append(rule)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()

    def push(self, node: Node) -> None:
        if node.op in self.index and node not in self.queued:
            self.queued.add(node)
            self.queue.append(node)

    def pop(self) -> Node:
        node = self.queue.popleft()
        self.queued.discard(node)
        return node


def apply_rules(
    graph: Graph,
    rules: Sequence[Rule],
    *,
    pass_name: str = "",
    log: EditLog | None = None,
    on_edit: Callable[[Edit], None] | None = None,
    accepts: Accepts | None = None,
) -> int:
    """Applies ``rules`` to ``graph`` and its regions up to a fixed point; returns the edit count.

    ``accepts`` says of a new node why it may not stand in the result, None when it may: a rewrite
    that builds another one is taken back. Raises CompileError when rules keep undoing each other.
    """
    work = _Worklist(rules)
    for node in graph.walk():
        work.push(node)
    edits = 0
    budget = _PING_PONG + 8 * len(work.queue) * max(1, len(rules))
    while work.queue:
        node = work.pop()
        if node.erased:
            continue
        for rule in work.index[node.op]:
            found = rule.find(node)
            if found is None:
                continue
            edit = _apply(rule, found, work, pass_name, accepts, log)
            if edit is None:
                continue
            edits += 1
            if on_edit is not None:
                on_edit(edit)
            if edits > budget:
                raise CompileError(
                    f"pass '{pass_name}': rules do not settle (last: {rule.name} at {node!r})"
                )
            break
    return edits


def _apply(
    rule: Rule,
    match: Match,
    work: _Worklist,
    pass_name: str,
    accepts: Accepts | None,
    log: EditLog | None,
) -> Edit | None:
    root = match.root
    graph = root.graph
    origin = match.origin
    builder = Builder(graph, before=root, origin=origin)
    removed = tuple(repr(node) for node in match.nodes)
    start = 0 if log is None else log.mark
    result = rule.rewrite(builder, match)
    if accepts is not None and any(accepts(node) for node in builder.created):
        for node in reversed(builder.created):
            graph.erase(node)
        return None
    values = (result,) if isinstance(result, Value) else tuple(result)
    if len(values) != len(root.outputs):
        raise CompileError(
            f"rule {rule.name} returns {len(values)} values for {len(root.outputs)} outputs"
        )
    _check_types(rule, root, values)
    around = {user for value in root.outputs for user in value.users}
    around.update(v.producer for v in root.inputs if v is not None and v.producer is not None)
    read = {v for node in match.nodes for v in node.inputs if v is not None}
    graph.replace(root, values)
    _erase_unread(match.nodes[1:], around)
    # Who is now the only reader of a value may match where sharing it was in the way.
    around.update(user for v in read if v.use_count == 1 for user in v.users)
    for value in values:
        if value is not None and value.producer is not None and not value.producer.erased:
            around.add(value.producer)
            around.update(value.users)
    for node in sorted((n for n in around if not n.erased), key=lambda n: n.output.name):
        work.push(node)
    for node in builder.created:
        if not node.erased:
            work.push(node)
    new = [node for node in builder.created if not node.erased]
    edit = Edit(
        pass_name, rule.name, removed, tuple(map(repr, new)), tuple(sorted(origin)), rule.says
    )
    # Matched nodes that others read stay: they cost what they did before.
    return edit if log is None else log.add(edit, start, _gone(match.nodes), new)


def _gone(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.erased]


def _erase_unread(nodes: Sequence[Node], around: set[Node]) -> None:
    """Erases those of ``nodes`` that nobody reads, readers before what they read."""
    left = list(nodes)
    while left:
        dead = [n for n in left if not n.erased and not any(v.use_count for v in n.outputs)]
        if not dead:
            return
        for node in dead:
            around.update(v.producer for v in node.inputs if v is not None and v.producer)
            node.graph.erase(node)
        left = [n for n in left if not n.erased]


def _check_types(rule: Rule, root: Node, values: Sequence[Value | None]) -> None:
    for old, new in zip(root.outputs, values, strict=True):
        if new is None:
            if old.use_count:
                raise CompileError(f"rule {rule.name} drops %{old.name}, which is still read")
            continue
        a, b = old.type, new.type
        if isinstance(a, TensorType) and isinstance(b, TensorType):
            ranks_differ = None not in (a.rank, b.rank) and a.rank != b.rank
            if a.dtype != b.dtype or ranks_differ:
                raise CompileError(f"rule {rule.name} replaces {old!r} by a {b}")


def record_edit(
    log: EditLog | None,
    pass_name: str,
    rule: str,
    removed: Iterable[Node],
    added: Iterable[Node],
    reason: str = "",
    *,
    start: int | None = None,
) -> None:
    """Logs an edit that a pass makes by hand, of nodes that it is about to erase and others that
    it has built or changed. Call it before readers are moved and nodes are erased: what happens
    from then on, up to the next edit, is this edit. A pass that can only tell afterwards gives as
    ``start`` what ``log.mark`` was before.
    """
    if log is None:
        return
    gone, new = list(removed), list(added)
    origin = sorted(frozenset().union(*(n.origin for n in (*gone, *new))))
    log.add(
        Edit(
            pass_name,
            rule,
            tuple(map(repr, gone)),
            tuple(map(repr, new)),
            tuple(origin),
            reason,
        ),
        start,
        gone,
        new,
    )
