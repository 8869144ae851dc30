"""Writing op schemas and costs in few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.graph import Node, Value
from graphopt.ir.op import REQUIRED, AttrSpec, Cost
from graphopt.ir.types import TensorType

__all__ = ["REQUIRED", "attr_specs", "bytes_moved", "cost_of", "f32", "pointwise_cost"]


def f32(value: float) -> float:
    """``value`` as ONNX stores a float attribute: rounded to f32."""
    return float(np.float32(value))


def attr_specs(**specs: str | tuple[str, Any]) -> Mapping[str, AttrSpec]:
    """Attributes as ``name="kind"`` (absence has a meaning) or ``name=("kind", default)``."""
    table: dict[str, AttrSpec] = {}
    for name, spec in specs.items():
        kind, default = (spec, None) if isinstance(spec, str) else spec
        table[name] = AttrSpec(kind, f32(default) if isinstance(default, float) else default)
    return MappingProxyType(table)


def _nbytes(value: Value) -> Dim:
    if not isinstance(value.type, TensorType):
        return 0
    numel = value.type.numel
    return 0 if numel is None else numel * value.type.dtype.nbytes


def bytes_moved(node: Node) -> Dim:
    """Bytes of all operands and outputs; values of unknown rank count as nothing."""
    total: Dim = 0
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            total = total + _nbytes(value)
    return total


def cost_of(flops: Callable[[Node], Dim | None]) -> Callable[[Node], Cost]:
    """A cost function from one that counts flops (None: unknown, counted as 0)."""

    def cost(node: Node) -> Cost:
        count = flops(node)
        return Cost(0 if count is None else count, bytes_moved(node))

    return cost


def pointwise_cost(work: int, *, per_operand: bool = False) -> Callable[[Node], Cost]:
    """``work`` flops for each output element, once an operand with ``per_operand``."""

    def flops(node: Node) -> Dim | None:
        count = node.output.tensor.numel
        if count is None:
            return None
        return count * work * (max(len(node.inputs) - 1, 1) if per_operand else 1)

    return cost_of(flops)
