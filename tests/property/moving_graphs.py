"""Random graphs of ops that move elements: pieces taken and joined, shapes changed and undone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.ir import Builder, Graph, Value
from tests.property.random_graphs import Draw, RandomGraph

_FAR = (1 << 63) - 1
_MODES = ("nearest", "linear")
_FILLS = (0.0, 0.0, -0.0, 1.0)


class MovingGraph(RandomGraph):
    """Draws graphs in which moves meet moves; see ``_STEPS`` for what there is."""

    def axis_of(self, x: Value) -> int:
        return self.draw(st.integers(0, (x.tensor.rank or 1) - 1))

    # ---- pieces ----

    def piece(self, b: Builder) -> Any:
        x = self.value()
        axes = self.draw(
            st.lists(st.integers(0, (x.tensor.rank or 1) - 1), min_size=1, max_size=2, unique=True)
        )
        count = len(axes)
        starts = [self.draw(st.integers(-3, 3)) for _ in range(count)]
        ends = [self.draw(st.sampled_from((-1, 0, 1, 2, 3, 4, _FAR))) for _ in range(count)]
        steps = [self.draw(st.sampled_from((1, 1, 2, -1))) for _ in range(count)]
        return b.Slice(x, starts, ends, axes, steps)

    def neighbours(self, b: Builder) -> Any:
        x = self.value()
        axis = self.axis_of(x)
        size = (x.shape or ())[axis]
        if not isinstance(size, int) or size < 1:
            return self.piece(b)
        first = self.draw(st.integers(0, size - 1))
        count = self.draw(st.integers(1, size - first))
        shift = -size if self.draw(st.booleans()) else 0
        return b.Gather(x, [i + shift for i in range(first, first + count)], axis=axis)

    def element(self, b: Builder) -> Any:
        x = self.value(among=lambda v: (v.tensor.rank or 0) > 1)
        if (x.tensor.rank or 0) < 2:
            return self.unary(b)
        axis = self.axis_of(x)
        found = b.Gather(x, b.constant(np.array(self.draw(st.sampled_from((0, -1))))), axis=axis)
        if self.draw(st.integers(0, 2)):
            axis = axis if self.draw(st.integers(0, 2)) else 0
            return b.Unsqueeze(found, [axis])
        return found

    def halves(self, b: Builder) -> Any:
        x = self.value()
        axis = self.axis_of(x)
        size = (x.shape or ())[axis]
        if not isinstance(size, int) or size < 2:
            return self.piece(b)
        middle = self.draw(st.integers(1, size - 1))
        return (
            b.Slice(x, [0], [middle], [axis]),
            b.Slice(x, [middle], [self.draw(st.sampled_from((size, _FAR)))], [axis]),
        )

    def parts(self, b: Builder) -> Any:
        x = self.value()
        axis = self.axis_of(x)
        size = (x.shape or ())[axis]
        if not isinstance(size, int) or size < 2:
            return b.Split(x, axis=axis, num_outputs=1, _outputs=1)
        middle = self.draw(st.integers(0, size))
        pieces = b.Split(x, [middle, size - middle], axis=axis, _outputs=2)
        order = pieces if self.draw(st.integers(0, 2)) else pieces[::-1]
        return (*pieces, b.Concat(*order, axis=axis)) if self.draw(st.booleans()) else pieces

    def joined(self, b: Builder) -> Any:
        x = self.value()
        axis = self.axis_of(x)
        peers = [v for v in self.values if v.type == x.type]
        other = self.draw(st.sampled_from(peers))
        whole = b.Concat(x, other, axis=axis)
        form = self.draw(st.sampled_from(("whole", "nested", "split", "piece")))
        size = (x.shape or ())[axis]
        if form == "nested":
            return b.Concat(x, whole, axis=axis)
        if form == "split":
            return b.Split(whole, axis=axis, num_outputs=2, _outputs=2)
        if form == "piece" and isinstance(size, int):
            start = self.draw(st.integers(0, 2 * size))
            return b.Slice(whole, [start], [start + self.draw(st.integers(0, size))], [axis])
        return whole

    # ---- shapes ----

    def views(self, b: Builder) -> Any:
        x = self.value()
        for _ in range(self.draw(st.integers(1, 3))):
            form = self.draw(st.sampled_from(("add", "drop", "flat", "swap", "computed")))
            ones = [axis for axis, dim in enumerate(x.shape or ()) if dim == 1]
            rank = x.tensor.rank or 0
            if form == "drop" and ones:
                x = b.Squeeze(x, [self.draw(st.sampled_from(ones))])
            elif form == "flat":
                x = b.Flatten(x, axis=self.draw(st.integers(0, rank)))
            elif form == "swap" and rank > 1:
                order = list(range(rank))
                at = self.draw(st.integers(0, rank - 2))
                order[at], order[at + 1] = order[at + 1], order[at]
                x = b.Transpose(x, perm=tuple(order))
            elif form == "computed" and rank:
                sizes = b.Shape(x)
                last = b.constant([self.draw(st.sampled_from((-1, 1)))])
                sizes = b.Concat(b.Slice(sizes, [0], [rank - 1]), last, last, axis=0)
                x = b.Reshape(x, sizes)
            else:
                x = b.Unsqueeze(x, [self.draw(st.integers(0, rank))])
        return x

    def around(self, b: Builder) -> Any:
        """Pointwise ops between changes of shape."""
        x = self.value()
        shape, rank = b.Shape(x), x.tensor.rank or 0
        form = self.draw(st.sampled_from(("flat", "add", "reduce", "views", "cross")))
        if form == "flat":
            y = b.Flatten(x, axis=self.draw(st.integers(0, rank)))
        elif form == "add":
            y = b.Unsqueeze(x, [self.draw(st.integers(0, rank))])
        elif form == "reduce":
            axis = self.axis_of(x)
            y = b.ReduceMax(x, [axis], keepdims=0)
        elif form == "cross":
            y = b.Add(b.ReduceMax(x, [0], keepdims=0), b.ReduceMax(x, [-1]))
            shape = b.Concat(b.constant([1]), b.Shape(y), axis=0)
        else:
            y = self.views(b)
        for _ in range(self.draw(st.integers(1, 3))):
            other = self.draw(st.sampled_from(("unary", "self", "scalar", "last", "input")))
            if other == "unary":
                y = b.op(self.draw(st.sampled_from(("Relu", "Neg"))), y)
            elif other == "self":
                y = b.Mul(y, y)
            elif other == "scalar":
                y = b.Add(y, self.constant(b, ()))
            elif other == "last" and y.shape and isinstance(y.shape[-1], int):
                y = b.Mul(y, self.constant(b, (y.shape[-1],)))
            else:
                peers = [v for v in self.values if v.type == y.type] or [y]
                y = b.Add(y, self.draw(st.sampled_from(peers)))
        if form == "reduce":
            return b.Unsqueeze(y, [axis])
        return b.Reshape(y, shape) if form != "views" else b.Flatten(y)

    def indexed(self, b: Builder) -> Any:
        """Places named one by one, all of them in order more often than not."""
        x = self.value()
        count = self.draw(st.integers(1, min(x.tensor.rank or 1, 2)))
        sizes = (x.shape or ())[:count]
        if not all(isinstance(size, int) and size for size in sizes):
            return self.counted(b, x)
        places = np.stack(np.indices(sizes).reshape(count, -1), axis=-1).astype(np.int64)
        form = self.draw(st.sampled_from(("all", "all", "flip", "some")))
        if form == "flip":
            places = places[::-1]
        elif form == "some":
            places = places[: self.draw(st.integers(1, len(places)))]
        if self.draw(st.booleans()):
            places = places[np.newaxis]
        taken = b.GatherND(x, b.constant(places))
        if self.draw(st.booleans()):
            return b.ScatterND(x, b.constant(places), b.Neg(taken))
        return taken

    def counted(self, b: Builder, x: Value) -> Any:
        """Every place of the first two axes, by Range."""
        if (x.tensor.rank or 0) < 2:
            return self.piece(b)
        zero, one = b.constant(np.array(0)), b.constant(np.array(1))
        columns = []
        for axis in (0, 1):
            size = b.Gather(b.Shape(x), b.constant(np.array(axis)), axis=0)
            column = b.Unsqueeze(b.Range(zero, size, one), [1 - axis])
            columns.append(b.Unsqueeze(b.Expand(column, b.Shape(x, end=2)), [-1]))
        if self.draw(st.integers(0, 3)) == 0:
            columns.reverse()
        return b.GatherND(x, b.Concat(*columns, axis=-1))

    def grown(self, b: Builder) -> Any:
        """Padded, tiled, enlarged and cut again."""
        x = self.value()
        rank = x.tensor.rank or 1
        for _ in range(self.draw(st.integers(1, 3))):
            form = self.draw(st.sampled_from(("pad", "pad", "tile", "nearest", "sized", "cut")))
            if form == "pad":
                amounts = [self.draw(st.sampled_from((0, 0, 1, 2, -1))) for _ in range(2 * rank)]
                mode = self.draw(st.sampled_from(("constant", "constant", "edge")))
                x = b.Pad(x, amounts, b.constant(self.draw(st.sampled_from(_FILLS))), mode=mode)
            elif form == "tile":
                x = b.Tile(x, [self.draw(st.integers(1, 2)) for _ in range(rank)])
            elif form == "sized":
                factors = [self.draw(st.integers(1, 2)) for _ in range(rank)]
                sizes = b.Mul(b.Shape(x), b.constant(factors))
                x = b.Resize(x, None, None, sizes, mode=self.draw(st.sampled_from(_MODES)))
            elif form == "cut":
                axis = self.draw(st.integers(0, rank - 1))
                x = b.Slice(
                    x, [self.draw(st.integers(0, 2))], [self.draw(st.integers(2, 4))], [axis]
                )
            else:
                ways = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
                way, nearest = self.draw(st.sampled_from(ways))
                scales = [self.draw(st.sampled_from((1.0, 1.0, 2.0, 1.5))) for _ in range(rank)]
                x = b.Resize(
                    x, None, b.constant(np.array(scales, np.float32)), mode="nearest",
                    coordinate_transformation_mode=way, nearest_mode=nearest,
                )  # fmt: skip
        return x

    # ---- sizes ----

    def lengths(self, b: Builder) -> Any:
        """Numbers and sizes of several tensors, by several ways, as floats or as a shape."""
        pieces = []
        for _ in range(self.draw(st.integers(1, 3))):
            x = self.value()
            axis = self.axis_of(x)
            form = self.draw(st.sampled_from(("shape", "gather", "scaled", "number", "narrow")))
            if form == "number":
                pieces.append(b.constant([self.draw(st.integers(1, 2))]))
                continue
            one = b.Shape(x, start=axis, end=axis + 1)
            if form in ("gather", "narrow"):
                shape = b.Cast(b.Shape(x), to=6) if form == "narrow" else b.Shape(x)
                one = b.Cast(b.Gather(shape, [axis], axis=0), to=7)
            if form == "scaled":
                one = b.Div(b.Mul(one, b.constant([4])), b.constant([self.draw(st.integers(3, 4))]))
            pieces.append(one)
        together = b.Concat(*pieces, axis=0)
        if self.draw(st.booleans()):
            return b.Cast(together, to=1)
        return b.Expand(self.constant(b, (1,)), together)

    def spread(self, b: Builder) -> Any:
        """An expansion, what is computed of it, and what would broadcast alike."""
        x = self.value()
        y = self.value() if self.draw(st.booleans()) else x
        ones = [1 if self.draw(st.booleans()) else d for d in x.shape or ()]
        small = b.ReduceMax(x, [i for i, d in enumerate(ones) if d == 1] or [0])
        if self.draw(st.booleans()):
            small = b.Unsqueeze(small, [0])
        wide = b.Expand(small, b.Shape(y))
        if self.draw(st.integers(0, 3)) == 0:
            wide = b.ConstantOfShape(b.Shape(y))
        for _ in range(self.draw(st.integers(0, 2))):
            form = self.draw(st.sampled_from(("unary", "with", "mask", "again")))
            if form == "unary":
                wide = b.Relu(wide)
            elif form == "mask":
                wide = b.Where(b.Less(wide, b.constant(0.0)), b.constant([1.0]), wide)
            elif form == "again":
                wide = b.Expand(wide, [2, *[1] * (wide.tensor.rank or 0)])
            else:
                wide = b.Add(wide, self.draw(st.sampled_from((x, y))))
        return wide

    def quantized(self, b: Builder) -> Any:
        """Quantized and dequantized again and again, with moves in between."""
        x = self.value()
        axes = (x.tensor.rank or 0) - 1
        scales = [b.constant(np.float32(s)) for s in (0.1, 0.1, -0.5)]
        zeros = [b.constant(np.uint8(z)) for z in (128, 128, 0)]
        for _ in range(self.draw(st.integers(1, 3))):
            at = self.draw(st.integers(0, 2))
            x = b.QuantizeLinear(x, scales[at], zeros[at])
            x = b.DequantizeLinear(x, scales[at], zeros[at])
            form = self.draw(st.sampled_from(("none", "transpose", "join", "largest", "flat")))
            if form == "transpose":
                x = b.Transpose(x)
            elif form == "join":
                x = b.Concat(x, x, axis=self.draw(st.integers(0, axes)))
            elif form == "largest":
                x = b.ReduceMax(x, [0])
            elif form == "flat":
                x = b.Unsqueeze(b.Flatten(x), list(range(axes - 1)))
        return x

    def grow(self) -> None:
        """Adds one node, or what makes up one; nothing where the operands do not fit."""
        steps = (
            self.unary, self.binary, self.transpose, self.reshape, self.reduce, self.piece,
            self.neighbours, self.element, self.halves, self.parts, self.joined, self.views,
            self.piece, self.halves, self.joined, self.views, self.lengths, self.softmax,
            self.with_constant, self.lengths, self.quantized, self.spread, self.spread, self.around,
            self.around, self.indexed, self.grown,
        )  # fmt: skip
        try:
            made = self.draw(st.sampled_from(steps))(self.builder())
        except ModelError:
            return
        made = made if isinstance(made, tuple) else (made,)
        self.values.extend(v for v in made if v.tensor.rank)


@st.composite
def moving_graphs(draw: Draw, *, max_nodes: int = 10) -> Graph:
    """Graphs of f32 whose ops mostly move elements."""
    random = MovingGraph(draw, symbols=True)
    for _ in range(draw(st.integers(1, max_nodes))):
        random.grow()
    return random.finish()
