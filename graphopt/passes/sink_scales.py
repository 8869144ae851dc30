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

from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.passes.scales import MOVES, Scale, along, carry_on, fits, read_scale, scaled
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["SinkScales"]

Array = np.ndarray[Any, Any]
_ORDERED = ("Relu", "LeakyRelu", "PRelu", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
_POOLS = ("AveragePool", "GlobalAveragePool")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MAX_NODES = 48
# Weights that others read as well would be there twice.
_MAX_SHARED = 1 << 14


class SinkScale(Rule):
    """``Conv(f(x * s), w)  ->  Conv(f(x), w * s)``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A product with a constant, or a quotient."""
        return [op.Mul(x, op.constant("s")), op.Div(x, op.constant("s"))]

    def check(self, m: Match) -> Refusal | None:
        """Follows the product to all that reads it, until constants take the factor in."""
        scale = read_scale(m["s"], m.root.output, inverse=m.root.is_a("Div"))
        if scale is None or m.root.output.tensor.dtype is not DType.F32:
            return Refusal("the factor is not of f32 along one axis, or too near zero", m["s"])
        if m["x"].is_constant or m["x"].shape is None or m["x"].shape != m.root.output.shape:
            return Refusal("it changes the shape", m.root)
        region = _Region(m.root.output, scale)
        refused = region.grow()
        if refused is None:
            m.nodes.extend(region.takers)
        return refused

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Readers that take the factor in are built anew, each in its place; the product goes."""
        scale = read_scale(m["s"], m.root.output, inverse=m.root.is_a("Div"))
        assert scale is not None
        region = _Region(m.root.output, scale)
        region.grow()
        for node, factors in region.takers.items():
            op.before, op.origin = node, m.root.origin | node.origin
            _rebuild(op, node, factors)
        return m["x"]


def _rebuild(op: Builder, node: Node, factors: dict[int, Array]) -> None:
    """Puts a copy of ``node`` with its constants scaled in its place."""
    inputs = list(node.inputs)
    for index, numbers in factors.items():
        value = inputs[index]
        assert value is not None
        inputs[index] = scaled(op, value, numbers)
    types = [value.type for value in node.outputs]
    new = op.call(node.op, *inputs, _outputs=len(types), _types=types, **node.attrs)
    node.graph.replace(node, new.outputs)


@dataclass(frozen=True)
class SinkScales(RulePass):
    """``Conv(f(x * s), w)  ->  Conv(f(x), w * s)``."""

    name: ClassVar[str] = "sink-scales"
    follows: ClassVar[tuple[str, ...]] = ("fuse-activation", "fuse-layer-norm", "fuse-softmax")

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [SinkScale()]


@dataclass
class _Region:
    """All that a factor reaches until constants take it in.

    ``takers`` holds new operands by place for each node whose constants change.
    """

    root: Value
    scale: Scale
    reached: dict[Value, Scale] = field(default_factory=dict)
    takers: dict[Node, dict[int, Array]] = field(default_factory=dict)

    def grow(self) -> Refusal | None:
        """Why something that the factor reaches neither takes it in nor passes it on."""
        self.reached[self.root] = self.scale
        queue: list[Value] = [self.root]
        seen: set[Node] = set()
        while queue:
            value = queue.pop()
            if value.is_output:
                return Refusal(f"the factor reaches the output %{value.name}", value)
            for user in value.users:
                if user in seen:
                    continue
                seen.add(user)
                if len(seen) > _MAX_NODES or user.graph is not self.root.graph or user.regions:
                    return Refusal("the factor reaches too much", user)
                after = self.pass_on(user, value)
                if isinstance(after, Refusal):
                    return after
                if user not in self.takers or user.op.name in ("Add", "Sub"):
                    self.reached[user.output] = after
                    queue.append(user.output)
        # What was taken for another value must not turn out to carry the factor as well.
        for node in seen:
            if sum(v in self.reached for v in node.inputs if v is not None) != 1:
                return Refusal("two operands carry the factor", node)
        return None if self.takers else Refusal("nobody reads it", self.root)

    def pass_on(self, node: Node, value: Value) -> Scale | Refusal:
        """The scale of the result of ``node``, or why ``node`` does not pass it on.

        A node that takes the scale in is noted; what is returned for it is not looked at, but for
        sums, which take it in and pass it on.
        """
        scale, name = self.reached[value], node.op.name
        stays = Refusal(lambda: f"{node.op.qualified} neither takes the factor nor passes it", node)
        if node.op.domain or node.output.tensor.dtype is not DType.F32:
            return stays
        if name in _PRODUCTS:
            return self.product(node, value, scale)
        if name in ("Mul", "Div", "Add", "Sub"):
            return self.pointwise(node, value, scale)
        if node.input(0) is not value:
            return stays
        if any(v.use_count for v in node.outputs[1:]):
            return Refusal("indices of its maxima are read", node)
        if name in _ORDERED and not scale.positive:
            return Refusal("the order of elements matters, and a factor is not positive", node)
        if name in MOVES:
            moved = carry_on(node, scale)
            return moved or Refusal(lambda: f"{name} does not leave the axis of the factors", node)
        if name in (*_ORDERED, *_POOLS):
            return scale
        if name == "Resize" and _resizes_linearly(node, scale):
            return scale
        return stays

    def pointwise(self, node: Node, value: Value, scale: Scale) -> Scale | Refusal:
        """Sums with constants are divided; other values may be factors."""
        rank = node.output.tensor.rank
        if rank is None or value.shape is None or len(node.inputs) != 2:
            return Refusal("the rank is not known", node)
        index = 0 if node.input(0) is value else 1
        other = node.input(1 - index)
        assert other is not None
        if other is value:
            return Refusal("two operands carry the factor", node)
        # Axes are counted from the last one where the other operand has more of them.
        if scale.axis is not None:
            scale = scale.moved(scale.axis + rank - len(value.shape))
        if node.is_a("Div"):
            return scale if index == 0 else Refusal("it divides by what carries the factor", node)
        if node.is_a("Mul"):
            if read_scale(other, node.output) is not None and value.shape == node.output.shape:
                self.takers[node] = {1 - index: scale.shaped(rank)}
            return scale
        if other.constant is None or other.constant.type.dtype is not DType.F32:
            return Refusal("a sum with a value that is not constant", node)
        if value.shape != node.output.shape:
            return Refusal("a sum changes the shape", node)
        if not fits(other, scale.inverse()):
            return Refusal("what takes the factor in would overflow", other)
        self.takers[node] = {1 - index: scale.inverse().shaped(rank)}
        return scale

    def product(self, node: Node, value: Value, scale: Scale) -> Scale | Refusal:
        """Weights take the factor in along what they sum over."""
        weight = node.input(1)
        constant = None if weight is None else weight.constant
        if node.input(0) is not value or weight is None or constant is None:
            return Refusal("its weights are not constant", node)
        if constant.type.dtype is not DType.F32:
            return Refusal(lambda: f"its weights are {constant.type}", node)
        if weight.use_count > 1 and constant.numel > _MAX_SHARED:
            return Refusal("its weights are shared", weight)
        if node.is_a("Gemm") and node.attr("transA"):
            return Refusal("it multiplies by the transpose", node)
        if not fits(weight, scale):
            return Refusal("what takes the factor in would overflow", weight)
        factors = _input_factors(node, scale, value.tensor.rank or 0)
        if factors is None:
            return Refusal("the factor does not vary along what it sums over", node)
        self.takers[node] = {1: factors}
        return scale


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
    shape, group = static_shape(weight.shape), int(node.attr("group"))
    assert shape is not None
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
