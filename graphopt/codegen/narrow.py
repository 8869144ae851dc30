"""Emitting nests whose last axis has two to four steps: pixels of an image, pairs, points.

Vectors run along the axis before it. One step of the narrow axis at a time is computed for many
positions; what memory holds interleaved is taken apart by shuffles after loading, and results are
interleaved before storing.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.body import SCALAR, Body, Lanes
from graphopt.codegen.expr import Expr, walk
from graphopt.codegen.nest import emit_rows_plainly, minimum
from graphopt.codegen.plan import Nest
from graphopt.codegen.tir import Val, opaque, shuffle
from graphopt.codegen.trace import Store

__all__ = ["emit_narrow"]


def emit_narrow(body: Body, nest: Nest, begin: Val, end: Val) -> None:
    """Units [begin, end): blocks of the axis before the last."""
    e = body.e
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    assert nest.block is not None
    body.count_uses(nest.roots)
    body.hoist(nest.roots, 0)
    size = body.sizes.value(e, nest.extents[p])
    blocks = e.let((size + (nest.block - 1)) / e.integer(nest.block))
    lanes = e.isa.lanes
    with e.loop(begin, end, hint="u") as unit:
        body.open()
        rest, block = (unit, unit) if nest.outer == 0 else e.floordiv(unit, blocks)
        for k in reversed(range(nest.outer)):
            if k == 0:
                body.axes[0] = rest
            else:
                rest, body.axes[k] = e.floordiv(rest, body.sizes.value(e, nest.extents[k]))
        body.hoist(nest.roots, 0)
        start = e.let(block * nest.block)
        stop = e.let(minimum(start + nest.block, size))
        main = e.let(start + ((stop - start) / e.integer(lanes)) * lanes)
        with e.loop(start, main, lanes) as at:
            _positions(body, nest, at, lanes)
        emit_rows_plainly(body, nest, (main, stop), (e.integer(0), _steps(body, nest, q)))
        body.close()
        for k in range(nest.outer):
            del body.axes[k]


def _steps(body: Body, nest: Nest, q: int) -> Val:
    return body.sizes.value(body.e, nest.extents[q])


def _positions(body: Body, nest: Nest, at: Val, lanes: int) -> None:
    """``lanes`` positions, all steps of the narrow axis of each."""
    e = body.e
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    steps = nest.extents[q]
    assert isinstance(steps, int)
    woven = [x for x in walk(nest.roots) if _is_woven(x, p, steps)]
    body.open()
    body.axes[p] = at
    body.axes[q] = e.integer(0)
    # Consecutive elements: as if the lanes ran along the narrow axis and on.
    body.lanes = Lanes(q, lanes * steps)
    loaded = {x.uid: e.let(body.read(x)) for x in woven}
    body.lanes = Lanes(p, lanes)
    columns: list[list[Val]] = [[] for _ in nest.stores]
    for step in range(steps):
        body.open()
        body.axes[q] = e.integer(step)
        picks = [step + steps * k for k in range(lanes)]
        body.preset = {uid: e.let(shuffle([v], picks)) for uid, v in loaded.items()}
        for column, store in zip(columns, nest.stores, strict=True):
            value = body.stored(store.expr, store.dtype).broadcast(lanes)
            column.append(e.let(value))
        body.preset = {}
        body.close()
    body.axes[q] = e.integer(0)
    for column, store in zip(columns, nest.stores, strict=True):
        _store_woven(body, store, column)
    body.lanes = SCALAR
    del body.axes[p], body.axes[q]
    body.close()


def _is_woven(x: Expr, p: int, steps: int) -> bool:
    return x.op == "load" and x.coord is not None and x.coord.coefficient(p) == steps


def _store_woven(body: Body, store: Store, column: Sequence[Val]) -> None:
    lanes, steps = column[0].lanes, len(column)
    order = [(k % steps) * lanes + k // steps for k in range(lanes * steps)]
    value = opaque(shuffle(column, order))
    offset, _ = body.address(store.coord)
    body.e.store(body.buffers[store.arg], value, offset)
