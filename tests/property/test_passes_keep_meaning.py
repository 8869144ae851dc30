"""Random graphs mean the same after every exact pass, and a second run finds nothing to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Node, clone, print_graph, verify
from graphopt.ops.interpreter import run_graph
from graphopt.passes import TABLE, parse_pipeline
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext
from graphopt.testing import bits_differ, run_seeded, seeded_inputs
from tests.property.random_graphs import graphs, origins

# Passes that move or drop work but compute nothing in another way: every bit stays.
_SAME_BITS = {
    "cancel-quantize", "cancel-reshapes", "drop-expands", "eliminate-dead", "fold-constants",
    "fold-shapes", "hoist-invariants", "inline-if", "inline-loop", "merge-common", "merge-pads",
    "merge-reshapes", "merge-slices", "merge-weights", "simplify", "simplify-activations",
    "simplify-arithmetic", "simplify-indices", "specialize-if", "split-slices", "trim-outputs",
    "trim-regions",
}  # fmt: skip
# f32 sums in another order, and constants rounded once more, err by a few units in the last place
# of the largest number that the computation meets.
_UNIT = 2e-6

# Searches of the night look at more graphs.
_EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "40"))
SETTINGS = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def _largest(graph: Graph) -> float:
    """The largest finite magnitude among all values of a run."""
    found = [1.0]

    def look(node: Node, outputs: Sequence[Any]) -> None:
        for value in outputs:
            array = np.asarray(value)
            if array.dtype.kind == "f":
                found.append(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)))

    run_graph(graph, seeded_inputs(graph, seed=1), observe=look)
    return max(found)


def _assert_close(graph: Graph, source: Graph, expected: Sequence[Any]) -> None:
    scale = _largest(source)
    for a, b in zip(run_seeded(graph, seed=1), expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (
            f"from\n{print_graph(source)}to\n{print_graph(graph)}"
        )
        np.testing.assert_allclose(a, b, rtol=0, atol=_UNIT * scale * max(1, a.size) ** 0.5)


def _expected(source: Graph) -> list[Any]:
    try:
        return run_seeded(source, seed=1)
    except GraphoptError:
        assume(False)
        raise


def check(pass_: Pass, graph: Graph, exact: bool) -> None:
    source = clone(graph)
    expected = _expected(source)
    before = print_graph(graph)
    changed = pass_(graph, PassContext())
    after = print_graph(graph)
    assert changed == (after != before), "the pass does not say whether it changed anything"
    verify(graph, types=True)
    assert all(node.origin for node in graph.walk())
    assert origins(graph) <= origins(source)
    assert graph.output_names == source.output_names
    assert [v.type for v in graph.inputs] == [v.type for v in source.inputs]
    again = pass_(graph, PassContext())
    assert not again, (
        f"from\n{print_graph(source)}a second run changes\n{after}to\n{print_graph(graph)}"
    )
    if exact:
        assert not bits_differ(run_seeded(graph, seed=1), expected)
        special = run_seeded(source, seed=2, special=True)
        assert not bits_differ(run_seeded(graph, seed=2, special=True), special)
        return
    _assert_close(graph, source, expected)


@pytest.mark.parametrize("name", [name for name in TABLE.names() if TABLE.load(name).exact])
@SETTINGS
@given(graph=graphs())
def test_a_pass_keeps_what_graphs_mean(name: str, graph: Graph) -> None:
    check(TABLE.load(name)(), graph, name in _SAME_BITS)


@pytest.mark.parametrize("name", sorted(LEVELS))
@SETTINGS
@given(graph=graphs(max_nodes=20))
def test_a_level_keeps_what_graphs_mean(name: str, graph: Graph) -> None:
    source = clone(graph)
    expected = _expected(source)
    level(name)(graph, PassContext())
    verify(graph, types=True)
    assert origins(graph) <= origins(source)
    _assert_close(graph, source, expected)


@SETTINGS
@given(graph=graphs(), data=st.data())
def test_any_order_of_passes_keeps_what_graphs_mean(graph: Graph, data: st.DataObject) -> None:
    exact = [name for name in TABLE.names() if TABLE.load(name).exact]
    names = data.draw(st.lists(st.sampled_from(exact), min_size=2, max_size=5))
    source = clone(graph)
    expected = _expected(source)
    parse_pipeline(",".join(names))(graph, PassContext(after=[lambda _, g: verify(g, types=True)]))
    _assert_close(graph, source, expected)
