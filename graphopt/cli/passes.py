"""``graphopt passes``: the pass library and its named orders."""

from __future__ import annotations

import dataclasses
from typing import Any

from graphopt.cli.common import JsonFlag, emit_json, table

__all__ = ["passes"]


def passes(as_json: JsonFlag = False) -> None:
    """List passes with what they do, and the optimization levels."""
    from graphopt.passes import TABLE
    from graphopt.passes.pipelines import LEVELS

    rows: list[dict[str, Any]] = []
    for name in TABLE.names():
        cls = TABLE.load(name)
        rows.append(
            {
                "name": name,
                "summary": (cls.__doc__ or "").strip().splitlines()[0],
                "exact": cls.exact,
                "options": {f.name: str(f.default) for f in dataclasses.fields(cls)},
            }
        )
    if as_json:
        emit_json({"passes": rows, "levels": LEVELS})
        return
    shown = [
        [
            row["name"],
            row["summary"].replace("``", ""),
            "exact" if row["exact"] else "lossy",
            ", ".join(f"{k}={v}" for k, v in row["options"].items()),
        ]
        for row in rows
    ]
    table("passes", ["name", "what it does", "", "options"], shown)
    table("levels", ["name", "pipeline"], [[name, spec] for name, spec in LEVELS.items()])
