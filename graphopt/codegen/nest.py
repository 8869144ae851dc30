"""Emitting loop nests of pointwise and movement programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.codegen import machine
from graphopt.codegen.body import SCALAR, Body, Lanes
from graphopt.codegen.coord import Coord
from graphopt.codegen.expr import BITS, Expr, walk
from graphopt.codegen.plan import Nest, cost_of
from graphopt.codegen.tir import Emitter, Val, constant, select
from graphopt.ir import Dim

__all__ = ["emit_nest", "emit_rows_plainly", "minimum", "unit_axes", "vector_loop"]

# Programs up to this cost run two vectors at a time: one alone does not fill the pipeline.
_CHEAP = 10


def minimum(a: Val, b: Val) -> Val:
    """The smaller of two indices."""
    return select(a < b, a, b)


def emit_nest(body: Body, nest: Nest, begin: Val, end: Val) -> None:
    """Units [begin, end) of a nest."""
    e = body.e
    body.count_uses(nest.roots)
    body.hoist(nest.roots, 0)
    if not nest.extents:
        with e.loop(begin, end):
            body.open()
            for store in nest.stores:
                body.store(store)
            body.close()
        return
    last = len(nest.extents) - 1
    size = body.sizes.value(e, nest.extents[last])

    def stores() -> None:
        for store in nest.stores:
            body.store(store)

    def row(start: Val, stop: Val, static: int | None) -> None:
        vector_loop(body, nest.roots, _coords(nest), last, (start, stop, static), stores)

    if nest.outer == 0 and nest.block is not None and last == 0:
        start = e.let(begin * nest.block)
        stop = e.let(minimum(end * nest.block, size))
        row(start, stop, None)
        return
    with e.loop(begin, end, hint="u") as unit:
        body.open()
        block = unit_axes(body, nest, unit)
        body.hoist(nest.roots, 0)
        if block is not None:
            assert nest.block is not None
            start = e.let(block * nest.block)
            row(start, e.let(minimum(start + nest.block, size)), None)
        else:
            number = nest.extents[last]
            static = number if isinstance(number, int) else None
            _inner_loops(body, nest, nest.outer, lambda: row(e.integer(0), size, static))
        body.close()
        for k in range(nest.outer):
            del body.axes[k]


def emit_rows_plainly(
    body: Body, nest: Nest, rows: tuple[Val, Val], columns: tuple[Val, Val]
) -> None:
    """A box of the last two axes of a nest, element by element."""
    e = body.e
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    with e.loop(*rows) as i, e.loop(*columns) as j:
        body.open()
        body.axes[p], body.axes[q] = i, j
        for store in nest.stores:
            body.store(store)
        del body.axes[p], body.axes[q]
        body.close()


def unit_axes(body: Body, nest: Nest, unit: Val) -> Val | None:
    """Sets the outer axes from a unit's number; returns the block's number if there are blocks."""
    e = body.e
    rest = unit
    block: Val | None = None
    if nest.block is not None:
        size = body.sizes.value(e, nest.extents[-1])
        count = e.let((size + (nest.block - 1)) / e.integer(nest.block))
        rest, block = e.floordiv(rest, count)
    for k in reversed(range(nest.outer)):
        if k == 0:
            body.axes[0] = rest
        else:
            rest, body.axes[k] = e.floordiv(rest, body.sizes.value(e, nest.extents[k]))
    return block


def _inner_loops(body: Body, nest: Nest, k: int, innermost: Callable[[], None]) -> None:
    if k == len(nest.extents) - 1:
        innermost()
        return
    e = body.e
    with e.loop(e.integer(0), body.sizes.value(e, nest.extents[k])) as at:
        body.open()
        body.axes[k] = at
        body.hoist(nest.roots, 0)
        _inner_loops(body, nest, k + 1, innermost)
        del body.axes[k]
        body.close()


def _coords(nest: Nest) -> list[Coord]:
    return [store.coord for store in nest.stores]


def vector_width(e: Emitter, roots: Sequence[Expr], axis: int) -> int:
    """How many steps of an axis to take at once."""
    bits = [BITS[x.type] for x in walk(roots) if axis in x.axes and x.op not in ("const", "index")]
    widest = max(bits, default=32)
    lanes = e.isa.bytes * 8 // min(widest, 32) if widest <= 32 else e.isa.lanes
    if widest == 8 and any(x.type == "bool" for x in walk(roots)):
        lanes = min(lanes, 2 * e.isa.lanes)
    return lanes if cost_of(roots, axis) > _CHEAP or widest == 64 else 2 * lanes


def is_regular(roots: Sequence[Expr], coords: Sequence[Coord], axis: int) -> bool:
    """True when every address moves by 0 or 1 along the axis, and no operation may trap."""
    exprs = walk(roots)
    if any(x.op in machine.TRAPPING for x in exprs):
        return False
    for coord in [*coords, *(x.coord for x in exprs if x.coord is not None and x.op == "load")]:
        step: Dim = coord.coefficient(axis)
        if not isinstance(step, int) or step not in (0, 1):
            return False
        if any(axis in part.axes() for part in list(coord.parts())[1:]):
            return False
        if any(axis in inner.axes for inner in coord.lookups()):
            return False
    return True


def vector_loop(
    body: Body,
    roots: Sequence[Expr],
    coords: Sequence[Coord],
    axis: int,
    bounds: tuple[Val, Val, int | None],
    step: Callable[[], None],
) -> None:
    """``step`` for every position of the last axis in [start, stop), vectors at a time.

    ``bounds`` holds start, stop and, when it is known, their distance. What is left over runs under
    a mask where the machine has masks for free, else one element at a time.
    """
    e = body.e
    start, stop, static = bounds
    width = vector_width(e, roots, axis)
    masked = e.isa.masks and is_regular(roots, coords, axis)
    if static is not None:
        while width > 4 and width // 2 >= static and masked:
            width //= 2
        while width > 1 and width > static and not masked:
            width //= 2
    if static is not None:
        main = start + (static // width * width)
    else:
        main = e.let(start + ((stop - start) / e.integer(width)) * width)

    def run(at: Val, lanes: Lanes) -> None:
        body.open()
        body.axes[axis] = at
        body.lanes = lanes
        step()
        body.lanes = SCALAR
        del body.axes[axis]
        body.close()

    if static is None or static >= width:
        if static is not None and static < 2 * width:
            run(start, Lanes(axis, width))
        else:
            with e.loop(start, main, width) as at:
                run(at, Lanes(axis, width))
    left = None if static is None else static % width
    if left == 0:
        return
    if not masked:
        if width > 1:
            with e.loop(main, stop) as at:
                run(at, Lanes(axis, 1))
        return
    if left is not None:
        run(main, Lanes(axis, width, _mask(e, constant(left, "int32"), width)))
        return
    with e.branch(main < stop):
        rest = e.let((stop - main).cast("int32"))
        run(main, Lanes(axis, width, e.let(_mask(e, rest, width))))


def _mask(e: Emitter, count: Val, width: int) -> Val:
    """True in the first ``count`` of ``width`` lanes."""
    from graphopt.codegen.tir import lane_numbers

    return lane_numbers(width) < count
