"""Topological order of the nodes of an ONNX graph, nested graphs and their captures included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphopt.errors import ModelError
from graphopt.frontends.onnx_tensor import text

__all__ = ["free_names", "sorted_nodes"]

_GRAPH = 5


def sorted_nodes(nodes: Sequence[Any], defined: Callable[[str], bool]) -> Iterator[Any]:
    """``nodes`` in an order in which each comes after those it reads from.

    The file's own order is kept wherever it is possible. ``defined`` says which names the graph has
    besides. Raises ModelError naming a node that is on a cycle.
    """
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name:
                producers.setdefault(text(name), index)
    done = bytearray(len(nodes))  # 1: on the path, 2: yielded
    for root in range(len(nodes)):
        if done[root]:
            continue
        done[root] = 1
        stack = [(root, _dependencies(nodes[root], producers, defined))]
        while stack:
            index, pending = stack[-1]
            following = next(pending, None)
            if following is None:
                stack.pop()
                done[index] = 2
                yield nodes[index]
            elif done[following] == 1:
                node = nodes[following]
                raise ModelError(
                    f"node '{text(node.name) or text(node.op_type)}' ({text(node.op_type)}) is "
                    "on a cycle: it needs its own output"
                )
            elif not done[following]:
                done[following] = 1
                stack.append((following, _dependencies(nodes[following], producers, defined)))


def _dependencies(
    node: Any, producers: dict[str, int], defined: Callable[[str], bool]
) -> Iterator[int]:
    for raw in node.input:
        name = text(raw)
        found = producers.get(name) if name else None
        if found is not None and not defined(name):
            yield found
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for name in free_names(attribute.g):
                found = producers.get(name)
                if found is not None and not defined(name):
                    yield found


def free_names(graph: Any) -> list[str]:
    """Names that a graph reads from the graphs around it, in order of first reading."""
    own = {text(v.name) for v in (*graph.input, *graph.initializer)}
    own.update(text(s.values.name) for s in graph.sparse_initializer)
    for node in graph.node:
        own.update(map(text, node.output))
    free: dict[str, None] = {}
    for node in graph.node:
        for raw in node.input:
            name = text(raw)
            if name and name not in own:
                free[name] = None
        for attribute in node.attribute:
            if attribute.HasField("g"):
                free.update((n, None) for n in free_names(attribute.g) if n not in own)
    for output in graph.output:
        name = text(output.name)
        if name not in own:
            free[name] = None
    return list(free)
