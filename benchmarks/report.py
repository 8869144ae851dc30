"""What every benchmark prints: the machine, a Markdown table, and JSON beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import engines


def machine(threads: int, used: Sequence[str]) -> dict[str, Any]:
    """What figures depend on: processor, cores, threads and the versions of the engines."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "python": platform.python_version(),
        "engines": {name: engines.version(name) for name in used},
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; the first column is text."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = [f"{'-' * width}{'-' if i == 0 else ':'}" for i, width in enumerate(widths)]
    lines.insert(1, "|" + "|".join("-" + part for part in rule) + "|")
    return "\n".join(lines)


def describe(info: dict[str, Any]) -> str:
    """One line for a person: the machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in info["engines"].items())
    return f"{info['cpu']}, {info['cores']} cores, {info['threads']} threads; {versions}"


def write_json(file: Path | None, info: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write ``{"machine", "rows"}`` to ``file``; nothing when it is None."""
    if file is not None:
        file.write_text(json.dumps({"machine": info, "rows": list(rows)}, indent=1) + "\n")


def milliseconds(ns: float) -> str:
    """A time in ms with three figures: ``0.0712``, ``2.95``, ``116``."""
    ms = ns / 1e6
    if ms >= 100:
        return f"{ms:.0f}"
    return f"{ms:.3g}" if ms < 10 else f"{ms:.1f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *rest]) + " |"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
