"""Load time and memory: ``python -m benchmarks.load_time [--models a,b] [--engines onnxruntime]``.

"ready" is from ``load`` to a session, "first" to the first output, "RSS" the most memory that the
process had resident up to there and through ten runs, the interpreter and mapped files included.
Each figure is the median over fresh processes that take turns; model files are in the page cache.
The last columns are graphopt over the best peer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare, engines, report, zoo
from benchmarks.worker import Worker, WorkerError

DEFAULT = "resnet-50,mobilenet-v2,bert-base,ppocr-rec,silero-vad"
FIGURES = ("ready_ns", "first_ns", "rss_bytes")


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a model failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_time", description=__doc__)
    parser.add_argument("--models", default=DEFAULT, help="comma-separated (default: %(default)s)")
    parser.add_argument("--engines", default="onnxruntime", help="peers, comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes a model")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    used = ["graphopt", *args.engines.split(",")]
    if unknown := set(used) - set(engines.names()):
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}")
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for name in args.models.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            record = _one(name, used, args.threads, args.repeats)
        except (WorkerError, KeyError, zoo.ZooError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            record = {"model": name, "failed": str(error)}
        records.append(record)
        rows.append(row(record, used))
    header = ["model"]
    for engine in used:
        header += [f"{engine} ready ms", "first ms", "RSS MB"]
    print(report.markdown([*header, "ready", "first", "RSS"], rows))
    report.write_json(args.json, report.machine(args.threads, used), records)
    return 1 if any("failed" in record for record in records) else 0


def _one(name: str, used: Sequence[str], threads: int, repeats: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[int]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        folder = Path(scratch)
        artifact, _ = compare.compile_model(name, folder, "--no-verify")
        feed = folder / "feed.npz"
        np.savez(feed, **zoo.inputs(name, 0, 0))
        for _ in range(repeats):
            for engine in used:
                if engine in failed:
                    continue
                file = artifact if engine == "graphopt" else zoo.path(name)
                try:
                    figures = _figures(engine, file, feed, threads)
                except WorkerError as error:
                    if engine == "graphopt":
                        raise
                    failed[engine] = str(error)
                    continue
                mine = found.setdefault(engine, {figure: [] for figure in FIGURES})
                for figure, value in zip(FIGURES, figures, strict=True):
                    mine[figure].append(value)
    medians = {
        engine: {figure: statistics.median(values) for figure, values in each.items()}
        for engine, each in found.items()
        if engine not in failed
    }
    return {"model": name, "engines": medians, "peers_failed": failed, "all": found}


def _figures(engine: str, file: Path, feed: Path, threads: int) -> tuple[int, int, int]:
    with Worker(engine, file, feed, threads, limit=300) as worker:
        worker.run(10)
        return worker.ready_ns, worker.load_ns, worker.peak_bytes()


def row(record: dict[str, Any], used: Sequence[str]) -> list[str]:
    """A line of the table: three figures an engine, then graphopt over the best peer of each."""
    if "failed" in record:
        return [record["model"], *["failed"] * (3 * len(used) + 3)]
    cells = [record["model"]]
    medians = record["engines"]
    for engine in used:
        mine = medians.get(engine)
        if mine is None:
            cells += ["-"] * 3
            continue
        cells += [report.milliseconds(mine[figure]) for figure in FIGURES[:2]]
        cells.append(f"{mine['rss_bytes'] / 1e6:.0f}")
    for figure in FIGURES:
        peers = [each[figure] for engine, each in medians.items() if engine != "graphopt"]
        cells.append(f"{medians['graphopt'][figure] / min(peers):.2f}" if peers else "-")
    return cells


if __name__ == "__main__":
    raise SystemExit(main())
