"""Emitting a scalar program: addresses, loads, stores, and what is computed where in the nest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.codegen import machine
from graphopt.codegen.coord import Axis, Coord, Fun, Lookup
from graphopt.codegen.expr import Expr, compute_type, literal, walk
from graphopt.codegen.tir import Buffer, Emitter, Val, constant, opaque, select
from graphopt.codegen.trace import Store
from graphopt.ir import Dim, DType

__all__ = ["Body", "Lanes", "Sizes"]


class Sizes:
    """Sizes as values: numbers are literals, other expressions parameters of the kernel.

    ``order`` lists the expressions that need a parameter, in the order of the parameters.
    """

    def __init__(self, params: Mapping[Dim, Val]) -> None:
        self.params = dict(params)
        self.missing: list[Dim] = []

    def value(self, e: Emitter, dim: Dim) -> Val:
        """The value of a size, as an index."""
        if isinstance(dim, int):
            return e.integer(dim)
        found = self.params.get(dim)
        if found is None:
            # The caller starts over with a parameter for it.
            self.missing.append(dim)
            found = self.params[dim] = e.integer(1)
        return found


@dataclass(frozen=True)
class Lanes:
    """How the innermost values are vectorised: ``count`` steps along axis ``axis`` at once, of
    which ``mask`` (when there is one) says which exist."""

    axis: int
    count: int
    mask: Val | None = None


SCALAR = Lanes(-1, 1)


@dataclass
class Body:
    """Emits the expressions of one nest. Values live in scopes: one for every loop that is open."""

    e: Emitter
    buffers: Sequence[Buffer]
    sizes: Sizes
    axes: dict[int, Val] = field(default_factory=dict)
    lanes: Lanes = SCALAR
    scopes: list[dict[int, Val]] = field(default_factory=lambda: [{}])
    uses: dict[int, int] = field(default_factory=dict)
    # Loads that are already in registers under another vectorisation (transposed tiles).
    preset: dict[int, Val] = field(default_factory=dict)
    # Values that an earlier pass left in an output tensor.
    spilled: dict[int, Store] = field(default_factory=dict)

    # ---- scopes ----

    def count_uses(self, roots: Iterable[Expr]) -> None:
        """Learns which values are used more than once, and so are worth a name."""
        roots = list(roots)
        for root in roots:
            self.uses[root.uid] = self.uses.get(root.uid, 0) + 1
        for expr in walk(roots):
            for operand in expr.operands():
                self.uses[operand.uid] = self.uses.get(operand.uid, 0) + 1

    def open(self) -> None:
        """Begins a scope: values named in it are forgotten when it closes."""
        self.scopes.append({})

    def close(self) -> None:
        """Ends the innermost scope."""
        self.scopes.pop()

    def find(self, expr: Expr) -> Val | None:
        """The value of an expression that is known in some open scope."""
        for scope in reversed(self.scopes):
            found = scope.get(expr.uid)
            if found is not None:
                return found
        return None

    def define(self, expr: Expr, value: Val) -> None:
        """Records the value of an expression in the innermost scope."""
        self.scopes[-1][expr.uid] = value

    def hoist(self, roots: Iterable[Expr], depth: int) -> None:
        """Computes, here, what the roots need and only depends on axes that are known."""
        known = frozenset(self.axes)
        ready = {
            expr.uid: expr
            for expr in walk(roots)
            if expr.axes <= known and expr.depth <= depth and expr.op != "const"
        }
        needed: set[int] = set()
        for expr in walk(roots):
            if expr.uid not in ready and expr.op != "const":
                needed.update(o.uid for o in expr.operands())
        for root in roots:
            needed.add(root.uid)
        for uid in sorted(needed & ready.keys()):
            if self.find(ready[uid]) is None:
                self.define(ready[uid], self.e.let(self._compute(ready[uid]), "h"))

    # ---- values ----

    def value(self, expr: Expr) -> Val:
        """The value of an expression under the current vectorisation."""
        found = self.find(expr)
        if found is not None:
            return found
        if expr.op == "const":
            return _constant(expr)
        value = self._compute(expr)
        if self.uses.get(expr.uid, 0) > 1:
            value = self.e.let(value)
        self.define(expr, value)
        return value

    def _compute(self, expr: Expr) -> Val:
        parked = self.spilled.get(expr.uid)
        if parked is not None:
            return self._read(self.buffers[parked.arg], parked.coord)
        if expr.op == "load":
            return machine.decode(self.e, self._load(expr), DType(expr.attr[1]))
        if expr.op == "index":
            assert expr.coord is not None
            return self.coordinate(expr.coord)
        assert expr.op != "reduce", "a reduction is computed by its loop"
        return machine.compute(self.e, expr, [self.value(arg) for arg in expr.args])

    def _load(self, expr: Expr) -> Val:
        preset = self.preset.get(expr.uid)
        return self.read(expr) if preset is None else preset

    def read(self, expr: Expr) -> Val:
        """What a load reads, as it stands in memory."""
        assert expr.coord is not None
        return self._read(self.buffers[expr.attr[0]], expr.coord)

    def _read(self, buffer: Buffer, coord: Coord) -> Val:
        offset, stride = self.address(coord)
        if offset.lanes > 1 or stride is None:
            return self.e.load(buffer, offset)
        if isinstance(stride, int) and stride == 1:
            return self.e.load(buffer, offset, self.lanes.count, self.lanes.mask)
        return self.e.load(buffer, self.e.ramp(offset, self._size(stride), self.lanes.count))

    def _size(self, dim: Dim) -> Val:
        return self.sizes.value(self.e, dim)

    # ---- addresses ----

    def coordinate(self, coord: Coord) -> Val:
        """The value of a coordinate: a vector when it varies along the lanes."""
        base, stride = self.address(coord)
        if stride is None:
            return base
        return self.e.ramp(base, self._size(stride), self.lanes.count)

    def address(self, coord: Coord) -> tuple[Val, Dim | None]:
        """Base and lane stride of a coordinate; (value, None) when it is uniform or no ramp."""
        e = self.e
        fixed = self._size(coord.const)
        stride: Dim = 0
        moving: list[Val] = []
        uneven: list[Val] = []
        for term, coefficient in coord.terms:
            if isinstance(term, Axis):
                product = _times(self.axes[term.id], self._size(coefficient))
                if term.id == self.lanes.axis and self.lanes.count > 1:
                    stride = coefficient
                    moving.append(product)
                else:
                    fixed = _plus(fixed, product)
                continue
            value = _times(self._term(term), self._size(coefficient))
            if value.lanes > 1:
                uneven.append(value)
            else:
                fixed = _plus(fixed, value)
        base = fixed
        for value in moving:
            base = _plus(base, value)
        still = isinstance(stride, int) and stride == 0
        if not uneven:
            return base, None if still else stride
        result = base if still else e.ramp(base, self._size(stride), self.lanes.count)
        for value in uneven:
            result = value + result
        return e.let(result), None

    def _term(self, term: Fun | Lookup) -> Val:
        if isinstance(term, Lookup):
            return self.value(term.expr)
        e = self.e
        arg, size = e.let(self.coordinate(term.arg)), self._size(term.size)
        if term.kind == "//":
            return e.let(arg / size)
        if term.kind == "%":
            return e.let(arg - (arg / size) * size)
        if term.kind == "clamp":
            return e.let(_clamped(arg, size))
        if term.kind == "wrap":
            rest = e.let(arg - (arg / size) * size)
            return e.let(select(rest < 0, rest + size, rest))
        assert term.kind == "reflect", term.kind
        return e.let(_reflect(e, arg, size))

    # ---- stores ----

    def store(self, store: Store) -> None:
        """Writes one element, or a vector of them."""
        e = self.e
        value = self.stored(store.expr, store.dtype)
        if e.guard or _copied(store.expr):
            value = opaque(value)
        if e.guard and value.lanes == 1 and value.type in ("int8", "uint8"):
            # Any byte that stays the same through a loop makes a memset: let it seem to change.
            place = self.address(store.coord)[0].cast("uint32")
            value = (value.cast("uint32") ^ (place ^ opaque(place))).cast(value.type)
        self.store_value(store, value)

    def store_value(self, store: Store, value: Val) -> None:
        """Writes a value in its memory form where ``store`` says."""
        e = self.e
        offset, stride = self.address(store.coord)
        buffer = self.buffers[store.arg]
        lanes = self.lanes.count
        if offset.lanes > 1 or stride is None:
            e.store(buffer, value, offset)
        elif isinstance(stride, int) and stride == 1:
            e.store(buffer, value.broadcast(lanes), offset, self.lanes.mask)
        else:
            e.store(buffer, value.broadcast(lanes), e.ramp(offset, self._size(stride), lanes))

    def stored(self, expr: Expr, dtype: DType) -> Val:
        """The memory form of a value; what is only moved is never converted."""
        type = compute_type(dtype)
        kind = machine.storage_type(dtype, type)
        if kind == type:
            return self.value(expr)
        if expr.op == "load" and expr.attr[1] == dtype and self.find(expr) is None:
            return self._load(expr)
        if expr.op == "select" and self.find(expr) is None:
            branches = [self.stored(arg, dtype) for arg in expr.args[1:]]
            return select(self.value(expr.args[0]), branches[0], branches[1])
        if type.startswith("raw"):
            return self.value(expr)
        return machine.encode(self.e, self.value(expr), dtype)


def _copied(expr: Expr) -> bool:
    return expr.op in ("load", "const", "convert", "bits")


def _constant(expr: Expr) -> Val:
    type = expr.type
    if type.startswith("raw"):
        return constant(int(expr.attr), f"uint{type[3:]}")
    return constant(literal(expr), type)


def _times(a: Val, b: Val) -> Val:
    for x, y in ((a, b), (b, a)):
        number = _number(x)
        if number == 1:
            return y
        if number == 0:
            return x
    return a * b


def _plus(a: Val, b: Val) -> Val:
    if _number(a) == 0:
        return b
    return a if _number(b) == 0 else a + b


def _number(x: Val) -> int | None:
    value = getattr(x.expr, "value", None)
    return value if isinstance(value, int) else None


def _clamped(arg: Val, size: Val) -> Val:
    low = select(arg < 0, constant(0, "int64"), arg)
    return select(low >= size, size - 1, low)


def _reflect(e: Emitter, arg: Val, size: Val) -> Val:
    """Back and forth between 0 and size - 1, without repeating the ends."""
    period = e.let(select(size > 1, (size - 1) * 2, constant(1, "int64")))
    rest = e.let(arg - (arg / period) * period)
    rest = e.let(select(rest < 0, rest + period, rest))
    return select(rest >= size, period - rest, rest)
