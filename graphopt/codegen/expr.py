"""Scalar programs: what a kernel computes for one point of its index space, as a shared DAG.

An :class:`Expr` is immutable and hash-consed by its :class:`ExprBuilder`, so equal computations are
one object. Types are machine types by name (``float32``, ``int8``, ``bool``...): f16, bf16 and f8
compute in float32 and meet memory in ``load``, ``round`` and the store. Nothing here knows tvm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from graphopt.codegen.coord import Coord
from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType

__all__ = ["BITS", "Expr", "ExprBuilder", "Refusal", "compute_type", "is_float", "is_int", "walk"]


class Refusal(UnsupportedError):
    """Why a node cannot be generated: the text is the reason."""


_COMPUTE = {
    DType.F32: "float32", DType.F64: "float64", DType.F16: "float32", DType.BF16: "float32",
    DType.I8: "int8", DType.I16: "int16", DType.I32: "int32", DType.I64: "int64",
    DType.U8: "uint8", DType.U16: "uint16", DType.U32: "uint32", DType.U64: "uint64",
    DType.BOOL: "bool",
}  # fmt: skip
BITS = {
    "float32": 32, "float64": 64, "int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint8": 8,
    "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8, "raw8": 8, "raw16": 16, "raw32": 32,
    "raw64": 64,
}  # fmt: skip


def compute_type(dtype: DType) -> str:
    """The machine type that elements of ``dtype`` compute in.

    Types without arithmetic (f8, complex, sub-byte) can be moved: they are ``rawN``, N bits wide.
    Raises Refusal for strings and 16-byte elements.
    """
    found = _COMPUTE.get(dtype)
    if found is not None:
        return found
    if dtype.nbytes in (1, 2, 4, 8):
        return f"raw{8 * dtype.nbytes}"
    raise Refusal(f"{dtype} elements are not generated")


def is_float(type: str) -> bool:
    """True for float32 and float64."""
    return type.startswith("float")


def is_int(type: str) -> bool:
    """True for signed and unsigned integers; bool is not one."""
    return type.startswith(("int", "uint"))


def is_signed(type: str) -> bool:
    """True for signed integers."""
    return type.startswith("int")


class Expr:
    """One value of the program.

    ``axes`` are the loop axes it depends on, ``depth`` the number of reductions that must be
    finished before it is known, ``uid`` its place in a topological order.
    """

    __slots__ = ("args", "attr", "axes", "b", "coord", "depth", "op", "type", "uid")

    axes: frozenset[int]
    depth: int

    def __init__(
        self,
        b: ExprBuilder,
        op: str,
        type: str,
        args: tuple[Expr, ...],
        attr: Any,
        coord: Coord | None,
    ) -> None:
        self.b = b
        self.op = op
        self.type = type
        self.args = args
        self.attr = attr
        self.coord = coord
        self.uid = b.count
        axes: frozenset[int] = frozenset()
        depth = 0
        for arg in args:
            axes |= arg.axes
            depth = max(depth, arg.depth)
        if coord is not None:
            axes |= coord.axes()
            for inner in coord.lookups():
                depth = max(depth, inner.depth)
        if op == "reduce":
            axes -= b.reduce_axes
            depth += 1
        self.axes = axes
        self.depth = depth

    def operands(self) -> Iterator[Expr]:
        """Arguments, and expressions looked up by the address."""
        yield from self.args
        if self.coord is not None:
            yield from self.coord.lookups()

    def __repr__(self) -> str:
        inner = ", ".join(f"%{a.uid}" for a in self.args)
        extra = "" if self.attr is None else f" {self.attr}"
        where = "" if self.coord is None else f" @ {self.coord}"
        return f"%{self.uid} = {self.op}({inner}){extra}{where}: {self.type}"

    def __add__(self, other: Expr | float) -> Expr:
        return self.b.binary("add", self, other)

    def __radd__(self, other: float) -> Expr:
        return self.b.binary("add", other, self)

    def __sub__(self, other: Expr | float) -> Expr:
        return self.b.binary("sub", self, other)

    def __rsub__(self, other: float) -> Expr:
        return self.b.binary("sub", other, self)

    def __mul__(self, other: Expr | float) -> Expr:
        return self.b.binary("mul", self, other)

    def __rmul__(self, other: float) -> Expr:
        return self.b.binary("mul", other, self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return self.b.binary("div", self, other)

    def __rtruediv__(self, other: float) -> Expr:
        return self.b.binary("div", other, self)

    def __neg__(self) -> Expr:
        return self.b.unary("neg", self)


_COMPARE = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})


class ExprBuilder:
    """Makes expressions, each once. ``reduce_axes`` are the axes that ``reduce`` folds."""

    def __init__(self, reduce_axes: Iterable[int] = ()) -> None:
        self.reduce_axes = frozenset(reduce_axes)
        self._table: dict[Any, Expr] = {}
        self.count = 0

    def node(
        self,
        op: str,
        type: str,
        args: Sequence[Expr] = (),
        attr: Any = None,
        coord: Coord | None = None,
    ) -> Expr:
        """The expression with these parts."""
        key = (op, type, tuple(a.uid for a in args), attr, coord)
        found = self._table.get(key)
        if found is None:
            found = Expr(self, op, type, tuple(args), attr, coord)
            self.count += 1
            self._table[key] = found
        return found

    def const(self, value: float | int | bool, type: str) -> Expr:
        """A literal."""
        if is_float(type):
            value = float(value)
            # Text tells -0.0 from 0.0 and one NaN from none, which equality does not.
            return self.node("const", type, (), "nan" if math.isnan(value) else value.hex())
        return self.node("const", type, (), int(value))

    def load(self, arg: int, dtype: DType, coord: Coord) -> Expr:
        """An element of kernel argument ``arg``, at element offset ``coord``."""
        return self.node("load", compute_type(dtype), (), (arg, int(dtype)), coord)

    def index(self, coord: Coord) -> Expr:
        """The value of a coordinate, as int64."""
        if not coord.terms and isinstance(coord.const, int):
            return self.const(coord.const, "int64")
        return self.node("index", "int64", (), None, coord)

    def as_expr(self, value: Expr | float, type: str) -> Expr:
        """``value``, made a literal of ``type`` when it is a number."""
        return value if isinstance(value, Expr) else self.const(value, type)

    def unary(self, op: str, x: Expr, type: str | None = None) -> Expr:
        """``op(x)``; of the type of ``x`` unless given."""
        return self.node(op, type or x.type, (x,))

    def binary(self, op: str, a: Expr | float, b: Expr | float) -> Expr:
        """``op(a, b)``; comparisons are bool. One of the two may be a number."""
        type = a.type if isinstance(a, Expr) else b.type if isinstance(b, Expr) else "float32"
        left, right = self.as_expr(a, type), self.as_expr(b, type)
        if left.type != right.type:
            raise Refusal(f"operand types of {op} differ: {left.type} and {right.type}")
        return self.node(op, "bool" if op in _COMPARE else type, (left, right))

    def max(self, a: Expr | float, b: Expr | float) -> Expr:
        """The larger; NaN when either is NaN."""
        return self.binary("max", a, b)

    def min(self, a: Expr | float, b: Expr | float) -> Expr:
        """The smaller; NaN when either is NaN."""
        return self.binary("min", a, b)

    def select(self, condition: Expr, a: Expr | float, b: Expr | float) -> Expr:
        """``a`` where ``condition``, else ``b``."""
        type = a.type if isinstance(a, Expr) else b.type if isinstance(b, Expr) else "float32"
        left, right = self.as_expr(a, type), self.as_expr(b, type)
        if condition.op == "const":
            return left if condition.attr else right
        return left if left is right else self.node("select", type, (condition, left, right))

    def convert(self, x: Expr, type: str) -> Expr:
        """``x`` in another machine type: floats to integers saturate, NaN gives 0; integers wrap;
        bool is ``x != 0``."""
        if x.type == type:
            return x
        if x.type.startswith("raw") or type.startswith("raw"):
            raise Refusal("elements without arithmetic are not converted")
        if x.op == "const":
            value = _literal(x)
            if not (is_float(x.type) and not is_float(type)):
                return self.const(_wrap(value, type), type)
        return self.node("convert", type, (x,))

    def round_to(self, x: Expr, dtype: DType) -> Expr:
        """``x`` rounded to a narrow float type, still in float32."""
        return self.node("round", "float32", (x,), int(dtype))

    def reduce(self, kind: str, x: Expr) -> Expr:
        """``x`` folded over the reduction axes: ``sum``, ``prod``, ``max``, ``min``, ``any``..."""
        return self.node("reduce", x.type, (x,), kind)


def _literal(x: Expr) -> float:
    if not is_float(x.type):
        return int(x.attr)
    return math.nan if x.attr == "nan" else float.fromhex(x.attr)


literal = _literal


def _wrap(value: float, type: str) -> float:
    if is_float(type):
        return value
    if type == "bool":
        return int(value != 0)
    bits = BITS[type]
    wrapped = int(value) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if is_signed(type) and wrapped >> (bits - 1) else wrapped


def walk(roots: Iterable[Expr]) -> list[Expr]:
    """All expressions that the roots need, operands first."""
    found: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        expr = stack.pop()
        if expr.uid not in found:
            found[expr.uid] = expr
            stack.extend(expr.operands())
    return [found[uid] for uid in sorted(found)]


def rewrite(
    roots: Sequence[Expr],
    builder: ExprBuilder,
    coord: Callable[[Coord, Callable[[Expr], Expr]], Coord],
    replaced: Mapping[Expr, Expr] | None = None,
) -> list[Expr]:
    """The roots rebuilt in ``builder`` with every address passed through ``coord``."""
    done: dict[int, Expr] = {e.uid: new for e, new in (replaced or {}).items()}
    for expr in walk(roots):
        if expr.uid not in done:
            where = expr.coord
            if where is not None:
                where = coord(where, lambda inner: done[inner.uid])
            args = [done[a.uid] for a in expr.args]
            done[expr.uid] = builder.node(expr.op, expr.type, args, expr.attr, where)
    return [done[root.uid] for root in roots]
