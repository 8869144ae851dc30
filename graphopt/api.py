"""The Python API beside compiling: reading, optimizing and writing models."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any

from graphopt.ir import Graph, clone
from graphopt.passes import parse_pipeline
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext

__all__ = ["from_onnx", "optimize", "save_onnx", "to_graph", "to_onnx"]

# Objects that may be made between two runs of the cyclic collector.
_MANY = 1_000_000


def from_onnx(
    model: Any, *, input_shapes: Mapping[str, Sequence[int | str]] | None = None
) -> Graph:
    """The graph of an ONNX model: a path, bytes or a ModelProto. Raises ModelError."""
    from graphopt.frontends.onnx import from_onnx as read

    with _few_collections():
        return read(model, input_shapes=input_shapes)


def to_graph(model: Any, *, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> Graph:
    """The graph of whatever graphopt can read; a Graph is cloned, so that passes may change it."""
    return clone(model) if isinstance(model, Graph) else from_onnx(model, input_shapes=input_shapes)


def optimize(
    graph: Graph,
    passes: str | Pass = "O2",
    *,
    ctx: PassContext | None = None,
    in_place: bool = False,
) -> Graph:
    """A new graph after ``passes``: a level (O0, O1, O2, onnx), a pass or pipeline, or its text.

    The level ``onnx`` builds only ops that ONNX has at the graph's opset, unless ``ctx`` says what
    it accepts. ``in_place`` changes ``graph`` itself, which saves the copy. Raises OptionError for
    a pass that does not exist.
    """
    if passes == "onnx" and (ctx is None or ctx.accepts is None):
        from graphopt.exporters.onnx_opset import acceptor

        ctx = replace(ctx or PassContext(), accepts=acceptor(graph))
    if isinstance(passes, str):
        passes = level(passes) if passes in LEVELS else parse_pipeline(passes)
    with _few_collections():
        result = graph if in_place else clone(graph)
        passes(result, ctx)
    return result


def save_onnx(graph: Graph, path: str | PathLike[str], *, opset: int | None = None) -> None:
    """Writes the graph as an ONNX file; weights pass through memory one at a time."""
    from graphopt.exporters.onnx import save_onnx as write

    with _few_collections():
        write(graph, path, opset=opset)


def to_onnx(
    graph: Graph, path: str | PathLike[str] | None = None, *, opset: int | None = None
) -> Any:
    """The graph as an ONNX ModelProto, written to ``path`` when given."""
    from graphopt.exporters.onnx import to_onnx as write

    return write(graph, path, opset=opset)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Lets the cyclic collector look only at what was made since it last ran.

    A graph is many small objects that all stay: going through them again and again takes a third
    of the time of reading a large model.
    """
    thresholds = gc.get_threshold()
    if thresholds[0] == 0 or thresholds[0] >= _MANY:
        yield
        return
    gc.set_threshold(_MANY, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
