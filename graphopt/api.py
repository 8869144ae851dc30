"""The Python API beside compiling: reading, optimizing and writing models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from graphopt.ir import Graph, clone
from graphopt.passes import parse_pipeline
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import PassContext, Pipeline

__all__ = ["from_onnx", "optimize", "to_graph", "to_onnx"]


def from_onnx(
    model: Any, *, input_shapes: Mapping[str, Sequence[int | str]] | None = None
) -> Graph:
    """The graph of an ONNX model: a path, bytes or a ModelProto. Raises ModelError."""
    from graphopt.frontends.onnx import from_onnx as read

    return read(model, input_shapes=input_shapes)


def to_graph(model: Any, *, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> Graph:
    """The graph of whatever graphopt can read; a Graph is cloned, so that passes may change it."""
    return clone(model) if isinstance(model, Graph) else from_onnx(model, input_shapes=input_shapes)


def optimize(
    graph: Graph, passes: str | Pipeline = "O2", *, ctx: PassContext | None = None
) -> Graph:
    """A new graph after ``passes``: a level (O0, O1, O2), a pipeline, or the text of one.

    Raises OptionError for a pass that does not exist.
    """
    result = clone(graph)
    if isinstance(passes, str):
        passes = level(passes) if passes in LEVELS else parse_pipeline(passes)
    passes(result, ctx)
    return result


def to_onnx(
    graph: Graph, path: str | PathLike[str] | None = None, *, opset: int | None = None
) -> Any:
    """The graph as an ONNX ModelProto, written to ``path`` when given."""
    from graphopt.exporters.onnx import to_onnx as write

    return write(graph, path, opset=opset)
