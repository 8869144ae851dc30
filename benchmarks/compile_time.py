"""CPU time of ``graphopt compile``: ``python -m benchmarks.compile_time [--models a,b]``.

Cold is a compile with an empty kernel cache, warm the same compile again; both without
verification and in a process of their own. CPU seconds count user and system time of the process
and its children, so a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import compare, report, zoo
from benchmarks.worker import WorkerError

DEFAULT = "mobilenet-v2,resnet-50,bert-base,vit-b16,ppocr-det,ppocr-rec,magika,silero-vad"


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a model failed to compile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_time", description=__doc__)
    parser.add_argument("--models", default=DEFAULT, help="comma-separated (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for name in args.models.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            record = _one(name)
        except (WorkerError, KeyError, zoo.ZooError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            record = {"model": name, "failed": str(error)}
        records.append(record)
        rows.append(_row(record))
    print(
        report.markdown(["model", "cold CPU s", "cold wall s", "warm CPU s", "warm wall s"], rows)
    )
    report.write_json(args.json, report.machine(1, ["graphopt"]), records)
    return 1 if any("failed" in record for record in records) else 0


def _one(name: str) -> dict[str, Any]:
    zoo.path(name)  # a first fetch is no part of the compile
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        folder = Path(scratch)
        before = os.environ.get("GRAPHOPT_CACHE")
        os.environ["GRAPHOPT_CACHE"] = str(folder / "cache")
        try:
            cold = _timed(name, folder)
            warm = _timed(name, folder)
        finally:
            if before is None:
                del os.environ["GRAPHOPT_CACHE"]
            else:
                os.environ["GRAPHOPT_CACHE"] = before
    return {"model": name, "cold": cold, "warm": warm}


def _timed(name: str, folder: Path) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    compare.compile_model(name, folder, "--no-verify")
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"cpu": cpu, "wall": wall}


def _row(record: dict[str, Any]) -> list[str]:
    if "failed" in record:
        return [record["model"], *["failed"] * 4]
    return [
        record["model"],
        *(f"{record[when][kind]:.2f}" for when in ("cold", "warm") for kind in ("cpu", "wall")),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
