"""Accuracy of 8 bits beside peers: ``python -m benchmarks.quantize [--tasks a,b] [--nncf python]``.

Each task has right answers (see ``quantize_tasks``). The model in floats, ours, onnxruntime's
static quantization and NNCF's are calibrated with the same 100 samples and judged on the same
others, all run by onnxruntime. A drop is in points of the measure, with its 95 % interval by the
paired bootstrap. NNCF may be installed for another interpreter, which ``--nncf`` names.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import quantize_tasks, report
from graphopt.data import Metric, drop_interval

Array = np.ndarray[Any, np.dtype[Any]]


def main(argv: list[str] | None = None) -> int:
    """Measure and print. The exit code is 1 where ours fails, or loses more than 1 point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__)
    parser.add_argument("--tasks", default=",".join(quantize_tasks.TASKS))
    parser.add_argument("--peers", default="onnxruntime,nncf", help="comma-separated")
    parser.add_argument("--nncf", default=sys.executable, help="interpreter that has nncf")
    parser.add_argument("--precision", default="int8", help="of ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args(argv)
    makers: dict[str, Callable[[quantize_tasks.Task, Path], None]] = {
        "graphopt": lambda task, out: ours(task, out, args.precision),
        "onnxruntime": onnxruntimes,
        "nncf": lambda task, out: nncfs(task, out, args.nncf),
    }
    rows, records, worst = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="graphopt-quantize-") as scratch:
        for name in args.tasks.split(","):
            folder = Path(scratch) / name
            folder.mkdir()
            task = quantize_tasks.make(name, folder)
            before = task.score(session(task.model, args.threads))
            metric = Metric(task.measure, _unused, _mean, proportion=set(before) <= {0.0, 1.0})
            rows.append([name, task.measure, "fp32", str(metric.interval(before)), "", ""])
            for maker in ("graphopt", *filter(None, args.peers.split(","))):
                record = _one(makers[maker], maker, task, folder, before, metric, args.threads)
                records.append({"task": name, "n": len(before)} | record)
                rows.append([name, task.measure, maker, *record["shown"]])
                if maker == "graphopt":
                    worst = max(worst, record["drop"][0] if "drop" in record else math.inf)
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ["task", "measure", "quantized by", "value", "drop", "seconds"]
    print(report.markdown(header, rows))
    report.write_json(args.json, report.machine(args.threads, []), records)
    return 1 if worst > 0.01 else 0


def _unused(outputs: Any, label: Any, reference: Any) -> Array:
    raise TypeError("rows are scored by the task")


def _mean(rows: Array) -> float:
    return float(rows.mean())


def _one(
    make: Callable[[quantize_tasks.Task, Path], None],
    maker: str,
    task: quantize_tasks.Task,
    folder: Path,
    before: Array,
    metric: Metric,
    threads: int,
) -> dict[str, Any]:
    out = folder / f"{maker}.onnx"
    began = time.perf_counter()
    try:
        make(task, out)
        seconds = time.perf_counter() - began
        after = task.score(session(out, threads))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1][:120] if str(error).strip() else repr(error)
        return {"maker": maker, "failed": reason, "shown": ["failed", reason, ""]}
    value, drop = metric.interval(after), drop_interval(metric, before, after)
    return {
        "maker": maker,
        "value": [value.value, value.low, value.high],
        "drop": [drop.value, drop.low, drop.high],
        "seconds": seconds,
        "shown": [str(value), str(drop), f"{seconds:.0f}"],
    }


def session(model: Path, threads: int) -> quantize_tasks.Run:
    """The model in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    found = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: list(found.run(None, feed))


def ours(task: quantize_tasks.Task, out: Path, precision: str) -> None:
    """graphopt, which holds every fourth sample out to choose by."""
    import graphopt
    from graphopt.compress import QuantizeConfig, quantize
    from graphopt.data import Sample, Samples

    feeds = task.calibration
    samples = Samples(lambda: (Sample(feed) for feed in feeds), task.name, len(feeds))
    config = QuantizeConfig(precision=precision, sensitivity=False, measure=False, max_drop=None)
    found = quantize(str(task.model), samples, config)
    for step in found.report["steps"]:
        print(f"  {task.name}: {step}", file=sys.stderr)
    graphopt.to_onnx(found.graph, out)


def onnxruntimes(task: quantize_tasks.Task, out: Path) -> None:
    """onnxruntime's static quantization with its preparation, as its documentation recommends."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(task.calibration)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    ready = out.with_suffix(".ready.onnx")
    # What its preparation, or scales a channel, fail on is quantized without.
    for prepare, per_channel in ((True, True), (False, True), (True, False), (False, False)):
        try:
            model = task.model
            if prepare:
                quant_pre_process(str(task.model), str(ready), skip_symbolic_shape=True)
                model = ready
            quantize_static(
                model,
                out,
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
            )
            return
        except Exception as error:
            if not prepare and not per_channel:
                raise
            print(f"  onnxruntime {prepare=} {per_channel=}: {error}", file=sys.stderr)


_NNCF = """
import sys, numpy as np, onnx, nncf
model, data, out, kind = sys.argv[1:]
with np.load(data) as file:
    count = 1 + max(int(name.split("/")[0]) for name in file.files)
    feeds = [{} for _ in range(count)]
    for name in file.files:
        index, key = name.split("/", 1)
        feeds[int(index)][key] = file[name]
options = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "transformer" else {}
found = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=count, **options)
onnx.save(found, out)
"""


def nncfs(task: quantize_tasks.Task, out: Path, python: str) -> None:
    """NNCF's post-training quantization, in a process of its own. Raises RuntimeError."""
    data = out.with_suffix(".npz")
    named = {f"{i}/{n}": a for i, feed in enumerate(task.calibration) for n, a in feed.items()}
    np.savez(data, **named)  # type: ignore[arg-type]
    kind = "transformer" if task.name == "minilm-l6" else "other"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", _NNCF, str(task.model), str(data), str(out), kind],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")


if __name__ == "__main__":
    raise SystemExit(main())
