"""``graphopt report``: what a quantization did, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import JsonFlag, emit_json, table
from graphopt.cli.files import save_text
from graphopt.errors import InputError

__all__ = ["report_command"]


def report_command(
    report: Annotated[
        Path, typer.Argument(help="MODEL.report.json of `graphopt quantize`.", readable=False)
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write an HTML page.", readable=False)
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Layers to show.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Show bits, error and time of each layer, the worst first, and what a fallback would buy."""
    from graphopt.quantization.report import COLUMNS, layer_rows, summary, to_html

    found = _read(report)
    try:
        page, rows, lines = to_html(found), layer_rows(found), summary(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{report}' is no report of `graphopt quantize`: {type(error).__name__} {error}"
        ) from error
    if output is not None:
        save_text(output, page)
    if as_json:
        emit_json(found)
        return
    for line in lines:
        typer.echo(line)
    alarm = found.get("time", {}).get("alarm")
    if alarm:
        typer.echo(f"warning: {alarm}", err=True)
    table(f"{min(top, len(rows))} of {len(rows)} layers, worst first", COLUMNS, rows[:top])
    if output is not None:
        typer.echo(f"{output} written")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the report '{path}': {reason}") from error
    if not isinstance(found, dict):
        raise InputError(f"'{path}' is no report of `graphopt quantize`")
    return found
