"""Planning bodies that reduce: the row space, the passes over a row, and what they keep.

A pass runs along the whole row. Values of depth d need d finished reductions, so pass d computes
what the reductions of depth d + 1 fold, and the last pass the results. A value that a later pass
needs again is computed again, or parked in the output tensor that the last pass overwrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.codegen.coord import Coord, SplitAxis, axis, const
from graphopt.codegen.expr import Expr, ExprBuilder, Refusal, compute_type, walk
from graphopt.codegen.plan import Nest, apply_split, collapse, cost_of, renumber, split_index
from graphopt.codegen.reductions import ROW_OPS, row_space
from graphopt.codegen.trace import Store, Trace, linear
from graphopt.ir import Dim, Graph, Node, Value

__all__ = ["Pass", "build_rows", "passes_of", "row_nodes"]

# Columns that one unit of a reduction across rows takes.
_COLUMNS = 64
# A parked value saves at least this much work.
_WORTH = 2.0


def row_nodes(body: Graph) -> list[Node]:
    """Nodes of a body that reduce."""
    return [n for n in body if not n.op.domain and n.op.name in ROW_OPS]


def build_rows(body: Graph, rename: dict[str, Dim]) -> Nest:
    """The nest of a body that reduces. Raises Refusal."""
    probe = Trace(body, {}, ExprBuilder(), rename)
    space = row_space(probe, row_nodes(body)[0])
    factors = [list(sizes) for sizes in space.factors]
    folded = [list(flags) for flags in space.folded]
    while True:
        index, extents = split_index([0] * len(factors), factors)
        flags = [flag for row in folded for flag in row]
        reduced = frozenset(k for k, flag in enumerate(flags) if flag)
        trace = Trace(body, extents, ExprBuilder(reduced), rename, space, index)
        try:
            stores = tuple(_store(trace, p) for p in range(len(body.outputs)))
        except SplitAxis as split:
            count = 0
            for sizes, marks in zip(factors, folded, strict=True):
                if count <= split.id < count + len(sizes):
                    marks.insert(split.id - count, marks[split.id - count])
                count += len(sizes)
            apply_split(factors, split)
            continue
        nest = Nest(tuple(extents[k] for k in sorted(extents)), stores, reduced=reduced)
        return _sorted(collapse(nest))


def _store(trace: Trace, position: int) -> Store:
    value = trace.body.outputs[position]
    index = _output_index(trace, value)
    argument = len(trace.body.inputs) + position
    address = linear(index, trace.shape(value))
    return Store(argument, value.tensor.dtype, address, trace.value(value, index))


def _output_index(trace: Trace, value: Value) -> tuple[Coord, ...]:
    """Where an output lies: over the whole data, or over the rows."""
    space, shape = trace.row, trace.shape(value)
    assert space is not None
    if shape == space.shape:
        return trace.row_index
    axes = space.axes
    if shape == tuple(1 if k in axes else d for k, d in enumerate(space.shape)):
        return tuple(const(0) if k in axes else c for k, c in enumerate(trace.row_index))
    if shape == tuple(d for k, d in enumerate(space.shape) if k not in axes):
        return tuple(c for k, c in enumerate(trace.row_index) if k not in axes)
    raise Refusal(f"'{value.name}' has neither the shape of the data nor of the rows")


def _sorted(nest: Nest) -> Nest:
    """Axes that are not reduced come first."""
    count = len(nest.extents)
    order = [k for k in range(count) if k not in nest.reduced]
    kept = len(order)
    # Mode is decided by which axis is contiguous, which sorting must not hide.
    contiguous = count - 1
    order += [k for k in range(count) if k in nest.reduced]
    axes = {old: axis(new) for new, old in enumerate(order)}
    extents = tuple(nest.extents[k] for k in order)
    reduced = frozenset(range(kept, count))
    across = count > 0 and contiguous not in nest.reduced
    result = renumber(nest, axes, extents, reduced)
    if across:
        # The last kept axis goes in blocks of columns.
        return replace(result, outer=kept - 1, block=_COLUMNS, rows=True)
    return replace(result, outer=kept, rows=True)


# ---- passes ----


@dataclass(frozen=True)
class Pass:
    """One run along the row: what is folded, stored, and parked ((value, store) pairs)."""

    reductions: tuple[Expr, ...]
    stores: tuple[Store, ...]
    parked: tuple[tuple[Expr, Store], ...]


def passes_of(nest: Nest) -> tuple[list[Pass], list[Store]]:
    """The passes over a row, and the stores that come once a row, after them."""
    everything = walk(nest.roots)
    reductions = [x for x in everything if x.op == "reduce"]
    last = max((x.depth for x in reductions), default=0)
    full = [s for s in nest.stores if s.coord.axes() & nest.reduced or _varies(s, nest)]
    once = [s for s in nest.stores if s not in full]
    result: list[Pass] = []
    occupied: dict[int, Expr] = {}
    known: dict[int, Store] = {}
    for depth in range(last + 1):
        folds = tuple(x for x in reductions if x.depth == depth + 1)
        stores = tuple(s for s in full if s.expr.depth == depth)
        later = [x.args[0] for x in reductions if x.depth > depth + 1]
        later += [s.expr for s in full if s.expr.depth > depth]
        frontier = _frontier(later, depth, nest.reduced)
        occupied = {arg: x for arg, x in occupied.items() if x in frontier}
        for store in stores:
            # What is stored for good can be read back.
            if store.expr in frontier and _parkable(store.expr, store):
                known[store.expr.uid] = store
        now = {x.uid for x in walk([*(f.args[0] for f in folds), *(s.expr for s in stores)])}
        parked = _park(frontier, now, known, occupied, [s for s in full if s.expr.depth > depth])
        pairs = [(s.expr, s) for s in stores if known.get(s.expr.uid) is s]
        result.append(Pass(folds, stores, (*parked, *pairs)))
    while result and not (result[-1].reductions or result[-1].stores):
        result.pop()
    return result, once


def _varies(store: Store, nest: Nest) -> bool:
    return bool(store.expr.axes & nest.reduced)


def _frontier(roots: Sequence[Expr], depth: int, reduced: frozenset[int]) -> list[Expr]:
    """What passes after ``depth`` take from values of that depth or less, along the row."""
    found: dict[int, Expr] = {}
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        x = stack.pop()
        if x.uid in seen:
            continue
        seen.add(x.uid)
        if x.depth <= depth:
            if x.axes & reduced and x.op != "const":
                found[x.uid] = x
            continue
        if x.op != "reduce":
            stack.extend(x.operands())
    return [found[uid] for uid in sorted(found)]


def _parkable(x: Expr, store: Store) -> bool:
    return compute_type(store.dtype) == x.type and store.dtype.name in ("F32", "F64")


def _park(
    frontier: Sequence[Expr],
    now: set[int],
    known: dict[int, Store],
    occupied: dict[int, Expr],
    slots: Sequence[Store],
) -> list[tuple[Expr, Store]]:
    parked: list[tuple[Expr, Store]] = []
    taken = set(occupied)
    for x in sorted(frontier, key=lambda x: -_effort(x)):
        if x.uid in known or x.uid not in now or _effort(x) < _WORTH:
            continue
        if any(x is other for other in occupied.values()):
            continue
        for store in slots:
            if store.arg not in taken and _parkable(x, store):
                parked.append((x, store))
                taken.add(store.arg)
                occupied[store.arg] = x
                break
    return parked


def _effort(x: Expr) -> float:
    loads = sum(1 for y in walk([x]) if y.op == "load")
    return cost_of([x], None) + (loads - 1 if loads else 0)
