"""Formulas as exporters write them, some with one thing changed, compute the same after passes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.ir import Builder, DType, Graph, TensorType, Value, clone, print_graph, verify
from graphopt.passes import TABLE
from graphopt.passes.pipelines import level
from graphopt.rewrite import Pass, PassContext
from graphopt.testing import run_seeded, worst_error

PASSES = (
    "fuse-activation", "fuse-instance-norm", "fuse-layer-norm", "fuse-lp-norm", "fuse-softmax",
    "merge-affine", "simplify-activations",
)  # fmt: skip
_TOLERANCE = 2e-5


class Writer:
    """Builds a formula; ``draw`` may change one of its numbers, and swaps operands that commute."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph()
        shape = draw(st.sampled_from([(2, 3, 4), (3, 4), (2, 3, 4, 5)]))
        self.x: Value = self.graph.add_input("x", TensorType(DType.F32, shape))
        self.count = 0
        # One number in four formulas is off by a little or by a lot.
        self.off = draw(st.sampled_from((-1, -1, -1, *range(6))))
        self.values: list[Value] = []

    @property
    def b(self) -> Builder:
        self.count += 1
        return Builder(self.graph, origin={f"n{self.count}"})

    def n(self, number: float) -> Any:
        self.off -= 1
        if self.off == -1:
            number += self.draw(st.sampled_from((1e-3, 0.5, -1.0)))
        return np.full(self.draw(st.sampled_from([(), (1,)])), number, np.float32)

    def do(self, name: str, *operands: Any, **attrs: Any) -> Any:
        values = list(operands)
        if name in ("Add", "Mul", "Max", "Min") and self.draw(st.booleans()):
            values.reverse()
        result = self.b.op(name, *values, **attrs)
        self.values.append(result)
        return result

    # ---- formulas ----

    def gelu(self, x: Value) -> Any:
        curve = self.do("Erf", self.do("Div", x, self.n(math.sqrt(2))))
        halved = self.do("Mul", x, self.n(0.5))
        return self.do("Mul", halved, self.do("Add", curve, self.n(1)))

    def fast_gelu(self, x: Value) -> Any:
        cube = self.do("Mul", self.do("Pow", x, self.n(3)), self.n(0.044715))
        inner = self.do("Mul", self.do("Add", x, cube), self.n(math.sqrt(2 / math.pi)))
        whole = self.do("Mul", x, self.do("Add", self.do("Tanh", inner), self.n(1)))
        return self.do("Mul", whole, self.n(0.5))

    def hard_swish(self, x: Value) -> Any:
        low = self.do("Max", self.do("Add", x, self.n(3)), self.n(0))
        return self.do("Div", self.do("Mul", x, self.do("Min", low, self.n(6))), self.n(6))

    def hard_sigmoid(self, x: Value) -> Any:
        line = self.do("Add", self.do("Mul", x, self.n(0.2)), self.n(0.5))
        return self.do("Clip", line, np.float32(0), np.float32(1))

    def swish(self, x: Value) -> Any:
        below = self.do("Add", self.do("Exp", self.do("Neg", x)), self.n(1))
        return self.do("Div", x, below)

    def sigmoid(self, x: Value) -> Any:
        curve = self.do("Tanh", self.do("Mul", x, self.n(0.5)))
        return self.do("Add", self.do("Mul", curve, self.n(0.5)), self.n(0.5))

    def mish(self, x: Value) -> Any:
        soft = self.do("Log", self.do("Add", self.do("Exp", x), self.n(1)))
        return self.do("Mul", x, self.do("Tanh", soft))

    def leaky(self, x: Value) -> Any:
        return self.do("Max", x, self.do("Mul", x, self.n(0.1)))

    def chosen(self, x: Value) -> Any:
        slope = self.do("Mul", x, self.n(0.25))
        return self.do("Where", self.do("Greater", x, self.n(0)), x, slope)

    def halves(self, x: Value) -> Any:
        below = self.do("Mul", self.do("Relu", self.do("Neg", x)), self.n(-0.25))
        return self.do("Add", self.do("Relu", x), below)

    def elu(self, x: Value) -> Any:
        curve = self.do("Mul", self.do("Sub", self.do("Exp", x), self.n(1)), self.n(0.5))
        return self.do(
            "Mul", self.do("Where", self.do("Less", x, self.n(0)), curve, x), self.n(1.5)
        )

    def softmax(self, x: Value) -> Any:
        axis = self.draw(st.integers(-2, -1))
        power = self.do("Exp", self.do("Sub", x, self.do("ReduceMax", x, [axis])))
        return self.do("Div", power, self.do("ReduceSum", power, [axis]))

    def log_softmax(self, x: Value) -> Any:
        shifted = self.do("Sub", x, self.do("ReduceMax", x, [-1]))
        return self.do(
            "Sub", shifted, self.do("Log", self.do("ReduceSum", self.do("Exp", shifted), [-1]))
        )

    def norm(self, x: Value) -> Any:
        rank = x.tensor.rank or 0
        axes = self.draw(st.sampled_from(([-1], list(range(2, rank)) or [-1])))
        centered = self.do("Sub", x, self.do("ReduceMean", x, axes))
        variance = self.do("ReduceMean", self.do("Mul", centered, centered), axes)
        root = self.do("Sqrt", self.do("Add", variance, self.n(0.01)))
        scaled = self.do("Mul", self.do("Div", centered, root), self.n(2))
        return self.do("Add", scaled, self.n(0.5))

    def length(self, x: Value) -> Any:
        return self.do("Sqrt", self.do("ReduceSum", self.do("Mul", x, x), [-1]))

    def bounds(self, x: Value) -> Any:
        return self.do(
            "Relu", self.do("Clip", self.do("Sigmoid", x), self.n(0.0).reshape(()), None)
        )


