"""A product with one-hot rows is a lookup; what follows a lookup happens in the table.

``MatMul(Cast(x == [0..K-1]), w)  ->  Gather([0; w; 0], Clip(x, -1, K) + 1)``: an index
that is none of the K gives a row of zeros. ``f(Gather(table, x))  ->  Gather(f(table), x)``
for pointwise ``f`` with constants that vary along the row alone.

Indices are integers, ``w`` is finite, constant and of two axes, tables are of a fixed size and
small, and nothing in between is read by others.

Sound: all products but one are with zero, and a row of a table is computed like any other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Value, static_shape
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseEmbedding"]

_POINTWISE = (
    "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu",
    "Selu", "Sigmoid", "Softplus", "Swish", "Tanh",
)  # fmt: skip
# Elements of a table that is computed anew, at most.
_MAX_TABLE = 1 << 20


class FuseOneHot(Rule):
    """``MatMul(Cast(x == [0..K-1]), w)  ->  Gather([0; w; 0], Clip(x, -1, K) + 1)``."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> NodePattern:
        """One-hot rows by a comparison."""
        return op.MatMul(op.Cast(op.Equal(x, op.constant("places"))), w)

    def check(self, m: Match) -> Refusal | None:
        """Which places are compared with, and what the rows are multiplied with."""
        w, x = m["w"], m["x"]
        shape = static_shape(w.shape)
        if w.constant is None or shape is None or len(shape) != 2 or not all(shape):
            return Refusal(lambda: f"{w!r} is no constant matrix", w)
        if m.root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"it computes in {m.root.output.tensor.dtype}", m.root)
        if x.tensor.dtype not in (DType.I32, DType.I64) or x.shape is None:
            return Refusal(lambda: f"the indices {x!r} are no signed integers", x)
        if w.constant.numel > _MAX_TABLE:
            return Refusal(lambda: f"the table {w!r} has more than {_MAX_TABLE} numbers", w)
        if not np.isfinite(w.constant.array).all():
            return Refusal(lambda: f"{w!r} is not finite", w)
        return _places_refusal(m, shape[0])

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A table with a row of zeros at either end, for all other indices."""
        x, w = m["x"], m["w"]
        assert w.constant is not None and x.shape is not None
        size = w.constant.array.shape[0]
        # A sum that holds a zero is never -0.0.
        table = np.pad(w.constant.array + w.tensor.dtype.numpy.type(0), ((1, 1), (0, 0)))
        x = op.Squeeze(x, (len(x.shape) - 1,))
        real = x.tensor.dtype.numpy.type
        index = op.Add(op.Clip(x, real(-1), real(size)), real(1))
        result: Value = op.Gather(op.constant(table, w.name), index, axis=0)
        return result


def _places_refusal(m: Match, size: int) -> Refusal | None:
    x, places = m["x"], m["places"]
    assert places.constant is not None and x.shape is not None
    shape = places.constant.array.shape
    found = places.constant.array.reshape(-1)
    if not shape or found.size != size or shape[-1] != size or found.tolist() != list(range(size)):
        return Refusal(lambda: f"{places!r} does not count from 0 to {size - 1}", places)
    if not x.shape or x.shape[-1] != 1 or len(shape) > len(x.shape):
        return Refusal(lambda: f"the indices {x!r} have no last axis of size 1", x)
    return None


class FoldIntoTable(Rule):
    """``f(Gather(table, x))  ->  Gather(f(table), x)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """One operand, or two of which one is constant."""
        row = op.Gather(op.constant("table"), x, _bind="gather")
        two = [op.op(name, row, op.constant("c")) for name in ("Add", "Mul", "Sub", "Div", "PRelu")]
        return [*two, *(op.op(name, row) for name in _POINTWISE)]

    def check(self, m: Match) -> Refusal | None:
        """A small float table of rows, and constants that are the same for every row."""
        table, gather = m["table"], m.node("gather")
        shape = static_shape(table.shape)
        if shape is None or len(shape) < 2 or not table.tensor.dtype.is_float:
            return Refusal(lambda: f"{table!r} is no table of numbers", table)
        if int(gather.attr("axis")) not in (0, -len(shape)):
            return Refusal(lambda: f"it gathers along axis {gather.attr('axis')}", gather)
        if int(np.prod(shape)) > _MAX_TABLE:
            return Refusal(lambda: f"the table {table!r} has more than {_MAX_TABLE} numbers", table)
        if m.root.output.type != gather.output.type:
            return Refusal(lambda: f"{m.root!r} changes type or shape", m.root)
        c = m.get("c")
        if c is not None and _row_shape(c, len(shape)) is None:
            return Refusal(lambda: f"{c!r} varies from row to row", c)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op on the table, which is then folded."""
        gather, c = m.node("gather"), m.get("c")
        operands = [m["table"]]
        if c is not None:
            assert c.constant is not None
            shape = _row_shape(c, m["table"].tensor.rank or 0)
            operands.append(op.constant(c.constant.array.reshape(shape or ()), c.name))
        if c is not None and m.root.input(0) is c:
            operands.reverse()
        table = op.op(m.root.op.name, *operands, **m.root.attrs)
        result: Value = op.Gather(table, m["x"], **gather.attrs)
        return result


def _row_shape(c: Value, rank: int) -> tuple[int, ...] | None:
    """The shape of ``c`` without leading axes of size 1, if it then varies along a row alone."""
    shape = static_shape(c.shape)
    if shape is None:
        return None
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape if len(shape) < rank else None


@dataclass(frozen=True)
class FuseEmbedding(RulePass):
    """``one_hot(x) @ w  ->  Gather(w, x)``; pointwise ops move into the table."""

    name: ClassVar[str] = "fuse-embedding"

    def rules(self, graph: Graph) -> list[Rule]:
        """Lookups first."""
        return [FuseOneHot(), FoldIntoTable()]
