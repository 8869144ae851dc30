"""One step of an LSTM or a GRU is a product or two and a few pointwise ops.

``LSTM(x, w, r, b, h, c)`` of one step  ``->  Gemm([x h], [w r], b)``, split into gates, and
``c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')``. The weights are
packed once; the recurrent kernel, which is made for many steps, takes them as they are. ``GRU``
that resets after the product  ``->  Gemm(x, w), Gemm(h, r)``, ``n = tanh(nx + sigmoid(r) * nh)``
and ``h' = (h - n) * sigmoid(z) + n``.

Forwards, in f32, with constant weights and default activations; without lengths, peepholes, clips
or coupled gates.

Sound: the definition of the op; its sums in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.ops import plan_regions
from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["LowerRecurrent"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LowerRecurrent(Pass):
    """``LSTM`` and ``GRU`` of one step  ``->  Gemm`` and gates."""

    name: ClassVar[str] = "cpu-lower-recurrent"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            if step_refusal(node) is not None:
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            results = _lstm(builder, node) if node.is_a("LSTM") else _gru(builder, node)
            record_edit(ctx.log, self.name, "LowerRecurrent", [node], builder.created)
            graph.replace(node, results[: len(node.outputs)])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why no kernel takes the node."""
        return step_refusal(node)


def step_refusal(node: Node) -> Refusal | None:
    """Why ``node`` is not one step of a plain LSTM or GRU; None when it is."""
    if not node.is_a("LSTM") and not node.is_a("GRU"):
        return Refusal("it is no LSTM or GRU", node)
    x, w, r, b = (node.input(i) for i in range(4))
    assert x is not None and w is not None and r is not None
    if x.tensor.dtype is not DType.F32 or not x.shape or x.shape[0] != 1 or node.attr("layout"):
        return Refusal(lambda: f"{x!r} is not one step in f32", x)
    if any(v is not None and v.constant is None for v in (w, r, b)):
        return Refusal("its weights are not constant", w)
    if node.input(4) is not None or node.input(7) is not None:
        return Refusal("it has lengths or peepholes", node)
    if node.attr("direction") not in (None, "forward"):
        return Refusal(lambda: f"its direction is {node.attr('direction')}", node)
    names = [str(name).lower() for name in node.attr("activations") or ()]
    if names not in ([], ["sigmoid", "tanh", "tanh"][: 3 if node.is_a("LSTM") else 2]):
        return Refusal(lambda: f"its activations are {names}", node)
    if node.is_a("GRU") and (not node.attr("linear_before_reset") or node.input(5) is None):
        return Refusal("it resets before the product, or has no state", node)
    if node.attr("clip") or node.attr("input_forget"):
        return Refusal("it clips or couples gates", node)
    return None


def _array(value: Value) -> Array:
    """A constant without its axis of directions."""
    assert value.constant is not None
    found: Array = value.constant.array[0]
    return found


def _lstm(op: Builder, node: Node) -> list[Value]:
    """Y, Y_h and Y_c."""
    x, w, r, b, _, h, c = (node.input(i) for i in range(7))
    assert x is not None and w is not None and r is not None
    weight, operand = _array(w), op.Squeeze(x, (0,))
    size = _array(r).shape[1]
    if h is not None:
        operand = op.Concat(operand, op.Squeeze(h, (0,)), axis=1)
        weight = np.concatenate([weight, _array(r)], axis=1)
    bias = np.zeros(4 * size, np.float32)
    if b is not None:
        bias = _array(b).reshape(2, -1).astype(np.float64).sum(0).astype(np.float32)
    gates = op.Gemm(
        operand,
        op.constant(np.ascontiguousarray(weight), f"{w.name}.step"),
        op.constant(bias, f"{w.name}.bias"),
        transB=1,
    )
    i, o, f, g = op.Split(gates, op.constant([size] * 4, "sizes"), axis=1, _outputs=4)
    state = op.Mul(op.Sigmoid(i), op.Tanh(g))
    if c is not None:
        state = op.Add(op.Mul(op.Sigmoid(f), op.Squeeze(c, (0,))), state)
    hidden = op.Mul(op.Sigmoid(o), op.Tanh(state))
    return [op.Unsqueeze(hidden, (0, 1)), op.Unsqueeze(hidden, (0,)), op.Unsqueeze(state, (0,))]


def _gru(op: Builder, node: Node) -> list[Value]:
    """Y and Y_h."""
    x, w, r, b, _, state = (node.input(i) for i in range(6))
    assert x is not None and w is not None and r is not None
    size = _array(r).shape[1]
    rows = np.zeros((2, 3 * size), np.float32) if b is None else _array(b).reshape(2, -1)
    h = op.Squeeze(state, (0,))
    parts = []
    for operand, matrix, row in ((op.Squeeze(x, (0,)), w, rows[0]), (h, r, rows[1])):
        weight = op.constant(_array(matrix), f"{matrix.name}.step")
        y = op.Gemm(operand, weight, op.constant(row, f"{matrix.name}.bias"), transB=1)
        parts.append(op.Split(y, op.constant([size] * 3, "sizes"), axis=1, _outputs=3))
    (zx, rx, nx), (zh, rh, nh) = parts
    z, reset = op.Sigmoid(op.Add(zx, zh)), op.Sigmoid(op.Add(rx, rh))
    n = op.Tanh(op.Add(nx, op.Mul(reset, nh)))
    hidden = op.Add(op.Mul(op.Sub(h, n), z), n)
    return [op.Unsqueeze(hidden, (0, 1)), op.Unsqueeze(hidden, (0,))]
