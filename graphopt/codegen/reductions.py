"""Reductions and row normalisations as scalar expressions over the reduction axes.

A body that reduces has one row space: the shape of what is reduced and the axes that are folded.
Softmax and the normalisations are a few reductions with pointwise code between them; the row
program decides in how many passes over a row that runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.codegen import coord as coords
from graphopt.codegen.coord import Coord, const
from graphopt.codegen.expr import Expr, Refusal, is_float, is_int
from graphopt.ir import Dim, DType, Node, Value, product

if TYPE_CHECKING:
    from graphopt.codegen.trace import Trace

__all__ = ["EMITTERS", "ROW_OPS", "RowSpace", "row_space"]

Index = tuple[Coord, ...]
EMITTERS: dict[str, Callable[[Any, Node, Value, Index], Expr]] = {}
_REDUCTIONS = (
    "Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp",
)  # fmt: skip
_FULL = frozenset(
    {
        "Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization",
        "InstanceNormalization", "GroupNormalization", "LpNormalization",
        "MeanVarianceNormalization",
    }
)  # fmt: skip
ROW_OPS = frozenset({*(f"Reduce{r}" for r in _REDUCTIONS), "ArgMax", "ArgMin"}) | _FULL


@dataclass(frozen=True)
class RowSpace:
    """What is reduced. ``factors`` splits each axis of ``shape``; of these factors the ones marked
    in ``folded`` are reduced."""

    shape: tuple[Dim, ...]
    factors: tuple[tuple[Dim, ...], ...]
    folded: tuple[tuple[bool, ...], ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that are folded as a whole."""
        return tuple(k for k, flags in enumerate(self.folded) if all(flags))

    @property
    def count(self) -> Dim:
        """Elements of a row."""
        result: Dim = 1
        for sizes, flags in zip(self.factors, self.folded, strict=True):
            result = result * product(s for s, f in zip(sizes, flags, strict=True) if f)
        return result


def _whole(shape: Sequence[Dim], axes: Sequence[int]) -> RowSpace:
    folded = tuple((k in axes,) for k in range(len(shape)))
    return RowSpace(tuple(shape), tuple((size,) for size in shape), folded)


