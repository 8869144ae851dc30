"""Random stacks of layers, with near-misses, compute the same after the passes that fold them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Dim, DType, Graph, TensorType, Value, clone, print_graph, verify
from graphopt.passes import TABLE
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext
from graphopt.testing import run_seeded

PASSES = (
    "compose-products", "fold-affine", "fold-pads", "fuse-activation", "fuse-gemm",
    "fuse-instance-norm", "fuse-lp-norm", "hoist-scales", "merge-affine", "merge-reductions",
    "reorder-pools", "replace-average-pools", "simplify-activations", "simplify-pools",
    "sink-scales",
)  # fmt: skip
Array = np.ndarray[Any, Any]
_SIZES = {"N": 2, "H": 7}
# Rounding in f32, and sums in another order, over some ten layers.
_TOLERANCE = 1e-5


class Stack:
    """Draws layers one on the other; now and then one reads an earlier value as well."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph()
        n, h = self.graph.reserve_symbol("N"), self.graph.reserve_symbol("H")
        shapes: list[tuple[Dim, ...]] = [(n, 4, h, 6), (2, 4, 7), (n, 4, h), (n, 6), (2, 4, 5, 5)]
        shape = draw(st.sampled_from(shapes))
        self.x: Value = self.graph.add_input("x", TensorType(DType.F32, shape))
        self.earlier = [self.x]
        self.count = 0

    def numbers(self, shape: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> Array:
        seed = self.draw(st.integers(0, 99))
        return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)

    @property
    def channels(self) -> int:
        dim = (self.x.shape or ())[1]
        assert isinstance(dim, int)
        return dim

    @property
    def space(self) -> int:
        return (self.x.tensor.rank or 0) - 2

    def affine(self, b: Builder) -> Any:
        """A constant of one number, a channel, or the last axis, on either side."""
        name = self.draw(st.sampled_from(("Mul", "Mul", "Add", "Add", "Sub", "Div")))
        kind = self.draw(st.sampled_from(("one", "channel", "channel", "last", "zero")))
        shape: tuple[int, ...] = ()
        last = (self.x.shape or ())[-1]
        if kind == "channel":
            shape = (self.channels, *[1] * self.space)
        elif kind == "last" and isinstance(last, int):
            shape = (last,)
        constant = self.numbers(shape, 0.5, 2.0)
        if self.draw(st.booleans()):
            constant = np.float32(-1) * constant
        if kind == "zero":
            constant = np.zeros((), np.float32)
        if name == "Div":
            return b.Div(self.x, constant if kind != "zero" else np.float32(2))
        swap = self.draw(st.booleans())
        return b.op(name, constant, self.x) if swap else b.op(name, self.x, constant)

    def activation(self, b: Builder) -> Any:
        name = self.draw(
            st.sampled_from(("Relu", "LeakyRelu", "Clip", "Elu", "Sigmoid", "HardSwish", "Abs"))
        )
        if name == "Clip":
            return b.Clip(self.x, np.float32(-1), np.float32(3))
        return b.op(name, self.x)

    def product(self, b: Builder) -> Any:
        if self.space == 0:
            width = self.draw(st.sampled_from((3, 6, 9)))
            weight = self.numbers((self.channels, width))
            if self.draw(st.booleans()):
                return b.MatMul(self.x, weight)
            choices: list[dict[str, Any]] = [{}, {"alpha": 0.5}, {"transB": 1}]
            attrs = self.draw(st.sampled_from(choices))
            weight = weight.T.copy() if attrs.get("transB") else weight
            return b.Gemm(self.x, weight, self.numbers((width,)), **attrs)
        kernel = [self.draw(st.sampled_from((1, 1, 3))) for _ in range(self.space)]
        group = self.draw(st.sampled_from((1, 1, 2))) if self.channels % 2 == 0 else 1
        pads = [self.draw(st.integers(0, 1))] * (2 * self.space)
        stride = self.draw(st.sampled_from((1, 1, 2)))
        out = self.draw(st.sampled_from((2, 4, 8)))
        bias = self.numbers((out,)) if self.draw(st.booleans()) else None
        if self.draw(st.integers(0, 3)):
            weight = self.numbers((out, self.channels // group, *kernel))
            return b.Conv(
                self.x, weight, bias, group=group, pads=pads, strides=[stride] * self.space
            )
        weight = self.numbers((self.channels, out // group, *kernel))
        return b.ConvTranspose(self.x, weight, bias, group=group, strides=[stride] * self.space)

    def pool(self, b: Builder) -> Any:
        if self.space == 0:
            return self.affine(b)
        names = ("MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool", "Resize")
        name = self.draw(st.sampled_from(names))
        if name == "Resize":
            scales = np.array(
                [1, 1, *[self.draw(st.sampled_from((0.5, 2)))] * self.space], np.float32
            )
            return b.Resize(
                self.x, None, scales, mode=self.draw(st.sampled_from(("nearest", "linear")))
            )
        if name == "GlobalAveragePool":
            return b.GlobalAveragePool(self.x)
        kernel = self.draw(st.sampled_from((1, 2, 3)))
        attrs: dict[str, Any] = {
            "kernel_shape": [kernel] * self.space,
            "strides": [self.draw(st.integers(1, 2))] * self.space,
            "pads": [self.draw(st.integers(0, 1)) if kernel > 1 else 0] * (2 * self.space),
        }
        if name == "AveragePool" and self.draw(st.booleans()):
            return b.AveragePool(self.x, count_include_pad=1, **attrs)
        return b.op(name, self.x, **attrs)

    def pad(self, b: Builder) -> Any:
        if self.space == 0:
            return self.activation(b)
        amounts = [0, 0, *[self.draw(st.integers(0, 1)) for _ in range(self.space)]]
        return b.Pad(self.x, [*amounts, *amounts])

    def norm(self, b: Builder) -> Any:
        vectors = [self.numbers((self.channels,), 0.5, 1.5) for _ in range(4)]
        if self.space and self.draw(st.booleans()):
            return b.InstanceNormalization(self.x, *vectors[:2])
        return b.BatchNormalization(self.x, *vectors)

    def view(self, b: Builder) -> Any:
        rank = self.x.tensor.rank or 0
        if self.space and self.draw(st.booleans()):
            mean = b.ReduceMean(self.x, list(range(2, rank)), keepdims=1)
            return b.Flatten(mean) if self.draw(st.booleans()) else b.Mul(self.x, mean)
        if rank > 2:
            swapped = b.Transpose(self.x, perm=(0, *range(2, rank), 1))
            scaled = b.Mul(swapped, self.numbers((self.channels,), 0.5, 2.0))
            return b.Transpose(scaled, perm=(0, rank - 1, *range(1, rank - 1)))
        return b.Reshape(b.Reshape(self.x, [-1, 1, self.channels]), [-1, self.channels])

    def slice(self, b: Builder) -> Any:
        if self.space == 0:
            return self.product(b)
        return b.Slice(self.x, [0], [1 << 31], [2], [self.draw(st.integers(1, 2))])

    def residual(self, b: Builder) -> Any:
        peers = [v for v in self.earlier if v.type == self.x.type]
        return b.Add(self.x, self.draw(st.sampled_from(peers))) if peers else self.affine(b)

    def grow(self) -> None:
        kinds: tuple[Callable[[Builder], Any], ...] = (
            self.affine, self.affine, self.affine, self.activation, self.product, self.product,
            self.pool, self.pad, self.norm, self.view, self.slice, self.residual,
        )  # fmt: skip
        self.count += 1
        kind = self.draw(st.sampled_from(kinds))
        self.earlier.append(self.x)
        self.x = kind(Builder(self.graph, origin={f"layer{self.count}"}))


@st.composite
def stacks(draw: st.DrawFn) -> Graph:
    """Three to nine layers; at times an inner value is an output, too."""
    stack = Stack(draw)
    for _ in range(draw(st.integers(3, 9))):
        try:
            stack.grow()
        except GraphoptError:
            assume(False)
    stack.graph.add_output(stack.x)
    if draw(st.integers(0, 3)) == 0:
        stack.graph.add_output(stack.earlier[-1])
    stack.graph.remove_dead()
    return stack.graph


def _expected(graph: Graph) -> list[Array]:
    try:
        return run_seeded(graph, sizes=_SIZES, seed=1)
    except GraphoptError:
        assume(False)
        raise


def _check(pass_: Pass, graph: Graph) -> None:
    source = clone(graph)
    expected = _expected(source)
    assume(all(a.size and np.isfinite(a).all() and np.linalg.norm(a) > 1e-3 for a in expected))
    pass_(graph, PassContext())
    verify(graph, types=True)
    assert all(node.origin for node in graph.walk())
    for a, b in zip(run_seeded(graph, sizes=_SIZES, seed=1), expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        error = np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel())
        assert error <= _TOLERANCE, print_graph(source) + print_graph(graph)


_SETTINGS = settings(
    max_examples=int(os.environ.get("GRAPHOPT_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("name", PASSES)
@_SETTINGS
@given(graph=stacks())
def test_a_pass_keeps_what_layers_compute(name: str, graph: Graph) -> None:
    source = clone(graph)
    pass_ = TABLE.load(name)()
    _check(pass_, graph)
    assert not pass_(graph, PassContext()), print_graph(source)


@pytest.mark.parametrize("name", [name for name in sorted(LEVELS) if LEVELS[name]])
@_SETTINGS
@given(graph=stacks())
def test_a_level_keeps_what_layers_compute(name: str, graph: Graph) -> None:
    _check(level(name), graph)
