"""Rotary embeddings, cells, sibling products and lookups in random spellings mean the same."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Builder, DType, Graph, TensorType, Value, clone, verify
from graphopt.passes import parse_pipeline
from graphopt.rewrite import PassContext
from graphopt.testing import run_seeded

Draw = Any
_EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "40"))


class Writer:
    """Draws a graph, node by node."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.graph = Graph()
        self.count = 0
        self.rng = np.random.default_rng(0)

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def b(self) -> Builder:
        self.count += 1
        return Builder(self.graph, origin={f"n{self.count}"})

    def input(self, name: str, *shape: int, dtype: DType = DType.F32) -> Value:
        return self.graph.add_input(name, TensorType(dtype, shape))

    def weight(self, *shape: int) -> Value:
        return self.b().constant(self.rng.standard_normal(shape).astype(np.float32))

    def either(self, op: str, a: Value, b: Value) -> Value:
        """A commutative op of two values in either order."""
        result: Value = self.b().op(op, *self.one_of((a, b), (b, a)))
        return result


def rotary(w: Writer) -> None:
    """Halves or pairs, whole or in part, angles that fit or do not."""
    batch, heads, length, size = w.one_of(1, 2), 3, w.one_of(1, 4), 8
    behind = w.one_of(False, False, True)
    shape = (batch, length, heads, size) if behind else (batch, heads, length, size)
    x = w.input("x", *shape)
    width = w.one_of(8, 8, 4)
    turned = x if width == size else w.b().Slice(x, [0], [width], [3])
    pairs = w.one_of(False, True)
    half = w.one_of(1, width // 2) if w.one_of(0, 0, 0, 1) else width // 2
    table = (w.one_of(1, batch), length, 1, half) if behind else (1, length, half)
    angle = w.input("angle", *table)
    direct = w.one_of(False, True)
    if not direct and half == width // 2:
        if pairs:
            wide = w.b().Unsqueeze(angle, [-1])
            both = w.b().Concat(wide, wide, axis=-1)
            angle = w.b().Reshape(both, [*table[:-1], width])
        else:
            angle = w.b().Concat(angle, angle, axis=-1)
    cos, sin = w.b().Cos(angle), w.b().Sin(angle)
    last, end = [3], [width]
    if pairs:
        a, b = (w.b().Slice(turned, [i], end, last, [2]) for i in (0, 1))
    elif w.one_of(False, True):
        a, b = w.b().Split(turned, num_outputs=2, axis=3, _outputs=2)
    else:
        a, b = (w.b().Slice(turned, [i], [i + width // 2], last) for i in (0, width // 2))
    if w.one_of(0, 0, 0, 0, 1):
        a, b = b, a
    if direct:
        first = w.b().Sub(w.either("Mul", a, cos), w.either("Mul", b, sin))
        second = w.either("Add", w.either("Mul", b, cos), w.either("Mul", a, sin))
    else:
        first, second = w.b().Neg(b), a
    if pairs:
        joined = w.b().Concat(*(w.b().Unsqueeze(v, [-1]) for v in (first, second)), axis=-1)
        y = w.b().Reshape(joined, [*shape[:-1], width])
    else:
        y = w.b().Concat(first, second, axis=w.one_of(-1, 3))
    if not direct:
        y = w.either("Add", w.either("Mul", turned, cos), w.either("Mul", y, sin))
    if width < size:
        y = w.b().Concat(y, w.b().Slice(x, [width], [size], [3]), axis=3)
    w.graph.add_output(y, "y")


def recurrent(w: Writer) -> None:
    """One or two LSTM cells, gates together or apart."""
    batch, features, size = 2, w.one_of(3, 4), 3
    x, h, c = w.input("x", batch, features), w.input("h", batch, size), w.input("c", batch, size)
    for _ in range(w.one_of(1, 2)):
        gates = [_apart(w, x, h, size) for _ in range(4)] if w.one_of(0, 1) else None
        i, f, o, g = gates or _together(w, x, h, size)
        kept = w.either("Mul", w.b().Sigmoid(f), c)
        new = w.either("Mul", w.b().Sigmoid(i), w.b().Tanh(g))
        c = w.either("Add", kept, new)
        h = w.either("Mul", w.b().Tanh(c), w.b().Sigmoid(o))
    w.graph.add_output(h, "hn")
    w.graph.add_output(c, "cn")
    if w.one_of(0, 0, 1) and gates is None:
        w.graph.add_output(i, "gate")


def gated(w: Writer) -> None:
    """GRU cells, as a step from the candidate or a mean, or that reset something else."""
    batch, features, size = 2, w.one_of(3, 4), 3
    x, h = w.input("x", batch, features), w.input("h", batch, size)
    for _ in range(w.one_of(1, 2)):
        gx = w.b().Gemm(x, w.weight(3 * size, features), w.weight(3 * size), transB=1)
        gh = w.b().Gemm(h, w.weight(3 * size, size), w.weight(3 * size), transB=1)
        rx, zx, nx = w.b().Split(gx, [size] * 3, axis=1, _outputs=3)
        rh, zh, nh = w.b().Split(gh, [size] * 3, axis=1, _outputs=3)
        r, z = (w.b().Sigmoid(w.either("Add", *pair)) for pair in ((rx, rh), (zx, zh)))
        if w.one_of(0, 0, 1):
            nx, nh = nh, nx
        n = w.b().Tanh(w.either("Add", nx, w.either("Mul", r, nh)))
        if w.one_of(0, 1):
            h = w.either("Add", w.either("Mul", w.b().Sub(h, n), z), n)
        else:
            kept = w.either("Mul", z, h)
            h = w.either("Add", w.either("Mul", w.b().Sub(1.0, z), n), kept)
    w.graph.add_output(h, "hn")


def _apart(w: Writer, x: Value, h: Value, size: int) -> Value:
    width = x.shape[1] if x.shape else 0
    assert isinstance(width, int)
    gx = w.b().MatMul(x, w.weight(width, size))
    gh = w.b().Gemm(h, w.weight(size, size), w.weight(size), transB=w.one_of(0, 1))
    return w.either("Add", gx, gh)


def _together(w: Writer, x: Value, h: Value, size: int) -> list[Value]:
    width = x.shape[1] if x.shape else 0
    assert isinstance(width, int)
    if w.one_of(0, 1):
        both = w.b().Concat(x, h, axis=1)
        s = w.either(
            "Add", w.b().MatMul(both, w.weight(width + size, 4 * size)), w.weight(4 * size)
        )
    else:
        gx = w.b().Gemm(x, w.weight(4 * size, width), w.weight(4 * size), transB=1)
        s = w.either("Add", gx, w.b().MatMul(h, w.weight(size, 4 * size)))
    if w.one_of(0, 1):
        return list(w.b().Split(s, [size] * 4, axis=w.one_of(1, -1), _outputs=4))
    return [w.b().Slice(s, [size * k], [size * k + size], [1]) for k in range(4)]


def siblings(w: Writer) -> None:
    """Products of a few values, some with biases and activations, some put side by side."""
    sources = [w.input("x", 2, 4), w.input("z", 2, 4)]
    values: list[Value] = []
    for _ in range(w.one_of(2, 3, 4)):
        x, width = w.one_of(sources[0], sources[0], sources[1]), w.one_of(2, 3)
        how = w.one_of("matmul", "bias", "gemm", "odd")
        if how == "gemm":
            y = w.b().Gemm(x, w.weight(width, 4), w.weight(width), transB=1)
        else:
            y = w.b().MatMul(x, w.weight(4, width))
            y = w.either("Add", y, w.weight(width)) if how == "bias" else y
            y = w.b().Add(y, w.weight(2, 1)) if how == "odd" else y
        values.append(w.b().Relu(y) if w.one_of(0, 1) else y)
    if w.one_of(0, 1):
        w.graph.add_output(w.b().Concat(*values, axis=1), "y")
        if w.one_of(0, 0, 1):
            w.graph.add_output(values[0], "v0")
    else:
        for index, value in enumerate(values):
            w.graph.add_output(value, f"v{index}")


def convolutions(w: Writer) -> None:
    """Convolutions side by side."""
    x = w.input("x", 1, 3, 4, 4)
    values = []
    for _ in range(w.one_of(2, 3)):
        size, channels = w.one_of(1, 1, 3), w.one_of(1, 2)
        weight = w.weight(channels, 3, size, size)
        bias = w.weight(channels) if w.one_of(0, 1) else None
        y = w.b().Conv(x, weight, bias, pads=[size // 2] * 4)
        values.append(w.b().Relu(y) if w.one_of(0, 1) else y)
    w.graph.add_output(w.b().Concat(*values, axis=w.one_of(1, 1, -3)), "y")


def lookups(w: Writer) -> None:
    """One-hot rows times a matrix, and ops that follow, which may vary from row to row."""
    x = w.input("x", 2, 3, 1, dtype=DType.I32)
    places = np.arange(4, dtype=np.int32) + w.one_of(0, 0, 0, 1)
    y = w.b().MatMul(w.b().Cast(w.either("Equal", x, w.b().constant(places)), to=1), w.weight(4, 2))
    for _ in range(w.one_of(0, 1, 2)):
        how = w.one_of("Relu", "Gelu", "Add", "Mul", "Sub", "rows")
        if how in ("Relu", "Gelu"):
            y = w.b().op(how, y)
        elif how == "rows":
            y = w.b().Add(y, w.weight(3, 2))
        else:
            row = w.weight(*w.one_of((2,), (1, 1, 2), (1,)))
            y = w.b().op(how, *w.one_of((y, row), (row, y)))
    w.graph.add_output(y, "y")


def einsums(w: Writer) -> None:
    """Equations of one or two operands, labels in any order."""
    letters = "abcde"[: w.one_of(2, 3, 4, 5)]
    sizes = {label: w.one_of(1, 2, 3) for label in letters}
    terms = []
    for _ in range(w.one_of(1, 2, 2)):
        picked = w.draw(st.lists(st.sampled_from(letters), min_size=1, max_size=4, unique=True))
        terms.append("".join(picked))
    found = sorted(set("".join(terms)))
    kept = w.draw(st.lists(st.sampled_from(found), max_size=4, unique=True))
    values = [w.input(f"x{i}", *(sizes[c] for c in t)) for i, t in enumerate(terms)]
    equation = ",".join(terms) + w.one_of("->", " -> ") + "".join(kept)
    w.graph.add_output(w.b().Einsum(*values, equation=equation), "y")


_WRITERS = {
    "decompose-einsum": einsums,
    "fuse-rotary": rotary,
    "fuse-recurrent": recurrent,
    "fuse-recurrent,simplify": gated,
    "merge-products": siblings,
    "merge-branches": siblings,
    "merge-branches,simplify": convolutions,
    "fuse-embedding": lookups,
}


@pytest.mark.parametrize("spec", _WRITERS)
@settings(max_examples=_EXAMPLES, deadline=None)
@given(data=st.data())
def test_what_is_fused_means_the_same(spec: str, data: st.DataObject) -> None:
    writer = Writer(data.draw)
    _WRITERS[spec](writer)
    graph = writer.graph
    source = clone(graph)
    pipeline = parse_pipeline(spec)
    pipeline(graph, PassContext())
    verify(graph, types=True)
    assert all(node.origin for node in graph.walk())
    assert graph.output_names == source.output_names
    for seed in (1, 2):
        for a, b in zip(run_seeded(graph, seed=seed), run_seeded(source, seed=seed), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert not pipeline(graph, PassContext()), "a second run finds something to do"


@pytest.mark.parametrize("spec", _WRITERS)
def test_many_are_fused(spec: str) -> None:
    changed = 0

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(data=st.data())
    def count(data: st.DataObject) -> None:
        nonlocal changed
        writer = Writer(data.draw)
        _WRITERS[spec](writer)
        changed += parse_pipeline(spec.partition(",")[0])(writer.graph, PassContext())

    count()
    assert changed >= 5
