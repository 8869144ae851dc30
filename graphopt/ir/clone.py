"""Copies of graphs and of parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphopt.ir.graph import Graph, Node, Value

__all__ = ["clone", "copy_nodes"]


def clone(graph: Graph) -> Graph:
    """A deep copy of a root graph; constants share their data."""
    return _clone(graph, None, {})


def copy_nodes(
    nodes: Iterable[Node],
    target: Graph,
    mapping: dict[Value, Value],
    *,
    before: Node | None = None,
    origin: Iterable[str] | None = None,
) -> None:
    """Copies ``nodes`` (in topological order) into ``target``, which may be of the same root.

    ``mapping`` says what stands for values from outside and is extended by every output copied. A
    value that it lacks is used as it is: it must be in scope. ``origin`` is added to each copy's.
    """
    for node in nodes:
        inputs = [None if v is None else mapping.get(v, v) for v in node.inputs]
        attrs = {k: _copy_attr(v, target, mapping) for k, v in node.attrs.items()}
        copy = target.add(
            node.op,
            inputs,
            attrs,
            types=[v.type for v in node.outputs],
            names=[v.name for v in node.outputs],
            name=node.name,
            origin=node.origin if origin is None else node.origin | frozenset(origin),
            before=before,
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.set_elements(old.elements)
            mapping[old] = new


def _clone(graph: Graph, parent: Graph | None, mapping: dict[Value, Value]) -> Graph:
    result = Graph(graph.name, parent)
    result.metadata = dict(graph.metadata)
    result.doc = graph.doc
    if parent is None:
        result._symbols.update(graph.root._symbols)
    for value in graph.inputs:
        mapping[value] = result.add_input(value.name, value.type, rename=parent is not None)
        mapping[value].set_elements(value.elements)
    for value in graph.constants.values():
        assert value.constant is not None
        mapping[value] = result.add_constant(value.constant, value.name)
    copy_nodes(graph, result, mapping)
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        result.add_output(mapping.get(value, value), name)
    return result


def _copy_attr(value: Any, target: Graph, mapping: Mapping[Value, Value]) -> Any:
    if isinstance(value, Graph):
        return _clone(value, target, dict(mapping))
    return value
