"""``graphopt explain``: what passes did to a model, and why a rule did not apply."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, parse_shapes, progress, table
from graphopt.cli.models import context_of, read_graph, read_log, read_pipeline
from graphopt.errors import OptionError
from graphopt.rewrite import Edit, EditLog

__all__ = ["explain"]


def explain(
    model: Annotated[
        Path,
        typer.Argument(help="ONNX model, .gir, or a saved edit log (.jsonl).", readable=False),
    ],
    passes: Annotated[str, typer.Option("--passes", help="A level or a pipeline.")] = "O2",
    node: Annotated[
        str | None, typer.Option("--node", metavar="NODE", help="History of a source node.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Every edit, in order.")] = False,
    why_not: Annotated[
        tuple[str, str] | None,
        typer.Option("--why-not", metavar="RULE NODE", help="Why RULE leaves NODE alone."),
    ] = None,
    input_shape: InputShapes = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what passes do to MODEL: edits by rule, or what the options ask for."""
    if model.suffix == ".jsonl":
        edits = read_log(model)
        if why_not is not None:
            raise OptionError("--why-not looks at the model: give the model, not its edit log")
        result = _of_log(edits, node, log)
    else:
        result = _of_model(model, passes, node, log, why_not, parse_shapes(input_shape))
    if as_json:
        emit_json(result)
        return
    _show(result)


def _of_log(edits: EditLog, node: str | None, log: bool) -> dict[str, Any]:
    if node is None:
        return _overview(edits, log)
    touched = edits.about(node) or [e for e in edits if _names(e, node)]
    if not touched:
        raise OptionError(f"no edit of this log touched a node '{node}'")
    return {"node": node, "edits": [_row(edits, e) for e in touched]}


def _names(edit: Edit, value: str) -> bool:
    heads = (text.partition(" = ")[0].split(", ") for text in (*edit.removed, *edit.added))
    return any(f"%{value}" in head for head in heads)


def _of_model(
    model: Path,
    passes: str,
    node: str | None,
    log: bool,
    why_not: tuple[str, str] | None,
    shapes: Any,
) -> dict[str, Any]:
    from graphopt.ir import clone
    from graphopt.rewrite.explain import history
    from graphopt.rewrite.explain import why_not as ask

    pipeline = read_pipeline(passes)
    with progress(f"optimizing {model.name}"):
        source = read_graph(model, shapes)
        ctx = context_of(passes, source)
        if why_not is not None:
            from graphopt.passes import TABLE

            library = [TABLE.load(name) for name in TABLE.names()]
            answer = ask(source, pipeline, *why_not, library=library, ctx=ctx)
            fields = {**dataclasses.asdict(answer), "text": str(answer)}
            fields["edit"] = None if answer.edit is None else _row(ctx.log, answer.edit)
            return {"why_not": fields}
        result = clone(source)
        pipeline(result, ctx)
    if node is None:
        return _overview(ctx.log, log)
    found = history(source, result, ctx.log, node)
    rows = [_row(ctx.log, edit) for edit in found.edits]
    return {"node": node, "source": list(found.source), "edits": rows, "now": list(found.now)}


def _overview(edits: EditLog, log: bool) -> dict[str, Any]:
    if log:
        return {"log": [_row(edits, edit) for edit in edits]}
    counts = [
        {"pass": pass_name, "rule": rule, "edits": count}
        for (pass_name, rule), count in edits.counts().items()
    ]
    return {"rules": counts}


def _row(log: EditLog, edit: Edit) -> dict[str, Any]:
    row = dataclasses.asdict(edit)
    row["pass"] = row.pop("pass_name")
    cost = log.effect(edit.number - 1)
    if cost is not None:
        row["flops"], row["bytes"] = (
            d if isinstance(d, int) else str(d) for d in (cost.flops, cost.bytes)
        )
    return row


def _show(result: dict[str, Any]) -> None:
    if "why_not" in result:
        typer.echo(result["why_not"]["text"])
        return
    if "rules" in result:
        rows = [[row["pass"], row["rule"], row["edits"]] for row in result["rules"]]
        table(f"{sum(row[2] for row in rows)} edits", ["pass", "rule", "edits"], rows)
        return
    if "log" in result:
        for row in result["log"]:
            _edit(row, "")
        return
    for line in result.get("source", ()):
        typer.echo(f"source: {line}")
    for row in result["edits"]:
        _edit(row, "  ")
    if not result["edits"]:
        typer.echo("  no edit touched it")
    for line in result.get("now", ()):
        typer.echo(f"now:    {line}")
    if "now" in result and not result["now"]:
        typer.echo("now:    nothing stands for it any more")


def _edit(row: dict[str, Any], indent: str) -> None:
    reason = f": {row['reason']}" if row["reason"] else ""
    typer.echo(f"{indent}#{row['number']} {row['pass']}/{row['rule']}{reason}")
    for text in row["removed"]:
        typer.echo(f"{indent}    - {text}")
    for text in row["added"]:
        typer.echo(f"{indent}    + {text}")
    if "flops" in row:
        typer.echo(f"{indent}    {_signed(row['flops'])} flops, {_signed(row['bytes'])} bytes")


def _signed(count: int | str) -> str:
    return f"{count:+,}" if isinstance(count, int) else count
