"""The emitter: straight-line vector code, loops and memory as TVM TIR.

This file and :mod:`graphopt.codegen.cabi` are all that touches tvm's Python API. The rest of the
code generator speaks :class:`Val` (a scalar or vector value) and :class:`Emitter`. Nothing is
scheduled or lowered by TVM passes: what is emitted is what LLVM gets.

Facts of this TVM that shape the code: expressions are trees for its code generator, so a value used
twice is named (:meth:`Emitter.let`); sums of 32- and 64-bit integers are "no signed wrap", so
arithmetic that may wrap is done one size wider and narrowed, which LLVM turns back into the plain
instruction; `NE` of floats is ordered, so inequality is the negation of equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tvm import tirx
from tvm.ir import Call, Op, PointerType, PrimType
from tvm.target import codegen as tvm_codegen

from graphopt.codegen.isa import Isa

__all__ = ["Buffer", "Emitter", "Val"]

# Elements of one array of slots for named values.
_SLOTS = 1024
_WIDER = {"int32": "int64", "uint32": "int64", "int64": "int128", "uint64": "int128"}


@cache
def _prim(type: str) -> Any:
    return PrimType(type)


def _name(type: str, lanes: int) -> str:
    return type if lanes == 1 else f"{type}x{lanes}"


@cache
def _intrinsic(name: str) -> Any:
    number = tvm_codegen.llvm_lookup_intrinsic_id(name)
    if number == 0:
        raise ValueError(f"LLVM has no intrinsic {name}")
    return tirx.IntImm("uint32", number)


@cache
def _builtin(name: str) -> Any:
    return Op.get(f"tirx.{name}")


def _call(type: Any, op: str, *args: Any) -> Any:
    return Call(_builtin(op), list(args), ret_ty=type)


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of elements of one machine type: an argument or a local array."""

    handle: Any
    type: str


class Val:
    """A value: ``lanes`` elements of machine type ``type``. Arithmetic broadcasts scalars."""

    __slots__ = ("expr", "lanes", "named", "type")

    def __init__(self, expr: Any, type: str, lanes: int = 1, named: bool = False) -> None:
        self.expr = expr
        self.named = named
        self.type = type
        self.lanes = lanes

    def _binary(self, make: Any, other: Val | float, type: str | None = None) -> Val:
        left, right = align(self, other)
        return Val(make(left.expr, right.expr), type or left.type, left.lanes)

    def __add__(self, other: Val | float) -> Val:
        return self._binary(tirx.Add, other)

    def __radd__(self, other: float) -> Val:
        return constant(other, self.type, self.lanes)._binary(tirx.Add, self)

    def __sub__(self, other: Val | float) -> Val:
        return self._binary(tirx.Sub, other)

    def __rsub__(self, other: float) -> Val:
        return constant(other, self.type, self.lanes)._binary(tirx.Sub, self)

    def __mul__(self, other: Val | float) -> Val:
        return self._binary(tirx.Mul, other)

    def __rmul__(self, other: float) -> Val:
        return constant(other, self.type, self.lanes)._binary(tirx.Mul, self)

    def __truediv__(self, other: Val | float) -> Val:
        return self._binary(tirx.Div, other)

    def __rtruediv__(self, other: float) -> Val:
        return constant(other, self.type, self.lanes)._binary(tirx.Div, self)

    def __lt__(self, other: Val | float) -> Val:
        return self._binary(tirx.LT, other, "bool")

    def __le__(self, other: Val | float) -> Val:
        return self._binary(tirx.LE, other, "bool")

    def __gt__(self, other: Val | float) -> Val:
        return self._binary(tirx.GT, other, "bool")

    def __ge__(self, other: Val | float) -> Val:
        return self._binary(tirx.GE, other, "bool")

    def eq(self, other: Val | float) -> Val:
        """Equal; false with a NaN."""
        if self.type == "bool":
            assert isinstance(other, Val)
            return (self ^ other).negate()
        return self._binary(tirx.EQ, other, "bool")

    def ne(self, other: Val | float) -> Val:
        """Not equal; true with a NaN."""
        same = self.eq(other)
        return Val(tirx.Not(same.expr), "bool", same.lanes)

    def __and__(self, other: Val | int) -> Val:
        return self._bits("BitwiseAnd", other)

    def __or__(self, other: Val | int) -> Val:
        return self._bits("BitwiseOr", other)

    def __xor__(self, other: Val | int) -> Val:
        return self._bits("BitwiseXor", other)

    def __lshift__(self, other: Val | int) -> Val:
        return self._bits("LShift", other)

    def __rshift__(self, other: Val | int) -> Val:
        return self._bits("RShift", other)

    def _bits(self, op: str, other: Val | int) -> Val:
        left, right = align(self, other)
        if left.type == "bool":
            if op == "BitwiseXor":
                return select(left, right.negate(), right)
            op = {"BitwiseAnd": "And", "BitwiseOr": "Or"}[op]
        return Val(getattr(tirx, op)(left.expr, right.expr), left.type, left.lanes)

    def negate(self) -> Val:
        """Logical not of a bool, bitwise not of an integer."""
        if self.type == "bool":
            return Val(tirx.Not(self.expr), "bool", self.lanes)
        return self ^ -1 if self.type.startswith("int") else self ^ ((1 << int(self.type[4:])) - 1)

    def cast(self, type: str) -> Val:
        """Converted by value: integers extend and truncate, floats round."""
        if type == self.type:
            return self
        return Val(tirx.Cast(_name(type, self.lanes), self.expr), type, self.lanes)

    def bitcast(self, type: str) -> Val:
        """The same bits as another type of the same width."""
        target = _prim(_name(type, self.lanes))
        return Val(_call(target, "reinterpret", self.expr), type, self.lanes)

    def broadcast(self, lanes: int) -> Val:
        """A scalar in every lane."""
        if self.lanes == lanes:
            return self
        assert self.lanes == 1, f"{self.lanes} lanes do not become {lanes}"
        return Val(tirx.Broadcast(self.expr, lanes), self.type, lanes)


