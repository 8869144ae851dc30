"""Movement ops as index transformations: where an element of the output comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.codegen import coord as coords
from graphopt.codegen.coord import Coord, const
from graphopt.codegen.expr import Expr, Refusal, compute_type
from graphopt.ir import Dim, Node, Value, dim_max, dim_min, product
from graphopt.ir.dim import is_nonnegative

if TYPE_CHECKING:
    from graphopt.codegen.trace import Trace

__all__ = ["EMITTERS"]

Index = tuple[Coord, ...]
EMITTERS: dict[str, Callable[[Any, Node, Value, Index], Expr]] = {}
# Exporters write "to the end" as the largest i32 or i64.
_END = (1 << 31) - 1


def _op(*names: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for name in names:
            EMITTERS[name] = function
        return function

    return add


def _source(node: Node, position: int = 0) -> Value:
    value = node.input(position)
    if value is None:
        raise Refusal(f"{node.op.name}: operand {position} is missing")
    return value


@_op("Transpose")
def _transpose(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    rank = len(trace.shape(source))
    perm = node.attr("perm") or tuple(reversed(range(rank)))
    where: list[Coord] = [const(0)] * rank
    for position, axis in enumerate(perm):
        where[axis] = index[position]
    return trace.value(source, tuple(where))


# ---- shape changes ----


@_op("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    where = reshape_index(index, trace.shape(value), trace.shape(source), trace.extents)
    return trace.value(source, where)


def reshape_index(
    index: Index, shape: Sequence[Dim], target: Sequence[Dim], extents: dict[int, Dim]
) -> Index:
    """The index into ``target`` of the element at ``index`` of ``shape``, of as many elements."""
    result: list[Coord] = []
    axis = 0
    for group, sizes in _groups(list(shape), list(target)):
        flat = Coord()
        stride: Dim = 1
        for k in reversed(range(axis, axis + len(group))):
            flat = flat + index[k] * stride
            stride = stride * shape[k]
        axis += len(group)
        result.extend(_unflatten(flat, sizes, extents))
    return tuple(result)


def _unflatten(flat: Coord, sizes: Sequence[Dim], extents: dict[int, Dim]) -> list[Coord]:
    result: list[Coord] = []
    sizes = list(sizes)
    while sizes:
        inner = product(sizes[1:])
        if sizes[0] == 1:
            result.append(const(0))
        elif inner == 1:
            result.append(flat)
            flat = const(0)
        else:
            result.append(coords.floordiv(flat, inner, extents))
            flat = coords.mod(flat, inner, extents)
        sizes.pop(0)
    return result


def _groups(shape: list[Dim], target: list[Dim]) -> list[tuple[list[Dim], list[Dim]]]:
    """Runs of axes of the two shapes that hold equally many elements, as short as possible."""
    groups: list[tuple[list[Dim], list[Dim]]] = []
    while shape or target:
        left: list[Dim] = []
        right: list[Dim] = []
        for total in range(1, len(shape) + len(target) + 1):
            split = next(
                (
                    (i, total - i)
                    for i in range(max(0, total - len(target)), min(len(shape), total) + 1)
                    if product(shape[:i]) == product(target[: total - i])
                ),
                None,
            )
            if split is not None:
                left, right = shape[: split[0]], target[: split[1]]
                break
        else:
            left, right = shape, target
        shape, target = shape[len(left) :], target[len(right) :]
        groups.append((left, right))
    return groups


@_op("DepthToSpace")
def _depth_to_space(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    block = node.attr("blocksize")
    channels = trace.shape(value)[1]
    high, low = _blocks(trace, index, block)
    if node.attr("mode") == "CRD":
        channel = (index[1] * block + low[0]) * block + low[1]
    else:
        channel = (low[0] * block + low[1]) * channels + index[1]
    return trace.value(source, (index[0], channel, *high))


def _blocks(trace: Trace, index: Index, block: int) -> tuple[list[Coord], list[Coord]]:
    high = [coords.floordiv(c, block, trace.extents) for c in index[2:]]
    low = [coords.mod(c, block, trace.extents) for c in index[2:]]
    return high, low


@_op("SpaceToDepth")
def _space_to_depth(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    block = node.attr("blocksize")
    if node.attr("mode") == "CRD":
        channel = coords.floordiv(index[1], block * block, trace.extents)
        part = coords.mod(index[1], block * block, trace.extents)
    else:
        channels = trace.shape(source)[1]
        part = coords.floordiv(index[1], channels, trace.extents)
        channel = coords.mod(index[1], channels, trace.extents)
    row = coords.floordiv(part, block, trace.extents)
    column = coords.mod(part, block, trace.extents)
    where = (index[0], channel, index[2] * block + row, index[3] * block + column)
    return trace.value(source, where)


@_op("Expand")
def _expand(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    return trace.broadcast(_source(node), index, trace.shape(value))


@_op("Tile")
def _tile(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    where = [
        c if own == size else const(0) if own == 1 else coords.mod(c, own, trace.extents)
        for c, own, size in zip(index, trace.shape(source), trace.shape(value), strict=True)
    ]
    return trace.value(source, tuple(where))


# ---- parts ----


@_op("Slice")
def _slice(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    shape = trace.shape(source)
    starts = trace.elements(node.input(1), "where a slice starts")
    axes = _axes(trace, node.input(3), len(starts), len(shape))
    steps = (
        (1,) * len(starts)
        if node.input(4) is None
        else trace.elements(node.input(4), "the step of a slice")
    )
    where = list(index)
    for axis, start, step in zip(axes, starts, steps, strict=True):
        if not isinstance(step, int):
            raise Refusal("the step of a slice is symbolic")
        where[axis] = index[axis] * step + first_of_slice(shape[axis], start, step)
    return trace.value(source, tuple(where))


def _axes(trace: Trace, operand: Value | None, count: int, rank: int) -> list[int]:
    if operand is None:
        return list(range(count))
    found = []
    for axis in trace.elements(operand, "which axes are meant"):
        if not isinstance(axis, int):
            raise Refusal("an axis is symbolic")
        found.append(axis % rank)
    return found


def first_of_slice(size: Dim, start: Dim, step: int) -> Dim:
    """The first position that ``start:...:step`` takes of ``size``, when it takes any."""
    if isinstance(start, int):
        if start >= _END:
            return size - 1 if step < 0 else size
        if start < 0:
            from_back = size + start
            start = from_back if is_nonnegative(from_back) else dim_max(from_back, 0)
    elif not is_nonnegative(start):
        # 1 where the start is negative, else 0: it then counts from the back.
        start = dim_max(start + size * dim_min(dim_max(-start, 0), 1), 0)
    if step < 0 and not is_nonnegative(size - 1 - start):
        return dim_min(start, size - 1)
    return start


@_op("Split")
def _split(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    axis = node.attr("axis") % len(index)
    before: Dim = 0
    for earlier in node.outputs[: value.index]:
        before = before + trace.shape(earlier)[axis]
    where = list(index)
    where[axis] = index[axis] + before
    return trace.value(source, tuple(where))


def _bounds(coord: Coord, extents: dict[int, Dim]) -> tuple[Dim, Dim] | None:
    """The least and the largest value of an affine coordinate with coefficients at least 0."""
    low: Dim = coord.const
    high: Dim = coord.const
    for term, coefficient in coord.terms:
        if not isinstance(term, coords.Axis) or not is_nonnegative(coefficient):
            return None
        high = high + coefficient * (extents[term.id] - 1)
    return low, high


@_op("Concat")
def _concat(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    axis = node.attr("axis") % len(index)
    pieces: list[tuple[Dim, Dim, Value]] = []
    offset: Dim = 0
    for operand in node.inputs:
        assert operand is not None
        size = trace.shape(operand)[axis]
        if not (isinstance(size, int) and size == 0):
            pieces.append((offset, size, operand))
        offset = offset + size
    bounds = _bounds(index[axis], trace.extents)
    if bounds is not None:
        for offset, size, operand in pieces:
            inside = is_nonnegative(bounds[0] - offset)
            if inside and is_nonnegative(offset + size - 1 - bounds[1]):
                return trace.value(operand, _shifted(index, axis, offset))
    result: Expr | None = None
    for offset, size, operand in reversed(pieces):
        where = list(_shifted(index, axis, offset))
        where[axis] = coords.clamp(where[axis], size, trace.extents)
        item = trace.value(operand, tuple(where))
        if result is None:
            result = item
        else:
            position = trace.builder.index(index[axis])
            inside_piece = trace.builder.binary("lt", position, trace.count(offset + size))
            result = trace.builder.select(inside_piece, item, result)
    # With no element there is none to compute.
    return _zero(trace, value) if result is None else result


def _shifted(index: Index, axis: int, offset: Dim) -> Index:
    return (*index[:axis], index[axis] - offset, *index[axis + 1 :])


# ---- Pad ----


def pads_of(trace: Trace, node: Node) -> list[tuple[Dim, Dim]]:
    """How much is added before and after each axis."""
    rank = len(trace.shape(_source(node)))
    pads = trace.elements(node.input(1), "how much is padded")
    axes = _axes(trace, node.input(3), len(pads) // 2, rank)
    result: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        result[axis] = (pads[k], pads[k + len(axes)])
    return result


@_op("Pad")
def _pad(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source = _source(node)
    mode = node.attr("mode") or "constant"
    where: list[Coord] = []
    outside = False
    conditions: list[Expr] = []
    for c, size, (before, after) in zip(
        index, trace.shape(source), pads_of(trace, node), strict=True
    ):
        position = c - before
        side = _side(position, size, (before, after), trace.extents)
        if side == "inside":
            where.append(position)
        elif mode == "constant":
            outside = outside or side in ("before", "after")
            conditions += _inside(trace, position, size)
            where.append(coords.clamp(position, size, trace.extents))
        else:
            where.append(_reflected(mode, position, size, side, trace.extents))
    if mode != "constant":
        return trace.value(source, tuple(where))
    filling = _filling(trace, node, source)
    if outside:
        return filling
    item = trace.value(source, tuple(where))
    if not conditions:
        return item
    both = conditions[0]
    for condition in conditions[1:]:
        both = trace.builder.binary("and", both, condition)
    return trace.builder.select(both, item, filling)


def _filling(trace: Trace, node: Node, source: Value) -> Expr:
    filling = node.input(2)
    if filling is not None:
        return trace.value(filling, (const(0),) * len(trace.shape(filling)))
    return _zero(trace, source)


def _zero(trace: Trace, like: Value) -> Expr:
    """A zero of the type of ``like``."""
    type = compute_type(like.tensor.dtype)
    if type.startswith("raw"):
        return trace.builder.node("const", type, (), 0)
    return trace.builder.const(0, type)


def _inside(trace: Trace, position: Coord, size: Dim) -> list[Expr]:
    b = trace.builder
    at = b.index(position)
    return [b.binary("ge", at, 0), b.binary("lt", at, trace.count(size))]


def _side(position: Coord, size: Dim, pads: tuple[Dim, Dim], extents: dict[int, Dim]) -> str | None:
    """Whether positions are all inside, all before or all after; None when that is not known."""
    if all(isinstance(pad, int) and pad == 0 for pad in pads):
        return "inside"
    bounds = _bounds(position, extents)
    if bounds is None:
        return None
    low, high = bounds
    if is_nonnegative(-1 - high):
        return "before"
    if is_nonnegative(low - size):
        return "after"
    return "inside" if is_nonnegative(low) and is_nonnegative(size - 1 - high) else None


def _reflected(
    mode: str, position: Coord, size: Dim, side: str | None, extents: dict[int, Dim]
) -> Coord:
    if mode == "edge":
        if side in ("before", "after"):
            return const(0 if side == "before" else size - 1)
        return coords.clamp(position, size, extents)
    if mode not in ("reflect", "wrap"):
        raise Refusal(f"Pad in mode '{mode}' is not generated")
    bounds = _bounds(position, extents)
    if bounds is not None and side is not None:
        # One reflection or one turn is affine where the padding is no longer than the data.
        reach = -bounds[0] if side == "before" else bounds[1] - size + 1
        if mode == "reflect" and is_nonnegative(size - 1 - reach):
            return position * -1 if side == "before" else position * -1 + (size - 1) * 2
        if mode == "wrap" and is_nonnegative(size - reach):
            return position + size if side == "before" else position - size
    return coords.fun(mode, position, size)


# ---- by index ----


def _checked(trace: Trace, position: Expr, size: Dim) -> Coord:
    """A run-time index as a coordinate: negative ones count from the back; a wild one is forced
    into the axis, so that nothing outside the tensor is ever read."""
    b = trace.builder
    wide = b.convert(position, "int64")
    count = trace.count(size)
    if not position.type.startswith("uint"):
        wide = b.select(b.binary("lt", wide, 0), b.binary("add", wide, count), wide)
    safe = b.max(b.min(wide, b.binary("sub", count, 1)), 0)
    if safe.op == "const":
        return const(int(safe.attr))
    return coords.lookup(safe)


def _index_operand(node: Node, position: int) -> Value:
    found = _source(node, position)
    if not found.tensor.dtype.is_integer:
        raise Refusal("indices must be integers")
    return found


@_op("Gather")
def _gather(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source, indices = _source(node), _index_operand(node, 1)
    shape = trace.shape(source)
    axis = node.attr("axis") % len(shape)
    rank = len(trace.shape(indices))
    position = trace.value(indices, index[axis : axis + rank])
    where = (*index[:axis], _checked(trace, position, shape[axis]), *index[axis + rank :])
    return trace.value(source, where)


@_op("GatherElements")
def _gather_elements(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    source, indices = _source(node), _index_operand(node, 1)
    shape = trace.shape(source)
    axis = node.attr("axis") % len(shape)
    where = list(index)
    where[axis] = _checked(trace, trace.value(indices, index), shape[axis])
    return trace.value(source, tuple(where))


# ---- made from the index ----


@_op("Trilu")
def _trilu(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    item = trace.value(_source(node), index)
    shift: Expr = b.const(0, "int64")
    operand = node.input(1)
    if operand is not None:
        if operand.elements is not None:
            shift = trace.count(trace.elements(operand, "the diagonal")[0])
        else:
            shift = b.convert(
                trace.value(operand, (const(0),) * len(trace.shape(operand))), "int64"
            )
    distance = b.index(index[-1] - index[-2])
    kept = b.binary("ge" if node.attr("upper") else "le", distance, shift)
    zero = b.node("const", item.type, (), 0) if item.type.startswith("raw") else 0
    return b.select(kept, item, zero)


@_op("OneHot")
def _one_hot(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    indices, pair = _source(node), _source(node, 2)
    axis = node.attr("axis") % len(index)
    position = b.convert(trace.value(indices, (*index[:axis], *index[axis + 1 :])), "int64")
    count = trace.count(trace.shape(value)[axis])
    position = b.select(b.binary("lt", position, 0), b.binary("add", position, count), position)
    hit = b.binary("eq", position, b.index(index[axis]))
    return b.select(hit, trace.value(pair, (const(1),)), trace.value(pair, (const(0),)))


@_op("Range")
def _range(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    start, delta = (
        trace.value(_source(node, k), (const(0),) * len(trace.shape(_source(node, k))))
        for k in (0, 2)
    )
    return start + delta * b.convert(b.index(index[0]), start.type)


@_op("ConstantOfShape")
def _constant_of_shape(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    constant = node.attr("value")
    if constant is None:
        return trace.builder.const(0.0, "float32")
    item = constant.array.reshape(-1)[0]
    type = compute_type(constant.type.dtype)
    if type.startswith("raw"):
        raise Refusal(f"filling with {constant.type.dtype} is not generated")
    return trace.builder.const(float(item) if type.startswith("float") else int(item), type)


@_op("EyeLike")
def _eye(trace: Trace, node: Node, value: Value, index: Index) -> Expr:
    b = trace.builder
    type = compute_type(value.tensor.dtype)
    distance = b.index(index[1] - index[0])
    hit = b.binary("eq", distance, int(node.attr("k") or 0))
    return b.select(hit, b.const(1, type), b.const(0, type))
