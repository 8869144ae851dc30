"""What a kernel does, before any code: loop nests over scalar programs, and how calls are split.

Planning needs no tvm, so it also answers whether a node can be generated at all. A kernel is a list
of nests that share one range of units; most have one. Nests are made as small as possible: axes of
one step vanish, neighbours that all addresses run through as one are joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.codegen.coord import Axis, Coord, SplitAxis, axis, const
from graphopt.codegen.expr import BITS, Expr, ExprBuilder, Refusal, compute_type, rewrite, walk
from graphopt.codegen.moves import pads_of
from graphopt.codegen.trace import Store, Trace, linear
from graphopt.ir import Dim, Graph, Node, Value, ceildiv, dim_max, dim_min, product

__all__ = ["Nest", "build_nests", "cost_of", "finish_nest", "grain_of"]

# Elements of a unit of work along one long axis: a multiple of every vector length and of a page.
BLOCK = 1024
# A unit of several axes should have at least this many elements.
_UNIT = 2048
# Sides of a block of tiles, and the least size of an axis that is tiled.
TILE_BLOCK = 64
_TILE_LEAST = 4
# Beyond this many regions, pieces are chosen element by element.
_MAX_REGIONS = 48
# Nanoseconds that a task should last, or waking a thread costs more than it gives; what one byte
# and one vector operation take for an element, on a core of a few GHz.
_TASK_NS = 3000.0
_NS_PER_BYTE = 1 / 90
_NS_PER_OPERATION = 0.012
_COSTS = {
    "div": 3, "sqrt": 4, "exp": 12, "expm1": 14, "log": 16, "log1p": 20, "tanh": 14, "erf": 16,
    "sin": 20, "cos": 20, "pow": 120, "idiv": 16, "irem": 20, "ipow": 60, "fmod": 24,
}  # fmt: skip
_RARE = 60
_FREE = frozenset({"const", "index", "load"})


@dataclass(frozen=True)
class Nest:
    """A perfect loop nest: axis i runs over ``extents[i]``, the last one is vectorised.

    The first ``outer`` axes are the units of work; with ``block``, so are blocks of that many steps
    of the last axis. ``reduced`` are axes that reductions fold.
    """

    extents: tuple[Dim, ...]
    stores: tuple[Store, ...]
    outer: int = 0
    block: int | None = None
    reduced: frozenset[int] = frozenset()
    # Square tiles of the last two axes, of which the first is read along.
    tiled: bool = False
    # A last axis of a few steps; vectors, and blocks, run along the one before.
    narrow: bool = False
    # A row program: reduced axes come last, and blocks run along the last axis that is kept.
    rows: bool = False

    @property
    def roots(self) -> list[Expr]:
        """The expressions that are stored."""
        return [store.expr for store in self.stores]

    @property
    def extent(self) -> Dim:
        """Number of units of work: 0 when there is nothing to do."""
        units = product(self.extents[: self.outer])
        if self.rows:
            # A row without elements still has a result.
            blocks = self.extents[self.outer] if self.block is not None else 0
            return units * ceildiv(blocks, self.block) if self.block is not None else units
        inner = list(self.extents[self.outer :])
        if self.narrow and self.block is not None:
            return units * ceildiv(inner[0], self.block)
        if self.tiled:
            return units * product(ceildiv(size, TILE_BLOCK) for size in inner)
        if self.block is not None:
            units = units * ceildiv(inner.pop(), self.block)
        for size in inner:
            units = units * dim_min(size, 1)
        return units


# ---- regions ----


def build_nests(body: Graph, rename: dict[str, Dim]) -> list[Nest]:
    """Nests of a body of pointwise and movement ops. Raises Refusal."""
    nests: list[Nest] = []
    groups: dict[tuple[Dim, ...], list[int]] = {}
    probe = Trace(body, {}, ExprBuilder(), rename)
    for position, value in enumerate(body.outputs):
        groups.setdefault(probe.shape(value), []).append(position)
    for shape, positions in groups.items():
        cuts = _cuts(probe, [body.outputs[p] for p in positions])
        regions = list(_regions(shape, cuts))
        if len(regions) > _MAX_REGIONS:
            regions = [tuple((0, size) for size in shape)]
        for region in regions:
            nest = _trace_region(body, positions, region, rename)
            nests.append(schedule(collapse(nest)))
    return nests


def _regions(
    shape: Sequence[Dim], cuts: dict[int, list[Dim]]
) -> Iterator[tuple[tuple[Dim, Dim], ...]]:
    """Boxes (start, size) that make up the index space, empty ones left out."""
    segments: list[list[tuple[Dim, Dim]]] = []
    for k, size in enumerate(shape):
        bounds = [0, *cuts.get(k, []), size]
        pieces = [(a, b - a) for a, b in itertools.pairwise(bounds)]
        segments.append([p for p in pieces if not (isinstance(p[1], int) and p[1] <= 0)])
    if any(not pieces for pieces in segments):
        segments = [[(0, size)] for size in shape]
    yield from itertools.product(*segments)


def _cuts(trace: Trace, roots: Sequence[Value]) -> dict[int, list[Dim]]:
    """Where the axes of the output are cut so that joins and padding need no test inside.

    Looks through nodes that keep the index; the cuts of the first join or padding found count.
    """
    shape = trace.shape(roots[0])
    stack, seen = list(roots), set(roots)
    while stack:
        value = stack.pop(0)
        node = value.producer
        if node is None or value in trace.arguments or node.op.domain:
            continue
        if node.op.name == "Concat":
            return _concat_cuts(trace, node)
        if node.op.name == "Pad":
            return _pad_cuts(trace, node)
        for operand in node.inputs:
            if operand is None or operand in seen or operand.constant is not None:
                continue
            seen.add(operand)
            if _keeps_index(node) and trace.shape(operand) == shape:
                stack.append(operand)
    return {}


def _keeps_index(node: Node) -> bool:
    from graphopt.codegen.scalars import POINTWISE

    return node.op.name in POINTWISE or node.op.name in ("Cast", "CastLike", "Identity", "Where")


def _concat_cuts(trace: Trace, node: Node) -> dict[int, list[Dim]]:
    where = node.attr("axis") % len(trace.shape(node.output))
    cuts: list[Dim] = []
    offset: Dim = 0
    for operand in node.inputs[:-1]:
        assert operand is not None
        offset = offset + trace.shape(operand)[where]
        cuts.append(offset)
    return {where: cuts}


def _pad_cuts(trace: Trace, node: Node) -> dict[int, list[Dim]]:
    cuts: dict[int, list[Dim]] = {}
    shape = trace.shape(node.output)
    for k, (before, after) in enumerate(pads_of(trace, node)):
        if isinstance(before, int) and isinstance(after, int):
            # A negative pad crops: it cuts nothing.
            bounds: list[Dim] = []
            if before > 0:
                bounds.append(before)
            if after > 0:
                end = shape[k] - after
                bounds.append(end)
            if bounds:
                cuts[k] = bounds
        else:
            cuts[k] = [dim_max(before, 0), shape[k] - dim_max(after, 0)]
    return cuts


def _trace_region(
    body: Graph,
    positions: Sequence[int],
    region: Sequence[tuple[Dim, Dim]],
    rename: dict[str, Dim],
) -> Nest:
    """The program of some outputs over one box of their index space."""
    factors: list[list[Dim]] = [[size] for _, size in region]
    while True:
        index, extents = split_index([start for start, _ in region], factors)
        trace = Trace(body, extents, ExprBuilder(), rename)
        try:
            stores = [_store(trace, p, index) for p in positions]
        except SplitAxis as split:
            apply_split(factors, split)
            continue
        return Nest(tuple(extents[k] for k in sorted(extents)), tuple(stores))


def split_index(
    starts: Sequence[Dim], factors: Sequence[Sequence[Dim]]
) -> tuple[tuple[Coord, ...], dict[int, Dim]]:
    """Index coordinates of axes that are split in factors, and the sizes of the factors."""
    index: list[Coord] = []
    extents: dict[int, Dim] = {}
    for start, sizes in zip(starts, factors, strict=True):
        coord = const(start)
        stride: Dim = 1
        ids = range(len(extents), len(extents) + len(sizes))
        extents.update(zip(ids, sizes, strict=True))
        for k in reversed(ids):
            if extents[k] != 1:
                coord = coord + axis(k) * stride
            stride = stride * extents[k]
        index.append(coord)
    return tuple(index), extents


def apply_split(factors: list[list[Dim]], split: SplitAxis) -> None:
    """Splits the axis that ``split`` names."""
    count = 0
    for sizes in factors:
        if split.id < count + len(sizes):
            k = split.id - count
            sizes[k : k + 1] = [sizes[k] // split.inner, split.inner]
            return
        count += len(sizes)


def _store(trace: Trace, position: int, index: tuple[Coord, ...]) -> Store:
    value = trace.body.outputs[position]
    address = linear(index, trace.shape(value))
    argument = len(trace.body.inputs) + position
    return Store(argument, value.tensor.dtype, address, trace.value(value, index))


# ---- collapsing ----


def coords_of(nest: Nest) -> list[Coord]:
    """All coordinates of a nest, those inside functions too."""
    coords = [part for store in nest.stores for part in store.coord.parts()]
    for expr in walk(nest.roots):
        if expr.coord is not None:
            coords.extend(expr.coord.parts())
    return coords


def collapse(nest: Nest) -> Nest:
    """Drops axes of one step and joins neighbours that all addresses run through as one."""
    coords = coords_of(nest)
    groups: list[list[int]] = []
    for k, size in enumerate(nest.extents):
        if isinstance(size, int) and size == 1:
            continue
        if groups and _joins(coords, groups[-1][-1], k, size, nest.reduced):
            groups[-1].append(k)
        else:
            groups.append([k])
    axes: dict[int, Coord] = {k: const(0) for k in range(len(nest.extents))}
    for new, group in enumerate(groups):
        axes[group[-1]] = axis(new)
    extents = tuple(product(nest.extents[k] for k in group) for group in groups)
    reduced = frozenset(i for i, group in enumerate(groups) if group[0] in nest.reduced)
    return renumber(nest, axes, extents, reduced)


def renumber(
    nest: Nest, axes: dict[int, Coord], extents: tuple[Dim, ...], reduced: frozenset[int]
) -> Nest:
    """The nest over other axes: ``axes`` says what stands for each old one."""
    builder = ExprBuilder(reduced)
    roots = rewrite(nest.roots, builder, lambda coord, expr: _renamed(coord, axes, expr))
    memo = {old.uid: new for old, new in zip(nest.roots, roots, strict=True)}
    stores = tuple(
        replace(s, coord=_renamed(s.coord, axes, None), expr=memo[s.expr.uid]) for s in nest.stores
    )
    return replace(nest, extents=extents, stores=stores, reduced=reduced)


def _renamed(coord: Coord, axes: dict[int, Coord], expr: object) -> Coord:
    return coord.rewrite(axes, expr)  # type: ignore[arg-type]


def _joins(
    coords: Sequence[Coord], outer: int, inner: int, size: Dim, reduced: frozenset[int]
) -> bool:
    if (outer in reduced) != (inner in reduced):
        return False
    return all(c.coefficient(outer) == c.coefficient(inner) * size for c in coords)


# ---- scheduling ----


def schedule(nest: Nest) -> Nest:
    """Chooses what a unit of work is."""
    extents = nest.extents
    if not extents:
        return nest
    if _is_narrow(nest):
        return replace(nest, outer=len(extents) - 2, block=BLOCK, narrow=True)
    tiled = _tiled(nest)
    if tiled is not None:
        return tiled
    last = extents[-1]
    if len(extents) == 1:
        return replace(nest, outer=0, block=BLOCK)
    outer = len(extents) - 1
    if not isinstance(last, int) or last > 8 * BLOCK:
        return replace(nest, outer=outer, block=4 * BLOCK)
    work = last
    while outer > 0:
        size = extents[outer - 1]
        if not isinstance(size, int) or work * size > _UNIT:
            break
        work *= size
        outer -= 1
    return replace(nest, outer=outer)


def _is_narrow(nest: Nest) -> bool:
    """True when the last axis has a few steps and all memory is contiguous, or interleaved in as
    many steps, along the axis before it."""
    p, q = len(nest.extents) - 2, len(nest.extents) - 1
    if p < 0:
        return False
    length, steps = nest.extents[p], nest.extents[q]
    if not isinstance(steps, int) or not 2 <= steps <= 4:
        return False
    if isinstance(length, int) and length < 16:
        return False
    for store in nest.stores:
        if not uses_only_axes(store.coord):
            return False
        if (store.coord.coefficient(p), store.coord.coefficient(q)) != (steps, 1):
            return False
    for expr in walk(nest.roots):
        if expr.coord is None:
            continue
        if not uses_only_axes(expr.coord) and p in expr.axes:
            return False
        along, across = expr.coord.coefficient(p), expr.coord.coefficient(q)
        if expr.op == "load" and along not in (0, 1) and (along, across) != (steps, 1):
            return False
    return True


def _tiled(nest: Nest) -> Nest | None:
    """The nest in square tiles, when it reads along another axis than it writes along."""
    last = len(nest.extents) - 1
    if any(s.coord.coefficient(last) != 1 or not uses_only_axes(s.coord) for s in nest.stores):
        return None
    found: set[int] = set()
    for expr in walk(nest.roots):
        if expr.op != "load" or expr.coord is None:
            continue
        step = expr.coord.coefficient(last)
        if last in expr.axes and step not in (0, 1):
            if not uses_only_axes(expr.coord):
                return None
            found.add(next((k for k in range(last) if expr.coord.coefficient(k) == 1), -1))
    if len(found) != 1 or -1 in found:
        return None
    tile = found.pop()
    if any(isinstance(nest.extents[k], int) and _few(nest.extents[k]) for k in (tile, last)):
        return None
    order = [k for k in range(last) if k != tile] + [tile, last]
    axes = {old: axis(new) for new, old in enumerate(order)}
    turned = renumber(nest, axes, tuple(nest.extents[k] for k in order), nest.reduced)
    return replace(turned, outer=last - 1, tiled=True)


def _few(size: Dim) -> bool:
    return isinstance(size, int) and size < _TILE_LEAST


def cost_of(roots: Sequence[Expr], axis_id: int | None) -> float:
    """Vector operations per element along an axis (all axes when None)."""
    total = 0.0
    for expr in walk(roots):
        if expr.op in _FREE or (axis_id is not None and axis_id not in expr.axes):
            continue
        cost = _COSTS.get(expr.op, _RARE if expr.op in _RARE_OPS else 1)
        total += cost * (2 if BITS.get(expr.type, 32) == 64 else 1)
    return total


_RARE_OPS = frozenset({"tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"})


def memory_of(nest: Nest) -> float:
    """Bytes that move for an element of the innermost axis."""
    last = len(nest.extents) - 1
    total = float(sum(s.dtype.nbytes for s in nest.stores))
    for expr in walk(nest.roots):
        if expr.op == "load" and expr.coord is not None and last in expr.axes:
            stride = expr.coord.coefficient(last)
            whole = isinstance(stride, int) and abs(stride) <= 1
            total += BITS[expr.type] / 8 * (1 if whole else 4)
    return total


def grain_of(nest: Nest) -> int:
    """How many units one task should have at least."""
    last = len(nest.extents) - 1
    each = cost_of(nest.roots, last if last >= 0 else None) * _NS_PER_OPERATION
    each += memory_of(nest) * _NS_PER_BYTE
    inner: float = 1
    sizes = list(nest.extents[nest.outer :])
    if nest.tiled:
        sizes = [min(s, TILE_BLOCK) if isinstance(s, int) else TILE_BLOCK for s in sizes]
    if nest.block is not None:
        inner *= nest.block
        sizes.pop(0 if nest.rows or nest.narrow else -1)
    for size in sizes:
        inner *= size if isinstance(size, int) else 256
    return max(1, round(_TASK_NS / max(each * inner, 1e-3)))


def finish_nest(nest: Nest) -> Nest:
    """Collapsed and scheduled."""
    return schedule(collapse(nest))


def uses_only_axes(coord: Coord) -> bool:
    """True when a coordinate is affine in the axes."""
    return all(isinstance(term, Axis) for term, _ in coord.terms)


def check_types(body: Graph) -> None:
    """Raises Refusal when a value has a type that nothing is generated for."""
    for value in (*body.inputs, *body.outputs):
        try:
            compute_type(value.tensor.dtype)
        except Refusal as refusal:
            raise Refusal(f"'{value.name}': {refusal}") from None