def constant(value: float, type: str, lanes: int = 1) -> Val:
    """A literal."""
    if type.startswith("float"):
        expr = tirx.FloatImm(type, float(value))
    elif type == "bool":
        expr = tirx.IntImm("bool", int(bool(value)))
    elif type == "uint64" and value >= 1 << 63:
        low = tirx.IntImm("uint32", int(value) & 0xFFFFFFFF)
        high = tirx.IntImm("uint32", int(value) >> 32)
        expr = _call(_prim("uint64"), "large_uint_imm", low, high)
    else:
        expr = tirx.IntImm(type, int(value))
    return Val(expr, type).broadcast(lanes)


def align(a: Val, b: Val | float) -> tuple[Val, Val]:
    """The two with equal lane counts; a number becomes a literal of the other's type."""
    if not isinstance(b, Val):
        return a, constant(b, a.type, a.lanes)
    assert a.type == b.type, f"{a.type} meets {b.type}"
    lanes = max(a.lanes, b.lanes)
    return a.broadcast(lanes), b.broadcast(lanes)


def select(condition: Val, a: Val | float, b: Val | float) -> Val:
    """``a`` where ``condition``, else ``b``."""
    if isinstance(a, Val):
        a, b = align(a, b)
    else:
        assert isinstance(b, Val)
        b, a = align(b, a)
    lanes = max(condition.lanes, a.lanes)
    condition, a, b = (x.broadcast(lanes) for x in (condition, a, b))
    return Val(tirx.Select(condition.expr, a.expr, b.expr), a.type, lanes)


def wrapping(op: str, a: Val, b: Val) -> Val:
    """``add``, ``sub`` or ``mul`` of integers, wrapping around; of floats, the plain operation."""
    make = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul}[op]
    a, b = align(a, b)
    wide = _WIDER.get(a.type)
    if wide is None:
        return a._binary(make, b)
    if op == "mul" and a.type.startswith("uint"):
        wide = "u" + wide
    return a.cast(wide)._binary(make, b.cast(wide)).cast(a.type)


def intrinsic(name: str, *args: Val, type: str | None = None) -> Val:
    """A pure LLVM intrinsic of operands with equal lane counts."""
    lanes = max(arg.lanes for arg in args)
    result = type or args[0].type
    exprs = [arg.broadcast(lanes).expr for arg in args]
    target = _prim(_name(result, lanes))
    call = _call(target, "call_llvm_pure_intrin", _intrinsic(f"llvm.{name}"), *exprs)
    return Val(call, result, lanes)


def raw_intrinsic(name: str, type: str, lanes: int, *args: Any) -> Val:
    """A pure LLVM intrinsic whose operands are Vals or plain ints (i32 immediates), unchanged."""
    exprs = [a.expr if isinstance(a, Val) else tirx.IntImm("int32", a) for a in args]
    target = _prim(_name(type, lanes))
    call = _call(target, "call_llvm_pure_intrin", _intrinsic(f"llvm.{name}"), *exprs)
    return Val(call, type, lanes)


