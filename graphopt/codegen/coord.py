"""Index expressions: where a kernel reads or writes, as a function of its loop axes.

A :class:`Coord` is ``const + sum(coefficient * term)``. Coefficients and the constant are sizes
(:data:`~graphopt.ir.dim.Dim`), fixed for a call of the kernel; a term is a loop :class:`Axis`, a
:class:`Fun` of another coordinate (floor division and the like, where a shape change does not
factor into the axes), or a :class:`Lookup` of an index that the kernel reads from memory.
Addresses that are affine in the axes are what makes loops collapse and vectorise, so everything
here tries to stay affine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.dim import Dim, is_nonnegative

if TYPE_CHECKING:
    from graphopt.codegen.expr import Expr

__all__ = ["Axis", "Coord", "Fun", "Lookup", "SplitAxis", "Term", "axis", "const"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop axis, by its number in the space."""

    id: int

    @property
    def key(self) -> str:
        """Sort key: axes first, in order."""
        return f"a{self.id:04d}"


@dataclass(frozen=True, slots=True)
class Fun:
    """A function of a coordinate: ``//`` and ``%`` (floor, by a positive size), ``clamp`` to
    [0, size), ``reflect`` and ``wrap`` into [0, size)."""

    kind: str
    arg: Coord
    size: Dim

    @property
    def key(self) -> str:
        """Sort key."""
        return f"f{self.kind}({self.arg}, {self.size})"


@dataclass(frozen=True, slots=True)
class Lookup:
    """An index computed by the kernel: an integer expression, already made safe to use."""

    expr: Expr

    @property
    def key(self) -> str:
        """Sort key."""
        return f"l{self.expr.uid:06d}"


Term = Axis | Fun | Lookup


class SplitAxis(Exception):
    """Raised where an index would be affine if axis ``id`` were two axes, the inner one of
    ``inner`` steps. Whoever builds the space splits the axis and tries again."""

    def __init__(self, id: int, inner: Dim) -> None:
        super().__init__(f"axis {id} splits by {inner}")
        self.id = id
        self.inner = inner


@dataclass(frozen=True, slots=True)
class Coord:
    """``const + sum(coefficient * term)``; terms sorted, no coefficient 0."""

    const: Dim = 0
    terms: tuple[tuple[Term, Dim], ...] = ()

    def __str__(self) -> str:
        parts = [f"{c}*{t.key}" for t, c in self.terms]
        return " + ".join([*parts, str(self.const)])

    def __add__(self, other: Coord | Dim) -> Coord:
        if not isinstance(other, Coord):
            return Coord(self.const + other, self.terms)
        merged = dict(self.terms)
        for term, coefficient in other.terms:
            merged[term] = merged.get(term, 0) + coefficient
        return _make(self.const + other.const, merged)

    def __mul__(self, factor: Dim) -> Coord:
        return _make(self.const * factor, {t: c * factor for t, c in self.terms})

    def __sub__(self, other: Coord | Dim) -> Coord:
        return self + (other * -1 if isinstance(other, Coord) else -other)

    def coefficient(self, id: int) -> Dim:
        """Coefficient of axis ``id`` among the direct terms."""
        for term, coefficient in self.terms:
            if isinstance(term, Axis) and term.id == id:
                return coefficient
        return 0

    def axes(self) -> frozenset[int]:
        """All axes that the value depends on, inside functions and lookups too."""
        found: set[int] = set()
        for term, _ in self.terms:
            if isinstance(term, Axis):
                found.add(term.id)
            elif isinstance(term, Fun):
                found |= term.arg.axes()
            else:
                found |= term.expr.axes
        return frozenset(found)

    def parts(self) -> Iterator[Coord]:
        """This coordinate and those inside its functions (not those inside lookups)."""
        yield self
        for term, _ in self.terms:
            if isinstance(term, Fun):
                yield from term.arg.parts()

    def lookups(self) -> Iterator[Expr]:
        """Expressions of the lookups, those inside functions included."""
        for part in self.parts():
            for term, _ in part.terms:
                if isinstance(term, Lookup):
                    yield term.expr

    def dims(self) -> Iterator[Dim]:
        """Sizes that computing the value needs."""
        for part in self.parts():
            yield part.const
            for term, coefficient in part.terms:
                yield coefficient
                if isinstance(term, Fun):
                    yield term.size

    def rewrite(
        self, axes: Mapping[int, Coord], expr: Callable[[Expr], Expr] | None = None
    ) -> Coord:
        """With axes replaced by coordinates, and lookups by what ``expr`` makes of them."""
        result = Coord(self.const)
        for term, coefficient in self.terms:
            if isinstance(term, Axis):
                value = axes.get(term.id, Coord(0, ((term, 1),)))
            elif isinstance(term, Fun):
                value = _fun(term.kind, term.arg.rewrite(axes, expr), term.size)
            else:
                value = Coord(0, ((Lookup(expr(term.expr)) if expr else term, 1),))
            result = result + value * coefficient
        return result


