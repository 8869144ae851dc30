"""``graphopt bisect``: the edit that broke the numbers, and a few nodes that show it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import (
    InputShapes,
    JsonFlag,
    emit_json,
    load_inputs,
    parse_shapes,
    progress,
)
from graphopt.cli.models import context_of, read_graph, read_pipeline, save_graph
from graphopt.errors import VerificationError

__all__ = ["bisect"]


def bisect(
    model: Annotated[Path, typer.Argument(help="ONNX model or .gir.", readable=False)],
    passes: Annotated[str, typer.Option("--passes", help="A level or a pipeline.")] = "O2",
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help=".npz of arrays to run on.", readable=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the repro (default: MODEL.bisect)."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="Relative L2 error that outputs may have."),
    ] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Put NaN, infinities and -0 among random inputs.")
    ] = False,
    input_shape: InputShapes = None,
    as_json: JsonFlag = False,
) -> None:
    """Name the pass and the single edit after which MODEL computes something else.

    Exits with 9 when there is one, with 0 when the numbers agree.
    """
    from graphopt.verify.bisect import bisect as search

    pipeline = read_pipeline(passes)
    data = load_inputs(inputs) if inputs is not None else None
    source = read_graph(model, parse_shapes(input_shape))
    with progress(f"bisecting {model.name}"):
        ctx = context_of(passes, source)
        found = search(source, pipeline, data, tolerance=tolerance, special=special, ctx=ctx)
    result: dict[str, Any] = {
        "model": str(model),
        "passes": str(pipeline),
        "edits": found.edits,
        "tried": found.tried,
        "outputs": [
            {"name": c.name, "error": c.error, "allowed": c.tolerance} for c in found.comparisons
        ],
        "culprit": None,
    }
    if found.culprit is not None:
        folder = output or model.with_suffix(".bisect")
        result["culprit"] = _culprit(found.culprit, folder)
    if as_json:
        emit_json(result)
    else:
        _show(result, special or data is not None)
    if found.culprit is not None:
        raise typer.Exit(VerificationError.exit_code)


def _culprit(found: Any, folder: Path) -> dict[str, Any]:
    edit = found.edit
    row: dict[str, Any] = {
        "pass": edit.pass_name,
        "rule": edit.rule,
        "edit": edit.number,
        "says": edit.reason,
        "removed": list(edit.removed),
        "added": list(edit.added),
        "origin": list(edit.origin),
        "problem": found.problem,
        "repro": None,
    }
    if found.repro is not None:
        row["repro"] = _write(found.repro, edit.pass_name, folder)
    return row


def _write(repro: Any, pass_name: str, folder: Path) -> dict[str, Any]:
    from graphopt.cli.files import make_folder, save_npz

    make_folder(folder)
    files = []
    for name, graph in (("before", repro.before), ("after", repro.after)):
        files.extend(save_graph(graph, folder / f"{name}.gir"))
    save_npz(folder / "inputs.npz", repro.inputs)
    files.append(folder / "inputs.npz")
    form = "onnx" if folder / "after.onnx" in files and folder / "before.onnx" in files else "gir"
    parts = [folder / f"before.{form}", folder / f"after.{form}"]
    command = ["graphopt", "diff", *map(str, parts), "--inputs", str(folder / "inputs.npz")]
    return {
        "files": [str(file) for file in files],
        "nodes_before": sum(1 for _ in repro.before.walk()),
        "nodes_after": sum(1 for _ in repro.after.walk()),
        "output": repro.worst.name,
        "error": repro.worst.error,
        "allowed": repro.worst.tolerance,
        "shows": repro.shows,
        "command": shlex.join(command),
    }


def _show(result: dict[str, Any], chosen: bool) -> None:
    culprit = result["culprit"]
    if culprit is None:
        worst = max(result["outputs"], key=lambda row: row["error"], default=None)
        text = f"all outputs agree after {result['edits']} edits"
        if worst is not None:
            text += (
                f"; the worst is '{worst['name']}' with a relative error of {worst['error']:.3g}"
            )
        typer.echo(text)
        if not chosen:
            typer.echo("try --inputs with arrays that show the problem, or --special")
        return
    typer.echo(f"pass {culprit['pass']}, rule {culprit['rule']}, edit #{culprit['edit']}")
    if culprit["says"]:
        typer.echo(f"  {culprit['says']}")
    for text in culprit["removed"]:
        typer.echo(f"  - {text}")
    for text in culprit["added"]:
        typer.echo(f"  + {text}")
    typer.echo(f"  origin: {', '.join(culprit['origin'])}")
    typer.echo(f"  {culprit['problem']}")
    repro = culprit["repro"]
    if repro is None:
        typer.echo("no repro: what the edit touches does not run alone")
        return
    typer.echo(
        f"repro: {repro['nodes_before']} node(s) before, {repro['nodes_after']} after, output "
        f"'{repro['output']}' is off by {repro['error']:.3g} (allowed {repro['allowed']:.3g})"
    )
    typer.echo(f"  {repro['command']}")
