"""From the body of a group to a scalar program: every value as an expression at an index.

The index of a value is one :class:`~graphopt.codegen.coord.Coord` an axis. Pointwise ops pass the
index on (broadcast operands get coordinate 0), movement ops transform it, reductions put the
reduction axes in. What remains are loads from the kernel's arguments at known addresses: no
intermediate tensor exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphopt.codegen import moves, quantize, reductions
from graphopt.codegen.coord import Coord, const
from graphopt.codegen.expr import Expr, ExprBuilder, Refusal, compute_type
from graphopt.codegen.reductions import RowSpace
from graphopt.codegen.scalars import POINTWISE
from graphopt.ir import Constant, Dim, DType, Graph, Node, TensorType, Value, ne1, substitute

__all__ = ["Store", "Trace", "pointwise_reason"]

Index = tuple[Coord, ...]


@dataclass(frozen=True)
class Store:
    """Element ``coord`` of argument ``arg`` becomes ``expr``."""

    arg: int
    dtype: DType
    coord: Coord
    expr: Expr


@dataclass
class Trace:
    """Tracing one body over one index space.

    ``extents`` are the sizes of the loop axes by number, ``builder`` makes the expressions.
    Arguments are numbered: operands of the body first, then outputs.
    """

    body: Graph
    extents: dict[int, Dim]
    builder: ExprBuilder
    rename: dict[str, Dim] = field(default_factory=dict)
    # What is reduced, when something is, and its index.
    row: RowSpace | None = None
    row_index: Index = ()
    _memo: dict[tuple[Value, Index], Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arguments = {value: i for i, value in enumerate(self.body.inputs)}

    # ---- types ----

    def dim(self, dim: Dim) -> Dim:
        """A size of the body in the names of the trace."""
        return substitute(dim, self.rename) if self.rename else dim

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """Shape of a value. Raises Refusal when its rank is unknown."""
        if not isinstance(value.type, TensorType):
            raise Refusal(f"'{value.name}' is {value.type}, not a tensor")
        if value.type.shape is None:
            raise Refusal(f"the rank of '{value.name}' is not known")
        return tuple(self.dim(d) for d in value.type.shape)

    def elements(self, value: Value | None, what: str) -> tuple[Dim, ...]:
        """Contents of an operand that steers a node. Raises Refusal when they are not known."""
        found = None if value is None else value.elements
        if found is None and value is not None and value.constant is not None:
            return tuple(int(x) for x in value.constant.array.ravel())
        if found is None:
            raise Refusal(f"{what} is only known when the model runs")
        return tuple(self.dim(d) for d in found)

    # ---- values ----

    def value(self, value: Value, index: Index) -> Expr:
        """Element ``index`` of ``value``."""
        key = (value, index)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._value(value, index)
        return found

    def _value(self, value: Value, index: Index) -> Expr:
        if value.constant is not None and value not in self.arguments:
            return self._constant(value.constant)
        node = value.producer
        if value in self.arguments or node is None:
            if value not in self.arguments:
                raise Refusal(f"'{value.name}' comes from outside the group")
            address = linear(index, self.shape(value))
            return self.builder.load(self.arguments[value], value.tensor.dtype, address)
        emit = _EMITTERS.get(node.op.name) if not node.op.domain else None
        if emit is None:
            raise Refusal(f"{node.op.qualified} is not generated")
        return emit(self, node, value, index)

    def _constant(self, constant: Constant) -> Expr:
        if constant.numel != 1:
            raise Refusal(f"a constant of {constant.numel} elements must be an operand")
        dtype = constant.type.dtype
        type = compute_type(dtype)
        item = constant.array.reshape(-1)[0]
        if type.startswith("raw"):
            bits = int.from_bytes(item.tobytes(), "little")
            return self.builder.node("const", type, (), bits)
        return self.builder.const(item.item() if type != "float32" else float(item), type)

    def operand(self, node: Node, position: int, index: Index) -> Expr:
        """Operand ``position`` of a node, broadcast to where ``index`` points."""
        value = node.input(position)
        if value is None:
            raise Refusal(f"{node.op.name}: operand {position} is missing")
        return self.broadcast(value, index, self.shape(node.output))

    def broadcast(self, value: Value, index: Index, shape: Sequence[Dim]) -> Expr:
        """``value`` broadcast to ``shape``, at ``index`` there."""
        own = self.shape(value)
        if len(own) > len(index):
            raise Refusal(f"'{value.name}' has more axes than what it broadcasts to")
        tail, sizes = index[len(index) - len(own) :], shape[len(index) - len(own) :]
        return self.value(value, tuple(map(_broadcast_axis, tail, own, sizes)))

    def count(self, size: Dim) -> Expr:
        """A size as an int64 expression."""
        return self.builder.index(const(size))


def _broadcast_axis(coord: Coord, own: Dim, size: Dim) -> Coord:
    if own == 1:
        return const(0)
    if own == size or isinstance(own, int):
        return coord
    return coord * ne1(own)


def linear(index: Index, shape: Sequence[Dim]) -> Coord:
    """The row-major element offset of ``index`` in a dense tensor of ``shape``."""
    result = Coord()
    stride: Dim = 1
    for coord, size in zip(reversed(index), reversed(shape), strict=True):
        result = result + coord * stride
        stride = stride * size
    return result


# ---- pointwise ----


def _pointwise(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    operands = [
        None if operand is None else trace.operand(node, i, index)
        for i, operand in enumerate(node.inputs)
    ]
    expr = POINTWISE[node.op.name](trace.builder, operands, node.attr)  # type: ignore[arg-type]
    expected = compute_type(value.tensor.dtype)
    if expr.type != expected:
        raise Refusal(f"{node.op.name} gives {expr.type} where {expected} is declared")
    return expr


def _cast(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = node.input(0)
    assert source is not None
    x = trace.broadcast(source, index, trace.shape(value))
    return cast_expr(x, source.tensor.dtype, value.tensor.dtype)


def cast_expr(x: Expr, source: DType, to: DType) -> Expr:
    """``x``, an element of ``source``, converted to ``to``."""
    if source is to:
        return x
    result = x.b.convert(x, compute_type(to))
    if to in (DType.F16, DType.BF16) and not (source in (DType.F16, DType.BF16) and source is to):
        result = x.b.round_to(result, to)
    return result


def _where(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    condition, a, b = (trace.operand(node, i, index) for i in range(3))
    return trace.builder.select(condition, a, b)


def _identity(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    return trace.operand(node, 0, index)


Emitter = Callable[[Trace, Node, Value, Index], Expr]
_EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast,
    "Identity": _identity,
    **moves.EMITTERS,
    **quantize.EMITTERS,
    **reductions.EMITTERS,
}


def pointwise_reason(op: str, dtypes: Sequence[DType]) -> str | None:
    """Why a pointwise op on operands of these types cannot be generated; None when it can."""
    if op not in POINTWISE and op not in ("Cast", "CastLike", "Identity"):
        return f"{op} is not a generated pointwise op"
    try:
        types = [compute_type(dtype) for dtype in dtypes]
        moved = op in ("Where", "Identity")
        if not moved and any(type.startswith("raw") for type in types):
            return f"{op} of {', '.join(map(str, dtypes))} is not generated"
    except Refusal as refusal:
        return str(refusal)
    return None
