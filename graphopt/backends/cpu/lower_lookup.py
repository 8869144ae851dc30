"""A function of one byte becomes a table of 256 bytes.

``Quantize(f(Dequantize(x)))  ->  lookup(x, table)`` for pointwise ``f``, however many ops, whose
other operands are constants of one element. What is quantized in between is part of the table: a
gate ``x * Quantize(HardSigmoid(x))`` is a function of ``x`` alone.

Sound: the table is the ops' own result for each of the 256 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.ops import DOMAIN, native
from graphopt.backends.cpu.quantized import BYTES, is_per_tensor
from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Graph, Node, TensorType, Trait, Value
from graphopt.ops.interpreter import evaluate_node
from graphopt.rewrite import (
    EXACT,
    Match,
    NodePattern,
    Numerics,
    PatternOps,
    Refusal,
    Rule,
    RulePass,
)

__all__ = ["LowerLookup"]

Array = np.ndarray[Any, Any]

# Longer formulas of one byte are rare; a bound keeps the walk short.
_MAX_NODES = 32


@dataclass
class _Formula:
    """Pointwise nodes, in order, that make a value of the bytes ``source`` and of constants."""

    source: Value | None
    nodes: list[Node]


def _formula(root: Node) -> _Formula | Refusal:
    """The nodes above ``root`` down to the bytes that they start from."""
    shape = root.output.shape
    order: dict[Node, None] = {}
    source: Value | None = None
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.setdefault(node)
            continue
        if node in order:
            continue
        if len(order) + len(stack) > 2 * _MAX_NODES:
            return Refusal(f"more than {_MAX_NODES} ops make it", node)
        stack.append((node, True))
        operands = node.inputs[:1] if node.op.domain == DOMAIN else node.inputs
        for value in operands:
            if value is None or (value.constant is not None and value.constant.numel == 1):
                continue
            if value.constant is not None:
                return Refusal(f"%{value.name} has {value.constant.numel} elements", value)
            if value.shape != shape:
                return Refusal(f"%{value.name} is of another shape", value)
            above = value.producer
            if above is not None and _continues(above):
                stack.append((above, False))
            elif value.tensor.dtype not in BYTES:
                return Refusal(f"%{value.name} is no function of bytes", value)
            elif source is not None and source is not value:
                return Refusal(f"it is made of %{source.name} and of %{value.name}", value)
            else:
                source = value
    return _Formula(source, list(order))


def _continues(node: Node) -> bool:
    if node.op.domain:
        return node.op.domain == DOMAIN and node.op.name == "lookup"
    if len(node.outputs) != 1 or node.op.has(Trait.NONDETERMINISTIC):
        return False
    if node.op.name in ("QuantizeLinear", "DequantizeLinear"):
        return is_per_tensor(node)
    return node.op.has(Trait.POINTWISE)


def _reshape(formula: _Formula) -> Node | None:
    """The Reshape that makes the source, when nobody else reads its result."""
    source = formula.source
    node = None if source is None else source.producer
    if source is None or node is None or not node.is_a("Reshape") or source.is_output:
        return None
    before = node.input(0)
    inner = [source, *(n.output for n in formula.nodes[:-1])]
    if before is None or before.shape is None or any(v.is_output for v in inner):
        return None
    return node if all(u in formula.nodes for v in inner for u in v.users) else None


def _table(formula: _Formula) -> Array:
    """The result for each byte. Raises GraphoptError where an op cannot be evaluated."""
    assert formula.source is not None
    dtype = formula.source.tensor.dtype.numpy
    known: dict[Value, Array] = {formula.source: np.arange(256, dtype=np.uint8).view(dtype)}
    for node in formula.nodes:
        operands = [None if v is None else _operand(v, known) for v in node.inputs]
        if node.op.domain == DOMAIN:
            index, entries = operands[0], node.input(1)
            assert index is not None and entries is not None and entries.constant is not None
            result = entries.constant.array[index.view(np.uint8)]
        else:
            with np.errstate(all="ignore"):
                result = np.asarray(evaluate_node(node, operands)[0])
        known[node.output] = np.broadcast_to(result, (256,))
    return np.ascontiguousarray(known[formula.nodes[-1].output])


def _operand(value: Value, known: dict[Value, Array]) -> Array:
    if value.constant is not None:
        return (
            value.constant.array.reshape(-1)[:1].reshape(())
            if value.constant.numel == 1
            else value.constant.array
        )
    return known[value]


class Table(Rule):
    """``Quantize(f(Dequantize(x)))  ->  lookup(x, table)``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        return op.op("QuantizeLinear", op.rest("operands"))

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        if node.output.tensor.dtype not in BYTES or not is_per_tensor(node):
            return Refusal("it does not quantize to bytes with one scale", node)
        formula = _formula(node)
        if isinstance(formula, Refusal):
            return formula
        if formula.source is None or formula.source.shape is None:
            return Refusal("no bytes of known rank are read", node)
        try:
            _table(formula)
        except GraphoptError as error:
            return Refusal(f"it cannot be computed at compile time: {error}", node)
        above = [n for n in reversed(formula.nodes[:-1]) if n not in m.nodes]
        # They are replaced too, unless somebody else reads them.
        m.nodes.extend(above)
        m.kept.update(above)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        formula = _formula(m.root)
        assert isinstance(formula, _Formula) and formula.source is not None
        out = m.root.output
        table = op.constant(_table(formula), "table")
        source = formula.source
        reshape = _reshape(formula)
        if reshape is not None:
            # What makes the bytes can take the table in if it comes first.
            before = reshape.input(0)
            assert before is not None
            source = before
        type = TensorType(out.tensor.dtype, source.shape)
        result = op.call(native("lookup"), source, table, _types=[type], _name=out.name).output
        if reshape is None:
            return result
        return op.call(reshape.op, result, reshape.input(1), **reshape.attrs).output


@dataclass(frozen=True)
class LowerLookup(RulePass):
    """Makes tables of functions of one byte."""

    name: ClassVar[str] = "cpu-lower-lookup"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        return [Table()]
