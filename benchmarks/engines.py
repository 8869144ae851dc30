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
Shapes = Mapping[str, tuple[int, ...]]


PACKAGES = {
    "oracle": "onnxruntime",
    "inductor": "torch",
    "iree": "iree-base-runtime",
    "openvino-bf16": "openvino",
    "tvm": "apache-tvm",
}
"""Packages of the engines that are not named after theirs."""

_MODULES = {"iree": "iree.runtime", "tvm": "tvm"}
"""What such a package is imported as, where that isn't the package's name."""


def load(engine: str, file: Path, threads: int, shapes: Shapes) -> Run:
    """Load ``file`` into ``engine``; the answer maps a feed to the outputs in the model's order.

    ``graphopt`` takes a ``.gopt``, every other engine an ONNX file of the zoo. ``oracle`` is
    onnxruntime with its optimizations off. ``inductor`` runs the module that the file was exported
    from. ``tvm`` builds by Relax without tuning, ``iree`` for this processor by its own compiler.
    ``shapes`` are those of the feeds to come, for engines that want them known.

    Raises KeyError for an unknown engine, and whatever an engine raises.
    """
    return _ENGINES[engine](file, threads, shapes)


def names() -> tuple[str, ...]:
    """Every engine that ``load`` knows."""
    return tuple(_ENGINES)


def module(engine: str) -> str:
    """The module that an engine's package is imported as."""
    return _MODULES.get(engine, PACKAGES.get(engine, engine))


def environment(engine: str, threads: int) -> dict[str, str]:
    """Variables that an engine reads before it is imported."""
    return {"TVM_NUM_THREADS": str(threads)} if engine == "tvm" else {}


def version(engine: str) -> str:
    """The installed version of an engine's package, or the reason why there is none."""
    import importlib.metadata

    package = PACKAGES.get(engine, engine)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _graphopt(file: Path, threads: int, _: Shapes) -> Run:
    import graphopt

    session = graphopt.load(file, threads=threads)
    return lambda feed: list(session.run(feed).values())


def _onnxruntime(file: Path, threads: int, _: Shapes, optimized: bool = True) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def _oracle(file: Path, threads: int, _: Shapes) -> Run:
    return _onnxruntime(file, threads, {}, optimized=False)


def _openvino(file: Path, threads: int, _: Shapes, precision: str = "f32") -> Run:
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(file, "CPU", config)
    request = compiled.create_infer_request()
    return lambda feed: list(request.infer(dict(feed)).to_tuple())


def _openvino_bf16(file: Path, threads: int, _: Shapes) -> Run:
    return _openvino(file, threads, {}, "bf16")


def _inductor(file: Path, threads: int, _: Shapes) -> Run:
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


def _fixed(file: Path, shapes: Shapes) -> Any:
    """The ONNX model with the sizes of its inputs fixed, for engines that want them known."""
    import onnx

    model = onnx.load(file)
    for value in model.graph.input:
        shape = value.type.tensor_type.shape
        for dim, size in zip(shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _tvm(file: Path, threads: int, shapes: Shapes) -> Run:
    """Relax's default build for this processor: what TVM does without measuring for hours."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from graphopt import _native

    mcpu = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}.get(_native.isa(), "x86-64-v2")
    target = tvm.target.Target(
        {"kind": "llvm", "mcpu": mcpu, "num-cores": threads, "fast-math-contract": True}
    )
    model = from_onnx(_fixed(file, shapes), keep_params_in_input=False)
    with target:
        machine = relax.VirtualMachine(tvm.compile(model, target), tvm.cpu())
    order = [value.name for value in model["main"].params]

    def run(feed: Mapping[str, Array]) -> list[Array]:
        results = machine["main"](*(tvm.runtime.tensor(feed[name]) for name in order))
        many = (
            results if hasattr(results, "__len__") and not hasattr(results, "numpy") else [results]
        )
        return [x.numpy() for x in many]

    return run


def _iree(file: Path, threads: int, shapes: Shapes) -> Run:
    """IREE's llvm-cpu code for this processor, run by its pool of ``threads`` workers."""
    import subprocess
    import sys
    import tempfile

    import iree.compiler
    import iree.runtime
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        model, text = Path(folder) / "model.onnx", Path(folder) / "model.mlir"
        source = _fixed(file, shapes)
        if next(o.version for o in source.opset_import if o.domain in ("", "ai.onnx")) < 17:
            source = onnx.version_converter.convert_version(source, 17)
        onnx.save(source, model)
        command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(model)]
        done = subprocess.run(
            [*command, "-o", str(text)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        binary = iree.compiler.compile_file(
            str(text),
            input_type="onnx",
            target_backends=["llvm-cpu"],
            extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"],
        )
    iree.runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
    config = iree.runtime.Config("local-task")
    context = iree.runtime.SystemContext(config=config)
    context.add_vm_module(iree.runtime.VmModule.copy_buffer(config.vm_instance, binary))
    module = next(m for name, m in context.modules.items() if name not in ("hal", "vm"))
    # Beside the function that waits there is one that takes fences, and what sets variables up.
    names = module.vm_module.function_names
    function = module[next(name for name in names if "$" not in name and "__init" not in name)]
    order = [value.name for value in onnx.load(file).graph.input]

    def run(feed: Mapping[str, Array]) -> list[Array]:
        results = function(*(feed[name] for name in order))
        many = results if isinstance(results, (tuple, list)) else [results]
        return [x.to_host() for x in many]

    return run


_ENGINES: dict[str, Callable[[Path, int, Shapes], Run]] = {
    "graphopt": _graphopt,
    "onnxruntime": _onnxruntime,
    "oracle": _oracle,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "inductor": _inductor,
    "tvm": _tvm,
    "iree": _iree,
}