def _make(const: Dim, terms: Mapping[Term, Dim]) -> Coord:
    kept = [(t, c) for t, c in terms.items() if not (isinstance(c, int) and c == 0)]
    kept.sort(key=lambda item: item[0].key)
    return Coord(const, tuple(kept))


def axis(id: int) -> Coord:
    """The coordinate that runs along axis ``id``."""
    return Coord(0, ((Axis(id), 1),))


def const(value: Dim) -> Coord:
    """A coordinate that does not move."""
    return Coord(value)


def lookup(expr: Expr) -> Coord:
    """The coordinate given by an integer expression."""
    return Coord(0, ((Lookup(expr), 1),))


def floordiv(value: Coord, size: Dim, extents: Mapping[int, Dim]) -> Coord:
    """``value // size`` for ``size`` at least 1; raises SplitAxis where a split would help."""
    return _divide(value, size, extents)[0]


def mod(value: Coord, size: Dim, extents: Mapping[int, Dim]) -> Coord:
    """``value % size`` for ``size`` at least 1; raises SplitAxis where a split would help."""
    return _divide(value, size, extents)[1]


def clamp(value: Coord, size: Dim, extents: Mapping[int, Dim]) -> Coord:
    """``value`` forced into [0, size)."""
    low = _lower_bound(value)
    if low is not None and is_nonnegative(low) and _below(value, size, extents):
        return value
    return _fun("clamp", value, size)


def fun(kind: str, value: Coord, size: Dim) -> Coord:
    """Function ``kind`` of a coordinate."""
    return _fun(kind, value, size)


def _fun(kind: str, value: Coord, size: Dim) -> Coord:
    return Coord(0, ((Fun(kind, value, size), 1),))


def _divide(value: Coord, size: Dim, extents: Mapping[int, Dim]) -> tuple[Coord, Coord]:
    if size == 1:
        return value, Coord()
    quotient: dict[Term, Dim] = {}
    rest: dict[Term, Dim] = {}
    for term, coefficient in value.terms:
        if _divides(coefficient, size):
            quotient[term] = coefficient // size
        else:
            rest[term] = coefficient
    inside = value.const if not _divides(value.const, size) else 0
    outside = (value.const - inside) // size
    left = _make(inside, rest)
    done = _make(outside, quotient)
    low = _lower_bound(left)
    if low is not None and is_nonnegative(low) and _below(left, size, extents):
        return done, left
    if inside == 0:
        for term, coefficient in left.terms:
            if isinstance(term, Axis) and _divides(size, coefficient):
                steps = size // coefficient
                if _divides(extents[term.id], steps) and extents[term.id] != steps:
                    raise SplitAxis(term.id, steps)
    return done + _fun("//", left, size), _fun("%", left, size)


def _divides(value: Dim, size: Dim) -> bool:
    if isinstance(size, int):
        return size != 0 and (value % size) == 0
    if isinstance(value, int) and value == 0:
        return True
    return not isinstance(value, int) and (value % size) == 0


def _lower_bound(value: Coord) -> Dim | None:
    """A size that ``value`` never falls below; None when a term may be negative."""
    for term, coefficient in value.terms:
        if isinstance(term, Lookup) or not is_nonnegative(coefficient):
            return None
        if isinstance(term, Fun) and term.kind == "//":
            low = _lower_bound(term.arg)
            if low is None or not is_nonnegative(low):
                return None
    return value.const


def _below(value: Coord, size: Dim, extents: Mapping[int, Dim]) -> bool:
    """True when ``value < size`` provably, for coefficients at least 0."""
    top = value.const
    for term, coefficient in value.terms:
        if isinstance(term, Axis):
            steps = extents[term.id] - 1
        elif isinstance(term, Fun) and term.kind != "//":
            steps = term.size - 1
        else:
            return False
        top = top + coefficient * steps
    return is_nonnegative(size - 1 - top)


def all_axes(coords: Iterable[Coord]) -> frozenset[int]:
    """Union of the axes of several coordinates."""
    found: frozenset[int] = frozenset()
    for coord in coords:
        found |= coord.axes()
    return found
