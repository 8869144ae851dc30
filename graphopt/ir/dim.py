"""Symbolic dimensions: integer expressions over named sizes, kept in a canonical form.

A :data:`Dim` is an ``int`` or an :class:`Expr`. An ``Expr`` is a polynomial with integer
coefficients over *atoms*; an atom is a symbol (``N``) or one of the functions below applied to
dims. Two expressions that are equal as polynomials compare equal, whatever way they were built.

Functions: ``a // b`` and ``a % b`` (floor), ``min(a, b)``, ``max(a, b)``, ``bcast(a, b)`` (the size
that numpy broadcasting of sizes a and b gives: a where b is 1, else b), ``ne1(a)`` (0 if a is 1,
else 1).

Every symbol stands for a size, so it is at least 0; nothing is assumed beyond that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Union

__all__ = [
    "Dim",
    "Expr",
    "bcast",
    "ceildiv",
    "dim_max",
    "dim_min",
    "evaluate",
    "ne1",
    "parse_dim",
    "product",
    "substitute",
    "sym",
    "symbols",
]

Dim = Union[int, "Expr"]
# An atom: ("sym", name) or (function, operand, ...). Tuples: cheap to hash and to order.
Atom = tuple[object, ...]
Monomial = tuple[tuple[Atom, int], ...]

_FUNCTIONS: dict[str, Callable[..., int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
    "bcast": lambda a, b: a if b == 1 else b,
    "ne1": lambda a: 0 if a == 1 else 1,
}


class Expr:
    """A non-constant symbolic size. Immutable; build with :func:`sym` and operators."""

    __slots__ = ("_hash", "_text", "terms")

    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = tuple(sorted(terms.items(), key=_term_key))
        self._hash = hash(self.terms)
        self._text: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Expr) and self._hash == other._hash and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        result = dict(self.terms)
        for monomial, coefficient in _terms(other):
            result[monomial] = result.get(monomial, 0) + coefficient
        return _make(result)

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        result: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = _multiply(left, right)
                result[monomial] = result.get(monomial, 0) + a * b
        return _make(result)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __floordiv__(self, other: Dim) -> Dim:
        return _floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return _floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _mod(self, other)

    def __rmod__(self, other: int) -> Dim:
        return _mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            self._text = _format(self)
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __bool__(self) -> bool:
        raise TypeError(f"the size {self} is symbolic: it has no truth value")

    @property
    def is_symbol(self) -> bool:
        """True for a bare symbol."""
        if len(self.terms) != 1:
            return False
        monomial, coefficient = self.terms[0]
        return (
            coefficient == 1
            and len(monomial) == 1
            and monomial[0][1] == 1
            and monomial[0][0][0] == "sym"
        )


def sym(name: str) -> Expr:
    """The size called ``name``."""
    return Expr({((("sym", name), 1),): 1})


def bcast(a: Dim, b: Dim) -> Dim:
    """The size that broadcasting sizes ``a`` and ``b`` together gives; ValueError if it cannot."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    # A constant other than 1 decides: the other side is 1 or equal to it.
    if isinstance(a, int):
        return a
    if isinstance(b, int):
        return b
    return _bcast_all({*_operands_of("bcast", a), *_operands_of("bcast", b)})


def _bcast_all(sizes: set[Dim]) -> Dim:
    """Symbolic sizes broadcast together. Wherever that is possible at all, ``min(x, 8)`` beside
    ``x`` adds nothing: the two are equal, or one of them is 1 and ``x`` is what they give."""
    for size in sorted(sizes, key=str):
        limits = [x for x in _operands_of("min", size) if x != size]
        rest = [x for x in limits if x not in sizes]
        if len(rest) < len(limits) and all(isinstance(x, int) and x >= 1 for x in rest):
            sizes.remove(size)
    ordered = sorted(sizes, key=str)
    result = ordered[0]
    for size in ordered[1:]:
        result = _atom("bcast", result, size)
    return result


def _operands_of(kind: str, dim: Dim) -> list[Dim]:
    """The operands of nested functions ``kind``; ``dim`` itself when it is no such function."""
    if isinstance(dim, Expr) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            atom = monomial[0][0]
            if atom[0] == kind:
                operands = [x for x in atom[1:] if isinstance(x, int | Expr)]
                return [leaf for x in operands for leaf in _operands_of(kind, x)]
    return [dim]


def ne1(a: Dim) -> Dim:
    """0 where ``a`` is 1, else 1: the stride factor of a possibly broadcast axis."""
    return (0 if a == 1 else 1) if isinstance(a, int) else _atom("ne1", a)


