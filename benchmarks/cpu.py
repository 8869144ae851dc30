"""Speed beside its peers: ``python -m benchmarks.cpu [--models a,b] [--batch 16] [--json out]``.

The last column is the median of the fastest peer over graphopt's: above 1 graphopt is faster than
all of them. ``--precision bf16 --engines openvino-bf16`` compares both in bfloat16, ours at the
error that the compiler's check allows on the inputs that are timed. Every engine runs in a process
of its own on the same inputs and with the same number of threads; the processes take turns in
blocks. Behind a time stands half the distance between its quartiles; "of peak" is what the model's
products would take at the measured multiply-add peak of fp32, over what it took (a convolution by
Winograd counts as its direct sum). Figures of one run compare with each other, not with another
run's: a shared machine changes its speed, ratios hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare, engines, peak, report, zoo
from benchmarks.worker import WorkerError

DEFAULT = (
    "resnet-50,mobilenet-v2,bert-base,vit-b16,vgg-16,densenet-121,se-resnet-50,"
    "efficientnet-lite0,minilm-l6,ppocr-det,ppocr-rec,ppocr-cls,magika,silero-vad"
)


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 when a model failed to compile or run."""
    args = _parse(argv)
    names = args.models.split(",")
    peers = args.engines.split(",")
    info = report.machine(args.threads, ["graphopt", *peers])
    info |= {"batch": args.batch, "isa": args.isa or "best"}
    print(f"{report.describe(info)}; batch {args.batch}, isa {info['isa']}\n", flush=True)
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                name = name if args.batch == 1 else f"{name}@{args.batch}"
                measured, rate = _one(name, peers, Path(args.artifacts or scratch), args)
            except (WorkerError, KeyError, zoo.ZooError) as error:
                rows.append([name, *["failed"] * (len(peers) * 2 + 4)])
                records.append({"model": name, "failed": str(error)})
                print(f"{name}: {error}", file=sys.stderr)
                continue
            for reason in measured.failed.values():
                first = next(iter(reason.strip().splitlines()), "no reason given")
                print(f"{name}: {first}", file=sys.stderr)
            rows.append(_row(measured, peers, rate))
            records.append(_record(measured, peers, rate))
    header = ["model", "error", "graphopt ms", "of peak"]
    for peer in peers:
        header += [f"{peer} ms", f"ratio to {peer} (rounds)"]
    print(report.markdown([*header, "best peer / graphopt"], rows))
    leads = [record["lead"] for record in records if record.get("lead")]
    if leads:
        print(f"\ngeometric mean of the last column: {statistics.geometric_mean(leads):.2f}")
    report.write_json(args.json, info, records)
    return 1 if any("failed" in record for record in records) else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--models", default=DEFAULT, help="comma-separated (default: %(default)s)")
    parser.add_argument("--engines", default="onnxruntime", help="peers, comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="samples a run")
    parser.add_argument("--isa", help="GRAPHOPT_MAX_ISA of graphopt (avx2); peers as they come")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds to a peer's first result (default: 120)"
    )
    parser.add_argument("--runs", type=int, default=90, help="measured runs an engine and model")
    parser.add_argument("--rounds", type=int, default=3, help="turns that the runs are split into")
    parser.add_argument("--precision", default="fp32", help="of graphopt (default: %(default)s)")
    parser.add_argument("--case", type=int, default=0, help="which shape of a dynamic model")
    parser.add_argument("--artifacts", help="folder of compiled .gopt files to keep and reuse")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    unknown = set(args.engines.split(",")) - set(engines.names())
    if unknown:
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}")
    return args


def _one(
    name: str, peers: list[str], folder: Path, args: argparse.Namespace
) -> tuple[compare.Measured, peak.Rate]:
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-verify"]
    if args.precision != "fp32":  # the check decides which layers stay in float32
        folder = folder / args.precision
        folder.mkdir(exist_ok=True)
        feed = folder / f"{name}-check.npz"
        np.savez(feed, **zoo.inputs(name, 0, args.case))
        options = ["--precision", args.precision, "--inputs", str(feed)]
    artifact = folder / f"{name}.gopt"
    if not artifact.exists():
        artifact, _ = compare.compile_model(name, folder, *options)
    env = {"GRAPHOPT_MAX_ISA": args.isa} if args.isa else {}
    measured = compare.measure(
        name,
        artifact,
        ["graphopt", *peers],
        folder,
        case=args.case,
        threads=args.threads,
        runs=args.runs,
        rounds=args.rounds,
        limit=args.limit,
        env=env,
    )
    return measured, peak.measure(artifact, measured.shapes, args.threads, env)


def _time(measured: compare.Measured, engine: str) -> str:
    """A median with its spread: ``24.9 ±2%``."""
    text = report.milliseconds(measured.median(engine))
    return f"{text} ±{100 * measured.spread(engine):.0f}%"


def _row(measured: compare.Measured, peers: list[str], rate: peak.Rate) -> list[str]:
    row = [measured.model, f"{measured.error:.1e}", _time(measured, "graphopt")]
    row.append(f"{100 * rate.share(measured.median('graphopt')):.0f}%")
    for peer in peers:
        if peer in measured.failed:
            row += ["-", "-"]
            continue
        ratio, low, high = measured.ratio(peer)
        row.append(_time(measured, peer))
        row.append(f"{ratio:.2f} ({low:.2f}-{high:.2f})")
    lead = measured.lead()
    return [*row, "-" if lead is None else f"{lead:.2f}"]


def _record(measured: compare.Measured, peers: list[str], rate: peak.Rate) -> dict[str, Any]:
    mine = measured.median("graphopt")
    return {
        "model": measured.model,
        "case": measured.case,
        "shapes": measured.shapes,
        "error": measured.error,
        "median_ns": {name: measured.median(name) for name in measured.rounds},
        "ratio": {peer: measured.ratio(peer) for peer in peers if peer in measured.rounds},
        "spread": {name: measured.spread(name) for name in measured.rounds},
        "lead": measured.lead(),
        "flops": rate.flops,
        "peak_flops": rate.peak,
        "share_of_peak": rate.share(mine),
        "peers_failed": measured.failed,
        "rounds_ns": measured.rounds,
    }


if __name__ == "__main__":
    raise SystemExit(main())
