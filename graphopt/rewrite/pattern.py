"""The pattern language: what a rule looks for, written as a python function over ops.

::

    def pattern(self, op, x, w):
        return op.Relu(op.Conv(x, w, _bind="conv"))

Parameters after ``op`` are variables: each stands for one value, the same wherever it appears.
Ops match by name. What a plain call does not say is said by underscored keywords and helpers:

- ``_bind="name"``: the matched node is ``match.node("name")``;
- ``_attrs={"axis": 1}``: attributes (schema defaults included) that must be equal, or a predicate;
- ``_shared=True``: the node may have other consumers, or be an output: it then stays;
- ``_outputs=k`` and ``pattern[i]``: output ``i`` of a node with ``k`` outputs;
- ``op.optional(x)``: an operand that may be absent (the variable is then unbound);
- ``op.rest("xs")``: all further operands, as ``match.values("xs")``; ``op.rest("xs", each=p)``
  asks that each of them matches ``p``;
- ``op.any()``: any value, not bound: it may be another one at every place;
- ``op.any_of(a, b)``: the first alternative that matches;
- ``op.constant("c")``: any constant; ``op.scalar(1.0)``: a one-element constant of that value.

Every pattern takes conditions on the value that it matches, the whole pattern included:

- ``x.typed(dtype=DType.F32, rank=4, shape=(None, 3, 8, 8), static=True)``: its type;
- ``x.holds(lambda array: (array > 0).all(), "positive")``: it is a constant of such contents;
- ``x.uses(1)``: so often it is read, outputs of the graph included;
- ``x.where(predicate, "reason")``: anything else; ``predicate`` takes the value.

Operands of commutative ops match in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.ir import DType, TensorType, Value

__all__ = ["AnyOf", "NodePattern", "Optional_", "Pattern", "PatternOps", "Rest", "Scalar", "Var"]

Predicate = Callable[[Value], bool]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Something that a value can match."""

    checks: tuple[tuple[Predicate, str], ...] = field(default=(), kw_only=True)

    def where(self, predicate: Predicate, reason: str) -> Any:
        """The pattern, for values that ``predicate`` accepts; ``reason`` says what it asks."""
        return replace(self, checks=(*self.checks, (predicate, reason)))

    def typed(
        self,
        dtype: DType | Collection[DType] | None = None,
        *,
        rank: int | None = None,
        shape: Sequence[int | None] | None = None,
        static: bool = False,
    ) -> Any:
        """The pattern, for tensors of that element type (or one of several), rank and shape.

        None in ``shape`` stands for any size; ``static`` asks that all sizes are numbers.
        """
        dtypes = {dtype} if isinstance(dtype, DType) else set(dtype or ())
        asked = [" or ".join(sorted(map(str, dtypes)))] if dtypes else []
        asked += [f"rank {rank}"] if rank is not None else []
        asked += [f"shape [{', '.join(map(_size, shape))}]"] if shape is not None else []
        asked += ["a static shape"] if static else []

        def fits(value: Value) -> bool:
            found = value.type
            if not isinstance(found, TensorType) or (dtypes and found.dtype not in dtypes):
                return False
            if rank is not None and found.rank != rank:
                return False
            if shape is not None:
                if found.shape is None or len(found.shape) != len(shape):
                    return False
                if any(a is not None and a != b for a, b in zip(shape, found.shape, strict=True)):
                    return False
            return found.static or not static

        return self.where(fits, f"being {', '.join(asked)}")

    def holds(self, predicate: Callable[[Any], Any], reason: str) -> Any:
        """The pattern, for constants whose contents (a numpy array) ``predicate`` accepts."""

        def fits(value: Value) -> bool:
            constant = value.constant
            return constant is not None and constant.available and bool(predicate(constant.array))

        return self.where(fits, f"being a constant that is {reason}")

    def uses(self, count: int) -> Any:
        """The pattern, for values that are read ``count`` times in all."""
        return self.where(lambda value: value.use_count == count, f"being read {count} times")


def _size(size: int | None) -> str:
    return "any" if size is None else str(size)


@dataclass(frozen=True, eq=False)
class Var(Pattern):
    """Any value; every occurrence of one name is the same value. Without a name it binds none."""

    name: str
    constant: bool = False


@dataclass(frozen=True, eq=False)
class Scalar(Pattern):
    """A constant of one element (or all-equal elements when ``splat``) that equals ``value``."""

    value: float
    name: str = ""


@dataclass(frozen=True, eq=False)
class Optional_(Pattern):
    """An operand that may be absent."""

    inner: Pattern = field(default_factory=lambda: Var("_"))


@dataclass(frozen=True, eq=False)
class Rest(Pattern):
    """All remaining operands, each of which matches ``each`` where that is given."""

    name: str = ""
    each: Pattern | None = None


@dataclass(frozen=True, eq=False)
class AnyOf(Pattern):
    """The first of several patterns that matches."""

    options: tuple[Pattern, ...] = ()


@dataclass(frozen=True, eq=False)
class NodePattern(Pattern):
    """Output ``output`` of a node of an op."""

    op: str = ""
    domain: str = ""
    operands: tuple[Pattern, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bind: str = ""
    shared: bool = False
    outputs: int = 1
    output: int = 0

    def __getitem__(self, index: int) -> NodePattern:
        if not 0 <= index < self.outputs:
            raise IndexError(f"{self.op} has {self.outputs} outputs here")
        return replace(self, output=index)


class PatternOps:
    """The ``op`` argument of a rule's ``pattern``: makes patterns by op name."""

    def __getattr__(self, name: str) -> Callable[..., NodePattern]:
        if name.startswith("_") or not name[0].isupper():
            raise AttributeError(name)
        return lambda *operands, **options: self.op(name, *operands, **options)

    def op(
        self,
        name: str,
        /,
        *operands: Pattern | float,
        _domain: str = "",
        _bind: str = "",
        _attrs: Mapping[str, Any] | None = None,
        _shared: bool = False,
        _outputs: int = 1,
    ) -> NodePattern:
        """A node of op ``name``. A number stands for a scalar constant."""
        patterns = tuple(x if isinstance(x, Pattern) else Scalar(float(x)) for x in operands)
        return NodePattern(name, _domain, patterns, dict(_attrs or {}), _bind, _shared, _outputs)

    def constant(self, name: str) -> Var:
        """Any constant, bound to ``name``."""
        return Var(name, constant=True)

    def scalar(self, value: float, name: str = "") -> Scalar:
        """A constant of one element equal to ``value``."""
        return Scalar(value, name)

    def optional(self, inner: Pattern) -> Optional_:
        """An operand that may be absent."""
        return Optional_(inner)

    def any(self) -> Var:
        """Any value, which is not bound."""
        return Var("")

    def rest(self, name: str, each: Pattern | None = None) -> Rest:
        """All remaining operands; each must match ``each`` where that is given."""
        return Rest(name, each)

    def any_of(self, *options: Pattern) -> AnyOf:
        """The first alternative that matches."""
        return AnyOf(options)