def row_space(trace: Trace, node: Node) -> RowSpace:
    """The row space of a node of :data:`ROW_OPS`. Raises Refusal."""
    source = node.input(0)
    if source is None:
        raise Refusal(f"{node.op.name}: its operand is missing")
    shape = trace.shape(source)
    rank = len(shape)
    name = node.op.name
    if name in ("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "LpNormalization"):
        if rank == 0:
            raise Refusal(f"{name} of a scalar")
        return _whole(shape, [node.attr("axis") % rank])
    if name in ("LayerNormalization", "RMSNormalization"):
        return _whole(shape, range(node.attr("axis") % rank, rank))
    if name == "InstanceNormalization":
        return _whole(shape, range(2, rank))
    if name == "MeanVarianceNormalization":
        return _whole(shape, [axis % rank for axis in node.attr("axes")])
    if name == "GroupNormalization":
        return _groups(shape, node.attr("num_groups"))
    axes: Sequence[Dim] = ()
    if node.input(1) is not None:
        axes = trace.elements(node.input(1), "which axes are reduced")
    if not axes and not node.attr("noop_with_empty_axes"):
        axes = range(rank)
    return _whole(shape, [axis % rank for axis in axes if isinstance(axis, int)])


def _groups(shape: Sequence[Dim], groups: int) -> RowSpace:
    channels = shape[1]
    if channels % groups != 0:
        raise Refusal(f"{channels} channels do not split into {groups} groups provably")
    factors = [(size,) for size in shape]
    folded = [(k > 1,) for k in range(len(shape))]
    factors[1] = (groups, channels // groups)  # type: ignore[assignment]
    folded[1] = (False, True)  # type: ignore[assignment]
    return RowSpace(tuple(shape), tuple(factors), tuple(folded))


def _op(*names: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for name in names:
            EMITTERS[name] = function
        return function

    return add


def _source(node: Node) -> Value:
    value = node.input(0)
    assert value is not None
    return value


def _check(trace: Trace, node: Node) -> RowSpace:
    space = trace.row
    if space is None or row_space(trace, node) != space:
        raise Refusal(f"{node.op.name} does not share the rows of the group")
    return space


def _real(trace: Trace, x: Expr) -> Expr:
    """``x`` as a float to compute with."""
    if not is_float(x.type):
        raise Refusal(f"a normalisation of {x.type} is not generated")
    return x


def _size(trace: Trace, count: Dim, type: str) -> Expr:
    return trace.builder.convert(trace.count(count), type)


# ---- Reduce*, ArgMax, ArgMin ----


def _row_index(trace: Trace, node: Node, index: Index, space: RowSpace) -> Index:
    """Index of the operand: kept axes as in the result, folded ones along the row."""
    if node.attr("keepdims"):
        return tuple(trace.row_index[k] if k in space.axes else c for k, c in enumerate(index))
    kept = iter(index)
    return tuple(
        trace.row_index[k] if k in space.axes else next(kept) for k in range(len(space.shape))
    )


@_op(*(f"Reduce{r}" for r in _REDUCTIONS))
def _reduce(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    space = _check(trace, node)
    x = trace.value(_source(node), _row_index(trace, node, index, space))
    name = node.op.name.removeprefix("Reduce")
    b = trace.builder
    if x.type == "bool":
        if name not in ("Max", "Min"):
            raise Refusal(f"{node.op.name} of bool is not generated")
        folded = b.reduce(name.lower(), b.convert(x, "uint8"))
        return b.convert(folded, "bool")
    if not (is_float(x.type) or is_int(x.type)):
        raise Refusal(f"{node.op.name} of {x.type} is not generated")
    if not is_float(x.type):
        return _reduce_integers(trace, name, x, space)
    return _reduce_floats(trace, name, x, space)


def _reduce_integers(trace: Trace, name: str, x: Expr, space: RowSpace) -> Expr:
    b = trace.builder
    if name in ("Sum", "Prod", "Max", "Min"):
        return b.reduce(name.lower(), x)
    if name == "SumSquare":
        return b.reduce("sum", x * x)
    if name == "L1":
        size = x if x.type.startswith("uint") else b.select(b.binary("lt", x, 0), -x, x)
        return b.reduce("sum", size)
    if name == "Mean":
        total = b.reduce("sum", b.convert(x, "int64"))
        return b.convert(b.binary("idiv", total, trace.count(space.count)), x.type)
    return b.convert(_reduce_floats(trace, name, b.convert(x, "float64"), space), x.type)


def _reduce_floats(trace: Trace, name: str, x: Expr, space: RowSpace) -> Expr:
    b = trace.builder
    if name in ("Sum", "Mean"):
        # In double: a long row summed in order is off by its length in roundings, and models that
        # write a variance as E[x*x] - E[x]**2 magnify that by orders.
        total = b.reduce("sum", b.convert(x, "float64"))
        if name == "Mean":
            total = total / _size(trace, space.count, "float64")
        return b.convert(total, x.type)
    if name in ("Prod", "Max", "Min"):
        return b.reduce(name.lower(), x)
    if name == "L1":
        return b.reduce("sum", b.unary("abs", x))
    if name == "SumSquare":
        return b.reduce("sum", x * x)
    if name == "L2":
        return b.unary("sqrt", b.reduce("sum", x * x))
    if name == "LogSum":
        return b.unary("log", b.reduce("sum", x))
    peak = b.reduce("max", x)
    finite = b.binary("lt", b.unary("abs", peak), math.inf)
    shift = b.select(finite, peak, 0.0)
    return b.unary("log", b.reduce("sum", b.unary("exp", x - shift))) + shift


@_op("ArgMax", "ArgMin")
def _arg(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    space = _check(trace, node)
    x = trace.value(_source(node), _row_index(trace, node, index, space))
    if not (is_float(x.type) or is_int(x.type)):
        raise Refusal(f"{node.op.name} of {x.type} is not generated")
    return _arg_expr(trace, node.op.name, x, space, bool(node.attr("select_last_index")))


def _arg_expr(trace: Trace, name: str, x: Expr, space: RowSpace, last: bool) -> Expr:
    position = trace.builder.index(trace.row_index[space.axes[0]])
    kind = (name.lower(), last)
    return trace.builder.node("reduce", "int64", (x, position), kind)


# ---- Softmax and norms ----


def _row(trace: Trace, node: Node, index: Index) -> tuple[Expr, RowSpace]:
    """The operand along the row, for ops whose result has its shape."""
    space = _check(trace, node)
    if index != trace.row_index:
        raise Refusal(f"the result of {node.op.name} is read at another index than its row's")
    return trace.value(_source(node), index), space


@_op("Softmax")
def _softmax(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, _ = _row(trace, node, index)
    e = b.unary("exp", _real(trace, x) - b.reduce("max", x))
    return e * (1.0 / b.reduce("sum", e))


@_op("LogSoftmax")
def _log_softmax(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, _ = _row(trace, node, index)
    shifted = _real(trace, x) - b.reduce("max", x)
    return shifted - b.unary("log", b.reduce("sum", b.unary("exp", shifted)))


@_op("Hardmax")
def _hardmax(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, space = _row(trace, node, index)
    first = _arg_expr(trace, "ArgMax", _real(trace, x), space, False)
    hit = b.binary("eq", b.index(trace.row_index[space.axes[0]]), first)
    return b.select(hit, b.const(1.0, x.type), 0.0)


def _standardized(trace: Trace, x: Expr, space: RowSpace, epsilon: float) -> tuple[Expr, ...]:
    """(x - mean) / sqrt(variance + epsilon), the mean, and the inverse deviation."""
    b = trace.builder
    count = _size(trace, space.count, x.type)
    mean = b.reduce("sum", x) / count
    centred = x - mean
    variance = b.reduce("sum", centred * centred) / count
    inverse = 1.0 / b.unary("sqrt", variance + epsilon)
    return centred * inverse, mean, inverse


def _stashed(trace: Trace, node: Node, x: Expr) -> Expr:
    if node.attr("stash_type") not in (int(DType.F32), int(DType.F64)):
        raise Refusal("a normalisation that computes in a narrow type is not generated")
    wide = "float64" if node.attr("stash_type") == int(DType.F64) else x.type
    return trace.builder.convert(x, wide)


def _affine(trace: Trace, node: Node, y: Expr, index: Index) -> Expr:
    """``y * scale + bias``, operands that broadcast to the data."""
    shape = trace.shape(_source(node))
    for position, op in ((1, "mul"), (2, "add")):
        operand = node.input(position)
        if operand is not None:
            other = trace.broadcast(operand, index, shape)
            y = trace.builder.binary(op, trace.builder.convert(y, other.type), other)
    return y


@_op("LayerNormalization")
def _layer_norm(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    space = _check(trace, node)
    source = _source(node)
    if value.index:
        where = tuple(trace.row_index[k] if k in space.axes else c for k, c in enumerate(index))
        x = _stashed(trace, node, _real(trace, trace.value(source, where)))
        return _standardized(trace, x, space, node.attr("epsilon"))[value.index]
    x, _ = _row(trace, node, index)
    x = _stashed(trace, node, _real(trace, x))
    return _affine(trace, node, _standardized(trace, x, space, node.attr("epsilon"))[0], index)


@_op("RMSNormalization")
def _rms_norm(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, space = _row(trace, node, index)
    x = _stashed(trace, node, _real(trace, x))
    square = b.reduce("sum", x * x) / _size(trace, space.count, x.type)
    y = x * (1.0 / b.unary("sqrt", square + node.attr("epsilon")))
    return _affine(trace, node, y, index)


def _per_channel(trace: Trace, operand: Value | None, index: Index) -> Expr:
    if operand is None:
        raise Refusal("a scale or bias is missing")
    where = index[1] if len(index) > 1 else const(0)
    return trace.value(operand, (where,))


@_op("InstanceNormalization", "GroupNormalization")
def _channel_norm(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    x, space = _row(trace, node, index)
    x = _real(trace, x)
    if node.op.name == "GroupNormalization":
        x = _stashed(trace, node, x)
    y = _standardized(trace, x, space, node.attr("epsilon"))[0]
    scale, bias = (_per_channel(trace, node.input(k), index) for k in (1, 2))
    return trace.builder.convert(y, scale.type) * scale + bias


@_op("LpNormalization")
def _lp_norm(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, _ = _row(trace, node, index)
    x = _real(trace, x)
    if node.attr("p") == 1:
        norm = b.reduce("sum", b.unary("abs", x))
    elif node.attr("p") == 2:
        norm = b.unary("sqrt", b.reduce("sum", x * x))
    else:
        raise Refusal(f"LpNormalization with p {node.attr('p')}")
    return x / b.select(b.binary("eq", norm, 0.0), b.const(1.0, x.type), norm)


@_op("MeanVarianceNormalization")
def _mean_variance(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    x, space = _row(trace, node, index)
    count = _size(trace, space.count, _real(trace, x).type)
    centred = x - b.reduce("sum", x) / count
    deviation = b.unary("sqrt", b.reduce("sum", centred * centred) / count)
    return centred / (deviation + 1e-9)


# ---- of the same family, without a reduction ----


@_op("BatchNormalization")
def _batch_norm(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    if node.attr("training_mode"):
        raise Refusal("BatchNormalization in training mode is not generated")
    x = _real(trace, trace.value(_source(node), index))
    scale, bias, mean, variance = (
        trace.builder.convert(_per_channel(trace, node.input(k), index), x.type)
        for k in range(1, 5)
    )
    factor = scale / trace.builder.unary("sqrt", variance + node.attr("epsilon"))
    return (x - mean) * factor + bias


@_op("LRN")
def _lrn(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    source = _source(node)
    size = node.attr("size")
    if size > 15:
        raise Refusal("LRN over more than 15 channels is not generated")
    channels = trace.shape(source)[1]
    below = (size - 1) // 2
    x = _real(trace, trace.value(source, index))
    total: Expr | None = None
    for shift in range(-below, size - below):
        at = index[1] + shift
        where = (index[0], coords.clamp(at, channels, trace.extents), *index[2:])
        item = trace.value(source, where)
        position = b.index(at)
        inside = b.binary("ge" if shift < 0 else "lt", position, _limit(trace, shift, channels))
        square = item * item
        kept = square if shift == 0 else b.select(inside, square, 0.0)
        total = kept if total is None else total + kept
    assert total is not None
    base = total * (node.attr("alpha") / size) + node.attr("bias")
    return x / b.binary("pow", base, node.attr("beta"))


def _limit(trace: Trace, shift: int, channels: Dim) -> Expr:
    return trace.count(0 if shift < 0 else channels)
