"""``graphopt run``: an artifact on given or made-up inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphopt.cli.common import JsonFlag, emit_json, load_inputs, table
from graphopt.cli.inputs import artifact_inputs, parse_sizes

__all__ = ["run_command"]


def run_command(
    artifact: Annotated[Path, typer.Argument(help="Compiled artifact (.gopt).", readable=False)],
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help=".npz of arrays by input name.", readable=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=".npz to write the outputs to.", readable=False),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads to run on.")] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=N", help="A dynamic size of made-up inputs."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of made-up inputs.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Run ARTIFACT once and show its outputs."""
    from graphopt.cli.files import save_npz
    from graphopt.runtime import load

    session = load(artifact, threads=threads)
    data = load_inputs(inputs) if inputs else artifact_inputs(artifact, parse_sizes(size), seed)
    results = session.run(data)
    if output is not None:
        save_npz(output, results)
    rows = [_summary(name, np.asarray(value)) for name, value in results.items()]
    if as_json:
        emit_json({"outputs": rows, "written": str(output) if output else None})
        return
    columns = ["name", "dtype", "shape", "min", "mean", "max"]
    table("", columns, [[row[column] for column in columns] for row in rows])


def _summary(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    numbers = array.astype(np.float64) if array.size and array.dtype.kind not in "OUSc" else None
    return {
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": None if numbers is None else float(numbers.min()),
        "mean": None if numbers is None else float(numbers.mean()),
        "max": None if numbers is None else float(numbers.max()),
    }
