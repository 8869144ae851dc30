"""ONNX to ONNX beside its peers: ``python -m benchmarks.optimize [--models a,b] [--speed]``.

Over the zoo and the light models of the ONNX suite: nodes that are no Constants (subgraphs
included) before and after, the error of each result against the model (relative L2, worst over the
inputs of all shapes, both run by onnxruntime with its optimizations off), whether it is valid, and
CPU seconds. ``--speed`` also times each result in onnxruntime, every engine in a process of its
own, taking turns. Each optimizer runs in a process of its own on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare, optimizers, report
from benchmarks.optimize_models import Feed, Subject, subjects
from benchmarks.worker import Worker, WorkerError

SMALLEST = ("onnxslim", "onnxsim", "ort-basic")
"""Peers whose smallest correct result is the bar for nodes."""
EXACT = 1e-6
REORDERED = 1e-5


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a result of graphopt misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimize", description=__doc__)
    parser.add_argument("--models", help="comma-separated names, or parts of names")
    parser.add_argument("--peers", default=",".join(SMALLEST))
    parser.add_argument("--limit", type=float, default=300, help="seconds an optimizer may take")
    parser.add_argument("--speed", action="store_true", help="time the results in onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    names = ["graphopt", *filter(None, args.peers.split(","))]
    records = []
    for subject in subjects(args.models):
        with tempfile.TemporaryDirectory(prefix="graphopt-optimize-") as scratch:
            folder = Path(scratch)
            print(f"{subject.name} ...", file=sys.stderr, flush=True)
            record = _judge(subject, names, folder, args.limit)
            if args.speed:
                _race(subject, record, names, folder, args)
            records.append(record)
            print(_line(record, names), file=sys.stderr, flush=True)
    _print(records, names, args.speed)
    packages = sorted({optimizers.PACKAGES.get(n, n) for n in names} | {"onnx", "onnxruntime"})
    report.write_json(args.json, report.machine(args.threads, packages), records)
    missed = [f"{r['model']}: {reason}" for r in records for reason in r["missed"]]
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def _judge(subject: Subject, names: Sequence[str], folder: Path, limit: float) -> dict[str, Any]:
    """Nodes, errors, validity and cost of every optimizer on one model."""
    feeds = subject.feeds()
    record: dict[str, Any] = {"model": subject.name, "before": optimizers.count_nodes(subject.file)}
    want = [_outputs(subject.file, feed, folder) for feed in feeds]
    for name in names:
        record[name] = _result(subject, name, feeds, want, folder, limit)
    fused = [_outputs(subject.file, feed, folder, "onnxruntime") for feed in feeds]
    pairs = zip(fused, want, strict=True)
    distance = max(compare.worst_error(a, b) for a, b in pairs)
    record["onnxruntime_distance"] = distance
    record["missed"] = _missed(record, names, max(REORDERED, 2 * distance))
    return record


def _result(
    subject: Subject,
    name: str,
    feeds: Sequence[Feed],
    want: Sequence[Any],
    folder: Path,
    limit: float,
) -> dict[str, Any]:
    outcome = optimizers.optimize(name, subject.file, folder / f"{name}.onnx", limit=limit)
    if outcome.error:
        return {"failed": outcome.error}
    found: dict[str, Any] = {
        "nodes": optimizers.count_nodes(outcome.file),
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "problem": optimizers.problem(outcome.file),
    }
    try:
        got = [_outputs(outcome.file, feed, folder) for feed in feeds]
        pairs = zip(got, want, strict=True)
        found["error"] = max(compare.worst_error(a, b) for a, b in pairs)
    except WorkerError as error:
        found["error"], found["problem"] = math.inf, str(error)[:200]
    return found


def _outputs(file: Path, feed: Feed, folder: Path, engine: str = "oracle") -> Any:
    inputs = folder / "feed.npz"
    np.savez(inputs, **feed)
    with Worker(engine, file, inputs, 1) as worker:
        return worker.outputs(folder / "outputs.npz")


def _correct(found: dict[str, Any], bound: float) -> bool:
    return "failed" not in found and not found["problem"] and found["error"] <= bound


def _missed(record: dict[str, Any], names: Sequence[str], bound: float) -> list[str]:
    mine = record["graphopt"]
    if "failed" in mine:
        return [mine["failed"]]
    missed = []
    if mine["problem"]:
        missed.append(mine["problem"])
    if not mine["error"] <= bound:
        missed.append(f"error {mine['error']:.1e} is over {bound:.1e}")
    peers = {n: record[n]["nodes"] for n in names[1:] if _correct(record[n], 1e-3)}
    if peers and mine["nodes"] > min(peers.values()):
        best = min(peers, key=lambda n: peers[n])
        missed.append(f"{best} leaves {peers[best]} nodes, graphopt {mine['nodes']}")
    return missed


def _race(
    subject: Subject, record: dict[str, Any], names: Sequence[str], folder: Path, args: Any
) -> None:
    """Time the model and every correct result in onnxruntime; blocks of runs take turns."""
    feed = folder / "feed.npz"
    np.savez(feed, **subject.feeds()[0])
    files = {"original": subject.file}
    files |= {n: folder / f"{n}.onnx" for n in names if _correct(record[n], 1e-3)}
    measured = compare.Measured(subject.name, 0, {})
    with ExitStack() as stack:
        workers = {
            n: stack.enter_context(Worker("onnxruntime", file, feed, args.threads))
            for n, file in files.items()
        }
        for name, worker in workers.items():
            worker.run(3)
            measured.rounds[name] = []
        for index in range(args.rounds):
            turn = list(workers.items())
            for name, worker in turn if index % 2 == 0 else reversed(turn):
                time.sleep(compare.REST_SECONDS)
                worker.run(1)
                times = worker.run(max(1, args.runs // args.rounds))
                measured.rounds[name].append(times)
    record["ns"] = {name: measured.median(name) for name in files}
    if "graphopt" in files:
        record["ratio"] = {n: 1 / measured.paired(n) for n in files if n != "graphopt"}


def _ratios(record: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """How much faster our result runs than that of each peer."""
    ratios: dict[str, float] = record.get("ratio", {})
    return {n: ratios[n] for n in ("original", *names[1:]) if n in ratios}


def _line(record: dict[str, Any], names: Sequence[str]) -> str:
    parts = [f"{n} {_cell(record[n])}" for n in names]
    ratios = [f"x{ratio:.2f} {n}" for n, ratio in _ratios(record, names).items()]
    return f"{record['model']}: {record['before']} -> " + "; ".join(parts + ratios)


def _cell(found: dict[str, Any]) -> str:
    if "failed" in found:
        return "failed"
    flag = " invalid" if found["problem"] else ""
    return f"{found['nodes']} ({found['error']:.0e}, {found['seconds']:.2f} s){flag}"


def _print(records: Sequence[dict[str, Any]], names: Sequence[str], speed: bool) -> None:
    rows = [[r["model"], str(r["before"]), *(_cell(r[n]) for n in names)] for r in records]
    print(report.markdown(["model", "nodes", *names], rows))
    print("nodes left (relative L2 error, CPU seconds of the whole process on one core)\n")
    if not speed:
        return
    against = ["original", *names[1:]]
    rows, products = [], dict.fromkeys(against, 0.0)
    counts = dict.fromkeys(against, 0)
    for record in records:
        ratios = _ratios(record, names)
        mine = record.get("ns", {}).get("graphopt")
        cells = [f"{ratios[n]:.2f}" if n in ratios else "" for n in against]
        rows.append([record["model"], report.milliseconds(mine) if mine else "", *cells])
        for name, ratio in ratios.items():
            products[name] += math.log(ratio)
            counts[name] += 1
    mean = [f"{math.exp(products[n] / counts[n]):.3f}" if counts[n] else "" for n in against]
    rows.append(["geometric mean", "", *mean])
    print(report.markdown(["model", "graphopt ms", *against], rows))
    print("how many times as long the result of each peer takes in onnxruntime as ours: the median")
    print("over the rounds, as each round meets the machine in one state")


if __name__ == "__main__":
    raise SystemExit(main())
