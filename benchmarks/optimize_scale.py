"""Optimizing large models: ``python -m benchmarks.optimize_scale [--sizes 1000,5000]``.

Chains of ``benchmarks.chains`` of growing length, whose least number of nodes is known; each
optimizer runs in a process of its own on one core, from the file to the file it writes. A result
counts when its numbers are those of the model, and competes when it leaves no more nodes.
``--weights 3`` optimizes a model of 3 GB of external data instead and prints the peak of memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import chains, optimizers, report
from benchmarks.compare import worst_error
from benchmarks.worker import Worker, WorkerError

SIZES = "1000,5000,20000,50000,100000"
BOUND = 1e-4
"""Relative L2 distance: folding reorders sums in every block of the chain."""


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a figure of graphopt misses its bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimize_scale", description=__doc__
    )
    parser.add_argument("--sizes", default=SIZES, help="nodes (default: %(default)s)")
    parser.add_argument("--peers", default=",".join(optimizers.PEERS))
    parser.add_argument("--limit", type=float, default=300, help="seconds an optimizer may take")
    parser.add_argument("--weights", type=float, help="gigabytes of external data")
    parser.add_argument("--folder", type=Path, help="where models are written")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    names = ["graphopt", *filter(None, args.peers.split(","))]
    with tempfile.TemporaryDirectory(prefix="graphopt-scale-", dir=args.folder) as scratch:
        if args.weights:
            return _large(args.weights, Path(scratch), args.limit)
        sizes = [int(size) for size in args.sizes.split(",")]
        records = _grow(sizes, names, Path(scratch), args.limit)
    print(report.markdown(["nodes", *names], [_row(r, names) for r in records]))
    print("CPU seconds on one core (nodes left, or why not)")
    packages = [optimizers.PACKAGES.get(name, name) for name in names]
    report.write_json(args.json, report.machine(1, sorted({*packages, "onnx"})), records)
    missed = _missed(records)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def _grow(sizes: list[int], names: list[str], folder: Path, limit: float) -> list[dict[str, Any]]:
    """One record a size. What ran into the limit is not asked again."""
    records, slow = [], set()
    for size in sizes:
        source = folder / f"chain-{size}.onnx"
        blocks = chains.write_chain(size, source)
        record: dict[str, Any] = {"blocks": blocks, "nodes": blocks * chains.BLOCK_NODES}
        want = _outputs(source, folder)
        for name in names:
            print(f"{size} nodes: {name} ...", file=sys.stderr, flush=True)
            if name in slow:
                record[name] = {"error": "not run"}
                continue
            record[name] = found = _one(name, source, folder, want, limit)
            if "error" in found:
                slow.add(name)
        source.unlink()
        records.append(record)
    return records


def _one(name: str, source: Path, folder: Path, want: list[Any], limit: float) -> dict[str, Any]:
    target = folder / f"{name}.onnx"
    outcome = optimizers.optimize(name, source, target, limit=limit)
    if outcome.error:
        return {"error": outcome.error, "seconds": outcome.seconds}
    found: dict[str, Any] = {
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "nodes": optimizers.count_nodes(target),
    }
    try:
        error = worst_error(_outputs(target, folder), want)
    except WorkerError as failure:
        error = float("inf")
        found["failure"] = str(failure)
    found["relative_l2"] = error
    found["correct"] = error <= BOUND
    target.unlink()
    return found


def _outputs(file: Path, folder: Path) -> list[Any]:
    inputs = folder / "feed.npz"
    np.savez(inputs, **chains.feed())
    with Worker("oracle", file, inputs, 1) as worker:
        return worker.outputs(folder / "outputs.npz")


def _row(record: dict[str, Any], names: list[str]) -> list[str]:
    cells = [str(record["nodes"])]
    for name in names:
        found = record[name]
        if "error" in found:
            cells.append(found["error"])
        else:
            wrong = "" if found["correct"] else ", wrong"
            cells.append(f"{found['seconds']:.2f} ({found['nodes']}{wrong})")
    return cells


def _missed(records: list[dict[str, Any]]) -> list[str]:
    """Bars that the figures of graphopt do not reach."""
    missed = []
    for record in records:
        mine, nodes = record["graphopt"], record["nodes"]
        if "error" in mine or not mine["correct"]:
            missed.append(f"{nodes} nodes: no correct result")
            continue
        if mine["nodes"] > record["blocks"] * chains.IDEAL_NODES:
            missed.append(f"{nodes} nodes: {mine['nodes']} are left")
        peers = [v for k, v in record.items() if isinstance(v, dict) and k != "graphopt"]
        # Who leaves more nodes has not done the same work.
        equal = [v for v in peers if v.get("correct") and v["nodes"] <= mine["nodes"]]
        fastest = min((v["seconds"] for v in equal), default=float("inf"))
        if nodes >= 20000 and fastest <= mine["seconds"]:
            missed.append(f"{nodes} nodes: a peer takes {fastest:.2f} s")
        if 50000 <= nodes < 51000 and mine["seconds"] > 8:
            missed.append(f"{nodes} nodes: over 8 s")
    each = {r["nodes"] // 1000: r["graphopt"].get("seconds", 0) / r["nodes"] for r in records}
    if 5 in each and 100 in each and each[100] > 1.5 * each[5]:
        missed.append(f"time per node grows by {each[100] / each[5]:.2f} from 5k to 100k")
    return missed


def _large(gigabytes: float, folder: Path, limit: float) -> int:
    source = folder / "large.onnx"
    size = chains.write_large(gigabytes, source)
    outcome = optimizers.optimize("graphopt", source, folder / "out.onnx", limit=limit)
    if outcome.error:
        print(f"failed: {outcome.error}")
        return 1
    ratio = outcome.peak_bytes / size
    rows = [["graphopt", f"{size / 1e9:.2f}", f"{outcome.peak_bytes / 1e9:.2f}", f"{ratio:.2f}",
             f"{outcome.seconds:.1f}", str(optimizers.count_nodes(outcome.file))]]  # fmt: skip
    print(report.markdown(["optimizer", "model GB", "peak GB", "ratio", "CPU s", "nodes"], rows))
    return 0 if ratio <= 1.3 else 1


if __name__ == "__main__":
    raise SystemExit(main())
