"""Small graphs for tests of single ops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir import Builder, Dim, DType, Graph, TensorType, parse_dim
from graphopt.ops.interpreter import run_graph

__all__ = ["Bench", "run_op"]


class Bench:
    """A graph under construction; shapes are written as text, sizes as in the `.gir` form.

    Ops are methods, as of a Builder.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.build = Builder(self.graph, origin=["test"])

    def input(self, shape: str | None, dtype: DType = DType.F32, name: str = "x") -> Any:
        """An input of shape ``"N, 3"``; None for an unknown rank."""
        dims: tuple[Dim, ...] | None = None
        if shape is not None:
            dims = tuple(parse_dim(part) for part in shape.split(",") if part.strip())
        return self.graph.add_input(f"{name}{len(self.graph.inputs)}", TensorType(dtype, dims))

    def shape_of(self, text: str) -> Any:
        """An i64 vector whose contents are known to be these sizes."""
        return self.build.Shape(self.input(text, name="like"))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        built: Callable[..., Any] = getattr(self.build, name)
        return built


def run_op(name: str, *operands: Any, outputs: int = 1, **attrs: Any) -> Any:
    """Evaluates one op on arrays (None: absent) through a graph, warnings being errors.

    Inferred element types and ranks must be those of the results.
    """
    graph = Graph()
    build = Builder(graph, origin=["test"])
    values, feeds = [], []
    for index, operand in enumerate(operands):
        if operand is None:
            values.append(None)
            continue
        array = np.asarray(operand)
        if array.dtype.kind == "U":
            array = array.astype(object)
        kind = TensorType(DType.from_numpy(array.dtype), array.shape)
        values.append(graph.add_input(f"x{index}", kind))
        feeds.append(array)
    results = build.op(name, *values, _outputs=outputs, **attrs)
    for value in results if isinstance(results, tuple) else [results]:
        graph.add_output(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_graph(graph, feeds)
    for value, array in zip(graph.outputs, found, strict=True):
        if isinstance(value.type, TensorType):
            assert isinstance(array, np.ndarray)
            assert DType.from_numpy(array.dtype) is value.type.dtype
            assert value.type.rank in (None, array.ndim)
    return found[0] if outputs == 1 else found
