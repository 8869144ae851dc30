"""The edit log: every change to a graph, with its reason and what it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Edit", "EditLog"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One applied change. Nodes are named by the text of their outputs, ops and operands."""

    pass_name: str
    rule: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    origin: tuple[str, ...]
    reason: str = ""


class EditLog:
    """Edits in the order in which they were made."""

    def __init__(self) -> None:
        self._edits: list[Edit] = []

    def add(self, edit: Edit) -> None:
        """Appends an edit."""
        self._edits.append(edit)

    def __len__(self) -> int:
        return len(self._edits)

    def __iter__(self) -> Iterator[Edit]:
        return iter(self._edits)

    def about(self, source_node: str) -> list[Edit]:
        """Edits that touched a node of the source model."""
        return [edit for edit in self._edits if source_node in edit.origin]

    def to_json_lines(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(asdict(edit), sort_keys=True) + "\n" for edit in self._edits)

    @staticmethod
    def from_json_lines(text: str) -> EditLog:
        """The inverse of :meth:`to_json_lines`."""
        log = EditLog()
        for line in text.splitlines():
            fields: dict[str, Any] = json.loads(line)
            for key in ("removed", "added", "origin"):
                fields[key] = tuple(fields[key])
            log.add(Edit(**fields))
        return log

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (pass, rule) applied."""
        result: dict[tuple[str, str], int] = {}
        for edit in self._edits:
            key = (edit.pass_name, edit.rule)
            result[key] = result.get(key, 0) + 1
        return result

    def extend(self, edits: Iterable[Edit]) -> None:
        """Appends edits."""
        self._edits.extend(edits)
