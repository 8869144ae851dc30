"""Running graphs that are given as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphopt.ops  # noqa: F401  (names must resolve before text is parsed)
from graphopt.ir import parse
from graphopt.ops.interpreter import run_graph

__all__ = ["evaluate_text"]


def evaluate_text(text: str) -> Callable[[Sequence[Any]], list[Any]]:
    """A function that runs the graph of ``text``: input values in order to output values.

    Raises ParseError for text that is not a graph.
    """
    graph = parse(text)
    return lambda inputs: run_graph(graph, inputs)
