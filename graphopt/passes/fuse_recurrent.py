"""Recurrent cells that exporters spell out become one step of an ONNX recurrence.

``c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')  ->  LSTM(x, h, c)`` of
one step, where each gate is ``x @ w + h @ r + b`` with constant ``w``, ``r`` and ``b``: computed
together and split, apart, or over ``x`` and ``h`` put side by side. A Scan whose body is such a
step ``->  LSTM`` over the whole sequence.

In f32, over [batch, features]; nothing in between is read by others. Sound up to rounding: the
definition of the op (Hochreiter and Schmidhuber, "Long short-term memory", 1997).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.passes.gate_terms import Gate, read_gate
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseRecurrent"]

# Gates by name, in the order that ONNX stacks them.
_GATES = ("input", "output", "forget", "cell")


@dataclass
class _Cell:
    """A cell: its operands, the gates in ONNX's order, and the new hidden state."""

    x: Value
    h: Value
    c: Value
    gates: list[Gate]
    hidden: Value
    nodes: list[Node]

    @property
    def size(self) -> int:
        return self.gates[0].size


class FuseLstmCell(Rule):
    """``sigmoid(f) * c + sigmoid(i) * tanh(g), sigmoid(o) * tanh(...)  ->  LSTM``."""

    def pattern(self, op: PatternOps, f: Var, i: Var, g: Var, c: Var) -> NodePattern:
        """The new cell state; the new hidden state is one of its readers."""
        kept = op.Mul(op.Sigmoid(f), c)
        return op.Add(kept, op.Mul(op.Sigmoid(i), op.Tanh(g)))

    def check(self, m: Match) -> Refusal | None:
        """All four gates read the same input and state."""
        found = _cell(m)
        if isinstance(found, Refusal):
            return found
        m.nodes.extend(node for node in found.nodes if node not in m.nodes)
        assert found.hidden.producer is not None
        m.kept.add(found.hidden.producer)
        return m.check_uses()

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One step of an LSTM, which stands before all that read either state."""
        cell = _cell(m)
        assert isinstance(cell, _Cell)
        x, h, c = (op.Unsqueeze(value, (0,)) for value in (cell.x, cell.h, cell.c))
        w, r, b = _weights(cell)
        _, hidden, state = op.LSTM(
            x,
            op.constant(w, "w"),
            op.constant(r, "r"),
            op.constant(b, "b"),
            None,
            h,
            c,
            hidden_size=cell.size,
            _outputs=3,
        )
        op.graph.replace_all_uses(cell.hidden, op.Squeeze(hidden, (0,)))
        result: Value = op.Squeeze(state, (0,))
        return result


def _cell(m: Match) -> _Cell | Refusal:
    state, c = m.root.output, m["c"]
    if state.tensor.dtype is not DType.F32 or state.shape is None or c.shape != state.shape:
        return Refusal(lambda: f"it computes {state!r} from {c!r}", m.root)
    found = _output_gate(state)
    if found is None:
        return Refusal(lambda: f"nobody reads sigmoid(o) * tanh(%{state.name})", m.root)
    o, hidden, nodes = found
    gates = []
    for value in (m["i"], o, m["f"], m["g"]):
        gate = read_gate(value)
        if isinstance(gate, Refusal):
            return gate
        gates.append(gate)
        nodes.extend(node for node in gate.nodes if node not in nodes)
    operands = _operands(gates)
    if len(operands) != 2:
        return Refusal(
            lambda: f"its gates read {['%' + v.name for v in operands]}, not an input and a state",
            m.root,
        )
    # Over one step, input and state are alike: the state is what has the size of the cell.
    for x, h in (operands, operands[::-1]):
        if h.shape == state.shape and x.shape is not None and x.shape[0] == state.shape[0]:
            return _Cell(x, h, c, gates, hidden, nodes)
    return Refusal(lambda: f"none of {operands} has the size of the state {state!r}", m.root)


def _output_gate(state: Value) -> tuple[Value, Value, list[Node]] | None:
    """``(o, h', nodes)`` where ``h' = sigmoid(o) * tanh(state)``."""
    for tanh in state.users:
        if not tanh.is_a("Tanh"):
            continue
        for product in tanh.output.users:
            if not product.is_a("Mul"):
                continue
            for gate in product.inputs:
                node = None if gate is None else gate.producer
                if node is not None and node.is_a("Sigmoid") and (o := node.input(0)) is not None:
                    return o, product.output, [product, tanh, node]
    return None


def _operands(gates: list[Gate]) -> list[Value]:
    """What the gates multiply, each once; none where a gate lacks one of them."""
    found = list(dict.fromkeys(value for value, _ in gates[0].products))
    for gate in gates:
        if set(found) != {value for value, _ in gate.products}:
            return []
    return found


def _weights(cell: _Cell) -> tuple[Any, Any, Any]:
    """W [1, 4 H, I], R [1, 4 H, H] and B [1, 8 H] of ONNX."""
    w = np.concatenate([gate.matrix(cell.x) for gate in cell.gates])
    r = np.concatenate([gate.matrix(cell.h) for gate in cell.gates])
    zero = np.zeros(cell.size)
    b = [zero if gate.bias is None else gate.bias for gate in cell.gates]
    bias = np.concatenate([*b, np.zeros(4 * cell.size)])
    return tuple(np.ascontiguousarray(a[None], np.float32) for a in (w, r, bias))  # type: ignore[return-value]


@dataclass(frozen=True)
class FuseRecurrent(RulePass):
    """Spelled-out recurrent cells ``->`` LSTM."""

    name: ClassVar[str] = "fuse-recurrent"

    def rules(self, graph: Graph) -> list[Rule]:
        """Cells first."""
        return [FuseLstmCell()]
