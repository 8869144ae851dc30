"""Ops on quantized operands become ops between DequantizeLinear and QuantizeLinear.

``QLinearConv(x, w)  ->  Quantize(Conv(Dequantize(x), Dequantize(w)))``, and so QLinearMatMul, and
of com.microsoft QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu, QLinearGlobalAveragePool
and QLinearConcat. One form for the passes that make integer kernels, whatever form a model has.

Sound up to rounding: that is how these ops are defined, but that QLinearConv and QLinearMatMul
multiply their integer sums by all scales at once, as the integer kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.backends.cpu.quantized import BYTES
from graphopt.ir import Builder, DType, Graph, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["ExpandQuantized"]

_MS = "com.microsoft"
# (value, scale, zero point) of each operand, by position, then those of the result.
_PRODUCTS = {"QLinearConv": "Conv", "QLinearMatMul": "MatMul"}
_POINTWISE = {
    "QLinearAdd": ("Add", 2), "QLinearMul": ("Mul", 2), "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1), "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
}  # fmt: skip


def _unknown(values: Sequence[Value | None]) -> Refusal | None:
    """Parameters that are not constant numbers of float32 and of bytes."""
    for value in values:
        if value is not None and value.constant is None:
            return Refusal(f"%{value.name} is only known when the model runs", value)
        if value is not None and value.tensor.dtype not in (*BYTES, DType.F32):
            return Refusal(f"%{value.name} is {value.type}", value)
    return None


class ExpandProduct(Rule):
    """``QLinearConv(x, w, b)  ->  Quantize(Conv(Dequantize(x), Dequantize(w), Dequantize(b)))``."""

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        return [op.op(name, op.rest("operands")) for name in _PRODUCTS]

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        unknown = _unknown([node.input(i) for i in (1, 2, 3, 4, 5, 6, 7)])
        if unknown is not None:
            return unknown
        for position in (1, 2, 6, 7):
            value = node.input(position)
            if value is not None and value.tensor.numel != 1:
                return Refusal(f"%{value.name} is not one number", value)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        node = m.root
        x, w = node.input(0), node.input(3)
        scale, weight_scale = node.input(1), node.input(4)
        assert w is not None and scale is not None and weight_scale is not None
        assert scale.constant is not None and weight_scale.constant is not None
        conv = node.is_a("QLinearConv")
        axis = 0 if conv else (w.tensor.rank or 1) - 1
        operands = [
            op.DequantizeLinear(x, scale, node.input(2)),
            op.DequantizeLinear(w, weight_scale, node.input(5), axis=axis),
        ]
        if (bias := node.input(8)) is not None:
            units = scale.constant.array.reshape(()) * weight_scale.constant.array
            units = units.reshape(()) if units.size == 1 else units
            unit = op.constant(np.asarray(units, np.float32), "bias_scale")
            operands.append(op.DequantizeLinear(bias, unit, axis=0))
        y = op.op(_PRODUCTS[node.op.name], *operands, **node.attrs)
        result: Value = op.QuantizeLinear(y, node.input(6), node.input(7), _name=node.output.name)
        return result


class ExpandPointwise(Rule):
    """``QLinearAdd(a, b)  ->  Quantize(Dequantize(a) + Dequantize(b))``."""

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        return [op.op(name, op.rest("operands"), _domain=_MS) for name in _POINTWISE]

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        if node.attrs.get("channels_last"):
            return Refusal("its channels come last", node)
        count = _POINTWISE[node.op.name][1]
        parameters = [node.input(i) for i in range(3 * count + 2) if i % 3 or i == 3 * count]
        return _unknown(parameters)

    def rewrite(self, op: Builder, m: Match) -> Value:
        node = m.root
        name, count = _POINTWISE[node.op.name]
        operands = [
            op.DequantizeLinear(*(node.input(3 * i + part) for part in range(3)))
            for i in range(count)
        ]
        attrs = {"alpha": node.attr("alpha")} if name == "LeakyRelu" else {}
        y = op.op(name, *operands, **attrs)
        scale, zero = node.input(3 * count), node.input(3 * count + 1)
        if zero is None:
            # Without one the type of the result is that of the operands.
            zero = op.constant(np.zeros((), node.output.tensor.dtype.numpy), "zero")
        result: Value = op.QuantizeLinear(y, scale, zero, _name=node.output.name)
        return result


class ExpandConcat(Rule):
    """``QLinearConcat(a, b)  ->  Quantize(Concat(Dequantize(a), Dequantize(b)))``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        return op.op("QLinearConcat", op.rest("operands"), _domain=_MS)

    def check(self, m: Match) -> Refusal | None:
        inputs = m.root.inputs
        return _unknown([*inputs[:2], *(v for i, v in enumerate(inputs[2:]) if i % 3)])

    def rewrite(self, op: Builder, m: Match) -> Value:
        node = m.root
        groups = range(2, len(node.inputs), 3)
        parts = [op.DequantizeLinear(*node.inputs[i : i + 3]) for i in groups]
        y = op.Concat(*parts, axis=node.attr("axis"))
        name = node.output.name
        result: Value = op.QuantizeLinear(y, node.inputs[0], node.inputs[1], _name=name)
        return result


@dataclass(frozen=True)
class ExpandQuantized(RulePass):
    """Takes ops on quantized operands apart."""

    name: ClassVar[str] = "cpu-expand-quantized"

    def rules(self, graph: Graph) -> list[Rule]:
        return [ExpandProduct(), ExpandPointwise(), ExpandConcat()]
