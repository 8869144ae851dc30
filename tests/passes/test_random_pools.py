"""Random pools of pools mean the same, to the bit, after every pass that rewrites pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Dim, DType, Graph, TensorType, clone, print_graph, verify
from graphopt.passes import TABLE
from graphopt.rewrite import PassContext
from graphopt.testing import bits_differ, run_seeded

PASSES = ("simplify-pools", "reorder-pools")


@st.composite
def stacks(draw: st.DrawFn) -> Graph:
    """Maxima over one or two axes, some of the same value, Relu and Clip between them."""
    graph = Graph()
    rank = draw(st.integers(1, 2))
    lengths: list[Dim] = [5, 8, 11, graph.reserve_symbol("H")]
    length = draw(st.sampled_from(lengths))
    values = [graph.add_input("x", TensorType(DType.F32, (1, 2, *[length] * rank)))]
    for index in range(draw(st.integers(1, 5))):
        b = Builder(graph, origin={f"node{index}"})
        x = draw(st.sampled_from(values[-2:]))
        kind = draw(st.sampled_from(("pool", "pool", "pool", "relu", "clip")))
        if kind == "pool":
            attrs: dict[str, Any] = {
                "kernel_shape": [draw(st.sampled_from((1, 2, 3, 5))) for _ in range(rank)],
                "strides": [draw(st.integers(1, 3))] * rank,
                "pads": [draw(st.integers(0, 2)) for _ in range(2 * rank)],
            }
            if draw(st.integers(0, 5)) == 0:
                attrs["ceil_mode"] = 1
            if draw(st.integers(0, 5)) == 0:
                attrs["dilations"] = [2] * rank
            try:
                values.append(b.MaxPool(x, **attrs))
            except GraphoptError:
                assume(False)
        elif kind == "relu":
            values.append(b.Relu(x))
        else:
            values.append(
                b.Clip(x, np.float32(-0.5), np.float32(draw(st.sampled_from((0.5, -1.0)))))
            )
    graph.add_output(values[-1])
    if len(values) > 2 and draw(st.booleans()):
        graph.add_output(values[-2])
    graph.remove_dead()
    return graph


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=80, deadline=None)
@given(graph=stacks())
def test_pools_keep_every_bit(name: str, graph: Graph) -> None:
    source = clone(graph)
    sizes = {"H": 10}
    try:
        expected = run_seeded(source, sizes=sizes, special=True)
    except GraphoptError:
        assume(False)
        raise
    TABLE.load(name)()(graph, PassContext())
    verify(graph, types=True)
    assert not bits_differ(run_seeded(graph, sizes=sizes, special=True), expected), print_graph(
        source
    ) + print_graph(graph)
    assert not TABLE.load(name)()(graph, PassContext()), print_graph(source)
