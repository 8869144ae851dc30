"""CUDA text of groups: pointwise and movement nests, row programs, and tails of products.

A pointwise nest gives a thread one element, or as many neighbours as fill 16 bytes where every
address allows it. A row program gives a row to a warp, to a block, or (where rows are columns of
memory) to a thread. The plans are those of :mod:`graphopt.codegen`; only the text is CUDA's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cuda.text import Parameter
from graphopt.codegen.coord import Axis, Coord
from graphopt.codegen.ctext import Text, c_type, integer, number, storage
from graphopt.codegen.expr import BITS, Expr, Refusal, compute_type, is_float, is_signed, walk
from graphopt.codegen.kernel import Kernel, plan_kernel
from graphopt.codegen.plan import Nest
from graphopt.codegen.plan_rows import passes_of
from graphopt.codegen.trace import Store
from graphopt.ir import DType, Graph

__all__ = ["GroupText", "group_text", "tail_text"]

_THREADS = 256
# Rows up to this length are a warp's, four to a block; longer ones a block's.
_WARP_ROW = 1024


@dataclass(frozen=True)
class GroupText:
    """The body of a kernel and its launch. ``tensors`` are (side, position) of its parameters."""

    parameters: tuple[Parameter, ...]
    tensors: tuple[tuple[str, int], ...]
    body: str
    blocks: int
    threads: int
    shared: int = 0


def group_text(body: Graph) -> GroupText:
    """The kernel of a group's body. Raises Refusal."""
    kernel = plan_kernel(body, "k")
    parameters = _parameters(kernel)
    if len(kernel.nests) == 1 and kernel.nests[0].rows:
        text, blocks, threads, shared = _rows(kernel, kernel.nests[0])
        return GroupText(parameters, kernel.arguments, text, blocks, threads, shared)
    text, total = _nests(kernel)
    return GroupText(parameters, kernel.arguments, text, max(1, -(-total // _THREADS)), _THREADS)


def _parameters(kernel: Kernel) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(f"a{i}", storage(dtype, compute_type(dtype)), side == "output")
        for i, (side, _, dtype) in enumerate(kernel.tensors)
    )


def _sizes(nest: Nest) -> list[int]:
    return [number(size) for size in nest.extents]


def _load(kernel: Kernel, x: Expr, offset: str) -> str:
    return f"go::decode(a{kernel.numbers[x.attr[0]]}[{offset}])"


def _store(kernel: Kernel, text: Text, store: Store, value: str) -> None:
    kind = storage(store.dtype, compute_type(store.dtype))
    offset = text.offset(store.coord)
    text.line(f"a{kernel.numbers[store.arg]}[{offset}] = go::encode<{kind}>({value});")


# ---- pointwise and movement ----


def _nests(kernel: Kernel) -> tuple[str, int]:
    """Nests one after the other in one range of threads, and the length of the range."""
    lines = ["  int i = blockIdx.x * blockDim.x + threadIdx.x;"]
    total = 0
    for nest in kernel.nests:
        count = math.prod(_sizes(nest))
        if count == 0:
            continue
        width = _width(kernel, nest)
        count //= width
        # Whole warps begin a nest, so that none runs two.
        count_padded = -(-count // 32) * 32
        lines.append(f"  if (i >= {total} && i < {total + count}) {{")
        lines += _nest(kernel, nest, width, total)
        lines.append("  }")
        total += count_padded
    return "\n".join(lines), total


def _split(index: str, sizes: Sequence[int], indent: str) -> tuple[list[str], dict[int, str]]:
    """Lines that take an index apart in axes, and the names of these."""
    lines, names = [], {}
    rest = index
    for k in reversed(range(len(sizes))):
        if k == 0:
            names[0] = rest
            break
        lines.append(f"{indent}const int x{k} = {rest} % {sizes[k]}, q{k} = {rest} / {sizes[k]};")
        names[k], rest = f"x{k}", f"q{k}"
    return lines, names


def _nest(kernel: Kernel, nest: Nest, width: int, start: int) -> list[str]:
    indent = "    "
    sizes = _sizes(nest)
    if sizes:
        sizes[-1] //= width
    lines, axes = _split(f"(i - {start})" if start else "i", sizes, indent)
    if width == 1:
        text = Text(axes, lambda x, offset: _load(kernel, x, offset), indent)
        for store in nest.stores:
            _store(kernel, text, store, text.emit([store.expr])[0])
        return lines + text.lines
    last = len(sizes) - 1
    moving = dict(axes)
    lines.append(f"{indent}const int first = {axes[last]} * {width};")
    axes[last], moving[last] = "first", "(first + j)"
    packs: dict[int, str] = {}
    head = Text(axes, lambda x, offset: "", indent)
    for x in walk(nest.roots):
        if x.op == "load" and x.coord is not None and x.coord.coefficient(last) == 1:
            kind = storage(DType(x.attr[1]), x.type)
            name = packs[x.uid] = f"p{x.uid}"
            place = f"a{kernel.numbers[x.attr[0]]} + {head.offset(x.coord)}"
            head.line(
                f"const go::Pack<{kind}, {width}> {name} = go::load_pack<{kind}, {width}>({place});"
            )
    for n, store in enumerate(nest.stores):
        head.line(f"go::Pack<{storage(store.dtype, compute_type(store.dtype))}, {width}> r{n};")
    body = Text(
        moving,
        lambda x, offset: (
            f"go::decode({packs[x.uid]}.at[j])" if x.uid in packs else _load(kernel, x, offset)
        ),
        indent + "  ",
    )
    for n, store in enumerate(nest.stores):
        kind = storage(store.dtype, compute_type(store.dtype))
        body.line(f"r{n}.at[j] = go::encode<{kind}>({body.emit([store.expr])[0]});")
    tail = Text(axes, lambda x, offset: "", indent)
    for n, store in enumerate(nest.stores):
        kind = storage(store.dtype, compute_type(store.dtype))
        place = f"a{kernel.numbers[store.arg]} + {tail.offset(store.coord)}"
        tail.line(f"go::store_pack<{kind}, {width}>({place}, r{n});")
    loop = [f"{indent}GO_UNROLL", f"{indent}for (int j = 0; j < {width}; ++j) {{"]
    return [*lines, *head.lines, *loop, *body.lines, f"{indent}}}", *tail.lines]


def _width(kernel: Kernel, nest: Nest) -> int:
    """Neighbours along the last axis that a thread takes: what fills 16 bytes of the widest
    tensor, where all tensors are walked in step or not at all; else 1."""
    if not nest.extents:
        return 1
    last = len(nest.extents) - 1
    exprs = walk(nest.roots)
    moving: list[tuple[Coord, int]] = [(s.coord, s.dtype.nbytes) for s in nest.stores]
    for x in exprs:
        if x.op == "load" and x.coord is not None and last in x.coord.axes():
            moving.append((x.coord, DType(x.attr[1]).nbytes))
    width = 16 // max(size for _, size in moving)
    while width > 1 and not (
        number(nest.extents[last]) % width == 0 and all(_steady(c, last, width) for c, _ in moving)
    ):
        width //= 2
    return width


def _steady(coord: Coord, last: int, width: int) -> bool:
    """True when ``width`` steps of the last axis are neighbours at an aligned address."""
    if coord.coefficient(last) != 1 or number(coord.const) % width:
        return False
    for term, factor in coord.terms:
        if isinstance(term, Axis) and term.id == last:
            continue
        if not isinstance(term, Axis) or number(factor) % width:
            return False
    return True


# ---- rows ----

_OPS = {"sum": "go::Sum()", "prod": "go::Prod()", "max": "go::Max()", "min": "go::Min()"}


def _rows(kernel: Kernel, nest: Nest) -> tuple[str, int, int, int]:
    """Text, blocks, threads and shared memory of a row program."""
    sizes = _sizes(nest)
    kept = [k for k in range(len(sizes)) if k not in nest.reduced]
    along = [k for k in range(len(sizes)) if k in nest.reduced]
    rows = math.prod(sizes[k] for k in kept)
    length = math.prod(sizes[k] for k in along)
    if rows == 0:
        return "  return;", 1, 32, 0
    if nest.block is not None and length > 0:
        # The last axis is kept: neighbouring threads have neighbouring columns.
        team, threads, blocks = 1, 128, -(-rows // 128)
    elif length <= _WARP_ROW:
        team, threads, blocks = 32, 128, -(-rows // 4)
    else:
        team, threads, blocks = _THREADS, _THREADS, rows
    lines = {
        1: ["  const int row = blockIdx.x * 128 + threadIdx.x, lane = 0;"],
        32: ["  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;"],
    }.get(team, ["  const int row = blockIdx.x, lane = threadIdx.x;"])
    lines.append(f"  if (row >= {rows}) return;")
    if team == _THREADS:
        lines.insert(0, "  GO_SHARED(scratch);")
    else:
        lines.insert(0, "  unsigned char* scratch = nullptr;")
    more, axes = _split("row", [sizes[k] for k in kept], "  ")
    lines += more
    names = {k: axes[i] for i, k in enumerate(kept)} if kept else {}
    writer = _RowWriter(kernel, nest, names, along, team)
    lines += writer.text()
    return "\n".join(lines), blocks, threads, 1024 if team == _THREADS else 0


class _RowWriter:
    def __init__(
        self, kernel: Kernel, nest: Nest, axes: dict[int, str], along: list[int], team: int
    ) -> None:
        self.kernel = kernel
        self.nest = nest
        self.axes = axes
        self.along = along
        self.team = team
        self.length = math.prod(number(nest.extents[k]) for k in along)
        # Names of reductions that are finished.
        self.known: dict[int, str] = {}

    def text(self) -> list[str]:
        lines: list[str] = []
        passes, once = passes_of(self.nest)
        for step in passes:
            lines += self._pass(step.reductions, step.stores)
        text = Text(self.axes, lambda x, o: _load(self.kernel, x, o), "    ")
        text.names.update(self.known)
        for store in once:
            _store(self.kernel, text, store, text.emit([store.expr])[0])
        if text.lines:
            lines += ["  if (lane == 0) {", *text.lines, "  }"]
        return lines

    def _pass(self, folds: Sequence[Expr], stores: Sequence[Store]) -> list[str]:
        lines = []
        for x in folds:
            kind, start = _accumulator(x)
            lines.append(f"  {kind} acc{x.uid} = {start};")
        sizes = [number(self.nest.extents[k]) for k in self.along]
        more, names = _split("r", sizes, "    ")
        axes = {**self.axes, **{k: names[i] for i, k in enumerate(self.along)}}
        text = Text(axes, lambda x, o: _load(self.kernel, x, o), "    ")
        text.names.update(self.known)
        for x in folds:
            values = text.emit(x.args)
            item = values[0]
            if isinstance(x.attr, tuple):
                item = f"go::At<{c_type(x.args[0].type)}>{{{values[0]}, {values[1]}}}"
            text.line(f"acc{x.uid} = {_fold(x)}(acc{x.uid}, {item});")
        for store in stores:
            _store(self.kernel, text, store, text.emit([store.expr])[0])
        if self.along:
            lines.append(f"  for (int r = lane; r < {self.length}; r += {self.team}) {{")
        else:
            lines.append("  if (lane == 0) {")
        lines += [*more, *text.lines, "  }"]
        for x in folds:
            value = f"acc{x.uid}"
            if self.team > 1:
                lines.append(f"  {value} = go::fold<{self.team}>({value}, {_fold(x)}, scratch);")
            if isinstance(x.attr, tuple):
                value = f"({value}.place < 0 ? 0 : {value}.place)"
            self.known[x.uid] = value
        return lines


def _fold(x: Expr) -> str:
    if isinstance(x.attr, tuple):
        kind, last = x.attr
        flags = [str(kind == "argmax").lower(), str(bool(last)).lower()]
        return f"go::Best<{', '.join(flags)}>()"
    return _OPS[str(x.attr)]


def _accumulator(x: Expr) -> tuple[str, str]:
    """The type of a reduction's running value, and where it starts."""
    type = x.args[0].type
    if isinstance(x.attr, tuple):
        return f"go::At<{c_type(type)}>", f"go::At<{c_type(type)}>{{0, -1}}"
    if x.attr in ("sum", "prod"):
        return c_type(type), f"({c_type(type)}){0 if x.attr == 'sum' else 1}"
    if is_float(type):
        bits = 0xFF800000 if x.attr == "max" else 0x7F800000
        return c_type(type), f"({c_type(type)})__uint_as_float({bits:#x}u)"
    if x.attr not in _OPS:
        raise Refusal(f"a reduction by '{x.attr}' has no CUDA text")
    bits = BITS[type]
    low = -(1 << (bits - 1)) if is_signed(type) else 0
    high = (1 << (bits - is_signed(type))) - 1
    return c_type(type), integer(low if x.attr == "max" else high, type)


# ---- tails of products ----


def tail_text(body: Graph) -> tuple[tuple[Parameter, ...], tuple[tuple[str, int], ...], str]:
    """What follows a sum of a product before it is stored: parameters, the tensors behind them and
    the text of ``operator()(int i, float sum)``. Input 0 of the body is the sum, at element i of
    its output. Raises Refusal when an element needs other sums than its own."""
    kernel = plan_kernel(body, "k")
    if len(kernel.nests) != 1 or kernel.nests[0].rows or len(kernel.nests[0].stores) != 1:
        raise Refusal("it is not one nest with one result")
    nest = kernel.nests[0]
    store = nest.stores[0]
    for x in walk(nest.roots):
        if x.op == "load" and x.attr[0] == 0 and x.coord != store.coord:
            raise Refusal("an element needs other sums than its own")
    axes: dict[int, str] = {}
    for term, factor in store.coord.terms:
        if not isinstance(term, Axis):
            raise Refusal("its result is not stored in order")
        size = number(nest.extents[term.id])
        axes[term.id] = f"(i / {number(factor)} % {size})"

    def load(x: Expr, offset: str) -> str:
        return "sum" if x.attr[0] == 0 else _load(kernel, x, offset)

    text = Text(axes, load, "    ")
    value = text.emit([store.expr])[0]
    kind = storage(store.dtype, compute_type(store.dtype))
    text.line(f"a{kernel.numbers[store.arg]}[i] = go::encode<{kind}>({value});")
    kept = [i for i, tensor in enumerate(kernel.arguments) if tensor != ("input", 0)]
    parameters = _parameters(kernel)
    return (
        tuple(parameters[i] for i in kept),
        tuple(kernel.arguments[i] for i in kept),
        "\n".join(text.lines),
    )
