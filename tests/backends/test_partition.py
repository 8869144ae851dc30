"""Merging nodes into kernels never closes a cycle, and the result is in a runnable order."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt import ops
from graphopt.backends.cpu.fuse_groups import FuseGroups
from graphopt.backends.cpu.partition import Partition, Unit
from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.rewrite import PassContext

# (operands as distances back among the values, can it be merged?)
Recipe = list[tuple[list[int], bool]]

RECIPES = st.lists(
    st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.booleans()),
    min_size=1,
    max_size=24,
)


def _build(recipe: Recipe) -> Graph:
    """Sum nodes (mergeable) and MatMul nodes (not) over [4, 4] matrices; all sinks are outputs."""
    graph = Graph("g")
    type = TensorType(DType.F32, (4, 4))
    values: list[Value] = [graph.add_input("x", type)]
    for distances, pointwise in recipe:
        operands = [values[-1 - (d - 1) % len(values)] for d in distances]
        if pointwise:
            node = graph.add(ops.get("Sum"), operands, types=[type])
        else:
            node = graph.add(ops.get("MatMul"), [operands[0], operands[-1]], types=[type])
        values.append(node.output)
    for value in values[1:]:
        if not value.use_count:
            graph.add_output(value)
    return graph


def _classify(node: Node) -> str | None:
    return "pointwise" if node.is_a("Sum") else None


def _merge_by(partition: Partition, choices: list[int]) -> int:
    """Merges pairs of neighbours in any order that the choices say; how many were merged."""
    merged = 0
    nodes = list(partition.graph)
    for choice in choices:
        node = nodes[choice % len(nodes)]
        lower = partition.unit[node]
        for value in node.inputs:
            upper = partition.producer(value)
            lower = partition.unit[node]
            if upper is None or upper is lower or not (upper.kind and lower.kind):
                continue
            if partition.can_merge(upper, lower):
                partition.merge(upper, lower, "pointwise")
                merged += 1
    return merged


def _edges(partition: Partition) -> set[tuple[int, int]]:
    found = set()
    for node in partition.graph:
        for value in node.inputs:
            upper = partition.producer(value)
            if upper is not None and upper is not partition.unit[node]:
                found.add((id(upper), id(partition.unit[node])))
    return found


def _assert_in_order(units: list[Unit], edges: set[tuple[int, int]]) -> None:
    """Every edge leads forward: an order exists, so there is no cycle, and this is one."""
    position = {id(unit): index for index, unit in enumerate(units)}
    assert len(position) == len(units)
    for upper, lower in edges:
        assert position[upper] < position[lower]


@given(RECIPES, st.lists(st.integers(0, 100), max_size=60))
@settings(max_examples=300, deadline=None)
def test_merged_units_stay_acyclic_and_sorted(recipe: Recipe, choices: list[int]) -> None:
    graph = _build(recipe)
    partition = Partition(graph, _classify)
    before = len(list(graph))
    merged = _merge_by(partition, choices)
    units = partition.units()
    assert len(units) == before - merged
    assert sorted(id(n) for u in units for n in u.nodes) == sorted(map(id, graph))
    edges = _edges(partition)
    _assert_in_order(units, edges)
    _assert_in_order(sorted(units, key=lambda unit: unit.rank), edges)
    for unit in units:
        assert all(partition.unit[node] is unit for node in unit.nodes)
        positions = [partition.position[node] for node in unit.nodes]
        assert positions == sorted(positions)
        assert (unit.first, unit.last) == (positions[0], positions[-1])


# A group whose way in lies behind its way out: positions of nodes do not tell what comes first.
BACKWARDS: Recipe = [
    ([1], True), ([1], False), ([3], False), ([1], False), ([1, 4], True), ([2, 4], False)
]  # fmt: skip


@given(RECIPES)
@example(BACKWARDS)
@settings(max_examples=200, deadline=None)
def test_a_refused_merge_would_have_closed_a_cycle(recipe: Recipe) -> None:
    """can_merge is exact: a pair that it refuses has a path through a third unit."""
    graph = _build(recipe)
    partition = Partition(graph, _classify)
    for node in graph:
        for value in node.inputs:
            lower, upper = partition.unit[node], partition.producer(value)
            if upper is None or upper is lower:
                continue
            edges = _edges(partition)
            below: dict[int, set[int]] = {}
            for a, b in edges:
                below.setdefault(a, set()).add(b)
            stack = [b for b in below.get(id(upper), ()) if b != id(lower)]
            seen: set[int] = set()
            while stack:
                at = stack.pop()
                if at not in seen:
                    seen.add(at)
                    stack.extend(below.get(at, ()))
            around = id(lower) in seen
            assert partition.can_merge(upper, lower) == (not around)
            if not around and upper.kind and lower.kind:
                partition.merge(upper, lower, "pointwise")


@given(RECIPES)
@settings(max_examples=100, deadline=None)
def test_the_pass_leaves_a_sound_graph(recipe: Recipe) -> None:
    """Groups read what was computed before them, and nothing is lost."""
    graph = _build(recipe)
    outputs = len(graph.outputs)
    heavy = sum(node.is_a("MatMul") for node in graph)
    FuseGroups()(graph, PassContext())
    assert len(graph.outputs) == outputs
    assert sum(node.is_a("MatMul") for node in graph) == heavy
    done = set(graph.inputs)
    for node in graph:
        for value in node.inputs:
            assert value is None or value.is_constant or value in done
        done.update(node.outputs)
    assert all(value in done for value in graph.outputs)
