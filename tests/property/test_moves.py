"""Passes that move elements keep every bit of random graphs of moves."""

from __future__ import annotations

import pytest
from hypothesis import given

from graphopt.ir import Graph
from graphopt.passes import TABLE
from tests.property.moving_graphs import moving_graphs
from tests.property.test_passes_keep_meaning import SETTINGS, check

_PASSES = (
    "cancel-quantize", "cancel-reshapes", "drop-expands", "fold-constants", "fold-shapes",
    "merge-pads", "merge-reshapes", "merge-slices", "simplify", "simplify-indices",
    "sink-transposes", "split-slices",
)  # fmt: skip


@pytest.mark.parametrize("name", _PASSES)
@SETTINGS
@given(graph=moving_graphs())
def test_moves_keep_every_bit(name: str, graph: Graph) -> None:
    check(TABLE.load(name)(), graph, exact=name != "sink-transposes")
