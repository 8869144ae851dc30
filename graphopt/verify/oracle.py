"""Who says what the source model computes: never our own optimized path."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.ir import Graph
from graphopt.verify.compare import relative_error

__all__ = ["Oracle", "find_oracle", "rounding_errors"]

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Oracle:
    """An engine for the source model: ``run(inputs) -> outputs`` by name.

    ``again`` computes the same in another order of sums, where the engine has one.
    """

    name: str
    run: Run
    again: Run | None = None


def find_oracle(model: Any, graph: Graph) -> Oracle:
    """onnxruntime with its optimizations off for an ONNX model, where it is installed and loads the
    model; else the numpy interpreter on the SOURCE graph."""
    source = _onnx_source(model)
    if source is not None and find_spec("onnxruntime") is not None:
        try:
            return _onnxruntime(source)
        except Exception:
            # onnxruntime lacks kernels and opsets; its refusal says nothing about the model.
            pass
    return Oracle("graphopt interpreter", lambda inputs: _interpret(graph, inputs))


def _onnx_source(model: Any) -> Any:
    if isinstance(model, str | os.PathLike):
        return str(Path(model))
    if isinstance(model, bytes):
        return model
    if hasattr(model, "SerializeToString"):
        try:
            return model.SerializeToString()
        except ValueError:
            return None  # over 2 GB
    return None


def _onnxruntime(source: Any) -> Oracle:
    import onnxruntime

    def session(level: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    levels = onnxruntime.GraphOptimizationLevel
    plain = session(levels.ORT_DISABLE_ALL)
    names = [output.name for output in plain.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, plain.run(names, dict(inputs)), strict=True))

    def again(inputs: Mapping[str, Any]) -> dict[str, Any]:
        optimized = session(levels.ORT_ENABLE_ALL)
        return dict(zip(names, optimized.run(names, dict(inputs)), strict=True))

    return Oracle("onnxruntime", run, again)


def _interpret(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    from graphopt.ops.interpreter import run_graph

    return dict(zip(graph.output_names, run_graph(graph, inputs), strict=True))


def rounding_errors(
    oracle: Oracle, inputs: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, float]:
    """How far each output moves by rounding alone: in another order of sums, and when the inputs
    change in their last bit.

    A model that magnifies its own rounding errors (a sigmoid of numbers far from its threshold,
    say) is no finer a measure of ours than of the oracle itself.
    """
    nudged = {name: _nudge(np.asarray(value)) for name, value in inputs.items()}
    runs: list[tuple[Run, Mapping[str, Any]]] = [(oracle.run, nudged)]
    if oracle.again is not None:
        runs.append((oracle.again, inputs))
    errors = dict.fromkeys(expected, 0.0)
    for run, given in runs:
        try:
            moved = run(given)
        except Exception:
            continue  # it refuses to: then it does not say how large rounding is
        for name, value in expected.items():
            error = relative_error(moved[name], value)
            if math.isfinite(error):
                errors[name] = max(errors[name], error)
    return errors


def _nudge(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Every float one step up or down, in turns."""
    if array.dtype.kind != "f":
        return array
    towards = np.full(array.size, np.inf, array.dtype)
    towards[::2] = -np.inf
    nudged: np.ndarray[Any, Any] = np.nextafter(array, towards.reshape(array.shape))
    return nudged
