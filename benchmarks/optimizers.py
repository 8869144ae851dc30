"""Optimizers of ONNX models, each in a process of its own: what it costs and what it leaves.

``python -m benchmarks.optimizers NAME IN OUT`` is that process. Time and memory are those of the
whole process, interpreter and imports included, bound to one core.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT

PEERS = ("onnxslim", "onnxsim", "ort-basic", "ort-all")
PACKAGES = {"ort-basic": "onnxruntime", "ort-all": "onnxruntime"}


@dataclass(frozen=True)
class Outcome:
    """What one optimizer did to one model; ``error`` says why there is no result."""

    name: str
    file: Path
    seconds: float
    peak_bytes: int
    error: str = ""


def optimize(name: str, source: Path, target: Path, *options: str, limit: float = 600) -> Outcome:
    """Run optimizer ``name`` on a file. A run of more than ``limit`` seconds is ended."""
    command = [sys.executable, "-m", "benchmarks.optimizers", name, str(source), str(target)]
    if name == "graphopt":
        command = [sys.executable, "-m", "graphopt", "optimize", str(source), "-o", str(target)]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    timer = threading.Timer(limit, process.send_signal, [signal.SIGKILL])
    timer.start()
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    expired = timer.finished.is_set()
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    if process.returncode == 0 and target.exists():
        return Outcome(name, target, seconds, peak)
    lines = message.strip().splitlines() or [f"exit code {process.returncode}"]
    reason = f"over {limit:g} s" if expired else lines[-1][:200]
    return Outcome(name, target, seconds, peak, reason)


def count_nodes(file: Path) -> int:
    """Nodes of a model but for Constants, those of subgraphs and functions included."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    bodies = [model.graph, *model.functions]
    return sum(1 for body in bodies for node in _nodes(body) if node.op_type != "Constant")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def problem(file: Path) -> str:
    """What is wrong with a model: onnx.checker's full check, then onnxruntime; "" when nothing."""
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:
        return f"checker: {str(error).strip().splitlines()[0][:120]}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"onnxruntime: {str(error).strip().splitlines()[0][:120]}"
    return ""


def _onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(source)
    onnx.save(model, target)


def _onnxslim(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def _onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def _onnxruntime(level: str) -> Callable[[str, str], None]:
    def run(source: str, target: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = target
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


_RUNS: dict[str, Callable[[str, str], None]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxoptimizer": _onnxoptimizer,
    "ort-basic": _onnxruntime("ORT_ENABLE_BASIC"),
    "ort-all": _onnxruntime("ORT_ENABLE_ALL"),
}


if __name__ == "__main__":
    _RUNS[sys.argv[1]](sys.argv[2], sys.argv[3])
