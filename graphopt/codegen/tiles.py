"""Emitting nests that read along one axis and write along another: transposes, and what is fused.

Square tiles go through registers: as many vectors as they have lanes are loaded along the one
axis, turned by a butterfly of two-vector shuffles, and used along the other. The last tile of an
axis is moved back so that it is whole too: its overlap is computed twice, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen import machine
from graphopt.codegen.body import SCALAR, Body, Lanes
from graphopt.codegen.expr import BITS, Expr, walk
from graphopt.codegen.nest import emit_rows_plainly, minimum
from graphopt.codegen.plan import TILE_BLOCK, Nest
from graphopt.codegen.tir import Emitter, Val, shuffle
from graphopt.ir import DType

__all__ = ["emit_tiles"]


def emit_tiles(body: Body, nest: Nest, begin: Val, end: Val) -> None:
    """Units [begin, end): blocks of the last two axes, of which the first is read along."""
    e = body.e
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    body.count_uses(nest.roots)
    body.hoist(nest.roots, 0)
    turned = [x for x in walk(nest.roots) if _is_turned(x, p, q)]
    side = _side(e, nest, turned)
    height, width = (body.sizes.value(e, nest.extents[k]) for k in (p, q))
    with e.loop(begin, end, hint="u") as unit:
        body.open()
        across = _blocks(e, width)
        rest, column = e.floordiv(unit, across)
        rest, row = e.floordiv(rest, _blocks(e, height))
        for k in reversed(range(nest.outer)):
            if k == 0:
                body.axes[0] = rest
            else:
                rest, body.axes[k] = e.floordiv(rest, body.sizes.value(e, nest.extents[k]))
        body.hoist(nest.roots, 0)
        box = tuple(
            (e.let(at * TILE_BLOCK), e.let(minimum(at * TILE_BLOCK + TILE_BLOCK, size)))
            for at, size in ((row, height), (column, width))
        )
        _block(body, nest, turned, side, box)
        body.close()
        for k in range(nest.outer):
            del body.axes[k]


def _blocks(e: Emitter, size: Val) -> Val:
    return e.let((size + (TILE_BLOCK - 1)) / e.integer(TILE_BLOCK))


def _is_turned(x: Expr, p: int, q: int) -> bool:
    """True for a load that is contiguous along ``p`` and strided along ``q``."""
    if x.op != "load" or x.coord is None:
        return False
    along = x.coord.coefficient(p)
    across = x.coord.coefficient(q)
    return isinstance(along, int) and along == 1 and not (isinstance(across, int) and across == 0)


def _side(e: Emitter, nest: Nest, turned: Sequence[Expr]) -> int:
    """Lanes of a tile, at most the size of either axis."""
    bits = max(BITS[machine.storage_type(DType(x.attr[1]), x.type)] for x in turned)
    side = min(16, e.isa.bytes * 8 // bits) if bits > 8 else 16
    side = max(side, 4)
    for size in nest.extents[-2:]:
        while isinstance(size, int) and size < side:
            side //= 2
    return side


Box = tuple[tuple[Val, Val], ...]


def _block(body: Body, nest: Nest, turned: Sequence[Expr], side: int, box: Box) -> None:
    """One block of units: in tiles where both axes are long enough, else element by element."""
    e = body.e
    sizes = [(k, s) for k, s in enumerate(nest.extents[-2:]) if not isinstance(s, int)]
    if not sizes:
        _tiles(body, nest, turned, side, box)
        return
    fits: Val | None = None
    for _, size in sizes:
        enough = body.sizes.value(e, size) >= side
        fits = enough if fits is None else fits & enough
    assert fits is not None
    fits = e.let(fits)
    with e.branch(fits):
        body.open()
        _tiles(body, nest, turned, side, box)
        body.close()
    with e.branch(fits.negate()):
        body.open()
        emit_rows_plainly(body, nest, box[0], box[1])
        body.close()


def _tiles(body: Body, nest: Nest, turned: Sequence[Expr], side: int, box: Box) -> None:
    e = body.e
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    (top, bottom), (left, right) = box
    height, width = (body.sizes.value(e, nest.extents[k]) for k in (p, q))

    with e.loop(left, right, side, hint="q") as j, e.loop(top, bottom, side, hint="p") as i:
        row = e.let(minimum(i, height - side))
        column = e.let(minimum(j, width - side))
        tiles = {x.uid: _turn(e, _read_tile(body, x, (p, row), (q, column), side)) for x in turned}
        for k in range(side):
            body.open()
            body.axes[p] = e.let(row + k)
            body.axes[q] = column
            body.lanes = Lanes(q, side)
            body.preset = {uid: vectors[k] for uid, vectors in tiles.items()}
            for store in nest.stores:
                body.store(store)
            body.preset = {}
            body.lanes = SCALAR
            del body.axes[p], body.axes[q]
            body.close()


def _read_tile(body: Body, x: Expr, p: tuple[int, Val], q: tuple[int, Val], side: int) -> list[Val]:
    e = body.e
    vectors = []
    for k in range(side):
        body.axes[p[0]] = p[1]
        body.axes[q[0]] = e.let(q[1] + k)
        body.lanes = Lanes(p[0], side)
        vectors.append(e.let(body.read(x)))
        body.lanes = SCALAR
        del body.axes[p[0]], body.axes[q[0]]
    return vectors


def _turn(e: Emitter, vectors: list[Val]) -> list[Val]:
    """The transpose of a square matrix whose rows are the vectors."""
    count = len(vectors)
    step = 1
    while step < count:
        low = [k if not k & step else count + (k ^ step) for k in range(count)]
        high = [k | step if not k & step else count + k for k in range(count)]
        result = list(vectors)
        for k in range(count):
            if not k & step:
                pair = [vectors[k], vectors[k | step]]
                result[k] = e.let(shuffle(pair, low))
                result[k | step] = e.let(shuffle(pair, high))
        vectors = result
        step *= 2
    return vectors
