"""What moves no bytes becomes a view; what is known from shapes is written from shapes.

``Reshape, Flatten, Squeeze, Unsqueeze, Identity``, and transposes and expansions that change
nothing in memory ``->  view``. An integer tensor of known sizes ``->  shape``: the chain of
Shape, Gather, Mul, Concat that computed it dies.

Sound: row-major order is the same before and after; sizes are those that type inference proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.ops import DOMAIN, SHAPE, VIEW, plan_regions
from graphopt.backends.plan import bound_symbols, new_symbols
from graphopt.ir import DType, Graph, Node, TensorType, Value, static_shape, symbols
from graphopt.passes.sink_transposes import is_view
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["LowerViews"]

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


@dataclass(frozen=True)
class LowerViews(Pass):
    """``Reshape(x, s)  ->  view(x)``; ``Concat(sizes)  ->  shape``."""

    name: ClassVar[str] = "cpu-lower-views"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        return self._run(graph, ctx, bound_symbols(graph))

    def _run(self, graph: Graph, ctx: PassContext, bound: set[str]) -> bool:
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self._run(region, ctx, bound | bound_symbols(region))
            fresh = new_symbols(node, bound)
            bound |= fresh
            if fresh or node.op.domain == DOMAIN:
                continue
            if self._shape(graph, node, ctx, bound) or self._view(graph, node, ctx):
                changed = True
        return changed

    def _shape(self, graph: Graph, node: Node, ctx: PassContext, bound: set[str]) -> bool:
        value = node.output
        if len(node.outputs) != 1 or not isinstance(value.type, TensorType):
            return False
        elements = value.elements
        shape = static_shape(value.type.shape)
        if elements is None or shape is None or value.type.dtype not in (DType.I64, DType.I32):
            return False
        if any(not symbols(dim) <= bound for dim in elements):
            return False
        new = graph.add(
            SHAPE,
            [],
            {"dims": tuple(elements)},
            types=[value.type],
            names=[value.name],
            origin=node.origin,
            before=node,
        )
        new.output.set_elements(elements)
        return self._replace(graph, node, new, ctx)

    def _view(self, graph: Graph, node: Node, ctx: PassContext) -> bool:
        source = _viewed(node)
        if source is None:
            return False
        new = graph.add(
            VIEW,
            [source],
            types=[node.output.type],
            names=[node.output.name],
            origin=node.origin,
            before=node,
        )
        new.output.set_elements(node.output.elements)
        return self._replace(graph, node, new, ctx)

    def _replace(self, graph: Graph, node: Node, new: Node, ctx: PassContext) -> bool:
        record_edit(ctx.log, self.name, "LowerViews", [node], [new])
        graph.replace(node, [new.output])
        return True


def _viewed(node: Node) -> Value | None:
    """The operand whose bytes the node's output has, if it is a view."""
    source = node.input(0)
    if node.op.domain or source is None or len(node.outputs) != 1:
        return None
    if not isinstance(source.type, TensorType) or not isinstance(node.output.type, TensorType):
        return None
    if source.type.dtype is DType.STRING or source.type.shape is None:
        return None
    if node.op.name in _RESHAPES:
        return source if node.output.type.shape is not None else None
    if node.op.name == "Transpose":
        perm = tuple(node.attr("perm") or range(len(source.type.shape) - 1, -1, -1))
        return source if is_view(source.type, perm) else None
    if node.op.name in ("Expand", "Tile", "Slice", "Pad") and source.type == node.output.type:
        return source if node.op.name == "Expand" else None
    return None
