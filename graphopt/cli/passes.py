"""``graphopt passes``: the pass library and its named orders."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from graphopt.cli.common import JsonFlag, emit_json, table
from graphopt.cli.models import check_order
from graphopt.errors import OptionError

__all__ = ["passes"]


def passes(
    lint: Annotated[
        str | None,
        typer.Option("--lint", metavar="PIPELINE", help="Check the order of a level or pipeline."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List passes with what they do, and the optimization levels; or check an order of passes.

    With --lint it exits with 2 when a pass cannot run where it stands.
    """
    if lint is not None:
        _lint(lint, as_json)
        return
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
                "numerics": str(cls.numerics),
                "follows": list(cls.follows),
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
            row["numerics"],
            ", ".join(f"{k}={v}" for k, v in row["options"].items()),
        ]
        for row in rows
    ]
    table("passes", ["name", "what it does", "", "options"], shown)
    table("levels", ["name", "pipeline"], [[name, spec] for name, spec in LEVELS.items()])


def _lint(spec: str, as_json: bool) -> None:
    from graphopt.passes import parse_pipeline
    from graphopt.passes.pipelines import LEVELS, level

    pipeline = level(spec) if spec in LEVELS else parse_pipeline(spec)
    found = check_order(pipeline)
    if as_json:
        emit_json({"pipeline": str(pipeline), "findings": [dataclasses.asdict(f) for f in found]})
    elif not found:
        typer.echo("every pass comes after what it builds on")
    for finding in [] if as_json else found:
        typer.echo(str(finding))
    if any(finding.is_error for finding in found):
        raise typer.Exit(OptionError.exit_code)
