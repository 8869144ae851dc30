"""Pointwise chains, reductions, normalisations and movements become groups of generated code.

``y = f(x); z = g(y, w)  ->  z = group{f; g}(x, w)``: nodes over one index space share one loop;
what comes right before a softmax or normalisation, and what comes right after a reduction, runs
inside its loop.

Sound: the same operations on the same elements; values that somebody else reads stay outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.ops import GROUP, plan_regions
from graphopt.backends.cpu.partition import Partition, Unit
from graphopt.backends.cpu.quantized import is_per_tensor
from graphopt.backends.plan import bound_symbols, new_symbols
from graphopt.ir import Graph, Node, TensorType, Trait, Value
from graphopt.ir.clone import copy_nodes
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["FuseGroups", "classify"]

_ROWS = {
    "ArgMax": "reduce",
    "ArgMin": "reduce",
    "GroupNormalization": "layer_norm",
    "Hardmax": "softmax",
    "InstanceNormalization": "layer_norm",
    "LRN": "window",
    "LayerNormalization": "layer_norm",
    "LogSoftmax": "softmax",
    "LpNormalization": "layer_norm",
    "MeanVarianceNormalization": "layer_norm",
    "RMSNormalization": "layer_norm",
    "Softmax": "softmax",
}
_MOVEMENT = frozenset(
    {
        "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Gather", "OneHot", "Pad",
        "Range", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Trilu",
    }
)  # fmt: skip
# Constants of at most this many elements are written into the kernel.
_BAKED = 1


def _pointwise(node: Node) -> bool:
    """Element i of the output is made of elements i of broadcast operands: so with one scale."""
    if node.op.domain:
        return False
    if node.op.name in ("QuantizeLinear", "DequantizeLinear"):
        return is_per_tensor(node)
    return node.op.has(Trait.POINTWISE)


def kind_of(node: Node) -> str | None:
    """The emitter that takes the node, by its op alone."""
    if node.op.domain:
        return None
    if _pointwise(node):
        return "pointwise"
    if node.op.has(Trait.REDUCTION):
        return "reduce"
    return _ROWS.get(node.op.name) or ("movement" if node.op.name in _MOVEMENT else None)


def classify(node: Node, *, any_index: bool = False) -> str | None:
    """The emitter that takes the node as it stands; None when none does. ``any_index`` takes a
    Gather whose indices may lie outside, which then read the nearest element."""
    from graphopt.codegen import can_emit

    kind = kind_of(node)
    if kind is None or (node.is_a("Gather") and not any_index and not _within(node)):
        return None
    return kind if can_emit(node) is None else None


def _within(node: Node) -> bool:
    """True for a Gather by constants inside the axis. Generated code forces an index into the axis
    without a word; ONNX makes a wild one an error, which the step kernel raises."""
    data, indices = node.inputs
    if data is None or indices is None or indices.constant is None or data.shape is None:
        return False
    size, array = data.shape[int(node.attr("axis"))], indices.constant.array
    return isinstance(size, int) and bool(((array >= -size) & (array < size)).all())


@dataclass(frozen=True)
class FuseGroups(Pass):
    """``z = g(f(x), w)  ->  z = group{f; g}(x, w)``."""

    name: ClassVar[str] = "cpu-fuse-groups"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-dense", "cpu-fuse-epilogue", "cpu-lower-views")

    # The most nodes and operands of a group: longer kernels spill registers and compile slowly.
    max_nodes: int = 64
    max_operands: int = 24
    # Take a Gather whose indices nobody has checked, where a kernel cannot raise an error anyway,
    # and read it inside of the loop that it feeds.
    any_index: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a group was formed."""
        return self._run(graph, ctx, bound_symbols(graph))

    def _run(self, graph: Graph, ctx: PassContext, bound: set[str]) -> bool:
        changed = False
        late: set[Node] = set()  # generated code cannot tell the run a size that it computes
        for node in graph:
            for region in plan_regions(node):
                changed |= self._run(region, ctx, bound | bound_symbols(region))
            fresh = new_symbols(node, bound)
            bound |= fresh
            if fresh:
                late.add(node)

        def kind(node: Node) -> str | None:
            return None if node in late else classify(node, any_index=self.any_index)

        partition = Partition(graph, kind)
        if all(unit.kind is None for unit in partition.order):
            return changed
        for unit in list(partition.order):
            self._grow(partition, unit)
        self._materialize(graph, partition, ctx)
        return True

    def _grow(self, partition: Partition, unit: Unit) -> None:
        """Merges the producers of ``unit``, which is still one node, into it."""
        node = unit.nodes[0]
        if unit.kind is None or unit.kind == "movement":
            return
        for value in node.inputs:
            lower = partition.unit[node]
            upper = partition.producer(value)
            if upper is None or upper is lower or upper.kind is None or value is None:
                continue
            kind = _merged_kind(upper, lower, value)
            if kind is None and self.any_index and _looked_up(upper, lower, value):
                kind = "pointwise"
            size = len(upper.nodes) + len(lower.nodes)
            if kind is None or size > self.max_nodes or not partition.can_merge(upper, lower):
                continue
            operands = len(upper.external_inputs()) + len(lower.external_inputs())
            if operands > self.max_operands:
                continue
            partition.merge(upper, lower, kind)

    def _materialize(self, graph: Graph, partition: Partition, ctx: PassContext) -> None:
        for unit in partition.units():
            if unit.kind is None:
                graph.move_before(unit.nodes[0], None)
            else:
                make_group(graph, unit, ctx, self.name)


