"""``graphopt bench``: how long an artifact takes, and where."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from graphopt.cli.common import JsonFlag, emit_json, load_inputs, progress, table
from graphopt.cli.inputs import artifact_inputs, parse_sizes

if TYPE_CHECKING:
    from graphopt.runtime import Session

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
        _add_rates(result, session, data)
    if as_json:
        emit_json(result)
        return
    table(
        f"{artifact.name}, {session.threads} threads, milliseconds",
        names,
        [list(map(float, marks))],
    )
    if profile:
        _show(result)


def _add_rates(result: dict[str, Any], session: Session, data: Any) -> None:
    """What each step's operations and bytes make of its time, beside the machine's peaks."""
    from graphopt.runtime.roofline import measure_peaks, plan_choices, plan_work

    peaks = measure_peaks(session.threads)
    result["peaks"] = {"gflops": peaks.flops / 1e9, "gb_per_s": peaks.bandwidth / 1e9}
    shapes = {name: np.shape(array) for name, array in data.items()}
    plan = session.artifact().json("plan")
    for step, choice in zip(result["steps"], plan_choices(plan), strict=True):
        step |= {"choice": choice} if choice else {}
    for step, (_, work) in zip(result["steps"], plan_work(plan, shapes), strict=True):
        seconds = step["microseconds"] / 1e6 / max(step["calls"], 1.0)
        if work is None or seconds <= 0 or step["calls"] == 0:
            continue
        least, bound = work.seconds(peaks)
        step |= {
            "bound": bound,
            "roofline": least / seconds,
            "gb_per_s": work.nbytes / seconds / 1e9,
        }
        if work.flops:
            step["gflops"] = work.flops / seconds / 1e9


def _show(result: dict[str, Any]) -> None:
    steps, peaks = result["steps"], result["peaks"]
    total = sum(step["microseconds"] for step in steps) or 1.0
    rows = [
        [
            step["name"],
            step["kind"],
            " ".join(filter(None, [step["kernel"], step.get("choice")])),
            float(step["microseconds"]),
            f"{100 * step['microseconds'] / total:.1f} %",
            _number(step, "gflops"),
            _number(step, "gb_per_s"),
            f"{100 * step['roofline']:.0f} % of {step['bound']}" if "roofline" in step else "",
        ]
        for step in sorted(steps, key=lambda s: -s["microseconds"])
    ]
    header = ["origin", "kind", "kernel", "us", "share", "GFLOP/s", "GB/s", "roofline"]
    table("steps, slowest first", header, rows)
    typer.echo(
        f"measured peaks of {result['threads']} threads: {peaks['gflops']:.0f} GFLOP/s, "
        f"{peaks['gb_per_s']:.1f} GB/s from memory"
    )


def _number(step: dict[str, Any], key: str) -> str:
    return f"{step[key]:.1f}" if key in step else ""
