"""``graphopt targets``: what can be compiled for, here."""

from __future__ import annotations

from typing import Any

from graphopt.cli.common import JsonFlag, emit_json, table
from graphopt.errors import ToolchainError

__all__ = ["targets"]


def targets(as_json: JsonFlag = False) -> None:
    """List targets, whether they work here, and their options."""
    from graphopt.backends import find, names

    rows: list[dict[str, Any]] = []
    for name in names():
        try:
            backend = find(name)
        except ToolchainError as error:  # a broken package must not hide the others
            row = {"name": name, "summary": "", "available": False, "why_not": str(error)}
            rows.append({**row, "options": {}})
            continue
        unavailable = backend.probe()
        rows.append(
            {
                "name": name,
                "summary": backend.summary,
                "available": unavailable is None,
                "why_not": None if unavailable is None else str(unavailable),
                "options": dict(backend.options),
            }
        )
    if as_json:
        emit_json({"targets": rows})
        return
    shown = [
        [
            row["name"],
            row["summary"],
            "yes" if row["available"] else row["why_not"],
            "; ".join(f"{k}: {v}" for k, v in row["options"].items()),
        ]
        for row in rows
    ]
    table("targets", ["name", "what it is", "available", "options"], shown)