_FORMULAS: tuple[Callable[[Writer, Value], Any], ...] = (
    Writer.gelu, Writer.fast_gelu, Writer.hard_swish, Writer.hard_sigmoid, Writer.swish,
    Writer.sigmoid, Writer.mish, Writer.leaky, Writer.chosen, Writer.halves, Writer.elu,
    Writer.softmax, Writer.log_softmax, Writer.norm, Writer.length, Writer.bounds,
)  # fmt: skip


@st.composite
def formulas(draw: st.DrawFn) -> Graph:
    """One formula or two in a row; at times a value within is an output as well."""
    writer = Writer(draw)
    result = writer.x
    for formula in draw(st.lists(st.sampled_from(_FORMULAS), min_size=1, max_size=2)):
        result = formula(writer, result)
    writer.graph.add_output(result, "y")
    if draw(st.integers(0, 3)) == 0:
        writer.graph.add_output(draw(st.sampled_from(writer.values)), "z")
    writer.graph.remove_dead()
    return writer.graph


def _check(pass_: Pass, graph: Graph, *, again: bool) -> None:
    source = clone(graph)
    pass_(graph, PassContext())
    verify(graph, types=True)
    for special in (False, True):
        expected, found = (run_seeded(g, seed=3, special=special) for g in (source, graph))
        error = worst_error(found, expected)
        assert error <= _TOLERANCE, f"{error}\n{print_graph(source)}{print_graph(graph)}"
    assert not (again and pass_(graph, PassContext())), print_graph(source)


_SETTINGS = settings(
    max_examples=2 * int(os.environ.get("GRAPHOPT_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("name", PASSES)
@_SETTINGS
@given(graph=formulas())
def test_a_pass_keeps_what_formulas_compute(name: str, graph: Graph) -> None:
    _check(TABLE.load(name)(), graph, again=True)


@_SETTINGS
@given(graph=formulas())
def test_a_level_keeps_what_formulas_compute(graph: Graph) -> None:
    _check(level("O2"), graph, again=False)
