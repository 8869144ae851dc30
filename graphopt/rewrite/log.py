"""The edit log: every change to a graph, with its reason and what it stands for.

A log that records (``EditLog(record=True)``) also keeps the graph's journal, cut at the edits, so
that :func:`graphopt.rewrite.replay` makes the same changes again, all or the first few.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.errors import ParseError
from graphopt.ir import Constant, Cost, Dim, Graph, Journal, Node, parse_dim
from graphopt.ir.journal import Entry
from graphopt.ops.schema import bytes_moved
from graphopt.rewrite.log_text import Constants, decode, encode, is_small

__all__ = ["Edit", "EditLog", "node_cost"]

# The rule of changes that a pass made before its first edit, or without one.
UNLOGGED = "(unlogged)"
# Entries that only bring new values: they belong to the edit that uses them.
_BUILDING = frozenset({"add", "const", "region", "yield"})


@dataclass(frozen=True, slots=True)
class Edit:
    """One applied change. Nodes are named by the text of their outputs, ops and operands.

    ``step`` counts runs of passes: edits of one run have the same. ``number`` counts edits from 1.
    """

    pass_name: str
    rule: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    origin: tuple[str, ...]
    reason: str = ""
    step: int = 0
    number: int = 0

    def __str__(self) -> str:
        gone, new = "; ".join(self.removed), "; ".join(self.added)
        what = f"{gone}  ->  {new or '(nothing new)'}" if gone else new or "(no nodes)"
        return f"#{self.number} {self.pass_name}/{self.rule}: {what}"


_FIELDS = ("rule", "removed", "added", "origin", "reason", "step", "number")


class EditLog:
    """Edits in the order in which they were made.

    With ``record``, what they consist of too: it takes the memory of all constants that they made.
    """

    def __init__(self, *, record: bool = False) -> None:
        self.record = record
        self.steps: list[str] = []
        self._edits: list[Edit] = []
        # Where the entries of each edit begin; they end where the next one's begin.
        self._starts: list[int] = []
        self._nodes: list[tuple[Sequence[Node], Sequence[Node]] | None] = []
        self._effects: dict[int, Cost] = {}
        self._journal: Journal | None = None
        self._entries: list[Entry] = []
        self._seen = 0
        self._says = ""
        self._loaded = False
        self._source: Graph | None = None

    # ---- while passes run ----

    def follow(self, graph: Graph) -> bool:
        """Records what happens to ``graph`` from now on; True when this call began it.

        A log is of one graph: edits of another are logged but cannot be replayed.
        """
        if not self.record or graph.parent is not None or graph.journaled:
            return False
        if self._source not in (None, graph):
            self.record = False
            return False
        if self._journal is None:
            self._source, self._journal = graph, Journal(graph)
            self._entries = self._journal.entries
        graph.journal(self._journal)
        return True

    @contextmanager
    def step(self, graph: Graph, name: str, says: str = "") -> Iterator[None]:
        """Follows ``graph`` while a pass, or whatever goes by ``name``, changes it. ``says`` is the
        reason of edits that give none."""
        followed = self.follow(graph)
        edits = self.begin(name, says)
        try:
            yield
        finally:
            self.end(name, edits)
            if followed:
                graph.journal(None)

    def begin(self, name: str, says: str = "") -> int:
        """A run of the pass ``name`` begins; how many edits there are."""
        self.steps.append(name)
        self._says = says
        self._seen = len(self._entries)
        return len(self._edits)

    def end(self, name: str, before: int) -> None:
        """The run ends: what it changed without an edit becomes one."""
        if len(self._edits) == before and len(self._entries) > self._seen:
            self._append(Edit(name, UNLOGGED, (), (), ()), self._seen, (), ())
        self._seen = len(self._entries)

    @property
    def replayable(self) -> bool:
        """True when the edits come with the changes that they consist of."""
        return self.record and (self._loaded or self._journal is not None or not self._edits)

    @property
    def mark(self) -> int:
        """Where the journal is: an edit's changes begin there."""
        return len(self._entries)

    def add(
        self,
        edit: Edit,
        start: int | None = None,
        gone: Sequence[Node] = (),
        new: Sequence[Node] = (),
    ) -> Edit:
        """Appends an edit, numbered. Its changes began at ``start``, a mark; by default with the
        nodes and constants built last."""
        if start is None:
            start = len(self._entries)
            while start > self._seen and self._entries[start - 1][0] in _BUILDING:
                start -= 1
        if start > self._seen and (not self._edits or self._edits[-1].step != len(self.steps)):
            self._append(Edit(edit.pass_name, UNLOGGED, (), (), ()), self._seen, (), ())
        added = self._append(edit, start, gone, new)
        self._seen = len(self._entries)
        return added

    def _append(self, edit: Edit, start: int, gone: Sequence[Node], new: Sequence[Node]) -> Edit:
        number = len(self._edits) + 1
        edit = Edit(
            edit.pass_name, edit.rule, edit.removed, edit.added, edit.origin,
            edit.reason or self._says, len(self.steps), number,
        )  # fmt: skip
        self._edits.append(edit)
        self._starts.append(start)
        # Nodes that are gone hold weights that are gone.
        self._nodes.append((gone, new) if self.record else None)
        return edit

    # ---- reading ----

    def __len__(self) -> int:
        return len(self._edits)

    def __iter__(self) -> Iterator[Edit]:
        return iter(self._edits)

    def __getitem__(self, index: int) -> Edit:
        return self._edits[index]

    def about(self, source_node: str) -> list[Edit]:
        """Edits that touched a node of the source model."""
        return [edit for edit in self._edits if source_node in edit.origin]

    def entries(self, first: int = 0, stop: int | None = None) -> list[Entry]:
        """Primitive changes that edits ``first`` to ``stop`` (counted from 0) consist of."""
        stop = len(self._edits) if stop is None else stop
        if first >= stop:
            return []
        end = self._starts[stop] if stop < len(self._starts) else len(self._entries)
        return self._entries[self._starts[first] : end]

    def effect(self, index: int) -> Cost | None:
        """Floating-point operations and bytes moved that edit ``index`` adds (less than 0: saves),
        as :class:`OpDef` counts them; sizes that only a run knows are symbols. None for a log that
        does not record."""
        found, nodes_of = self._effects.get(index), self._nodes[index]
        if found is None and nodes_of is not None:
            gone, new = nodes_of
            flops: Dim = 0
            moved: Dim = 0
            for nodes, sign in ((gone, -1), (new, 1)):
                for node in nodes:
                    cost = node_cost(node)
                    flops, moved = flops + sign * cost.flops, moved + sign * cost.bytes
            found = self._effects[index] = Cost(flops, moved)
        return found

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (pass, rule) applied."""
        result: dict[tuple[str, str], int] = {}
        for edit in self._edits:
            key = (edit.pass_name, edit.rule)
            result[key] = result.get(key, 0) + 1
        return result

    # ---- text ----

    def to_json_lines(self) -> str:
        """One JSON object a line. Of large constants only digests: see :meth:`constants`."""
        lines = []
        for index, edit in enumerate(self._edits):
            # dataclasses.asdict copies deeply, which takes longer than all the rest.
            fields: dict[str, Any] = {name: getattr(edit, name) for name in _FIELDS}
            fields["pass"] = edit.pass_name
            cost = self.effect(index)
            if cost is not None:
                fields["flops"], fields["bytes"] = map(_dim_json, (cost.flops, cost.bytes))
            if self.record:
                fields["entries"] = [encode(entry) for entry in self.entries(index, index + 1)]
            lines.append(json.dumps(fields, sort_keys=True) + "\n")
        return "".join(lines)

    def constants(self) -> dict[str, np.ndarray[Any, Any]]:
        """Bytes of the constants that stand by digest in :meth:`to_json_lines`."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        for entry in self.entries():
            for constant in _constants_of(entry):
                if not is_small(constant) and constant.digest not in found:
                    data = np.ascontiguousarray(constant.array).reshape(-1)
                    found[constant.digest] = data.view(np.uint8)
        return found

    @staticmethod
    def from_json_lines(text: str, constants: Constants | None = None) -> EditLog:
        """The inverse of :meth:`to_json_lines`, given the bytes that :meth:`constants` returns.

        Raises ParseError with the line where the text is none.
        """
        log = EditLog()
        for number, line in enumerate(text.splitlines(), 1):
            try:
                log._read(json.loads(line), constants)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ParseError(f"line {number} of the edit log is damaged: {error!r}") from error
        return log

    def _read(self, fields: dict[str, Any], constants: Constants | None) -> None:
        entries = fields.pop("entries", None)
        costs = [parse_dim(str(fields.pop(k))) for k in ("flops", "bytes") if k in fields]
        for key in ("removed", "added", "origin"):
            fields[key] = tuple(fields[key])
        edit = Edit(fields.pop("pass"), **fields)
        while len(self.steps) < edit.step:
            self.steps.append(edit.pass_name if len(self.steps) + 1 == edit.step else "")
        if len(costs) == 2:
            self._effects[len(self._edits)] = Cost(*costs)
        self._edits.append(replace(edit, number=len(self._edits) + 1))
        self._starts.append(len(self._entries))
        self._nodes.append(None)
        if entries is not None:
            self.record = self._loaded = True
            self._entries.extend(decode(entry, constants) for entry in entries)


def _dim_json(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else str(dim)


def _constants_of(entry: Entry) -> Iterable[Constant]:
    if entry[0] == "const":
        yield entry[3]
    elif entry[0] in ("add", "attr"):
        values = entry[6].values() if entry[0] == "add" else [entry[3]]
        yield from _nested(values)


def _nested(values: Iterable[Any]) -> Iterable[Constant]:
    for value in values:
        if isinstance(value, Constant):
            yield value
        elif isinstance(value, tuple | list):
            yield from _nested(value)
        elif isinstance(value, Mapping):
            yield from _nested(value.values())


def node_cost(node: Node) -> Cost:
    """What one run of a node costs; bytes alone where its op does not say, 0 where that is not
    known either."""
    try:
        return node.op.cost(node) if node.op.cost is not None else Cost(0, bytes_moved(node))
    except Exception:
        # Costs are advice: an op that cannot tell for these operands does not stop anybody.
        return Cost(0, 0)
