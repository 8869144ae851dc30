"""Scalar programs as C text: what :mod:`graphopt.codegen.machine` is to LLVM, for CUDA.

Every expression becomes a ``const`` of its own; the C compiler moves and merges what it likes.
The text calls helpers of namespace ``go`` (``backends/cuda/kernels/scalar.cuh``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from graphopt.codegen.coord import Axis, Coord, Fun
from graphopt.codegen.expr import BITS, Expr, Refusal, is_float, is_signed, literal
from graphopt.ir import Dim, DType

__all__ = ["Text", "c_type", "coordinate", "integer", "needed", "number", "storage"]

_TYPES = {
    "float32": "float", "float64": "double", "int8": "go::i8", "int16": "go::i16",
    "int32": "go::i32", "int64": "go::i64", "uint8": "go::u8", "uint16": "go::u16",
    "uint32": "go::u32", "uint64": "go::u64", "bool": "bool", "raw8": "go::u8",
    "raw16": "go::u16", "raw32": "go::u32", "raw64": "go::u64",
}  # fmt: skip
_STORAGE = {DType.F16: "go::f16", DType.BF16: "go::bf16", DType.BOOL: "go::b8"}
_INFIX = {
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&&", "or": "||",
    "bitand": "&", "bitor": "|", "bitxor": "^", "div": "/",
}  # fmt: skip
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}
# Functions of the C library, which CUDA has too.
_LIBRARY = {
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint",
    "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh", "erf": "erf",
    "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "pow": "pow", "fmod": "fmod", "abs": "fabs",
}  # fmt: skip


def c_type(type: str) -> str:
    """The C type that a machine type computes in."""
    return _TYPES[type]


def storage(dtype: DType, type: str) -> str:
    """The C type of elements of ``dtype`` in memory; ``type`` is what they compute in."""
    if type.startswith("raw"):
        return _TYPES[type]
    return _STORAGE.get(dtype, _TYPES[type])


def number(dim: Dim) -> int:
    """A size as a number. Raises Refusal for a symbol."""
    if not isinstance(dim, int):
        raise Refusal(f"the size {dim} is not fixed")
    return dim


def coordinate(coord: Coord, axes: Mapping[int, str], values: Mapping[int, str]) -> str:
    """A coordinate as a C expression; ``values`` names the expressions that it looks up."""
    parts = [] if coord.const == 0 and coord.terms else [str(number(coord.const))]
    for term, factor in coord.terms:
        if isinstance(term, Axis):
            text = axes[term.id]
        elif isinstance(term, Fun):
            inner, size = coordinate(term.arg, axes, values), number(term.size)
            if term.kind in ("//", "%"):
                text = f"({inner}) {'/' if term.kind == '//' else '%'} {size}"
            else:
                helper = {"clamp": "clamped", "wrap": "wrapped", "reflect": "reflected"}[term.kind]
                text = f"go::{helper}({inner}, {size})"
        else:
            text = f"(int){values[term.expr.uid]}"
        scale = number(factor)
        parts.append(f"({text})" if scale == 1 else f"({text}) * {scale}")
    return " + ".join(parts)


def needed(roots: Iterable[Expr], known: Iterable[int]) -> list[Expr]:
    """What the roots need beyond what is ``known``, operands first."""
    seen = set(known)
    found: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        x = stack.pop()
        if x.uid in seen:
            continue
        seen.add(x.uid)
        found[x.uid] = x
        stack.extend(x.operands())
    return [found[uid] for uid in sorted(found)]


class Text:
    """Emits expressions into lines of C. ``names`` maps those that have a name to it."""

    def __init__(
        self, axes: Mapping[int, str], load: Callable[[Expr, str], str], indent: str = "  "
    ) -> None:
        self.axes = dict(axes)
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        self.load = load
        self.indent = indent

    def line(self, text: str) -> None:
        """One line."""
        self.lines.append(self.indent + text)

    def emit(self, roots: Sequence[Expr]) -> list[str]:
        """Names of the roots, after lines that compute them."""
        for x in needed(roots, self.names):
            if x.op == "const":
                self.names[x.uid] = _constant(x)
                continue
            self.line(f"const {c_type(x.type)} v{x.uid} = {self._value(x)};")
            self.names[x.uid] = f"v{x.uid}"
        return [self.names[root.uid] for root in roots]

    def offset(self, coord: Coord) -> str:
        """A coordinate under the axes and values known here."""
        return coordinate(coord, self.axes, self.names)

    def _value(self, x: Expr) -> str:
        if x.op == "load":
            assert x.coord is not None
            return self.load(x, self.offset(x.coord))
        if x.op == "index":
            assert x.coord is not None
            return self.offset(x.coord)
        return operation(x, [self.names[arg.uid] for arg in x.args])


def operation(x: Expr, a: list[str]) -> str:
    """An arithmetic expression of operands that have names."""
    op, type = x.op, x.args[0].type
    if op in _ARITHMETIC:
        return _wrapping(_ARITHMETIC[op], type, a)
    if op in _INFIX:
        return f"({c_type(x.type)})({a[0]} {_INFIX[op]} {a[1]})"
    if op in _LIBRARY and is_float(type):
        return f"{_LIBRARY[op]}{'f' if type == 'float32' else ''}({', '.join(a)})"
    if op in ("max", "min"):
        return f"go::{'larger' if op == 'max' else 'smaller'}({a[0]}, {a[1]})"
    helper = {"idiv": "quotient", "irem": "remainder_of", "ipow": "integer_power"}.get(op)
    if helper is not None:
        return f"go::{helper}<{c_type(type)}>({a[0]}, {a[1]})"
    if op == "select":
        return f"{a[0]} ? {a[1]} : {a[2]}"
    if op == "neg":
        return f"-{a[0]}" if is_float(type) else _wrapping("-", type, [f"({c_type(type)})0", a[0]])
    if op == "convert":
        return _convert(x, a[0])
    if op == "round":
        kind = _STORAGE[DType(x.attr)]
        return f"go::decode(go::encode<{kind}>({a[0]}))"
    return _bits(x, a)


def _bits(x: Expr, a: list[str]) -> str:
    op, type = x.op, x.args[0].type
    if op == "xor":
        return f"({a[0]} != {a[1]})"
    if op == "not":
        return f"!{a[0]}"
    if op == "bitnot":
        return f"({c_type(type)})(~{a[0]})"
    if op in ("shl", "shr"):
        sign = "<<" if op == "shl" else ">>"
        return f"({c_type(type)})({a[0]} {sign} {a[1]})"
    if op == "bits" and (x.type, type) == ("float32", "int32"):
        return f"__uint_as_float((go::u32){a[0]})"
    if op == "bits" and (x.type, type) == ("float32", "uint32"):
        return f"__uint_as_float({a[0]})"
    if op == "bits" and type == "float32" and x.type in ("int32", "uint32"):
        return f"({c_type(x.type)})__float_as_uint({a[0]})"
    if op == "bits" and {x.type, type} <= {
        f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)
    }:
        return f"({c_type(x.type)}){a[0]}"
    raise Refusal(f"{op} from {type} to {x.type} has no CUDA text")


def _wrapping(sign: str, type: str, a: Sequence[str]) -> str:
    if is_float(type) or type == "bool":
        return f"{a[0]} {sign} {a[1]}"
    wide = "go::u64" if BITS[type] == 64 else "go::u32"
    return f"({c_type(type)})(({wide}){a[0]} {sign} ({wide}){a[1]})"


def _convert(x: Expr, a: str) -> str:
    source, to = x.args[0].type, x.type
    if to == "bool":
        return f"{a} != 0"
    if is_float(source) and not is_float(to):
        bits = BITS[to]
        low = -(1 << (bits - 1)) if is_signed(to) else 0
        high = (1 << (bits - is_signed(to))) - 1
        bounds = ", ".join(integer(v, to) for v in (low, high))
        return f"go::saturated<{c_type(to)}>({a}, {bounds})"
    return f"({c_type(to)}){a}"


def integer(value: int, type: str) -> str:
    if type == "int64" and value == -(1 << 63):
        return "(go::i64)(-9223372036854775807ll - 1)"
    if BITS[type] == 64:
        return f"({c_type(type)}){value}{'ll' if is_signed(type) else 'ull'}"
    if type == "int32" and value == -(1 << 31):
        return "(go::i32)(-2147483647 - 1)"
    return f"({c_type(type)}){value}{'' if is_signed(type) else 'u'}"


def _constant(x: Expr) -> str:
    if x.type.startswith("raw"):
        return f"({c_type(x.type)}){int(x.attr)}ull"
    value = literal(x)
    if x.type == "bool":
        return "true" if value else "false"
    if not is_float(x.type):
        return integer(int(value), x.type)
    if math.isfinite(value):
        text = value.hex()
        return f"({text}f)" if x.type == "float32" else f"({text})"
    bits = 0x7FC00000 if math.isnan(value) else 0x7F800000 if value > 0 else 0xFF800000
    text = f"__uint_as_float({bits:#x}u)"
    return text if x.type == "float32" else f"(double){text}"
