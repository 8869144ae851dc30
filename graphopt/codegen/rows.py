"""Emitting row programs: reductions, softmax, normalisations.

Along: the row is contiguous, vectors run along it and are folded across their lanes at the end of
a pass. Across: rows are columns of memory, vectors hold as many rows side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.codegen import coord as coords
from graphopt.codegen import machine
from graphopt.codegen.body import SCALAR, Body, Lanes
from graphopt.codegen.expr import BITS, Expr, is_float, is_signed, walk
from graphopt.codegen.nest import is_regular, minimum, unit_axes, vector_width
from graphopt.codegen.plan import Nest, cost_of
from graphopt.codegen.plan_rows import Pass, passes_of
from graphopt.codegen.tir import (
    Buffer,
    Emitter,
    Val,
    constant,
    lane_numbers,
    select,
    shuffle,
    wrapping,
)
from graphopt.ir import Dim, product

__all__ = ["emit_rows"]

_FAR = (1 << 62) - 1
# Rows ahead of the current one that are asked for.
_AHEAD = 8
# Steps after which a running sum is put aside.
_CHUNK = 256


def emit_rows(body: Body, nest: Nest, begin: Val, end: Val) -> None:
    """Units [begin, end) of a nest that reduces."""
    e = body.e
    roots = nest.roots
    body.count_uses(roots)
    body.hoist(roots, 0)
    program = _Rows(body, nest)
    with e.loop(begin, end, hint="row") as unit:
        body.open()
        block = unit_axes_of_rows(body, nest, unit)
        body.hoist(roots, 0)
        if block is None:
            program.row()
        else:
            assert nest.block is not None
            size = body.sizes.value(e, nest.extents[nest.outer])
            start = e.let(block * nest.block)
            program.columns(start, e.let(minimum(start + nest.block, size)))
        body.close()
        for k in range(nest.outer):
            del body.axes[k]


def unit_axes_of_rows(body: Body, nest: Nest, unit: Val) -> Val | None:
    """As :func:`unit_axes`, where blocks run along the last axis that is kept."""
    if nest.block is None:
        return unit_axes(body, nest, unit)
    e = body.e
    size = body.sizes.value(e, nest.extents[nest.outer])
    count = e.let((size + (nest.block - 1)) / e.integer(nest.block))
    rest, block = (unit, unit) if nest.outer == 0 else e.floordiv(unit, count)
    for k in reversed(range(nest.outer)):
        if k == 0:
            body.axes[0] = rest
        else:
            rest, body.axes[k] = e.floordiv(rest, body.sizes.value(e, nest.extents[k]))
    return block


@dataclass
class _Accumulator:
    """Running values of one reduction: ``lanes`` partial results, and their positions for Arg*."""

    expr: Expr
    lanes: int
    values: Buffer
    positions: Buffer | None
    # Sums of many: where the running sum goes from time to time, so that it stays small.
    totals: Buffer | None = None


class _Rows:
    def __init__(self, body: Body, nest: Nest) -> None:
        self.body = body
        self.e: Emitter = body.e
        self.nest = nest
        self.passes, self.once = passes_of(nest)
        self.axes = sorted(nest.reduced)
        self.across = nest.block is not None

    # ---- across: vectors of rows ----

    def columns(self, start: Val, stop: Val) -> None:
        """All columns in [start, stop)."""
        e, body, nest = self.e, self.body, self.nest
        column = nest.outer
        coords = [s.coord for s in nest.stores]
        masked = e.isa.masks and is_regular(nest.roots, coords, column)
        width = min(self._width(column, 4), nest.block or 64)
        size = nest.extents[column]
        while isinstance(size, int) and width > 4 and width // 2 >= size:
            width //= 2
        main = e.let(start + ((stop - start) / e.integer(width)) * width)

        def run(at: Val, lanes: Lanes) -> None:
            body.open()
            body.axes[column] = at
            body.lanes = lanes
            body.hoist(nest.roots, 0)
            self.row()
            body.lanes = SCALAR
            del body.axes[column]
            body.close()

        with e.loop(start, main, width) as at:
            run(at, Lanes(column, width))
        if masked:
            with e.branch(main < stop):
                rest = e.let((stop - main).cast("int32"))
                run(main, Lanes(column, width, e.let(lane_numbers(width) < rest)))
        elif width > 1:
            with e.loop(main, stop) as at:
                run(at, Lanes(column, 1))

    def _width(self, axis: int, most: int) -> int:
        """Lanes to take at once: several vectors, so that sums do not wait for each other."""
        roots = [a for p in self.passes for x in p.reductions for a in x.args]
        roots += [s.expr for s in self.nest.stores]
        one = vector_width(self.e, roots, axis)
        narrow = min(one, self.e.isa.lanes)
        cost = cost_of(roots, axis)
        return narrow * (most if cost <= 6 else 2 if cost <= 40 else 1)

    # ---- one row (or a vector of rows) ----

    def row(self) -> None:
        """All passes over the row that the axes name."""
        body = self.body
        before = dict(body.spilled)
        for number, step in enumerate(self.passes):
            accumulators = [self._accumulator(x) for x in step.reductions]
            self._loops(step, accumulators, 0)
            for value, store in step.parked:
                body.spilled[value.uid] = store
            for accumulator in accumulators:
                body.define(accumulator.expr, self._finish(accumulator))
            body.hoist(self.nest.roots, number + 1)
        for store in self.once:
            body.store(store)
        body.spilled = before

    def _accumulator(self, x: Expr) -> _Accumulator:
        e = self.e
        lanes = self.body.lanes.count if self.across else self._row_width()
        values = e.local(x.args[0].type, lanes, "acc")
        start, position = _neutral(x)
        e.store(values, constant(start, x.args[0].type, lanes), e.integer(0))
        if position is None:
            totals = None
            if x.attr == "sum" and x.type == "float32" and self._is_long():
                totals = e.local(x.type, lanes, "total")
                e.store(totals, constant(0, x.type, lanes), e.integer(0))
            return _Accumulator(x, lanes, values, None, totals)
        positions = e.local("int64", lanes, "at")
        e.store(positions, constant(position, "int64", lanes), e.integer(0))
        return _Accumulator(x, lanes, values, positions)

    def _is_long(self) -> bool:
        """True when a running sum may take more than a few hundred steps."""
        steps: Dim = product(self.nest.extents[k] for k in self.axes)
        width = 1 if self.across else self._row_width()
        return not isinstance(steps, int) or steps > 2 * _CHUNK * width

    def _flush(self, accumulators: Sequence[_Accumulator]) -> None:
        e = self.e
        zero = e.integer(0)
        for a in accumulators:
            if a.totals is not None:
                old = e.load(a.totals, zero, a.lanes)
                e.store(a.totals, old + e.load(a.values, zero, a.lanes), zero)
                e.store(a.values, constant(0, a.expr.type, a.lanes), zero)

    def _chunks(
        self, accumulators: Sequence[_Accumulator], end: Val, size: int
    ) -> Iterator[tuple[Val, Val]]:
        """[0, end) in runs of ``size``, after each of which sums are put aside."""
        e = self.e
        if not any(a.totals is not None for a in accumulators):
            yield e.integer(0), end
            return
        with e.loop(e.integer(0), end, size, hint="c") as start:
            yield start, e.let(minimum(start + size, end))
            self._flush(accumulators)

    def _loops(self, step: Pass, accumulators: Sequence[_Accumulator], level: int) -> None:
        """The loops over the axes of the row, from ``level`` on."""
        body, e, nest = self.body, self.e, self.nest
        if not self.axes:
            self._step(step, accumulators)
            return
        k = self.axes[level]
        size = body.sizes.value(e, nest.extents[k])
        if level == len(self.axes) - 1 and not self.across:
            self._vectors(step, accumulators, k, size)
            return
        innermost = level == len(self.axes) - 1
        runs = (
            self._chunks(accumulators, size, _CHUNK) if innermost else iter([(e.integer(0), size)])
        )
        for start, stop in runs:
            with e.loop(start, stop, hint="r") as at:
                body.open()
                body.axes[k] = at
                if innermost:
                    self._prefetch(step, k)
                    self._step(step, accumulators)
                else:
                    body.hoist(_roots(step), len(self.passes))
                    self._loops(step, accumulators, level + 1)
                del body.axes[k]
                body.close()

    def _prefetch(self, step: Pass, axis: int) -> None:
        """Asks for rows to come: their distance is too long for the hardware to guess."""
        body, e = self.body, self.e
        ahead = {axis: coords.axis(axis) + _AHEAD}
        for x in walk(_roots(step)):
            if x.op != "load" or x.coord is None or axis not in x.axes or x.uid in body.spilled:
                continue
            line = 64 * 8 // BITS[x.type]
            offset, _ = body.address(x.coord.rewrite(ahead))
            if offset.lanes == 1:
                offset = e.let(offset)
                for start in range(0, body.lanes.count, line):
                    e.prefetch(body.buffers[x.attr[0]], offset + start)

    def _row_width(self) -> int:
        if not self.axes:
            return 1
        axis = self.axes[-1]
        size = self.nest.extents[axis]
        width = self._width(axis, 4)
        while isinstance(size, int) and width > self.e.isa.lanes and width > size:
            width //= 2
        while isinstance(size, int) and width > 4 and width // 2 >= size:
            width //= 2
        return width

    def _vectors(
        self, step: Pass, accumulators: Sequence[_Accumulator], axis: int, size: Val
    ) -> None:
        """The innermost axis of a row, vectors at a time."""
        body, e = self.body, self.e
        width = self._row_width()
        coords = [s.coord for s in (*step.stores, *(s for _, s in step.parked))]
        masked = e.isa.masks and is_regular(_roots(step), coords, axis)
        static = self.nest.extents[axis]
        if isinstance(static, int):
            main: Val = e.integer(static // width * width)
        else:
            main = e.let((size / e.integer(width)) * width)

        def run(at: Val, lanes: Lanes) -> None:
            body.open()
            body.axes[axis] = at
            body.lanes = lanes
            self._step(step, accumulators)
            body.lanes = SCALAR
            del body.axes[axis]
            body.close()

        if not isinstance(static, int) or static >= width:
            for start, stop in self._chunks(accumulators, main, _CHUNK * width):
                with e.loop(start, stop, width, hint="r") as at:
                    run(at, Lanes(axis, width))
        if isinstance(static, int) and static % width == 0:
            return
        if masked:
            with e.branch(main < size):
                rest = e.let((size - main).cast("int32"))
                run(main, Lanes(axis, width, e.let(lane_numbers(width) < rest)))
        else:
            with e.loop(main, size, hint="r") as at:
                run(at, Lanes(axis, 1))

    def _step(self, step: Pass, accumulators: Sequence[_Accumulator]) -> None:
        body = self.body
        for accumulator in accumulators:
            self._accumulate(accumulator)
        final = {id(store) for store in step.stores}
        values = [(x, s) for x, s in step.parked if id(s) not in final]
        for x, store in values:
            body.store_value(store, body.value(x))
        for store in step.stores:
            body.store(store)

    def _accumulate(self, a: _Accumulator) -> None:
        e, body = self.e, self.body
        value = body.value(a.expr.args[0])
        lanes = body.lanes.count
        value = value.broadcast(lanes)
        zero = e.integer(0)
        old = e.let(e.load(a.values, zero, lanes))
        if a.positions is None:
            new = combine(e, str(a.expr.attr), old, value)
            if body.lanes.mask is not None:
                new = select(body.lanes.mask, new, old)
            e.store(a.values, new, zero)
            return
        kind, last = a.expr.attr
        value = e.let(value)
        where = e.let(e.load(a.positions, zero, lanes))
        better = _beats(value, old, kind == "argmax", last)
        if body.lanes.mask is not None:
            better = better & body.lanes.mask
        better = e.let(better)
        position = body.value(a.expr.args[1]).broadcast(lanes)
        e.store(a.values, select(better, value, old), zero)
        e.store(a.positions, select(better, position, where), zero)

    def _finish(self, a: _Accumulator) -> Val:
        """The reduced value: lanes are folded when they lie along the row."""
        e = self.e
        self._flush([a])
        if a.totals is not None:
            a = replace(a, values=a.totals)
        if self.across:
            value = e.load(a.values if a.positions is None else a.positions, e.integer(0), a.lanes)
            return e.let(_settled(value) if a.positions is not None else value)
        if a.positions is None:
            kind = str(a.expr.attr)
            value = e.let(e.load(a.values, e.integer(0), a.lanes))
            return fold_lanes(value, lambda x, y: e.let(combine(e, kind, x, y)))
        return self._finish_position(a)

    def _finish_position(self, a: _Accumulator) -> Val:
        e = self.e
        assert a.positions is not None
        kind, last = a.expr.attr
        zero = e.integer(0)
        with e.loop(e.integer(1), e.integer(a.lanes)) as lane:
            best, at = e.let(e.load(a.values, zero)), e.let(e.load(a.positions, zero))
            value, where = e.let(e.load(a.values, lane)), e.let(e.load(a.positions, lane))
            tie = value.eq(best)
            if is_float(value.type):
                tie = tie | (value.ne(value) & best.ne(best))
            closer = where > at if last else where < at
            strictly = _beats(value, best, kind == "argmax", False)
            better = e.let(strictly | (tie & closer))
            e.store(a.values, select(better, value, best), zero)
            e.store(a.positions, select(better, where, at), zero)
        return e.let(_settled(e.load(a.positions, zero)))


def _roots(step: Pass) -> list[Expr]:
    roots = [a for x in step.reductions for a in x.args]
    return roots + [s.expr for s in step.stores]


def _settled(position: Val) -> Val:
    """0 where nothing beat the neutral element: then all are equal to it."""
    unset = (position >= _FAR) | (position < 0)
    return select(unset, constant(0, "int64"), position)


def _beats(value: Val, best: Val, largest: bool, last: bool) -> Val:
    """Whether a value replaces the best so far; NaN beats everything, the first one or the last."""
    if last:
        wins = value >= best if largest else value <= best
    else:
        wins = value > best if largest else value < best
    if not is_float(value.type):
        return wins
    nan = value.ne(value)
    return wins | (nan if last else nan & best.eq(best))


def combine(e: Emitter, kind: str, a: Val, b: Val) -> Val:
    """One step of a reduction."""
    if kind == "sum":
        return wrapping("add", a, b)
    if kind == "prod":
        return wrapping("mul", a, b)
    return machine.nan_max(e, a, b, kind == "max")


def fold_lanes(value: Val, function: Callable[[Val, Val], Val]) -> Val:
    """All lanes of a vector folded to one scalar, halving it."""
    while value.lanes > 1:
        half = value.lanes // 2
        low = shuffle([value], range(half))
        high = shuffle([value], range(half, value.lanes))
        value = function(low, high)
    return value


def _neutral(x: Expr) -> tuple[float, int | None]:
    """The value a reduction starts from, and for Arg* the position."""
    kind, type = x.attr, x.args[0].type
    position = None
    if isinstance(kind, tuple):
        position = -1 if kind[1] else _FAR
        kind = kind[0].removeprefix("arg")
    if kind in ("sum", "prod"):
        return (0 if kind == "sum" else 1), None
    if is_float(type):
        return (-math.inf if kind == "max" else math.inf), position
    bits = BITS[type]
    low = -(1 << (bits - 1)) if is_signed(type) else 0
    high = (1 << (bits - is_signed(type))) - 1
    return (low if kind == "max" else high), position
