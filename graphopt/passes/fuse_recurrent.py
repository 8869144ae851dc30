"""Recurrent cells that exporters spell out become one step of an ONNX recurrence.

``c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')  ->  LSTM(x, h, c)`` of
one step, where each gate is ``x @ w + h @ r + b`` with constant ``w``, ``r`` and ``b``: computed
together and split, apart, or over ``x`` and ``h`` put side by side. ``n = tanh(nx + sigmoid(r) *
nh); h' = (h - n) * sigmoid(z) + n  ->  GRU(x, h)`` alike, where ``nx`` reads ``x`` and ``nh``
reads ``h`` alone; ``(1 - z) * n + z * h`` is the same.

In f32, over [batch, features]; nothing in between is read by others. Sound up to rounding: the
definition of the ops (Hochreiter and Schmidhuber, "Long short-term memory", 1997; Cho et al.,
"Learning phrase representations using RNN encoder-decoder", 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.passes.gate_terms import Gate, read_gate
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseRecurrent"]


@dataclass
class _Cell:
    """A cell: its operands, the gates as ONNX stacks them (i, o, f, c), and the hidden state."""

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
    # Over one step, input and state are alike: the state is what has the size of the cell, and of
    # two such the one that the graph takes first, as a Scan's body does.
    taken = [operand for operand in m.root.graph.inputs if operand in operands]
    if len(taken) == 2:
        operands = taken[::-1]
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


class FuseGruCell(Rule):
    """``(h - n) * z + n  ->  GRU``."""

    def pattern(
        self, op: PatternOps, h: Var, r: Var, z: Var, nx: Var, nh: Var
    ) -> list[NodePattern]:
        """The new state, as a step from the candidate or as a mean of both."""
        candidate = op.Tanh(op.Add(nx, op.Mul(op.Sigmoid(r, _bind="reset"), nh)))
        update = op.Sigmoid(z, _bind="update")
        return [
            op.Add(op.Mul(op.Sub(h, candidate), update), candidate),
            op.Add(op.Mul(op.Sub(1.0, update), candidate), op.Mul(update, h)),
        ]

    def check(self, m: Match) -> Refusal | None:
        """Gates read input and state, the parts of the candidate one of them each."""
        found = _gru(m)
        if isinstance(found, Refusal):
            return found
        for gate in (*found.gates, found.after):
            m.nodes.extend(node for node in gate.nodes if node not in m.nodes)
        return m.check_uses()

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One step of a GRU that resets after the product with the state."""
        cell = _gru(m)
        assert isinstance(cell, _Gru)
        x, h = (op.Unsqueeze(value, (0,)) for value in (cell.x, cell.h))
        w = np.concatenate([gate.matrix(cell.x) for gate in cell.gates])
        r = np.concatenate([gate.matrix(cell.h) for gate in (*cell.gates[:2], cell.after)])
        zero = np.zeros(cell.after.size)
        rows = [gate.bias if gate.bias is not None else zero for gate in (*cell.gates, cell.after)]
        b = np.concatenate([*rows[:3], zero, zero, rows[3]])
        operands = (np.ascontiguousarray(array[None], np.float32) for array in (w, r, b))
        _, state = op.GRU(
            x,
            *(op.constant(a, name) for a, name in zip(operands, "wrb", strict=True)),
            None,
            h,
            hidden_size=cell.after.size,
            linear_before_reset=1,
            _outputs=2,
        )
        result: Value = op.Squeeze(state, (0,))
        return result


@dataclass
class _Gru:
    """``gates`` are z, r and the candidate's part of the input; ``after`` that of the state."""

    x: Value
    h: Value
    gates: list[Gate]
    after: Gate


def _gru(m: Match) -> _Gru | Refusal:
    h, out = m["h"], m.root.output
    if out.tensor.dtype is not DType.F32 or out.shape is None or h.shape != out.shape:
        return Refusal(lambda: f"it computes {out!r} from {h!r}", m.root)
    gates = []
    for name in ("z", "r", "nx", "nh"):
        gate = read_gate(m[name])
        if isinstance(gate, Refusal):
            return gate
        gates.append(gate)
    inputs = list(dict.fromkeys(value for value, _ in gates[2].products))
    if len(inputs) != 1 or {value for value, _ in gates[3].products} != {h}:
        return Refusal(
            lambda: f"the candidate reads %{h.name} beside its input, or what it resets no state",
            m.root,
        )
    for gate in gates[:2]:
        if {value for value, _ in gate.products} != {inputs[0], h}:
            return Refusal("a gate does not read input and state alone", m.root)
    return _Gru(inputs[0], h, gates[:3], gates[3])


@dataclass(frozen=True)
class FuseRecurrent(RulePass):
    """Spelled-out recurrent cells ``->`` LSTM and GRU."""

    name: ClassVar[str] = "fuse-recurrent"

    def rules(self, graph: Graph) -> list[Rule]:
        """Both kinds of cells."""
        return [FuseLstmCell(), FuseGruCell()]
