"""A constant factor moves down to the weights of all that reads it.

``Conv(f(x * s), w, b)  ->  Conv(f(x), w * s, b)``, where ``f`` is linear or, for a positive ``s``,
keeps the order: shape operations, Resize, sums with constants (which are divided), products with
other values, Relu, LeakyRelu, pools and reductions. Conv, ConvTranspose, Gemm, MatMul and products
with a constant take the factor in. Paddings are zero, and stay so. ``/ s`` is a product with
``1 / s``. The factor goes only if every reader takes it; ``x`` may have other readers.

Factors are f32, one for all or one an index of one axis that ``f`` leaves whole, and far from zero
and infinity. Sound up to rounding: ``f(s * z) = s * f(z)``. New constants are computed in f64 and
rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, Value
from graphopt.passes.scales import Scale, along, carry_on, read_scale
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["SinkScales"]

Array = np.ndarray[Any, Any]
_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_ORDERED = ("Relu", "LeakyRelu", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
_LINEAR = ("ReduceMean", "ReduceSum", "AveragePool", "GlobalAveragePool")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MAX_NODES = 48
# Weights that others read as well would be there twice.
_MAX_SHARED = 1 << 14


@dataclass(frozen=True)
class SinkScales(Pass):
    """``Conv(f(x * s), w)  ->  Conv(f(x), w * s)``."""

    name: ClassVar[str] = "sink-scales"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a factor went."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            if node.op.name in ("Mul", "Div") and not node.op.domain:
                changed |= _sink(graph, node, ctx, self.name)
        return changed


def _sink(graph: Graph, node: Node, ctx: PassContext, name: str) -> bool:
    found = _factor(node)
    if found is None:
        return False
    x, scale = found
    region = _Region(node.output, scale)
    if not region.grow():
        return False
    new = {old: region.rebuilt(graph, old, node.origin) for old in region.takers}
    record_edit(ctx.log, name, "SinkScale", [node, *new], new.values())
    for old, made in new.items():
        graph.replace(old, made.outputs)
    graph.replace(node, [x])
    return True


def _factor(node: Node) -> tuple[Value, Scale] | None:
    """``x`` and ``s`` where ``node`` is ``x * s`` or ``x / s``."""
    a, b = node.inputs
    if a is None or b is None or node.output.tensor.dtype is not DType.F32:
        return None
    pairs = [(a, b), (b, a)] if node.is_a("Mul") else [(a, b)]
    for x, constant in pairs:
        if constant.is_constant and not x.is_constant and x.shape == node.output.shape:
            scale = read_scale(constant, node.output, inverse=node.is_a("Div"))
            if scale is not None:
                return x, scale
    return None


@dataclass
class _Region:
    """All that a factor reaches until constants take it in.

    ``takers`` holds new operands by place for each node whose constants change.
    """

    root: Value
    scale: Scale
    reached: dict[Value, Scale] = field(default_factory=dict)
    takers: dict[Node, dict[int, Array]] = field(default_factory=dict)

    def grow(self) -> bool:
        """True when everything that the factor reaches takes it in or passes it on."""
        self.reached[self.root] = self.scale
        queue: list[Value] = [self.root]
        seen: set[Node] = set()
        while queue:
            value = queue.pop()
            if value.is_output or not value.use_count:
                return False
            for user in value.users:
                if user in seen:
                    continue
                seen.add(user)
                if len(seen) > _MAX_NODES or user.graph is not self.root.graph or user.regions:
                    return False
                after = self.pass_on(user, value)
                if after is None:
                    return False
                if user not in self.takers or user.is_a("Add") or user.is_a("Sub"):
                    self.reached[user.output] = after
                    queue.append(user.output)
        # What was taken for another value must not turn out to carry the factor as well.
        return bool(self.takers) and all(self.single(node) for node in seen)

    def single(self, node: Node) -> bool:
        """True when one operand alone carries the factor."""
        return sum(v in self.reached for v in node.inputs if v is not None) == 1

    def pass_on(self, node: Node, value: Value) -> Scale | None:
        """The scale of the result of ``node``; None when ``node`` does not pass it on.

        A node that takes the scale in is noted; what is returned for it is not looked at, but for
        sums, which take it in and pass it on.
        """
        scale, name = self.reached[value], node.op.name
        if node.op.domain or node.output.tensor.dtype is not DType.F32:
            return None
        if name in _PRODUCTS:
            return self.product(node, value, scale)
        if name in ("Mul", "Div", "Add", "Sub"):
            return self.pointwise(node, value, scale)
        if node.input(0) is not value or any(v.use_count for v in node.outputs[1:]):
            return None
        if name in _VIEWS:
            return carry_on(node, scale)
        if name in _ORDERED and not scale.positive:
            return None
        if name in (*_ORDERED, *_LINEAR):
            kept = scale.axis is None or bool(node.attr("keepdims")) or "Reduce" not in name
            return scale if kept else None
        return scale if name == "Resize" and _resizes_linearly(node, scale) else None

    def pointwise(self, node: Node, value: Value, scale: Scale) -> Scale | None:
        """Sums with constants are divided; other values may be factors."""
        rank = node.output.tensor.rank
        if rank is None or value.shape is None or len(node.inputs) != 2:
            return None
        index = 0 if node.input(0) is value else 1
        other = node.input(1 - index)
        assert other is not None
        if other is value:
            return None
        # Axes are counted from the last one where the other operand has more of them.
        if scale.axis is not None:
            scale = scale.moved(scale.axis + rank - len(value.shape))
        if node.is_a("Div"):
            return scale if index == 0 else None
        if node.is_a("Mul"):
            if read_scale(other, node.output) is not None and value.shape == node.output.shape:
                self.takers[node] = {1 - index: scale.shaped(rank)}
            return scale
        if other.constant is None or other.constant.type.dtype is not DType.F32:
            return None
        if value.shape != node.output.shape:
            return None
        self.takers[node] = {1 - index: scale.inverse().shaped(rank)}
        return scale

    def product(self, node: Node, value: Value, scale: Scale) -> Scale | None:
        """Weights take the factor in along what they sum over."""
        weight = node.input(1)
        if node.input(0) is not value or weight is None or weight is value:
            return None
        constant = weight.constant
        if constant is None or constant.type.dtype is not DType.F32:
            return None
        if weight.use_count > 1 and constant.numel > _MAX_SHARED:
            return None
        if node.is_a("Gemm") and node.attr("transA"):
            return None
        factors = _input_factors(node, scale, value.tensor.rank or 0)
        if factors is None:
            return None
        self.takers[node] = {1: factors}
        return scale

    def rebuilt(self, graph: Graph, node: Node, origin: frozenset[str]) -> Node:
        """A copy of ``node`` with its constants scaled, right before it."""
        inputs = list(node.inputs)
        for index, factors in self.takers[node].items():
            value = inputs[index]
            assert value is not None and value.constant is not None
            array = value.constant.array.astype(np.float64) * factors
            inputs[index] = graph.add_constant(array.astype(np.float32), value.name)
        return graph.add(
            node.op,
            inputs,
            node.attrs,
            n_outputs=len(node.outputs),
            types=[v.type for v in node.outputs],
            name=node.name,
            origin=node.origin | origin,
            before=node,
        )


def _input_factors(node: Node, scale: Scale, rank: int) -> Array | None:
    """``scale`` on the first operand of a product, shaped to multiply its weights."""
    weight = node.input(1)
    assert weight is not None
    if scale.axis is None:
        return scale.numbers.reshape(())
    inner = weight.tensor.rank or 0
    if node.is_a("MatMul"):
        fits = scale.axis == rank - 1 and inner == 2
        return along(scale.numbers, 0, inner) if fits else None
    if scale.axis != 1:
        return None
    if node.is_a("Gemm"):
        return along(scale.numbers, 1 if node.attr("transB") else 0, inner)
    if node.is_a("ConvTranspose"):
        return along(scale.numbers, 0, inner)
    shape, group = weight.constant.array.shape, int(node.attr("group"))  # type: ignore[union-attr]
    rows = np.repeat(scale.numbers.reshape(group, shape[1]), shape[0] // group, axis=0)
    return rows.reshape(*rows.shape, *[1] * (inner - 2))


def _resizes_linearly(node: Node, scale: Scale) -> bool:
    """True for a Resize that sums its operand alone, and leaves the axis of the factors."""
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    if scale.axis is None:
        return True
    source, result = node.input(0), node.output.shape
    assert source is not None
    if source.shape is None or result is None or source.shape[scale.axis] != result[scale.axis]:
        return False
    scales = node.input(2)
    known = None if scales is None else scales.constant
    return known is not None and known.numel == len(result) and known.array[scale.axis] == 1