def shuffle(vectors: Sequence[Val], lanes: Sequence[int]) -> Val:
    """Lanes of one vector or of several of equal length laid end to end; one lane is a scalar."""
    picks = [tirx.IntImm("int32", k) for k in lanes]
    expr = tirx.Shuffle([v.expr for v in vectors], picks)
    return Val(expr, vectors[0].type, len(lanes))


def concat(vectors: Sequence[Val]) -> Val:
    """Vectors end to end."""
    if len(vectors) == 1:
        return vectors[0]
    total = sum(v.lanes for v in vectors)
    return shuffle(vectors, range(total))


def lane_numbers(lanes: int) -> Val:
    """0, 1, 2, ... as int32."""
    ramp = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)
    return Val(ramp, "int32", lanes)


def opaque(value: Val) -> Val:
    """The value, hidden from LLVM's search for memcpy and memset, which are not there to call."""
    floats = _as_floats(value)
    if floats is None:
        return opaque(value.cast("uint32")).cast(value.type)
    return _from_floats(intrinsic("arithmetic.fence", floats), value)


def _as_floats(value: Val) -> Val | None:
    """The bits as a vector of floats, None when they do not fill one."""
    lanes, left = divmod(int(value.type.lstrip("uintfloa")) * value.lanes, 32)
    if left:
        return None
    if _is_zero(value.expr):  # TVM takes the bits of a literal zero for a null pointer
        return constant(0.0, "float32", lanes)
    target = _prim(_name("float32", lanes))
    return Val(_call(target, "reinterpret", value.expr), "float32", lanes)


def _is_zero(expr: Any) -> bool:
    inner = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return isinstance(inner, tirx.IntImm) and int(inner.value) == 0


def _from_floats(floats: Val, like: Val) -> Val:
    target = _prim(_name(like.type, like.lanes))
    return Val(_call(target, "reinterpret", floats.expr), like.type, like.lanes)


