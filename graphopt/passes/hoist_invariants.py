"""What every run of a loop computes alike is computed once, before it.

``Loop {y = f(a), ...}  ->  y = f(a); Loop {...}`` where a comes from outside of the body; Scan
alike.

Sound: only ops move that yield the same each time and cannot fail: pointwise ones, transposes,
changes of shape and products of matrices whose sizes fit for certain, but no division of integers.
A loop that never runs then computes them in vain; nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Dim, DType, Graph, Node, TensorType, Trait, Value, product
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["HoistInvariants", "stays"]

# Beside pointwise ops: what cannot fail where the types fit.
_SAFE = frozenset(
    {"Concat", "Flatten", "MatMul", "Reshape", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"}
)
_DIVISIONS = frozenset({"Div", "Mod", "Pow"})
_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class HoistInvariants(Pass):
    """``Loop {y = f(a), ...}  ->  y = f(a); Loop {...}``."""

    name: ClassVar[str] = "hoist-invariants"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node moved."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            if node.is_a("Loop") or node.is_a("Scan"):
                changed |= self._hoist(node, ctx)
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why ``node`` stays in the body of its loop."""
        if node.graph.parent is None:
            return Refusal("it is in no loop", node)
        return stays(node)

    def _hoist(self, loop: Node, ctx: PassContext) -> bool:
        body: Graph = loop.attrs["body"]
        moved: dict[Value, Value] = {}
        changed = False
        for node in body:
            if stays(node) is not None:
                continue
            inputs = [self._outside(value, loop, moved) for value in node.inputs]
            new = loop.graph.add(
                node.op,
                inputs,
                node.attrs,
                types=[value.type for value in node.outputs],
                names=[value.name for value in node.outputs],
                name=node.name,
                origin=node.origin,
                before=loop,
            )
            new.output.set_elements(node.output.elements)
            record_edit(ctx.log, self.name, "HoistInvariants", [node], [new])
            body.replace(node, new.outputs)
            changed = True
        return changed

    def _outside(self, value: Value | None, loop: Node, moved: dict[Value, Value]) -> Value | None:
        """``value`` where the loop stands: constants of the body are copied there."""
        if value is None or value.constant is None or value.graph is loop.graph:
            return value
        if value not in moved:
            moved[value] = loop.graph.add_constant(value.constant, value.name)
        return moved[value]


def stays(node: Node) -> Refusal | None:
    """Why a node of a body is computed in every run; None where it need not be."""
    body = node.graph
    inside = next(
        (v for v in node.inputs if v is not None and v.graph is body and v.constant is None), None
    )
    if inside is not None:
        return Refusal(f"%{inside.name} is made in the loop", inside)
    if node.op.domain or len(node.outputs) != 1 or node.op.has(Trait.NONDETERMINISTIC):
        return Refusal(f"{node.op.qualified} may yield something else each time", node)
    if not node.op.has(Trait.POINTWISE) and node.op.name not in _SAFE:
        return Refusal(f"{node.op.name} may fail in a loop that never runs", node)
    values = [*node.inputs, *node.outputs]
    if any(v is not None and not _ranked(v) for v in values):
        return Refusal("the ranks are not known", node)
    if not _fits(node):
        return Refusal("whether the shapes fit is seen in the run", node)
    source = node.input(0)
    assert source is not None
    dtype = source.tensor.dtype
    if (node.op.name in _DIVISIONS and not dtype.is_float) or dtype is DType.STRING:
        return Refusal(f"{node.op.name} of {dtype} may fail in a loop that never runs", node)
    if all(v is None or v.constant is not None for v in node.inputs):
        return Refusal("it is constant", node)
    return None


def _ranked(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.shape is not None


def _fits(node: Node) -> bool:
    """True when the sizes of the operands certainly go together."""
    shapes = [value.tensor.shape or () for value in node.inputs if value is not None]
    out = node.output.tensor.shape or ()
    name = node.op.name
    if name in _VIEWS:
        return product(shapes[0]) == product(out)
    if name == "Concat":
        axis = int(node.attr("axis")) % len(out)
        rest = [(*shape[:axis], *shape[axis + 1 :]) for shape in shapes]
        return all(shape == rest[0] for shape in rest)
    if name == "MatMul":
        a, b = shapes
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
            return False
        return _spreads(a[:-2], out[:-2]) and _spreads(b[:-2], out[:-2])
    return not node.op.has(Trait.POINTWISE) or all(_spreads(shape, out) for shape in shapes)


def _spreads(shape: tuple[Dim, ...], out: tuple[Dim, ...]) -> bool:
    """True when ``shape`` certainly broadcasts to ``out``."""
    ahead = len(out) - len(shape)
    return ahead >= 0 and all(a in (1, b) for a, b in zip(shape, out[ahead:], strict=True))
