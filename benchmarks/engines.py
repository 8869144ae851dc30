"""The engines that benchmarks compare: each loads a model file and answers with its outputs.

Imports are lazy, so that a worker process holds one engine only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Mapping[str, Array]], list[Array]]


PACKAGES = {"oracle": "onnxruntime", "inductor": "torch", "openvino-bf16": "openvino"}
"""Packages of the engines that are not named after theirs."""


def load(engine: str, file: Path, threads: int) -> Run:
    """Load ``file`` into ``engine``; the answer maps a feed to the outputs in the model's order.

    ``graphopt`` takes a ``.gopt``, every other engine an ONNX file of the zoo. ``oracle`` is
    onnxruntime with its optimizations off. ``inductor`` runs the module that the file was exported
    from. Raises KeyError for an unknown engine.
    """
    return _ENGINES[engine](file, threads)


def names() -> tuple[str, ...]:
    """Every engine that ``load`` knows."""
    return tuple(_ENGINES)


def version(engine: str) -> str:
    """The installed version of an engine's package, or the reason why there is none."""
    import importlib.metadata

    package = PACKAGES.get(engine, engine)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _graphopt(file: Path, threads: int) -> Run:
    import graphopt

    session = graphopt.load(file, threads=threads)
    return lambda feed: list(session.run(feed).values())


def _onnxruntime(file: Path, threads: int, optimized: bool = True) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def _oracle(file: Path, threads: int) -> Run:
    return _onnxruntime(file, threads, optimized=False)


def _openvino(file: Path, threads: int, precision: str = "f32") -> Run:
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(file, "CPU", config)
    request = compiled.create_infer_request()
    return lambda feed: list(request.infer(dict(feed)).to_tuple())


def _openvino_bf16(file: Path, threads: int) -> Run:
    return _openvino(file, threads, "bf16")


def _inductor(file: Path, threads: int) -> Run:
    """torch.compile of the module that the zoo exported ``file`` from."""
    import tempfile

    import torch

    from benchmarks import zoo
    from benchmarks.zoo import exporting

    model = zoo.get(file.stem.rpartition("-")[0])
    if not model.builder:
        raise ValueError(f"{model.name} has no torch module")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        module = torch.compile(exporting.module(model, Path(folder)))
    order = [item.name for item in model.inputs]

    def run(feed: Mapping[str, Array]) -> list[Array]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(feed[name]) for name in order))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


_ENGINES: dict[str, Callable[[Path, int], Run]] = {
    "graphopt": _graphopt,
    "onnxruntime": _onnxruntime,
    "oracle": _oracle,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "inductor": _inductor,
}