def _space(node: Node) -> tuple[object, ...] | None:
    return node.output.tensor.shape


def _merged_kind(upper: Unit, lower: Unit, value: Value) -> str | None:
    """The kind of the merged unit, None when the two do not share a loop."""
    rule = _RULES.get((upper.kind or "", lower.kind or ""))
    return rule(upper, lower, value) if rule is not None else None


def _same_space(upper: Unit, lower: Unit, value: Value) -> str | None:
    same = _space(upper.nodes[0]) == _space(lower.nodes[0])
    return "pointwise" if same else None


def _looked_up(upper: Unit, lower: Unit, value: Value) -> bool:
    """True for a Gather that a pointwise unit of the same space alone reads."""
    alone = all(user in lower.nodes for user in value.users) and not value.is_output
    gather = upper.nodes[0].is_a("Gather") and len(upper.nodes) == 1
    return gather and alone and lower.kind == "pointwise" and _space(lower.nodes[0]) == value.shape


def _prologue(upper: Unit, lower: Unit, value: Value) -> str | None:
    """A pointwise producer that the row program alone reads, over the rows' own shape."""
    main = _main(lower)
    if main is None or main.input(0) is not value:
        return None
    if value.shape != _space(upper.nodes[0]):
        return None
    outputs = upper.external_outputs()
    if lower.kind == "layer_norm":
        # The residual sum that is normalised is often read again: it may be a second output.
        return lower.kind if all(v is value for v in outputs) else None
    alone = outputs == [value] and all(u in lower.nodes for u in value.users)
    return lower.kind if alone and not value.is_output else None


def _epilogue(upper: Unit, lower: Unit, value: Value) -> str | None:
    """A pointwise consumer of a reduced result, over the reduced shape."""
    main = _main(upper)
    if main is None or _space(main) != _space(lower.nodes[0]):
        return None
    last = [v for v in upper.external_outputs() if any(u in lower.nodes for u in v.users)]
    if last != [value] or value.is_output or any(u not in lower.nodes for u in value.users):
        return None
    return upper.kind


def _main(unit: Unit) -> Node | None:
    """The node of a unit that is not pointwise."""
    found = [node for node in unit.nodes if not _pointwise(node)]
    return found[0] if len(found) == 1 else None


_RULES: dict[tuple[str, str], Callable[[Unit, Unit, Value], str | None]] = {
    ("pointwise", "pointwise"): _same_space,
    ("pointwise", "reduce"): _prologue,
    ("pointwise", "softmax"): _prologue,
    ("pointwise", "layer_norm"): _prologue,
    ("reduce", "pointwise"): _epilogue,
}


def make_group(graph: Graph, unit: Unit, ctx: PassContext, pass_name: str) -> Node:
    """Replaces the nodes of a unit by one group node at the end of the graph."""
    body = Graph("body", graph)
    mapping: dict[Value, Value] = {}
    operands: list[Value] = []
    for value in unit.external_inputs():
        if value.constant is not None and (value.constant.numel <= _BAKED or _static(value, unit)):
            mapping[value] = body.add_constant(value.constant, value.name)
            continue
        mapping[value] = body.add_input(value.name, value.type, rename=True)
        mapping[value].set_elements(value.elements)
        operands.append(value)
    copy_nodes(unit.nodes, body, mapping)
    outputs = unit.external_outputs() or [unit.nodes[-1].output]
    for value in outputs:
        body.add_output(mapping[value])
    origin = frozenset().union(*(node.origin for node in unit.nodes))
    group = graph.add(
        GROUP,
        operands,
        {"body": body, "kind": unit.kind},
        types=[value.type for value in outputs],
        n_outputs=len(outputs),
        names=[value.name for value in outputs],
        origin=origin,
    )
    record_edit(ctx.log, pass_name, "FuseGroups", unit.nodes, [group])
    for old, new in zip(outputs, group.outputs, strict=True):
        graph.replace_all_uses(old, new)
    for node in reversed(unit.nodes):
        graph.erase(node)
    for old, new in zip(outputs, group.outputs, strict=True):
        graph.take_name(new, old)
    return group


def _static(value: Value, unit: Unit) -> bool:
    """True for a constant that steers an op (axes, starts, pads): integer, not the data operand."""
    if not isinstance(value.type, TensorType) or not value.type.dtype.is_integer:
        return False
    for node in unit.nodes:
        if value in node.inputs and (_pointwise(node) or node.input(0) is value):
            return False
        if node.is_a("Gather") or (node.is_a("Concat") and value in node.inputs):
            return False
    return True