def dim_min(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes."""
    return _extremum("min", a, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes."""
    return _extremum("max", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded up, for ``b`` at least 1."""
    return (a + b - 1) // b


def product(dims: Iterable[Dim]) -> Dim:
    """The product of sizes; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def symbols(dim: Dim) -> frozenset[str]:
    """Names of the symbols in ``dim``."""
    found: set[str] = set()
    _collect(dim, found)
    return frozenset(found)


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced; names that ``env`` lacks stay."""
    if isinstance(dim, int):
        return dim
    result: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom, power in monomial:
            value = _substitute_atom(atom, env)
            for _ in range(power):
                term = term * value
        result = result + term
    return result


def evaluate(dim: Dim, env: Mapping[str, int]) -> int:
    """The number ``dim`` stands for. Raises KeyError naming a symbol that ``env`` lacks."""
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        for atom, power in monomial:
            coefficient *= _evaluate_atom(atom, env) ** power
        total += coefficient
    return total


def _evaluate_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if atom[0] == "sym":
        return env[str(atom[1])]
    operands = [evaluate(x, env) for x in atom[1:] if isinstance(x, int | Expr)]
    return _FUNCTIONS[str(atom[0])](*operands)


def _substitute_atom(atom: Atom, env: Mapping[str, Dim]) -> Dim:
    kind = str(atom[0])
    if kind == "sym":
        name = str(atom[1])
        return env[name] if name in env else sym(name)
    operands = [substitute(x, env) for x in atom[1:] if isinstance(x, int | Expr)]
    return apply(kind, *operands)


def apply(kind: str, *operands: Dim) -> Dim:
    """Builds function ``kind`` (``//``, ``%``, ``min``, ``max``, ``bcast``, ``ne1``)."""
    builders: dict[str, Callable[..., Dim]] = {
        "//": _floordiv,
        "%": _mod,
        "min": dim_min,
        "max": dim_max,
        "bcast": bcast,
        "ne1": ne1,
    }
    return builders[kind](*operands)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, int):
        return (((), dim),) if dim else ()
    return dim.terms


def _make(terms: dict[Monomial, int]) -> Dim:
    terms = {monomial: c for monomial, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)


def _atom(kind: str, *operands: Dim) -> Expr:
    return Expr({(((kind, *operands), 1),): 1})


def _multiply(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: _atom_text(item[0])))


def _floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError("a symbolic size is divided by zero")
        if isinstance(a, int):
            return a // b
        if b < 0:
            return _floordiv(-a, -b)
        if b == 1:
            return a
        # (q*b + r) // b == q + r // b, term by term.
        quotient = _make({m: c // b for m, c in a.terms})
        rest = _make({m: c % b for m, c in a.terms})
        if isinstance(rest, int):
            return quotient + rest // b
        # (k*r) // (k*b) == r // b.
        common = math.gcd(b, *(c for _, c in rest.terms))
        rest = Expr({m: c // common for m, c in rest.terms})
        return quotient + _nested_floordiv(rest, b // common)
    if a == 0:
        return 0
    exact = _exact_quotient(a, b)
    return exact if exact is not None else _atom("//", a, b)


def _nested_floordiv(a: Expr, b: int) -> Dim:
    """((x // m) + k) // b == (x + k*m) // (m*b): keeps chains of strided layers short."""
    inner: tuple[Dim, int] | None = None
    constant = 0
    for monomial, coefficient in a.terms:
        if not monomial:
            constant = coefficient
            continue
        atom, power = monomial[0]
        single = len(monomial) == 1 and power == 1 and coefficient == 1 and inner is None
        if not (single and atom[0] == "//" and isinstance(atom[2], int)):
            return _atom("//", a, b)
        operand = atom[1]
        assert isinstance(operand, int | Expr)
        inner = (operand, atom[2])
    if inner is None:
        return _atom("//", a, b)
    return _floordiv(inner[0] + constant * inner[1], inner[1] * b)


def _exact_quotient(a: Dim, b: Expr) -> Dim | None:
    """``a / b`` when ``b`` is one monomial that divides every term of ``a``, else None.

    Sound where b is not 0; a size that is divided by an empty one is an error at run time anyway.
    """
    if a == b:
        return 1
    if len(b.terms) != 1:
        return None
    divisor, scale = b.terms[0]
    result: dict[Monomial, int] = {}
    for monomial, coefficient in _terms(a):
        powers = dict(monomial)
        for atom, power in divisor:
            left = powers.get(atom, 0) - power
            if left < 0:
                return None
            powers[atom] = left
        if coefficient % scale:
            return None
        key = tuple((atom, power) for atom, power in monomial if powers[atom])
        result[tuple((atom, powers[atom]) for atom, _ in key)] = coefficient // scale
    return _make(result)


def _mod(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int):
        if b == 1:
            return 0
        rest = _make({m: c % b for m, c in _terms(a)}) if b > 0 else a
        return rest % b if isinstance(rest, int) else _atom("%", rest, b)
    if _exact_quotient(a, b) is not None:
        return 0
    return _atom("%", a, b)


def _extremum(kind: str, a: Dim, b: Dim) -> Dim:
    difference = a - b
    if isinstance(difference, int):
        smaller, larger = (a, b) if difference <= 0 else (b, a)
        return smaller if kind == "min" else larger
    if is_nonnegative(difference):
        return b if kind == "min" else a
    if is_nonnegative(-difference):
        return a if kind == "min" else b
    left, right = sorted((a, b), key=str)
    return _atom(kind, left, right)


def is_nonnegative(dim: Dim) -> bool:
    """True when ``dim`` is provably at least 0, symbols being sizes. False means unknown."""
    if isinstance(dim, int):
        return dim >= 0
    return all(
        coefficient >= 0 and all(_nonnegative_atom(atom) for atom, _ in monomial)
        for monomial, coefficient in dim.terms
    )


def _nonnegative_atom(atom: Atom) -> bool:
    kind = atom[0]
    if kind in ("sym", "ne1"):
        return True
    operands = [x for x in atom[1:] if isinstance(x, int | Expr)]
    if kind == "%":
        return is_nonnegative(operands[1])
    if kind == "max":
        return any(is_nonnegative(x) for x in operands)
    return all(is_nonnegative(x) for x in operands)


def _collect(dim: Dim, found: set[str]) -> None:
    if isinstance(dim, int):
        return
    for monomial, _ in dim.terms:
        for atom, _ in monomial:
            if atom[0] == "sym":
                found.add(str(atom[1]))
            else:
                for operand in atom[1:]:
                    if isinstance(operand, int | Expr):
                        _collect(operand, found)


def _term_key(item: tuple[Monomial, int]) -> tuple[int, str]:
    # Highest degree first and the constant last, as one writes polynomials.
    monomial = item[0]
    return (-sum(power for _, power in monomial), _monomial_text(monomial))


def _monomial_text(monomial: Monomial) -> str:
    return "*".join("*".join([_atom_text(atom)] * power) for atom, power in monomial)


def _atom_text(atom: Atom) -> str:
    kind = str(atom[0])
    if kind == "sym":
        return str(atom[1])
    if kind in ("//", "%"):
        return f"({_operand_text(atom[1])} {kind} {_operand_text(atom[2])})"
    return f"{kind}({', '.join(str(x) for x in atom[1:])})"


def _operand_text(operand: object) -> str:
    text = str(operand)
    if (isinstance(operand, Expr) and not operand.is_symbol) or text.startswith("-"):
        return f"({text})"
    return text


def _format(expr: Expr) -> str:
    pieces: list[str] = []
    for monomial, coefficient in expr.terms:
        sign = "-" if coefficient < 0 else "+"
        size = abs(coefficient)
        body = _monomial_text(monomial)
        if not body:
            body = str(size)
        elif size != 1:
            body = f"{size}*{body}"
        if pieces:
            pieces.append(f" {sign} {body}")
        else:
            pieces.append(body if sign == "+" else f"-{body}")
    return "".join(pieces)


_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_?][\w.?$@:]*|'[^']+')|(//|[-+*%(),]))")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"bad size '{text}' at column {position + 1}")
            self.tokens.append(match.group(1) or match.group(2) or match.group(3))
            position = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise ValueError(f"bad size '{self.text}': expected '{expected}', found '{token}'")
        self.at += 1
        return token

    def sum(self) -> Dim:
        negative = self.peek() == "-"
        if negative:
            self.take()
        result = self.term()
        if negative:
            result = -result
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.term()
            result = result + right if sign == "+" else result - right
        return result

    def term(self) -> Dim:
        result = self.factor()
        while self.peek() in ("*", "//", "%"):
            operator = self.take()
            right = self.factor()
            if operator == "*":
                result = result * right
            else:
                result = apply(operator, result, right)
        return result

    def factor(self) -> Dim:
        token = self.take()
        if token.isdigit():
            return int(token)
        if token == "(":
            result = self.sum()
            self.take(")")
            return result
        if token in ("min", "max", "bcast", "ne1") and self.peek() == "(":
            self.take()
            operands = [self.sum()]
            while self.peek() == ",":
                self.take()
                operands.append(self.sum())
            self.take(")")
            return apply(token, *operands)
        if not re.match(r"[A-Za-z_?']", token):
            raise ValueError(f"bad size '{self.text}': unexpected '{token}'")
        return sym(token)


def parse_dim(text: str) -> Dim:
    """The inverse of ``str()``. Raises ValueError."""
    parser = _Parser(text)
    result = parser.sum()
    if parser.peek():
        raise ValueError(f"bad size '{text}': unexpected '{parser.peek()}'")
    return result
