"""What a gate of a recurrent cell is a sum of: products with constant matrices, and a bias.

:func:`read_gate` walks from the operand of an activation through sums, splits and slices along the
features down to ``MatMul`` and ``Gemm``; gates that are computed together, apart, or over inputs
and state put side by side read alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir import Dim, Node, Value
from graphopt.rewrite import Refusal

__all__ = ["Gate", "read_gate"]

Array = np.ndarray[Any, Any]
_MAX_DEPTH = 12


@dataclass
class Gate:
    """``sum of operand @ matrix.T + bias`` over ``products``, with matrices [size, features]."""

    size: int
    products: list[tuple[Value, Array]] = field(default_factory=list)
    bias: Array | None = None
    nodes: list[Node] = field(default_factory=list)

    def add_bias(self, row: Array) -> None:
        """Adds numbers to the bias, in f64."""
        wide = np.broadcast_to(row.astype(np.float64), (self.size,))
        self.bias = wide if self.bias is None else self.bias + wide

    def matrix(self, operand: Value) -> Array | None:
        """The matrix that ``operand`` is multiplied with; None where it is not."""
        found = [matrix for value, matrix in self.products if value is operand]
        return sum(found[1:], found[0]) if found else None


def read_gate(value: Value) -> Gate | Refusal:
    """The terms of ``value`` [batch, size]; why it is no gate where it is none."""
    shape = value.shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        return Refusal(lambda: f"{value!r} is no matrix of a fixed number of features", value)
    gate = Gate(shape[1])
    refused = _read(value, 0, gate, 0)
    return gate if refused is None else refused


def _read(value: Value, begin: int, gate: Gate, depth: int) -> Refusal | None:
    """Adds features [begin, begin + size) of ``value`` to the gate."""
    if value.constant is not None:
        return _read_constant(value, begin, gate)
    node = value.producer
    if node is None or node.op.domain or depth > _MAX_DEPTH:
        return Refusal(lambda: f"%{value.name} is no sum of products", value)
    if node not in gate.nodes:
        gate.nodes.append(node)
    first = node.input(0)
    assert first is not None
    if node.is_a("Add"):
        return _read_sum(node, begin, gate, depth)
    if node.op.name in ("MatMul", "Gemm"):
        return _read_product(node, begin, gate)
    if node.op.name in ("Split", "Slice"):
        start = _start(node, value)
        if start is None:
            return Refusal(lambda: f"{node!r} does not cut features at a fixed place", node)
        return _read(first, begin + start, gate, depth + 1)
    return Refusal(lambda: f"{node.op.name} (%{value.name}) stands in a gate", node)


def _read_sum(node: Node, begin: int, gate: Gate, depth: int) -> Refusal | None:
    for operand in node.inputs:
        assert operand is not None
        same = operand.shape == node.output.shape
        if not same and operand.constant is None:
            return Refusal(f"{operand!r} broadcasts", node)
        refused = _read(operand, begin, gate, depth + 1)
        if refused is not None:
            return refused
    return None


def _read_constant(value: Value, begin: int, gate: Gate) -> Refusal | None:
    assert value.constant is not None
    array = value.constant.array
    if array.size != 1 and array.shape != (array.shape[-1],) and array.shape[:-1] != (1,):
        return Refusal(lambda: f"the summand {value!r} is no row", value)
    row = array.reshape(-1)
    gate.add_bias(row if row.size == 1 else row[begin : begin + gate.size])
    return None


def _read_product(node: Node, begin: int, gate: Gate) -> Refusal | None:
    x, weight, bias = node.input(0), node.input(1), node.input(2)
    assert x is not None and weight is not None
    if weight.constant is None or len(weight.shape or ()) != 2 or len(x.shape or ()) != 2:
        return Refusal(lambda: f"{node!r} is no product of a matrix with a constant one", node)
    matrix = weight.constant.array
    if node.is_a("Gemm"):
        if node.attr("alpha") != 1.0 or node.attr("beta") != 1.0 or node.attr("transA"):
            return Refusal(lambda: f"{node!r} scales or transposes", node)
        if bias is not None:
            if bias.constant is None:
                return Refusal(lambda: f"the bias {bias!r} is not constant", node)
            refused = _read_constant(bias, begin, gate)
            if refused is not None:
                return refused
    rows = matrix if node.attr("transB") else matrix.T
    rows = rows[begin : begin + gate.size]
    for part, columns in _parts(x, rows, gate):
        gate.products.append((part, columns))
    return None


def _parts(x: Value, rows: Array, gate: Gate) -> list[tuple[Value, Array]]:
    """Operands that were put side by side, each with its columns."""
    node = x.producer
    if node is None or not node.is_a("Concat") or int(node.attr("axis")) not in (1, -1):
        return [(x, rows)]
    widths: list[Dim] = [v.shape[1] if v is not None and v.shape else -1 for v in node.inputs]
    fixed = [width for width in widths if isinstance(width, int) and width >= 0]
    if len(fixed) != len(widths) or x.use_count != 1 or x.is_output:
        return [(x, rows)]
    gate.nodes.append(node)
    ends = np.cumsum(fixed)
    return [
        (value, rows[:, end - width : end])
        for value, width, end in zip(node.inputs, fixed, ends, strict=True)
        if value is not None
    ]


def _start(node: Node, value: Value) -> int | None:
    """Where the features of ``value`` begin in what ``node`` cuts."""
    rank = value.tensor.rank
    if rank is None:
        return None
    if node.is_a("Split"):
        if int(node.attr("axis")) not in (-1, rank - 1):
            return None
        widths = [v.shape[-1] if v.shape else None for v in node.outputs[: value.index]]
        fixed = [width for width in widths if isinstance(width, int)]
        return sum(fixed) if len(fixed) == len(widths) else None
    constants = [None if v is None else v.constant for v in node.inputs[1:]]
    if len(constants) < 3 or constants[0] is None or constants[2] is None:
        return None
    if len(constants) > 3 and (constants[3] is None or constants[3].array.tolist() != [1]):
        return None
    starts, axes = constants[0].array.tolist(), constants[2].array.tolist()
    source = node.input(0)
    width = source.shape[-1] if source is not None and source.shape else None
    if len(starts) != 1 or axes[0] not in (-1, rank - 1) or not isinstance(width, int):
        return None
    start = int(starts[0]) + width if starts[0] < 0 else int(starts[0])
    return start if 0 <= start < width else None
