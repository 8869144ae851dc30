"""``make demo``: fetch real models, compile them, run them and check them against onnxruntime."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import compare, report, zoo
from benchmarks.worker import WorkerError

DEFAULT = ("ppocr-det", "ppocr-rec", "magika", "silero-vad")
BOUND = 1e-5
"""Largest relative L2 distance from onnxruntime, optimizations off, that counts as equal."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo and print its table. The exit code is 1 when a model failed or is off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(DEFAULT), help="names from the zoo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder to keep the compiled artifacts in")
    args = parser.parse_args(argv)
    rows: list[list[str]] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="graphopt-demo-") as scratch:
        for name in args.models:
            try:
                rows.append(_one(name, args.output or Path(scratch), args.threads, wrong))
            except (WorkerError, KeyError, zoo.ZooError) as error:
                print(f"  {error.args[0]}", file=sys.stderr)
                wrong.append(name)
    info = report.machine(args.threads, ["graphopt", "onnxruntime"])
    header = ["model", "input", "compile s", "error", "graphopt ms", "onnxruntime ms", "ratio"]
    print(f"\n{report.describe(info)}\n\n{report.markdown(header, rows)}\n")
    print(
        "error: largest relative L2 distance of any output from onnxruntime with its "
        "optimizations off.\nms: median at batch 1, each engine in a process of its own, "
        "taking turns; ratio below 1: graphopt is faster."
    )
    if wrong:
        print(f"FAILED: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _one(name: str, folder: Path, threads: int, wrong: list[str]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    model = zoo.get(name)
    print(f"{name}: {model.title}", flush=True)
    source = zoo.path(name)
    print(f"  compile {source.stat().st_size / 1e6:.1f} MB ...", flush=True)
    artifact, seconds = compare.compile_model(name, folder, "--no-verify")
    print(f"  run beside onnxruntime ({artifact.stat().st_size / 1e6:.1f} MB) ...", flush=True)
    measured = compare.measure(
        name, artifact, ["graphopt", "onnxruntime"], folder, threads=threads, runs=30, rounds=3
    )
    assert measured.error is not None
    if not measured.error <= BOUND:
        wrong.append(name)
    shape = "x".join(map(str, next(iter(measured.shapes.values()))))
    return [
        name,
        shape,
        f"{seconds:.1f}",
        f"{measured.error:.1e}",
        report.milliseconds(measured.median("graphopt")),
        report.milliseconds(measured.median("onnxruntime")),
        f"{measured.ratio('onnxruntime')[0]:.2f}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
