"""Who says what the source model computes: never our own optimized path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphopt.ir import Graph

__all__ = ["Oracle", "find_oracle"]


@dataclass(frozen=True)
class Oracle:
    """An engine for the source model: ``run(inputs) -> outputs`` by name."""

    name: str
    run: Callable[[Mapping[str, Any]], dict[str, Any]]


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

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return Oracle("onnxruntime", run)


def _interpret(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    from graphopt.ops.interpreter import run_graph

    return dict(zip(graph.output_names, run_graph(graph, inputs), strict=True))
