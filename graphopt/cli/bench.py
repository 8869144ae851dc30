"""``graphopt bench``: how long an artifact takes, and where."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphopt.cli.common import JsonFlag, emit_json, load_inputs, progress, table
from graphopt.cli.inputs import artifact_inputs, parse_sizes

__all__ = ["bench"]


def bench(
    artifact: Annotated[Path, typer.Argument(help="Compiled artifact (.gopt).", readable=False)],
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs.")] = 50,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before them.")] = 5,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads to run on.")] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help=".npz of arrays by input name.", readable=False)
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=N", help="A dynamic size of made-up inputs."),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Time every step.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time ARTIFACT: latency percentiles, and with --profile a row a step."""
    from graphopt.runtime import load

    session = load(artifact, threads=threads)
    data = load_inputs(inputs) if inputs else artifact_inputs(artifact, parse_sizes(size))
    times = []
    with progress(f"timing {artifact.name}"):
        for _ in range(warmup):
            session.run(data)
        for _ in range(runs):
            started = time.perf_counter()
            session.run(data)
            times.append((time.perf_counter() - started) * 1e3)
    names = ("min", "p50", "p90", "p99", "max")
    marks = np.percentile(times, [0, 50, 90, 99, 100])
    result: dict[str, Any] = {
        "artifact": str(artifact),
        "threads": session.threads,
        "runs": runs,
        "milliseconds": dict(zip(names, map(float, marks), strict=True)),
    }
    if profile:
        rows = session.profile(data, runs=min(runs, 20))
        result["steps"] = [dataclasses.asdict(row) for row in rows]
    if as_json:
        emit_json(result)
        return
    table(
        f"{artifact.name}, {session.threads} threads, milliseconds",
        names,
        [list(map(float, marks))],
    )
    if profile:
        _show(result["steps"])


def _show(steps: list[dict[str, Any]]) -> None:
    total = sum(step["microseconds"] for step in steps) or 1.0
    rows = [
        [
            step["name"],
            step["kind"],
            step["kernel"],
            float(step["microseconds"]),
            f"{100 * step['microseconds'] / total:.1f} %",
        ]
        for step in sorted(steps, key=lambda s: -s["microseconds"])
    ]
    table("steps, slowest first", ["origin", "kind", "kernel", "us", "share"], rows)
