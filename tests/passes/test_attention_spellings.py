"""Attention in random spellings, and what is almost attention, means the same when fused."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Builder, DType, Graph, TensorType, Value, clone, verify
from graphopt.passes import parse_pipeline
from graphopt.rewrite import PassContext
from graphopt.testing import run_seeded

Draw = Any
_EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "60"))
_SETTINGS = settings(max_examples=_EXAMPLES, deadline=None)
_LEADS = [(), (3,), (2, 2), (1, 4), (2, 1, 3)]
_FILLS = [-np.inf, -1e4, float(np.finfo(np.float32).min)]


class Spelling:
    """Draws one attention: where factors stand, how it is masked, what its axes are."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.graph = Graph()
        self.count = 0

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def b(self) -> Builder:
        self.count += 1
        return Builder(self.graph, origin={f"n{self.count}"})

    def input(self, name: str, shape: Any, dtype: DType = DType.F32) -> Value:
        return self.graph.add_input(name, TensorType(dtype, tuple(shape)))

    def scaled(self, x: Value) -> Value:
        how = self.one_of("no", "times", "over", "minus", "vector")
        if how == "times":
            return self.b().Mul(x, 0.5)
        if how == "over":
            return self.b().Div(x, 2.0)
        if how == "minus":
            return self.b().Neg(x)
        if how == "vector":
            width = x.shape[-1] if x.shape else 1
            return self.b().Mul(x, self.b().constant(np.ones(width, np.float32) * 0.5))
        return x

    def capped(self, x: Value) -> Value:
        if self.one_of(0, 0, 1):
            y = self.b().Tanh(self.b().Div(x, 3.0))
            return self.b().Mul(y, self.one_of(3.0, 2.0, -3.0))
        return x

    def mask_shape(self, x: Value) -> tuple[Any, ...]:
        shape = list(x.shape or ())
        kept = [dim if self.one_of(0, 1) else 1 for dim in shape]
        return tuple(kept[self.one_of(*range(len(kept) - 1)) :])

    def bools(self, x: Value) -> Value:
        rows, columns = (x.shape or ())[-2:]
        how = self.one_of("input", "triangle", "ranges", "trilu")
        name = f"mask{self.count}"
        if how == "triangle":
            return self.b().constant(np.tri(rows, columns, self.one_of(0, 1, -1), bool))
        if how == "ranges":
            at = [self.b().Range(np.int64(0), np.int64(n), np.int64(1)) for n in (rows, columns)]
            query, key = self.b().Unsqueeze(at[0], [1]), self.b().Unsqueeze(at[1], [0])
            op = self.one_of("LessOrEqual", "Less", "GreaterOrEqual")
            return self.b().op(op, *self.one_of((key, query), (query, key)))
        if how == "trilu":
            ones = self.b().constant(np.ones((rows, columns), np.float32))
            low = self.b().Trilu(ones, np.int64(self.one_of(0, 1)), upper=self.one_of(0, 1))
            return self.b().Cast(low, to=int(DType.BOOL))
        return self.input(name, self.mask_shape(x), DType.BOOL)

    def masked(self, x: Value) -> Value:
        how = self.one_of("no", "sum", "sum", "keep", "drop", "triangle", "two")
        if how == "sum" or how == "two":
            mask = self.input(f"mask{self.count}", self.mask_shape(x))
            x = self.b().Add(*self.one_of((x, mask), (mask, x)))
        if how in ("keep", "two"):
            return self.b().Where(self.bools(x), x, np.float32(self.one_of(*_FILLS)))
        if how == "drop":
            return self.b().Where(self.bools(x), np.float32(self.one_of(*_FILLS)), x)
        if how == "triangle":
            rows, columns = (x.shape or ())[-2:]
            keep = np.tri(rows, columns, self.one_of(0, 1))
            low = np.float32(self.one_of(*_FILLS))
            return self.b().Add(x, np.where(keep, np.float32(0), low).astype(np.float32))
        return x

    def regrouped(self, x: Value, lead: tuple[int, ...]) -> tuple[Value, Any]:
        """Scores with their leading axes merged or split, and how to go back."""
        if len(lead) == 2 and self.one_of(0, 1):
            tail = tuple(x.shape or ())[-2:]
            back = [*lead, *tail]
            return self.b().Reshape(x, [lead[0] * lead[1], *tail]), back
        return x, None

    def repeated(self, x: Value, times: int) -> Value:
        batch, heads, length, size = x.shape or ()
        if self.one_of(0, 1):
            indices = np.repeat(np.arange(heads), times)
            return self.b().Gather(x, self.b().constant(indices), axis=1)
        wide = self.b().Unsqueeze(x, [2])
        how = self.one_of("expand", "concat", "tile")
        if how == "expand":
            wide = self.b().Expand(wide, [1, 1, times, 1, 1])
        elif how == "tile":
            wide = self.b().Tile(wide, [1, 1, times, 1, 1])
        else:
            wide = self.b().Concat(*[wide] * times, axis=2)
        return self.b().Reshape(wide, [batch, heads * times, length, size])

    def build(self) -> Graph:
        lead = self.one_of(*_LEADS)
        rows, columns, size = self.one_of(1, 2, 5), self.one_of(2, 5), 4
        kv = lead
        times = 1
        if len(lead) == 2 and self.one_of(0, 1):
            times = self.one_of(1, lead[1])
            kv = (lead[0], lead[1] // times)
        q = self.scaled(self.input("q", (*lead, rows, size)))
        k = self.input("k", (*kv, columns, size))
        v = self.input("v", (*kv, columns, self.one_of(4, 3)))
        if (times > 1 and self.one_of(0, 1, 1)) or (kv != lead and kv[1] != 1):
            k, v = self.repeated(k, times), self.repeated(v, times)
        rank = len(lead) + 2
        swap = (*range(rank - 2), rank - 1, rank - 2)
        kt = self.scaled(self.b().Transpose(k, perm=swap))
        scores = self.capped(self.scaled(self.b().MatMul(q, kt)))
        scores, back = self.regrouped(scores, lead)
        scores = self.masked(scores)
        late = self.one_of(False, True)
        if back is not None and not late:
            scores = self.b().Reshape(scores, back)
        if self.one_of(0, 0, 0, 1):
            scores = self.scaled(scores)
        weights = self.b().Softmax(scores, axis=self.one_of(-1, -1, -1, -2))
        if self.one_of(0, 0, 1):
            weights = self.b().Where(self.b().IsNaN(weights), 0.0, weights)
        if back is not None and late:
            weights = self.b().Reshape(weights, back)
        self.graph.add_output(self.b().MatMul(weights, v), "y")
        if self.one_of(0, 0, 0, 0, 0, 1):
            self.graph.add_output(weights, "p")
        return self.graph


@st.composite
def spellings(draw: Draw) -> Graph:
    """Graphs that hold one attention, or nearly so."""
    return Spelling(draw).build()


@_SETTINGS
@given(graph=spellings())
def test_fused_attention_means_the_same(graph: Graph) -> None:
    source = clone(graph)
    pipeline = parse_pipeline("simplify,fuse-attention,eliminate-dead")
    pipeline(graph, PassContext())
    verify(graph, types=True)
    assert all(node.origin for node in graph.walk())
    for seed in (1, 2):
        for a, b in zip(run_seeded(graph, seed=seed), run_seeded(source, seed=seed), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert not parse_pipeline("fuse-attention")(graph, PassContext())


def test_most_spellings_are_fused() -> None:
    fused = 0

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(graph=spellings())
    def count(graph: Graph) -> None:
        nonlocal fused
        fused += parse_pipeline("simplify,fuse-attention")(graph, PassContext()) and any(
            node.is_a("Attention", "graphopt") for node in graph
        )

    count()
    assert fused >= 12
