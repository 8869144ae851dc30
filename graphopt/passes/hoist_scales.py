"""A constant factor moves up to the weights of what came before.

``f(Conv(x, w, b)) * s  ->  f(Conv(x, s * w, s * b))``, where ``f`` is linear or, for a positive
``s``, keeps the order: shape operations, sums with constants (which are scaled), Relu, LeakyRelu,
pools and reductions. Gemm, MatMul, ConvTranspose, normalisations and products with a constant take
factors as well. ``/ s`` is a product with ``1 / s``.

Factors are f32, one for all or one an index of one axis that ``f`` leaves whole, and far from zero
and infinity; nothing in between is read by others. Sound up to rounding: ``f(s * z) = s * f(z)``.
New constants are computed in f64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Constant, DType, Graph, Node, Value, static_shape
from graphopt.passes.scales import MOVES, Scale, along, carry_back, fits, read_scale, scaled
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["HoistScales"]

Array = np.ndarray[Any, Any]
_POOLS = ("AveragePool", "GlobalAveragePool")
_ORDERED = ("Relu", "LeakyRelu", "PRelu", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NORMS = ("LayerNormalization", "RMSNormalization")
_CHANNEL_NORMS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization")
_MAX_STEPS = 16
# Weights that others read as well would be there twice.
_MAX_SHARED = 1 << 14


# The nodes between factor and weights, readers first, with the scale of each one's result.
_Steps = list[tuple[Node, Scale]]


def _constant_f32(value: Value | None) -> Constant | None:
    found = None if value is None else value.constant
    return found if found is not None and found.type.dtype is DType.F32 else None


def _step(node: Node, scale: Scale) -> Scale | Refusal:
    """The scale on the first operand of ``node`` that comes to ``scale`` on its result."""
    name = node.op.name
    if name in _ORDERED:
        if not scale.positive:
            return Refusal("the order of elements matters, and a factor is not positive", node)
        if any(v.use_count for v in node.outputs[1:]):
            return Refusal("indices of its maxima are read", node)
    if name in MOVES:
        carried = carry_back(node, scale)
        return carried or Refusal(lambda: f"{name} does not leave the axis of the factors", node)
    return scale


def _is_step(node: Node) -> bool:
    return not node.op.domain and (node.op.name in MOVES or node.op.name in (*_POOLS, *_ORDERED))


class HoistScale(Rule):
    """``f(Conv(x, w, b)) * s  ->  f(Conv(x, s * w, s * b))``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """A product with a constant, or a quotient."""
        return [op.Mul(x, op.constant("s")), op.Div(x, op.constant("s"))]

    def check(self, m: Match) -> Refusal | None:
        """Follows ``x`` up to weights; everything on the way must pass the factor on."""
        root = m.root
        scale = read_scale(m["s"], root.output, inverse=root.is_a("Div"))
        if scale is None or m["x"].tensor.dtype is not DType.F32:
            return Refusal("the factor is not of f32 along one axis, or too near zero", m["s"])
        if m["x"].shape is None or m["x"].shape != root.output.shape:
            return Refusal("it changes the shape", root)
        plan = _walk(m, scale)
        if isinstance(plan, Refusal):
            return plan
        m.nodes.extend(node for node, _ in plan)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Builds the chain anew from its weights on."""
        scale = read_scale(m["s"], m.root.output, inverse=m.root.is_a("Div"))
        assert scale is not None
        steps = _walk(m, scale)
        assert not isinstance(steps, Refusal)
        node, scale = steps[-1]
        value = _absorb(op, node, scale)
        for node, scale in reversed(steps[:-1]):
            value = _again(op, node, value, scale)
        return value


def _walk(m: Match, scale: Scale) -> _Steps | Refusal:
    steps: _Steps = []
    value = m["x"]
    for _ in range(_MAX_STEPS):
        node = value.producer
        if node is None or node.graph is not m.root.graph:
            return Refusal("no weights come before", value)
        if value.use_count != 1 or value.index:
            return Refusal(_readers(value), value)
        steps.append((node, scale))
        if _is_step(node):
            found = _step(node, scale)
            if isinstance(found, Refusal):
                return found
            scale, operand = found, node.input(0)
        else:
            ended = _end(node, scale)
            if not isinstance(ended, Value):
                return ended or steps
            operand = ended
        assert operand is not None
        value = operand
    return Refusal("weights are too far", value)


def _readers(value: Value) -> Callable[[], str]:
    return lambda: f"%{value.name} is read {value.use_count} times"


def _end(node: Node, scale: Scale) -> Value | Refusal | None:
    """None where ``node`` takes the factor in, else the operand to follow, or why neither."""
    if node.is_a("Add") or node.is_a("Sub"):
        return _sum(node, scale)
    rank = node.output.tensor.rank
    if node.output.tensor.dtype is not DType.F32 or rank is None or node.op.domain:
        return Refusal(lambda: f"{node.op.qualified} passes no factor on", node)
    taker = _TAKERS.get(node.op.name)
    if taker is None:
        return Refusal(lambda: f"{node.op.qualified} passes no factor on", node)
    return taker(node, scale, rank)


def _sum(node: Node, scale: Scale) -> Value | Refusal:
    a, b = node.inputs
    assert a is not None and b is not None
    for other, constant in ((a, b), (b, a)):
        if _constant_f32(constant) is not None and not other.is_constant:
            if not fits(constant, scale):
                return _too_large(constant)
            if other.shape != node.output.shape:
                return Refusal("a sum changes the shape", node)
            return other
    return Refusal("a sum of two values that are not constant", node)


def _too_large(value: Value) -> Refusal:
    return Refusal("what takes the factor in would overflow", value)


def _product(node: Node, scale: Scale, rank: int) -> Refusal | None:
    axis = rank - 1 if node.is_a("MatMul") else 1
    weight, bias = node.input(1), node.input(2)
    if _constant_f32(weight) is None or (bias is not None and _constant_f32(bias) is None):
        return Refusal("its weights or bias are not constant", node)
    if scale.axis not in (None, axis):
        return Refusal("the factor does not vary along output channels alone", node)
    for value in (weight, bias):
        if value is not None and not fits(value, scale):
            return _too_large(value)
    assert weight is not None
    if weight.use_count > 1 and weight.tensor.numel > _MAX_SHARED:  # type: ignore[operator]
        return Refusal("its weights are shared", weight)
    if node.is_a("MatMul") and weight.tensor.rank != 2 and scale.axis is not None:
        return Refusal("its weights are not a matrix", node)
    return None


def _norm(node: Node, scale: Scale, rank: int) -> Refusal | None:
    gain, shift = node.input(1), node.input(2)
    if len(node.outputs) > 1:
        return Refusal("its statistics may be read", node)
    if _constant_f32(gain) is None or (shift is not None and _constant_f32(shift) is None):
        return Refusal("its scale or shift is not constant", node)
    if node.attr("training_mode"):
        return Refusal("it runs in training mode", node)
    if scale.axis not in (None, 1 if node.op.name in _CHANNEL_NORMS else rank - 1):
        return Refusal("the factor does not vary along the axis of its scale alone", node)
    return None


def _factor(node: Node, scale: Scale, rank: int) -> Refusal | None:
    a, b = node.inputs
    constant = b if _constant_f32(b) is not None else a
    assert a is not None and b is not None and constant is not None
    other = a if constant is b else b
    if read_scale(constant, node.output) is None or other.shape != node.output.shape:
        return Refusal("a factor is not constant, too near zero, or changes the shape", node)
    return None


_TAKERS: dict[str, Callable[[Node, Scale, int], Refusal | None]] = {
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys((*_NORMS, *_CHANNEL_NORMS), _norm),
    "Mul": _factor,
}


def _output_factors(node: Node, scale: Scale) -> Array:
    """``scale`` on the result of a product, shaped to multiply its weights."""
    weight = node.input(1)
    assert weight is not None
    if scale.axis is None:
        return scale.numbers.reshape(())
    rank = weight.tensor.rank or 2
    if node.is_a("ConvTranspose"):
        inner, group = (static_shape(weight.shape) or ())[0], int(node.attr("group"))
        rows = np.repeat(scale.numbers.reshape(group, -1), inner // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (rank - 2))
    first = node.is_a("Conv") or (node.is_a("Gemm") and node.attr("transB"))
    return along(scale.numbers, 0 if first else 1, rank)


def _absorb(op: Builder, node: Node, scale: Scale) -> Value:
    """``node`` with its result times ``scale``, which its constants take in."""
    inputs = list(node.inputs)
    row = scale.shaped(1) if scale.axis is None else scale.numbers
    if node.is_a("Mul"):
        index = 1 if _constant_f32(inputs[1]) is not None else 0
        factors = {index: scale.shaped(node.output.tensor.rank or 0)}
    elif node.op.name in _PRODUCTS:
        factors = {1: _output_factors(node, scale), 2: row}
    else:
        factors = {1: row, 2: row}
    for index, numbers in factors.items():
        value = node.input(index)
        if value is not None:
            inputs[index] = scaled(op, value, numbers)
    return _rebuilt(op, node, inputs)


def _again(op: Builder, node: Node, value: Value, scale: Scale) -> Value:
    """``node`` over ``value`` in place of its operand; summands are scaled."""
    inputs = list(node.inputs)
    if node.is_a("Add") or node.is_a("Sub"):
        index = 1 if inputs[1] is not None and inputs[1].is_constant else 0
        constant = inputs[index]
        assert constant is not None
        inputs[index] = scaled(op, constant, scale.shaped(node.output.tensor.rank or 0))
        inputs[1 - index] = value
    else:
        inputs[0] = value
    return _rebuilt(op, node, inputs)


def _rebuilt(op: Builder, node: Node, inputs: list[Value | None]) -> Value:
    types = [value.type for value in node.outputs]
    new = op.call(node.op, *inputs, _outputs=len(types), _types=types, **node.attrs)
    return new.output


@dataclass(frozen=True)
class HoistScales(RulePass):
    """``f(Conv(x, w)) * s  ->  f(Conv(x, s * w))``."""

    name: ClassVar[str] = "hoist-scales"
    follows: ClassVar[tuple[str, ...]] = ("fuse-activation", "fuse-layer-norm", "fuse-softmax")

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [HoistScale()]
