"""``graphopt.optimize(graph, "onnx")``: the result can be written at the opset of the source."""

from __future__ import annotations

import math

import graphopt
from graphopt.rewrite import PassContext
from tests.backends.pipe import Net


def _hard_swish(opset: int) -> graphopt.Graph:
    net = Net(opset)
    x = net.input("x", (2, 8))
    gate = net("Clip", net("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    y = net("Div", net("Mul", x, gate), net.const(6.0))
    half = net("Mul", y, net("Sigmoid", y))
    return graphopt.from_onnx(net.output(net("Mul", half, net.const(math.sqrt(2)))).model())


def test_ops_of_younger_opsets_are_not_built() -> None:
    graph = graphopt.optimize(_hard_swish(13), "onnx")
    model = graphopt.to_onnx(graph)
    assert [item.version for item in model.opset_import] == [13]
    assert not {node.op_type for node in model.graph.node} & {"HardSwish", "Swish"}


def test_the_opset_of_the_source_decides() -> None:
    graph = graphopt.optimize(_hard_swish(21), "onnx")
    assert "HardSwish" in {node.op.name for node in graph}


def test_a_context_of_ones_own_decides() -> None:
    ctx = PassContext(accepts=lambda node: None)
    graph = graphopt.optimize(_hard_swish(13), "onnx", ctx=ctx)
    assert "HardSwish" in {node.op.name for node in graph}
    assert ctx.ran
