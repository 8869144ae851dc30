"""From ``graphopt.load`` to the first output: ``python -m benchmarks.load_time [--models a,b]``.

Each figure is the median over fresh processes; the file is in the page cache. Beside it stands
the median of one inference, and onnxruntime's time from session to first output.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare, report, zoo
from benchmarks.worker import Worker, WorkerError

DEFAULT = "resnet-50,mobilenet-v2,bert-base,ppocr-rec,silero-vad"


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a model failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_time", description=__doc__)
    parser.add_argument("--models", default=DEFAULT, help="comma-separated (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes a model")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for name in args.models.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            record = _one(name, args.threads, args.repeats)
        except (WorkerError, KeyError, zoo.ZooError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            record = {"model": name, "failed": str(error)}
        records.append(record)
        rows.append(_row(record))
    header = ["model", "first output ms", "inference ms", "beyond ms", "onnxruntime first ms"]
    print(report.markdown(header, rows))
    info = report.machine(args.threads, ["graphopt", "onnxruntime"])
    report.write_json(args.json, info, records)
    return 1 if any("failed" in record for record in records) else 0


def _one(name: str, threads: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        folder = Path(scratch)
        artifact, _ = compare.compile_model(name, folder, "--no-verify")
        feed = folder / "feed.npz"
        np.savez(feed, **zoo.inputs(name, 0, 0))
        first: dict[str, list[int]] = {"graphopt": [], "onnxruntime": []}
        runs: list[int] = []
        for _ in range(repeats):
            with Worker("graphopt", artifact, feed, threads) as worker:
                first["graphopt"].append(worker.load_ns)
                worker.run(3)
                runs += worker.run(10)
            with Worker("onnxruntime", zoo.path(name), feed, threads) as worker:
                first["onnxruntime"].append(worker.load_ns)
    return {
        "model": name,
        "first_ns": {engine: statistics.median(times) for engine, times in first.items()},
        "inference_ns": statistics.median(runs),
    }


def _row(record: dict[str, Any]) -> list[str]:
    if "failed" in record:
        return [record["model"], *["failed"] * 4]
    first, inference = record["first_ns"], record["inference_ns"]
    beyond = first["graphopt"] - inference
    times = (first["graphopt"], inference, beyond, first["onnxruntime"])
    return [record["model"], *map(report.milliseconds, times)]


if __name__ == "__main__":
    raise SystemExit(main())
