"""Transpose sinking: transposes move towards the outputs, meet, compose and cancel.

``f(Transpose(x, p))  ->  Transpose(f'(x), p)`` for pointwise ops, reductions, Concat, Split,
Softmax, Slice, Pad, Squeeze, Unsqueeze and Resize, with axes and constants renamed; two transposes
in a row become one, and none when they compose to the identity.

A transpose moves only where that pays: past an op that is its only reader, into a reduction, or
towards another transpose that undoes it, unless more operands would have to be transposed instead.
Residual streams with many readers stay as they are.

Sound: each of these ops treats axes alike, so renaming axes before and after is the same function;
elements are moved, never computed differently. A transpose is made real again in front of the first
reader that cannot take the renamed axes, once a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Node, TensorType, Trait, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["SinkTransposes", "compose", "inverse"]

Perm = tuple[int, ...]
# A walk looks ahead for transposes that undo each other. Should what lies between keep them apart,
# the next walk would turn back: a few are enough for what one leaves in front of a reader.
_WALKS = 4
# Wanted by reductions: what they leave is small, so any transpose before them is worth moving.
_ANY: Perm = ()
# What a value is: Transpose(source, perm).
State = tuple[Value, Perm]


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def compose(first: Perm, second: Perm) -> Perm:
    """``Transpose(Transpose(x, first), second) == Transpose(x, compose(first, second))``."""
    return tuple(first[axis] for axis in second)


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """``f(Transpose(x, p))  ->  Transpose(f'(x), p)``."""

    name: ClassVar[str] = "sink-transposes"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a transpose moved or went."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
        if not any(node.is_a("Transpose") for node in graph):
            return changed
        # What one walk leaves in front of a reader may pass it in the next: every move leads
        # towards the outputs. Transposes that a move asked of other operands stay where they are,
        # or they would pass back, and so forth; so this ends.
        settled: set[Node] = set()
        while _Sinker(graph, ctx, self.name, settled).run():
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Which reader keeps a transpose where it is."""
        if not node.is_a("Transpose"):
            return Refusal(f"it is no Transpose but {node.op.qualified}", node)
        value = node.output
        if value.tensor.rank is None:
            return Refusal("its rank is not known", node)
        if value.is_output:
            return Refusal(f"%{value.name} is an output of the graph", node)
        for reader in value.users:
            if _handler(reader) is None:
                return Refusal(f"{reader!r} does not treat all axes alike", reader)
        return Refusal(f"moving it past its {len(value.users)} reader(s) leaves no fewer", node)


class _Sinker:
    def __init__(self, graph: Graph, ctx: PassContext, name: str, settled: set[Node]) -> None:
        self.graph = graph
        self.ctx = ctx
        self.name = name
        # Transposes of operands, made for the sake of other transposes.
        self.settled = settled
        self.state: dict[Value, State] = {}
        # Transposes already made: (value, perm) -> its transpose.
        self.made: dict[tuple[Value, Perm], Value] = {}
        self.moved: list[Node] = []
        self.changed = False
        self.wanted, self.agreed = _demand(graph)

    def run(self) -> bool:
        for node in self.graph.nodes:
            self.visit(node)
        for node in reversed(self.moved):
            self.settle(node)
        return self.changed

    def visit(self, node: Node) -> None:
        if node.is_a("Transpose"):
            self.transpose(node)
            return
        carried = [v for v in node.inputs if v is not None and v in self.state]
        handler = _handler(node) if carried else None
        if handler is None or not self.pays(node):
            return
        result = handler(self, node)
        if result is None:
            return
        record_edit(self.ctx.log, self.name, "SinkTransposes", [node], [])
        for old, (new, perm) in zip(node.outputs, result, strict=True):
            self.state[old] = (new, perm)
        self.moved.append(node)
        self.changed = True

    def pays(self, node: Node) -> bool:
        """True when moving past ``node`` leaves fewer transposes, or as many of them further down.

        A transpose vanishes when ``node`` alone reads it. One is made of the result, unless a
        reduction takes it in or a transpose below undoes it, and one of every operand that has
        other axes and moves in memory.
        """
        perm = self.common_axes(node)
        if perm is None or node.op.has(Trait.REDUCTION):
            return perm is not None
        values = list(dict.fromkeys(v for v in node.inputs if v is not None))
        carried = [v for v in values if v in self.state and self.state[v][1] == perm]
        others = [v for v in values if v not in carried and not v.is_constant]
        alone = [v for v in carried if all(u is node for u in v.users) and not v.is_output]
        gone = sum(not _moves_free(v, perm) for v in alone)
        made = sum(not _moves_free(v, perm) for v in others)
        wanted = set().union(*(self.wanted.get(value, ()) for value in node.outputs))
        below = 0 if _ANY in wanted else 1
        if _moves_free(node.output, perm):
            below = 0
        elif inverse(perm) in wanted:
            # Where some readers do not undo it, one goes and one is made.
            below = 0
            if all(inverse(perm) in self.agreed.get(value, ()) for value in node.outputs):
                below = -1
        balance = made + below - gone
        # Transposes that move nothing in memory could be traded between operands for ever.
        return balance < 0 or (balance == 0 and not made and (gone > 0 or not others))

    def common_axes(self, node: Node) -> Perm | None:
        """The permutation that most transposed operands of full rank have in common."""
        values = [v for v in node.inputs if v is not None and v in self.state]
        if node.op.has(Trait.POINTWISE) or node.is_a("Concat"):
            rank = node.output.tensor.rank
            values = [v for v in values if v.tensor.rank == rank]
        perms = [self.state[v][1] for v in values]
        return max(perms, key=lambda p: (perms.count(p), p)) if perms else None

    def transpose(self, node: Node) -> None:
        value = node.input(0)
        assert value is not None
        rank = value.tensor.rank
        if rank is None:
            return
        if node in self.settled and value not in self.state:
            return
        perm = tuple(node.attr("perm") or range(rank - 1, -1, -1))
        source, first = self.state.get(value, (value, tuple(range(rank))))
        self.state[node.output] = (source, compose(first, perm))
        self.moved.append(node)

    def settle(self, node: Node) -> None:
        """Erases a moved node; what still reads it reads a transpose of the moved form."""
        builder = Builder(self.graph, before=node, origin=node.origin)
        for old in node.outputs:
            if not old.use_count:
                continue
            source, perm = self.state[old]
            if perm == tuple(range(len(perm))):
                new = source
            elif node.is_a("Transpose") and node.input(0) is source:
                return  # it already is that transpose
            else:
                new = builder.Transpose(source, perm=perm, _name=old.name)
            self.graph.replace_all_uses(old, new)
        self.graph.erase(node)
        self.changed = True

    # ---- operands in renamed axes ----

    def operand(self, builder: Builder, value: Value, perm: Perm) -> Value | None:
        """The ``v`` with ``value == Transpose(v, perm)``, up to broadcasting; None if dear."""
        shape = value.shape
        if shape is None or len(shape) > len(perm):
            return None
        known = self.state.get(value)
        if known is not None and known[1] == perm:
            return known[0]
        if all(dim == 1 for dim in shape):
            return value
        if len(shape) < len(perm):
            value = self.pad_rank(builder, value, len(perm))
        key = (value, inverse(perm))
        if key not in self.made:
            self.made[key] = self.make(builder, value, inverse(perm))
        return self.made[key]

    def pad_rank(self, builder: Builder, value: Value, rank: int) -> Value:
        missing = rank - len(value.shape or ())
        if value.constant is not None:
            array = value.constant.array
            return builder.constant(array.reshape((1,) * missing + array.shape), value.name)
        result: Value = builder.Unsqueeze(value, tuple(range(missing)))
        return result

    def make(self, builder: Builder, value: Value, perm: Perm) -> Value:
        if perm == tuple(range(len(perm))):
            return value
        if value.constant is not None:
            array = np.ascontiguousarray(value.constant.array.transpose(perm))
            return builder.constant(array, value.name)
        result: Value = builder.Transpose(value, perm=perm)
        assert result.producer is not None
        self.settled.add(result.producer)
        return result

    def emit(
        self,
        node: Node,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any] | None = None,
    ) -> Node:
        """``node`` with other operands and attributes, right before it."""
        merged = {**node.attrs, **(attrs or {})}
        return self.graph.add(
            node.op,
            inputs,
            merged,
            n_outputs=len(node.outputs),
            names=[v.name for v in node.outputs],
            name=node.name,
            origin=node.origin,
            before=node,
        )


def _demand(graph: Graph) -> tuple[dict[Value, set[Perm]], dict[Value, set[Perm]]]:
    """Permutations that readers of each value apply to it, seen through ops that carry them: those
    that some reader applies, and those that all do."""
    some: dict[Value, set[Perm]] = {}
    every: dict[Value, set[Perm]] = {}
    for node in reversed(graph.nodes):
        if not any(value.use_count for value in node.outputs):
            continue
        perms: set[Perm] = set()
        agreed: set[Perm] = set()
        if node.is_a("Transpose"):
            rank = node.output.tensor.rank or 0
            perms = agreed = {tuple(node.attr("perm") or range(rank - 1, -1, -1))} - {_ANY}
        elif node.op.has(Trait.REDUCTION):
            perms = {_ANY}
        elif _handler(node) is not None:
            perms = set().union(*(some.get(value, ()) for value in node.outputs))
            shared = [every[v] for v in node.outputs if v in every and not v.is_output]
            agreed = set.intersection(*shared) if len(shared) == len(node.outputs) else set()
        for value in node.inputs:
            if value is not None:
                some.setdefault(value, set()).update(perms)
                every[value] = every.get(value, agreed) & agreed
    for value in every:
        if value.is_output or any(user.graph is not graph for user in value.users):
            every[value] = set()
    return some, every


Handler = Callable[[_Sinker, Node], "list[State] | None"]


def _handler(node: Node) -> Handler | None:
    if node.op.domain:
        return None
    if node.op.has(Trait.POINTWISE):
        return _pointwise
    if node.op.has(Trait.REDUCTION):
        return _reduction
    return _HANDLERS.get(node.op.name)


def _pointwise(sinker: _Sinker, node: Node) -> list[State] | None:
    perm = sinker.common_axes(node)
    if perm is None:
        return None
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    inputs: list[Value | None] = []
    for value in node.inputs:
        operand = None if value is None else sinker.operand(builder, value, perm)
        if value is not None and operand is None:
            return None
        inputs.append(operand)
    return [(v, perm) for v in sinker.emit(node, inputs).outputs]


def _moves_free(value: Value, perm: Perm) -> bool:
    """True when ``value`` costs nothing to transpose: a constant, or axes of size 1 alone move."""
    if value.is_constant or value.shape is None or len(value.shape) > len(perm):
        return True
    shape = (1,) * (len(perm) - len(value.shape)) + value.shape
    return is_view(TensorType(value.tensor.dtype, shape), inverse(perm))


def _only_state(sinker: _Sinker, node: Node) -> State | None:
    value = node.input(0)
    return None if value is None else sinker.state.get(value)


def _axes(node: Node, rank: int) -> list[int] | None:
    """Axes from operand 1 (or an ``axes`` attribute), when they are known; [] when absent."""
    operand = node.input(1)
    if operand is None:
        axes = node.attrs.get("axes", ())
    elif operand.constant is not None:
        axes = operand.constant.array.ravel().tolist()
    else:
        return None
    return [int(axis) % rank for axis in axes]


def _reduction(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    rank = len(perm)
    keep = bool(node.attr("keepdims"))
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    if node.op.name in ("ArgMax", "ArgMin"):
        axes = [int(node.attr("axis")) % rank]
        new = sinker.emit(node, [source], {"axis": perm[axes[0]]})
    else:
        found = _axes(node, rank)
        if found is None:
            return None
        axes = found or ([] if node.attr("noop_with_empty_axes") else list(range(rank)))
        renamed = tuple(sorted(perm[axis] for axis in axes))
        operand = builder.constant(np.array(renamed, np.int64), "axes") if found else None
        new = sinker.emit(node, [source, operand])
    return [(new.output, perm if keep else _drop(perm, axes))]


def _drop(perm: Perm, axes: Sequence[int]) -> Perm:
    """What is left of ``perm`` when output axes ``axes`` vanish."""
    rest = [axis for position, axis in enumerate(perm) if position not in axes]
    return tuple(sorted(rest).index(axis) for axis in rest)


def _with_axis(sinker: _Sinker, node: Node) -> list[State] | None:
    """Softmax, LogSoftmax, Hardmax: one operand, one axis that is renamed."""
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    axis = perm[int(node.attr("axis")) % len(perm)]
    return [(sinker.emit(node, [source], {"axis": axis}).output, perm)]


def _concat(sinker: _Sinker, node: Node) -> list[State] | None:
    perm = sinker.common_axes(node)
    if perm is None or any(v is None or v.tensor.rank != len(perm) for v in node.inputs):
        return None
    axis = perm[int(node.attr("axis")) % len(perm)]
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    inputs: list[Value | None] = []
    for value in node.inputs:
        assert value is not None
        known = sinker.state.get(value)
        if known is not None and known[1] == perm:
            inputs.append(known[0])
        else:
            inputs.append(sinker.make(builder, value, inverse(perm)))
    return [(sinker.emit(node, inputs, {"axis": axis}).output, perm)]


def _split(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    axis = perm[int(node.attr("axis")) % len(perm)]
    new = sinker.emit(node, [source, *node.inputs[1:]], {"axis": axis})
    return [(v, perm) for v in new.outputs]


def _squeeze(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    axes = _axes(node, len(perm))
    if not axes:
        return None
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    renamed = np.array(sorted(perm[axis] for axis in axes), np.int64)
    new = sinker.emit(node, [source, builder.constant(renamed, "axes")])
    return [(new.output, _drop(perm, axes))]


def _unsqueeze(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    rank = node.output.tensor.rank
    if rank is None:
        return None
    axes = _axes(node, rank)
    if not axes:
        return None
    # New axes come first in the source; the permutation puts them where they belong.
    count = len(axes)
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    new = sinker.emit(node, [source, builder.constant(np.arange(count), "axes")])
    rest = iter(perm)
    order = sorted(axes)
    result = tuple(
        order.index(axis) if axis in axes else next(rest) + count for axis in range(rank)
    )
    return [(new.output, result)]


def _slice(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None:
        return None
    source, perm = state
    operand = node.input(3)
    if operand is None:
        starts = node.input(1)
        if starts is None or not isinstance(starts.tensor.numel, int):
            return None
        axes = list(range(starts.tensor.numel))
    elif operand.constant is not None:
        axes = [int(a) % len(perm) for a in operand.constant.array.ravel()]
    else:
        return None
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    renamed = builder.constant(np.array([perm[axis] for axis in axes], np.int64), "axes")
    inputs = [source, node.input(1), node.input(2), renamed, node.input(4)]
    return [(sinker.emit(node, inputs).output, perm)]


def _pad(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    pads = node.input(1)
    if state is None or pads is None or pads.constant is None:
        return None
    source, perm = state
    rank = len(perm)
    amounts = pads.constant.array.ravel()
    axes = list(range(rank))
    if node.input(3) is not None:
        given = node.input(3)
        if given is None or given.constant is None:
            return None
        axes = [int(a) % rank for a in given.constant.array.ravel()]
    full = np.zeros(2 * rank, np.int64)
    for position, axis in enumerate(axes):
        full[perm[axis]] = amounts[position]
        full[rank + perm[axis]] = amounts[len(axes) + position]
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    inputs = [source, builder.constant(full, "pads"), node.input(2)]
    return [(sinker.emit(node, inputs).output, perm)]


def _resize(sinker: _Sinker, node: Node) -> list[State] | None:
    state = _only_state(sinker, node)
    if state is None or node.input(1) is not None or node.attrs.get("axes") is not None:
        return None
    source, perm = state
    if node.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        return None
    builder = Builder(sinker.graph, before=node, origin=node.origin)
    inputs: list[Value | None] = [source, None]
    for index in (2, 3):
        value = node.input(index)
        if value is None or value.tensor.numel == 0:
            inputs.append(None)
            continue
        order = np.array(inverse(perm), np.int64)
        if value.constant is not None:
            array = value.constant.array[list(order)]
            inputs.append(builder.constant(array, value.name))
        else:
            inputs.append(builder.Gather(value, builder.constant(order, "perm"), axis=0))
    return [(sinker.emit(node, inputs).output, perm)]


def _quantize(sinker: _Sinker, node: Node) -> list[State] | None:
    """QuantizeLinear and DequantizeLinear: of one scale, or of one an index of an axis."""
    state = _only_state(sinker, node)
    if state is None or node.attr("block_size"):
        return None
    source, perm = state
    alone = all(v is None or v.tensor.numel == 1 for v in node.inputs[1:])
    attrs = {} if alone else {"axis": perm[int(node.attr("axis")) % len(perm)]}
    return [(sinker.emit(node, [source, *node.inputs[1:]], attrs).output, perm)]


_HANDLERS: dict[str, Handler] = {
    "ArgMax": _reduction,
    "ArgMin": _reduction,
    "Concat": _concat,
    "DequantizeLinear": _quantize,
    "Hardmax": _with_axis,
    "LogSoftmax": _with_axis,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _with_axis,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def is_view(value_type: TensorType, perm: Perm) -> bool:
    """True when a transpose moves axes of size 1 alone, so that memory does not change."""
    if value_type.shape is None:
        return False
    kept = [axis for axis in perm if value_type.shape[axis] != 1]
    return kept == sorted(kept)
