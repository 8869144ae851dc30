"""Running a graph in numpy, op by op: the semantics of record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.op import EvalContext

__all__ = ["evaluate_node", "run_graph"]

Observer = Callable[[Node, Sequence[Any]], None]
Entrance = Callable[[Graph, Sequence[Any]], None]


def run_graph(
    graph: Graph,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    observe: Observer | None = None,
    enter: Entrance | None = None,
) -> list[Any]:
    """Values of the graph's outputs. Tensors are numpy arrays, sequences lists, optionals None.

    ``inputs`` are by name or in order. ``observe(node, outputs)`` is called after every node,
    ``enter(graph, inputs)`` before the nodes of the graph, or of a region, whenever it runs.
    Raises ModelError naming the node that fails, UnsupportedError for an op without semantics.
    """
    if isinstance(inputs, Mapping):
        missing = [v.name for v in graph.inputs if v.name not in inputs]
        if missing:
            raise ModelError(f"no value for input '{missing[0]}'")
        inputs = [inputs[v.name] for v in graph.inputs]
    return _Interpreter(observe, enter).run(graph, inputs, {})


class _Interpreter:
    def __init__(self, observe: Observer | None, enter: Entrance | None) -> None:
        self.observe = observe
        self.enter = enter

    def run(self, graph: Graph, inputs: Sequence[Any], outer: Mapping[Value, Any]) -> list[Any]:
        values: dict[Value, Any] = dict(outer)
        values.update(zip(graph.inputs, inputs, strict=True))
        if self.enter is not None:
            self.enter(graph, inputs)
        for node in graph:
            operands = [None if v is None else _read(v, values) for v in node.inputs]
            results = evaluate_node(
                node, operands, lambda region, args: self.run(region, args, values)
            )
            if self.observe is not None:
                self.observe(node, results)
            values.update(zip(node.outputs, results, strict=False))
        return [_read(v, values) for v in graph.outputs]


def _read(value: Value, values: Mapping[Value, Any]) -> Any:
    if value.constant is not None:
        return value.constant.array
    return values[value]


def evaluate_node(
    node: Node,
    operands: Sequence[Any],
    run_region: Callable[[Graph, Sequence[Any]], list[Any]] | None = None,
) -> list[Any]:
    """Values of one node's outputs for these operand values."""
    op = node.op
    label = node.name or node.output.name
    if op.evaluate is None:
        raise UnsupportedError(f"node '{label}': nothing here can run the op {op.qualified}")
    wanted = [v.use_count > 0 for v in node.outputs]
    ctx = EvalContext(op, node.attrs, len(node.outputs), label, run_region, wanted, node)
    try:
        result = op.evaluate(ctx, *operands)
    except (ModelError, UnsupportedError):
        raise
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
        raise ModelError(f"node '{label}' ({op.qualified}): {error}") from error
    return list(result) if isinstance(result, tuple) else [result]