class Emitter:
    """Collects statements. Blocks nest through context managers. With ``guard``, every store is
    made :func:`opaque`."""

    def __init__(self, isa: Isa, guard: bool = False) -> None:
        self.isa = isa
        self.guard = guard
        self._blocks: list[list[Any]] = [[]]
        self._count = 0
        self._allocations: list[Any] = []
        self._slots: dict[str, tuple[Any, int]] = {}

    def _fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"

    # ---- values ----

    def let(self, value: Val, hint: str = "v") -> Val:
        """The value, computed here and once.

        It goes through a slot of an array on the stack, which LLVM turns back into a register.
        TVM's own binding would have its simplifier put every name's meaning into every use.
        """
        if value.named or isinstance(value.expr, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        if value.type == "bool":
            return self.let(value.cast("uint8"), hint).ne(0)
        slots, used = self._slots.get(value.type, (None, _SLOTS))
        if slots is None or used + value.lanes > _SLOTS:
            slots, used = self._allocate(value.type, _SLOTS, "slots", self._allocations), 0
        self._slots[value.type] = (slots, used + value.lanes)
        index = self.ramp(self.integer(used), 1, value.lanes).expr
        self._blocks[-1].append(tirx.BufferStore(slots, value.expr, [index]))
        return Val(tirx.BufferLoad(slots, [index]), value.type, value.lanes, named=True)

    def _allocate(self, type: str, count: int, hint: str, block: list[Any]) -> Any:
        size = tirx.IntImm("int64", count)
        handle = tirx.decl_buffer([size], type, self._fresh(hint), layout=None)
        block.append(tirx.AllocBuffer(handle))
        return handle

    def integer(self, value: int) -> Val:
        """An index literal."""
        return Val(tirx.IntImm("int64", value), "int64")

    def ramp(self, base: Val, stride: Val | int, lanes: int) -> Val:
        """``base``, ``base + stride``, ... as int64."""
        step = stride if isinstance(stride, Val) else self.integer(stride)
        if lanes == 1:
            return base
        return Val(tirx.Ramp(base.expr, step.expr, lanes), "int64", lanes)

    # ---- memory ----

    def argument(self, name: str, type: str) -> tuple[Buffer, Any, list[Any]]:
        """A pointer argument: the buffer, the parameter, and the statements that declare it."""
        handle = tirx.decl_buffer([tirx.IntImm("int64", 1)], type, name, layout=None)
        param = tirx.Var(f"{name}_ptr", PointerType(_prim(type), "global"))
        return Buffer(handle, type), param, [tirx.DeclBuffer(handle, data=param)]

    def local(self, type: str, count: int, hint: str = "local") -> Buffer:
        """An array on the stack."""
        return Buffer(self._allocate(type, count, hint, self._allocations), type)

    def load(self, buffer: Buffer, offset: Val, lanes: int = 1, mask: Val | None = None) -> Val:
        """``lanes`` elements from ``offset`` on; with a mask, the masked-off lanes are undefined.

        A vector offset gathers, lane by lane.
        """
        if offset.lanes > 1:
            lanes = offset.lanes
            index = offset.expr
        else:
            index = self.ramp(offset, 1, lanes).expr
        if mask is not None:
            target = _prim(_name(buffer.type, lanes))
            expr = _call(target, "masked_load", buffer.handle, index, mask.expr)
            # Hidden, or LLVM folds the load into an instruction under the same mask and, when that
            # does not suit its registers, unfolds it again: into a load without a mask.
            return opaque(Val(expr, buffer.type, lanes))
        return Val(tirx.BufferLoad(buffer.handle, [index]), buffer.type, lanes)

    def prefetch(self, buffer: Buffer, offset: Val) -> None:
        """Asks for the cache line of an element, which need not exist."""
        address = _call(
            PointerType(_prim(buffer.type), "global"),
            "address_of",
            tirx.BufferLoad(buffer.handle, [offset.expr]),
        )
        # For reading, of use for long, data.
        hints = [tirx.IntImm("int32", k) for k in (0, 3, 1)]
        call = _call(
            _prim("void"), "call_llvm_intrin", _intrinsic("llvm.prefetch"), address, *hints
        )
        self._blocks[-1].append(tirx.Evaluate(call))

    def store(self, buffer: Buffer, value: Val, offset: Val, mask: Val | None = None) -> None:
        """Stores the lanes from ``offset`` on (a vector offset scatters)."""
        if offset.lanes > 1:
            value = value.broadcast(offset.lanes)
            index = offset.expr
        else:
            index = self.ramp(offset, 1, value.lanes).expr
        if mask is not None:
            void = _prim("void")
            call = _call(void, "masked_store", buffer.handle, value.expr, index, mask.expr)
            self._blocks[-1].append(tirx.Evaluate(call))
        else:
            self._blocks[-1].append(tirx.BufferStore(buffer.handle, value.expr, [index]))

    # ---- control ----

    @contextmanager
    def loop(self, begin: Val, end: Val, step: int = 1, hint: str = "i") -> Iterator[Val]:
        """``for i in range(begin, end, step)``."""
        var = tirx.Var(self._fresh(hint), _prim("int64"))
        self._blocks.append([])
        yield Val(var, "int64")
        body = self._close()
        zero = isinstance(begin.expr, tirx.IntImm) and int(begin.expr.value) == 0
        extent = end.expr if zero else tirx.Sub(end.expr, begin.expr)
        stride = None if step == 1 else tirx.IntImm("int64", step)
        loop = tirx.For(var, begin.expr, extent, tirx.ForKind.SERIAL, body, None, None, stride)
        self._blocks[-1].append(loop)

    @contextmanager
    def branch(self, condition: Val) -> Iterator[None]:
        """``if condition:``."""
        self._blocks.append([])
        yield
        body = self._close()
        self._blocks[-1].append(tirx.IfThenElse(condition.expr, body, None))

    @contextmanager
    def otherwise(self, condition: Val) -> Iterator[None]:
        """``if not condition:``."""
        with self.branch(self.let(condition).negate()):
            yield

    def _close(self) -> Any:
        statements = self._blocks.pop()
        if not statements:
            statements = [tirx.Evaluate(tirx.IntImm("int32", 0))]
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    def finish(self) -> list[Any]:
        """The statements of the outermost block."""
        assert len(self._blocks) == 1
        return [*self._allocations, *self._blocks[0]]

    # ---- index arithmetic (no wrap-around) ----

    def floordiv(self, a: Val, b: Val) -> tuple[Val, Val]:
        """Quotient and remainder of indices that are at least 0."""
        quotient = self.let(a / b, "q")
        return quotient, self.let(a - quotient * b, "r")
