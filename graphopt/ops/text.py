"""Parsing graphs with the ops of this library in scope."""

from __future__ import annotations

from graphopt.ir import Graph
from graphopt.ir.parse import Constants
from graphopt.ir.parse import parse as parse_with
from graphopt.ops.registry import get

__all__ = ["parse"]


def parse(text: str, *, constants: Constants | None = None) -> Graph:
    """The graph that ``.gir`` text describes. Raises ParseError with line and column."""
    return parse_with(text, constants=constants, resolve=get)
