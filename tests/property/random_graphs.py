"""Random well-typed graphs: several consumers, marked outputs, constants, regions, symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value, sym, verify
from graphopt.ops import get

Draw = Callable[[Any], Any]

_UNARY = ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Floor", "Softsign")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
_CONSTANTS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0)
# f32 values stay small enough for rounding errors to be judged: no Exp, Div, Pow or Sqrt.


class RandomGraph:
    """Draws one graph. ``values`` are those that later nodes may read."""

    def __init__(self, draw: Draw, *, symbols: bool) -> None:
        self.draw = draw
        self.graph = Graph()
        self.count = 0
        sizes: list[Any] = [1, 2, 3, 4]
        if symbols:
            sizes += [self.graph.reserve_symbol("N"), self.graph.reserve_symbol("H")]
        self.sizes = sizes
        for index in range(draw(st.integers(1, 3))):
            shape = tuple(draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=4)))
            self.graph.add_input(f"x{index}", TensorType(DType.F32, shape))
        self.values: list[Value] = list(self.graph.inputs)

    def value(self, *, among: Callable[[Value], bool] | None = None) -> Value:
        """A value to read, a late one more often than not; one of ``among`` where there is one."""
        fit = [v for v in self.values if among is None or among(v)] or self.values
        late = fit[-2:] if self.draw(st.integers(0, 3)) else fit
        return self.draw(st.sampled_from(late[::-1]))

    def builder(self, graph: Graph | None = None) -> Builder:
        self.count += 1
        return Builder(graph or self.graph, origin={f"node{self.count}"})

    def constant(self, b: Builder, shape: tuple[int, ...]) -> Value:
        if self.draw(st.booleans()):
            array = np.full(shape, self.draw(st.sampled_from(_CONSTANTS)), np.float32)
        else:
            seed = self.draw(st.integers(0, 5))
            array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return b.constant(array)

    # ---- nodes ----

    def unary(self, b: Builder) -> Any:
        return b.op(self.draw(st.sampled_from(_UNARY)), self.value())

    def binary(self, b: Builder) -> Any:
        return b.op(self.draw(st.sampled_from(_BINARY)), self.value(), self.value())

    def with_constant(self, b: Builder) -> Any:
        x = self.value()
        rank = x.tensor.rank or 0
        dims = [d if isinstance(d, int) and self.draw(st.booleans()) else 1 for d in x.shape or ()]
        shape = tuple(dims[self.draw(st.integers(0, rank)) :])
        operands = [x, self.constant(b, shape)]
        if self.draw(st.booleans()):
            operands.reverse()
        return b.op(self.draw(st.sampled_from((*_BINARY, "PRelu"))), *operands)

    def constants(self, b: Builder) -> Any:
        shape = (self.draw(st.integers(1, 3)),)
        return b.op(
            self.draw(st.sampled_from(_BINARY)), self.constant(b, shape), self.constant(b, shape)
        )

    def transpose(self, b: Builder) -> Any:
        x = self.value(among=lambda v: (v.tensor.rank or 0) > 1)
        return b.Transpose(x, perm=tuple(self.draw(st.permutations(range(x.tensor.rank or 0)))))

    def reshape(self, b: Builder) -> Any:
        x = self.value()
        rank = x.tensor.rank or 0
        form = self.draw(st.sampled_from(("flat", "same", "merge", "split", "back")))
        if form == "flat":
            return b.Reshape(x, [-1])
        if form == "same":
            return b.Reshape(x, [0] * rank)
        if form == "merge":
            return b.Reshape(x, [-1, 1])
        if form == "split":
            return b.Reshape(x, [1, -1])
        return b.Flatten(x, axis=self.draw(st.integers(0, rank)))

    def unsqueeze(self, b: Builder) -> Any:
        x = self.value()
        return b.Unsqueeze(x, [self.draw(st.integers(0, x.tensor.rank or 0))])

    def squeeze(self, b: Builder) -> Any:
        x = self.value()
        ones = [axis for axis, dim in enumerate(x.shape or ()) if dim == 1]
        if not ones or (x.tensor.rank or 0) < 2:
            return self.unsqueeze(b)
        return b.Squeeze(x, [self.draw(st.sampled_from(ones))])

    def concat(self, b: Builder) -> Any:
        x = self.value()
        peers = [v for v in self.values if v.type == x.type]
        parts = [self.draw(st.sampled_from(peers)) for _ in range(self.draw(st.integers(1, 3)))]
        return b.Concat(x, *parts, axis=self.draw(st.integers(0, (x.tensor.rank or 1) - 1)))

    def split(self, b: Builder) -> Any:
        x = self.value()
        axes = [axis for axis, dim in enumerate(x.shape or ()) if isinstance(dim, int) and dim > 1]
        if not axes:
            return self.unary(b)
        axis = self.draw(st.sampled_from(axes))
        return b.Split(x, axis=axis, num_outputs=2, _outputs=2)

    def slice(self, b: Builder) -> Any:
        x = self.value()
        axis = self.draw(st.integers(0, (x.tensor.rank or 1) - 1))
        start, end = self.draw(st.integers(-4, 1)), self.draw(st.integers(1, 9))
        step = self.draw(st.sampled_from((1, 1, 2)))
        return b.Slice(x, [start], [end], [axis], [step])

    def pad(self, b: Builder) -> Any:
        x = self.value()
        amounts = [self.draw(st.integers(0, 1)) for _ in range(2 * (x.tensor.rank or 0))]
        return b.Pad(x, amounts)

    def reduce(self, b: Builder) -> Any:
        x = self.value(among=lambda v: (v.tensor.rank or 0) > 1)
        rank = x.tensor.rank or 0
        name = self.draw(st.sampled_from(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin")))
        if rank < 2:
            return self.unary(b)
        axes = self.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=1))
        return b.op(name, x, axes, keepdims=self.draw(st.integers(0, 1)))

    def arg(self, b: Builder) -> Any:
        x = self.value()
        axis = self.draw(st.integers(0, (x.tensor.rank or 1) - 1))
        found = b.ArgMax(x, axis=axis, keepdims=self.draw(st.integers(0, 1)))
        return b.Cast(found, to=int(DType.F32))

    def softmax(self, b: Builder) -> Any:
        x = self.value()
        return b.Softmax(x, axis=self.draw(st.integers(0, (x.tensor.rank or 1) - 1)))

    def casts(self, b: Builder) -> Any:
        wide = b.Cast(self.value(), to=int(self.draw(st.sampled_from((DType.F64, DType.F32)))))
        return b.Cast(wide, to=int(DType.F32))

    def where(self, b: Builder) -> Any:
        x = self.value()
        return b.Where(b.Less(x, self.value()), x, self.value())

    def logic(self, b: Builder) -> Any:
        """Bools by several ways, as a choice or as numbers."""
        x = self.value()
        c = b.op(self.draw(st.sampled_from(("Less", "Equal", "GreaterOrEqual"))), x, self.value())
        for _ in range(self.draw(st.integers(0, 3))):
            form = self.draw(st.sampled_from(("Not", "And", "Or", "Xor", "same", "choice")))
            known = b.constant(np.full(self.draw(st.integers(0, 1)), self.draw(st.booleans())))
            if known.tensor.numel == 0:
                known = b.constant(np.array(self.draw(st.booleans())))
            if form == "Not":
                c = b.Not(c)
            elif form == "same":
                c = b.op(self.draw(st.sampled_from(("And", "Or"))), c, c)
            elif form == "choice":
                c = b.Where(c, known, b.Not(known))
            else:
                c = b.op(form, *((c, known) if self.draw(st.booleans()) else (known, c)))
        return b.Where(c, x, self.value()) if self.draw(st.booleans()) else b.Cast(c, to=1)

    def whole(self, b: Builder) -> Any:
        """Integers, computed with constants that do nothing, decide or merge."""
        i = b.Cast(b.Less(self.value(), self.value()), to=int(DType.I32))
        for _ in range(self.draw(st.integers(1, 3))):
            name = self.draw(st.sampled_from(("Add", "Mul", "Sub", "BitwiseAnd", "BitwiseOr")))
            c = self.draw(st.sampled_from((0, 1, -1, 3)))
            i = b.op(name, i, i if c == 3 and name == "Sub" else b.constant(np.int32(c)))
        return b.Cast(i, to=1)

    def gather(self, b: Builder) -> Any:
        x = self.value()
        axis = self.draw(st.integers(0, (x.tensor.rank or 1) - 1))
        return b.Gather(x, b.constant(np.zeros(self.draw(st.integers(1, 2)), np.int64)), axis=axis)

    def sizes_of(self, b: Builder) -> Any:
        x = self.value()
        shape = b.Shape(x)
        one = b.Gather(shape, [self.draw(st.integers(0, (x.tensor.rank or 1) - 1))], axis=0)
        if self.draw(st.booleans()):
            one = b.Mul(one, b.constant([self.draw(st.integers(0, 2))]))
        return b.Cast(one, to=int(DType.F32))

    def same_shape(self, b: Builder) -> Any:
        x = self.value()
        name = self.draw(st.sampled_from(("Reshape", "Expand")))
        return b.op(name, x, b.Shape(x))

    def product(self, b: Builder) -> Any:
        x = self.value(among=lambda v: (v.tensor.rank or 0) == 2)
        k = x.shape[-1] if x.shape else None
        if not isinstance(k, int):
            return self.unary(b)
        n = self.draw(st.integers(1, 3))
        if x.tensor.rank == 2 and self.draw(st.booleans()):
            bias = self.constant(b, self.draw(st.sampled_from(((n,), (1, n), (1,), ()))))
            return b.Gemm(x, self.constant(b, (n, k)), bias, transB=1)
        return b.MatMul(x, self.constant(b, (k, n)))

    def convolution(self, b: Builder) -> Any:
        x = self.value(among=lambda v: v.tensor.rank in (3, 4) and isinstance(v.shape[1], int))
        shape = x.shape or ()
        if len(shape) not in (3, 4) or not isinstance(shape[1], int):
            return self.unary(b)
        channels, spatial = shape[1], (1,) * (len(shape) - 2)
        n = self.draw(st.integers(1, 3))
        bias = self.constant(b, (n,)) if self.draw(st.booleans()) else None
        y = b.Conv(x, self.constant(b, (n, channels, *spatial)), bias)
        after = self.draw(st.sampled_from(("norm", "scale", "shift", "none")))
        if after in ("scale", "shift"):
            name = "Mul" if after == "scale" else "Add"
            return b.op(name, self.constant(b, (n, *spatial)), y)
        if after == "norm":
            parameters = [self.constant(b, (n,)) for _ in range(3)]
            variance = b.constant(np.linspace(0.5, 2, n).astype(np.float32))
            y = b.BatchNormalization(y, *parameters, variance)
        return y

    def normalization(self, b: Builder) -> Any:
        x = self.value()
        width = x.shape[-1] if x.shape else None
        if not isinstance(width, int):
            return self.unary(b)
        centered = b.Sub(x, b.ReduceMean(x, [-1]))
        variance = b.ReduceMean(b.Mul(centered, centered), [-1])
        y = b.Div(centered, b.Sqrt(b.Add(variance, b.constant(0.5))))
        return b.Add(b.Mul(y, self.constant(b, (width,))), self.constant(b, (width,)))

    def activation(self, b: Builder) -> Any:
        x = self.value()
        form = self.draw(st.sampled_from(("swish", "hard", "gelu", "dropout")))
        if form == "swish":
            return b.Mul(x, b.Sigmoid(x))
        if form == "hard":
            gate = b.Clip(b.Add(x, b.constant(3.0)), b.constant(0.0), b.constant(6.0))
            return b.Div(b.Mul(x, gate), b.constant(6.0))
        if form == "dropout":
            return b.Dropout(x)
        tail = b.Add(b.Erf(b.Div(x, b.constant(np.sqrt(2.0)))), b.constant(1.0))
        return b.Mul(b.Mul(x, tail), b.constant(0.5))

    def attention(self, b: Builder) -> Any:
        x = self.value(among=lambda v: v.tensor.rank in (3, 4))
        rank = x.tensor.rank or 0
        if rank not in (3, 4):
            return self.unary(b)
        kt = b.Transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))
        scores = b.MatMul(b.Mul(x, b.constant(0.5)), kt)
        weights = b.Softmax(scores, axis=-1)
        if self.draw(st.booleans()):
            weights = b.Where(b.IsNaN(weights), b.constant(0.0), weights)
        return b.MatMul(weights, x)

    def swap(self, b: Builder) -> Any:
        x = self.value(among=lambda v: v.tensor.rank == 4)
        if x.tensor.rank != 4:
            return self.unary(b)
        merged = b.Reshape(x, b.Concat(b.constant([-1]), b.Shape(x, start=2), axis=0))
        shape = b.Gather(b.Shape(x), b.constant([0, 1, 3, 2]), axis=0)
        return b.Reshape(b.Transpose(merged, perm=(0, 2, 1)), shape)

    def conditional(self, b: Builder) -> Any:
        x = self.value()
        known = self.draw(st.sampled_from((True, False, None)))
        condition = (
            b.constant(np.asarray(known))
            if known is not None
            else b.Less(b.ReduceSum(x, keepdims=0), b.constant(0.5))
        )
        branches = {}
        for name in ("then_branch", "else_branch"):
            region = Graph(name, self.graph)
            inner = Builder(region, origin=b.origin)
            scale = inner.constant(self.draw(st.sampled_from((1.0, 2.0))))
            y = inner.Mul(x, scale) if self.draw(st.booleans()) else x
            region.add_output(inner.Relu(y) if self.draw(st.booleans()) else y)
            branches[name] = region
        return b.call(get("If"), condition, **branches).output

    def loop(self, b: Builder) -> Any:
        """Two values carried, of which one may stay as it is, and one collected."""
        x, z = self.value(), self.value()
        region = Graph("body", self.graph)
        region.add_input("i", TensorType(DType.I64, ()), rename=True)
        go = region.add_input("go", TensorType(DType.BOOL, ()), rename=True)
        inner = Builder(region, origin=b.origin)
        u, v = (region.add_input("carried", value.type, rename=True) for value in (x, z))
        w = inner.op(self.draw(st.sampled_from(("Relu", "Neg", "Abs"))), u)
        if x.type == z.type and self.draw(st.booleans()):
            w = inner.Add(w, v)
        stop = inner.constant(np.array(self.draw(st.booleans())))
        region.add_output(go if self.draw(st.booleans()) else stop)
        if self.draw(st.booleans()):
            w = inner.Mul(w, inner.op(self.draw(st.sampled_from(("Neg", "Sigmoid"))), x))
        region.add_output(w)
        region.add_output(v if self.draw(st.booleans()) else inner.Neg(v))
        region.add_output(inner.Relu(self.draw(st.sampled_from((u, v, w)))))
        limit = b.constant(np.array(self.draw(st.integers(0, 2))))
        start = b.constant(np.array(self.draw(st.integers(0, 3)) > 0))
        made = b.call(get("Loop"), limit, start, x, z, body=region, _outputs=3).outputs
        return tuple(value for value in made if self.draw(st.booleans())) or made[0]

    # ---- the whole ----

    def grow(self) -> None:
        """Adds one node, or what makes up one; nothing where the operands do not fit."""
        steps = (
            self.unary, self.binary, self.with_constant, self.constants, self.transpose,
            self.transpose, self.transpose, self.reshape, self.reshape, self.unsqueeze,
            self.squeeze, self.concat, self.split, self.attention, self.swap,
            self.slice, self.pad, self.reduce, self.arg, self.softmax, self.casts, self.where,
            self.gather, self.sizes_of, self.same_shape, self.product, self.convolution,
            self.normalization, self.activation, self.conditional, self.convolution,
            self.logic, self.whole, self.loop,
        )  # fmt: skip
        try:
            made = self.draw(st.sampled_from(steps))(self.builder())
        except ModelError:
            return
        self.values.extend(made if isinstance(made, tuple) else (made,))

    def finish(self) -> Graph:
        marked = self.draw(st.lists(st.sampled_from(self.values), min_size=0, max_size=3))
        for index, value in enumerate([*marked, self.values[-1]]):
            self.graph.add_output(value, f"out{index}")
        verify(self.graph, types=True)
        return self.graph


@st.composite
def graphs(draw: Draw, *, max_nodes: int = 12, symbols: bool = True) -> Graph:
    """Graphs of f32 with some integers and bools in between."""
    random = RandomGraph(draw, symbols=symbols)
    for _ in range(draw(st.integers(1, max_nodes))):
        random.grow()
    return random.finish()


def origins(graph: Graph) -> frozenset[str]:
    """Source nodes that the nodes of a graph stand for."""
    return frozenset().union(*(node.origin for node in graph.walk()))


def node_named(graph: Graph, op: str) -> Node:
    """The only node of that op."""
    (found,) = [node for node in graph.walk() if node.is_a(op)]
    return found


__all__ = ["RandomGraph", "graphs", "node_named", "origins", "sym"]
