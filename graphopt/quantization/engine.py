"""Running graphs while they are quantized: on our own kernels, or in the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from graphopt.compiler import FallbackWarning, compile_graph
from graphopt.ir import Graph, Value, copy_nodes
from graphopt.runtime import open_artifact

__all__ = ["Engine", "with_outputs"]

Array = np.ndarray[Any, Any]


class Engine:
    """A graph that runs as a compile for the CPU makes it run, what is quantized on integer kernels
    where there are some; without the code generator, in the interpreter."""

    def __init__(self, graph: Graph, threads: int | None = None) -> None:
        target = "cpu" if find_spec("tvm") is not None else "reference"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            self.session = open_artifact(compile_graph(graph, target), threads)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name. Raises InputError and ExecutionError."""
        with np.errstate(all="ignore"):
            return self.session.run(feed)


def with_outputs(graph: Graph, names: Collection[str]) -> Graph:
    """A copy of what computes the values called ``names``, which are its outputs, in that order.

    Raises KeyError for a name that no node at the outermost level yields.
    """
    result = Graph(graph.name)
    result.metadata = dict(graph.metadata)
    mapping: dict[Value, Value] = {}
    for value in graph.inputs:
        mapping[value] = result.add_input(value.name, value.type)
        mapping[value].set_elements(value.elements)
    for value in graph.constants.values():
        assert value.constant is not None
        mapping[value] = result.add_constant(value.constant, value.name)
    copy_nodes(graph, result, mapping)
    known = {v.name: mapping[v] for node in graph for v in node.outputs}
    for name in names:
        result.add_output(known[name], name)
    result.remove_dead()
    return result
