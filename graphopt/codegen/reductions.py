"""Reductions and row normalisations as scalar expressions over the reduction axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.codegen.coord import Coord
from graphopt.codegen.expr import Expr
from graphopt.ir import Node, Value

__all__ = ["EMITTERS"]

Index = tuple[Coord, ...]
EMITTERS: dict[str, Callable[[Any, Node, Value, Index], Expr]] = {}
