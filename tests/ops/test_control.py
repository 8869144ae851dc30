"""Regions: types that leave them, and If, Loop, Scan, SequenceMap, sequences and optionals run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import ModelError
from graphopt.ir import (
    Builder,
    DType,
    Graph,
    OptionalType,
    SequenceType,
    TensorType,
    Value,
    sym,
    verify,
)
from graphopt.ops.interpreter import run_graph

F32 = DType.F32
N = sym("N")


def region(parent: Graph, name: str, *types: Any) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph(name, parent)
    values = [graph.add_input(graph.root.fresh_name("r") + "_", t) for t in types]
    return graph, Builder(graph, origin=["test"]), values


def dims(value: Value) -> str:
    return "?" if value.shape is None else ", ".join(map(str, value.shape))


# ---- If ----


def make_if(then_shape: str, else_shape: str) -> tuple[Graph, Value]:
    graph = Graph()
    from graphopt.ir import parse_dim

    condition = graph.add_input("condition", TensorType(DType.BOOL, ()))
    branches = []
    for name, text in (("then", then_shape), ("else", else_shape)):
        shape = tuple(parse_dim(part) for part in text.split(",") if part.strip())
        outer = graph.add_input(name, TensorType(F32, shape))
        branch, build, _ = region(graph, name)
        branch.add_output(build.Neg(outer))
        branches.append(branch)
    value = Builder(graph, origin=["test"]).If(
        condition, then_branch=branches[0], else_branch=branches[1]
    )
    graph.add_output(value)
    verify(graph, types=True)
    return graph, value


@pytest.mark.parametrize(
    ("then", "other", "expected"),
    [("N, 3", "N, 3", "N, 3"), ("2, 3", "4, 3", "if, 3"), ("N, 3", "N", "?"), ("", "", "")],
)
def test_if_merges_types(then: str, other: str, expected: str) -> None:
    assert dims(make_if(then, other)[1]) == expected


def test_if_runs_one_branch() -> None:
    graph, _ = make_if("2", "3")
    then, other = np.ones(2, np.float32), np.ones(3, np.float32)
    assert run_graph(graph, [np.array(True), then, other])[0].shape == (2,)
    assert run_graph(graph, [np.array([False]).reshape(()), then, other])[0].shape == (3,)


def test_symbols_of_a_branch_do_not_leave_it() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (N,)))
    condition = graph.add_input("condition", TensorType(DType.BOOL, ()))
    branches = []
    for name in ("then", "else"):
        branch, build, _ = region(graph, name)
        branch.add_output(build.NonZero(x))
        branches.append(branch)
    value = Builder(graph, origin=["test"]).If(
        condition, then_branch=branches[0], else_branch=branches[1]
    )
    inner = {str(branch.outputs[0].shape[1]) for branch in branches}
    assert value.shape[0] == 1
    assert str(value.shape[1]) not in inner


def test_if_needs_branches_of_one_kind() -> None:
    graph = Graph()
    condition = graph.add_input("condition", TensorType(DType.BOOL, ()))
    one, two = Graph("then", graph), Graph("else", graph)
    one.add_output(one.add_constant(np.zeros(1, np.float32)))
    with pytest.raises(ModelError, match="number of outputs of its else_branch is 0, not 1"):
        Builder(graph, origin=["t"]).If(condition, then_branch=one, else_branch=two)
    two.add_output(two.add_constant(np.zeros(1, np.int64)))
    with pytest.raises(ModelError, match="differ"):
        Builder(graph, origin=["t"]).If(condition, then_branch=one, else_branch=two)


# ---- Loop ----


def counting_loop(limit: Any, condition: Any, stop_at: int | None = None) -> Graph:
    """Carries a sum; yields the running sum each time."""
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (N,)))
    body, build, values = region(
        graph, "body", TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), x.type
    )
    trip, go_on, carried = values
    total = build.Add(carried, x)
    if stop_at is not None:
        go_on = build.Less(trip, np.array(stop_at))
    for value in (build.Identity(go_on), total, build.Identity(total)):
        body.add_output(value)
    build = Builder(graph, origin=["test"])
    zero = build.Sub(x, x)
    operands = [None if v is None else np.array(v) for v in (limit, condition)]
    for value in build.Loop(*operands, zero, body=body, _outputs=2):
        graph.add_output(value)
    verify(graph, types=True)
    return graph


@pytest.mark.parametrize(
    ("limit", "condition", "stop_at", "expected", "trips"),
    [
        (3, True, None, "3, N", 3),
        (3, None, None, "3, N", 3),
        # What the body says counts only where the loop has a condition.
        (3, None, 0, "3, N", 3),
        (3, True, 0, "trips, N", 1),
        (None, True, 1, "trips, N", 2),
        (0, True, None, "0, N", 0),
        (3, False, None, "trips, N", 0),
        (-2, None, None, "0, N", 0),
    ],
)
def test_loop(limit: Any, condition: Any, stop_at: Any, expected: str, trips: int) -> None:
    graph = counting_loop(limit, condition, stop_at)
    final, stacked = graph.outputs
    assert (dims(final), dims(stacked)) == ("N", expected)
    x = np.array([1, 2], np.float32)
    total, history = run_graph(graph, [x])
    assert total.tolist() == [trips, 2 * trips]
    if trips:
        assert history.tolist() == [[k, 2 * k] for k in range(1, trips + 1)]
    else:
        # No iteration says how large an element would be: symbolic sizes count as 0.
        assert history.shape == (0, 0)


def test_loop_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match="never end"):
        run_graph(counting_loop(None, None), [np.ones(1, np.float32)])


def test_a_shape_that_grows_in_a_loop_is_fresh_outside() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (1,)))
    grown = TensorType(F32, (graph.fresh_symbol("grown"),))
    body, build, values = region(
        graph, "body", TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), grown
    )
    for value in (build.Identity(values[1]), build.Concat(values[2], x, axis=0)):
        body.add_output(value)
    result = Builder(graph, origin=["test"]).Loop(np.array(3), None, x, body=body)
    graph.add_output(result)
    assert dims(result).startswith("loop")
    assert run_graph(graph, [np.ones(1, np.float32)])[0].shape == (4,)


# ---- Scan ----


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("prepend", [0, 1])
def test_scan(backward: int, prepend: int) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (2, N)))
    start = graph.add_input("start", TensorType(F32, (2,)))
    body, build, (state, item) = region(graph, "body", start.type, TensorType(F32, (2,)))
    total = build.Add(state, item)
    body.add_output(total)
    body.add_output(build.Identity(total))
    outputs = Builder(graph, origin=["test"]).Scan(
        start, x, body=body, num_scan_inputs=1, scan_input_axes=(1,), scan_output_axes=(-1,),
        scan_input_directions=(backward,), scan_output_directions=(prepend,), _outputs=2,
    )  # fmt: skip
    for value in outputs:
        graph.add_output(value)
    assert [dims(v) for v in outputs] == ["2", "2, N"]
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    last, history = run_graph(graph, [data, np.zeros(2, np.float32)])
    sums = np.cumsum(data[:, ::-1] if backward else data, axis=1)
    np.testing.assert_array_equal(last, data.sum(axis=1))
    np.testing.assert_array_equal(history, sums[:, ::-1] if prepend else sums)
    empty = run_graph(graph, [data[:, :0], np.ones(2, np.float32)])
    assert empty[0].tolist() == [1, 1]
    assert empty[1].shape == (2, 0)


# ---- sequences and optionals ----


def test_sequences_run() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (N,)))
    build = Builder(graph, origin=["test"])
    items = build.SequenceInsert(build.SequenceEmpty(), x)
    items = build.SequenceInsert(items, build.Neg(x), np.array(0))
    items = build.SequenceInsert(items, build.Concat(x, x, axis=0), np.array(-1))
    items = build.SequenceErase(items, np.array(0))
    for value in (
        build.SequenceAt(items, np.array(-1)),
        build.SequenceLength(items),
        build.ConcatFromSequence(items, axis=0),
        build.SequenceLength(build.SplitToSequence(x, keepdims=0)),
    ):
        graph.add_output(value)
    verify(graph, types=True)
    last, length, joined, parts = run_graph(graph, [np.array([1, 2], np.float32)])
    assert last.tolist() == [1, 2]
    assert (length, parts) == (2, 2)
    assert joined.tolist() == [1, 2, 1, 2, 1, 2]


def test_sequence_positions_are_checked() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, ()))
    at = graph.add_input("at", TensorType(DType.I64, ()))
    build = Builder(graph, origin=["test"])
    graph.add_output(build.SequenceAt(build.SequenceConstruct(x, x), at))
    assert run_graph(graph, [np.float32(4), np.array(-2)])[0] == 4
    for position in (2, -3):
        with pytest.raises(ModelError, match="out of range"):
            run_graph(graph, [np.float32(4), np.array(position)])


def test_sequence_map() -> None:
    graph = Graph()
    kind = TensorType(F32, (graph.fresh_symbol("item"), 2))
    items = graph.add_input("items", SequenceType(kind))
    scale = graph.add_input("scale", TensorType(F32, ()))
    body, build, (item, factor) = region(graph, "body", kind, scale.type)
    body.add_output(build.Mul(item, factor))
    body.add_output(build.Transpose(item))
    scaled, turned = Builder(graph, origin=["test"]).SequenceMap(
        items, scale, body=body, _outputs=2
    )
    graph.add_output(scaled)
    graph.add_output(turned)
    # Elements may differ in what the input's elements differ in, and in nothing else.
    assert isinstance(scaled.type, SequenceType)
    assert isinstance(turned.type, SequenceType)
    assert str(scaled.type.element).startswith("f32[item")
    assert str(turned.type.element).startswith("f32[2, item")
    feeds = [np.ones((k, 2), np.float32) for k in (1, 3)]
    found = run_graph(graph, [feeds, np.float32(2)])
    assert [a.shape for a in found[0]] == [(1, 2), (3, 2)]
    assert [a.shape for a in found[1]] == [(2, 1), (2, 3)]
    assert found[0][1].max() == 2


def test_optionals() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(F32, (N,)))
    build = Builder(graph, origin=["test"])
    full = build.Optional(x)
    empty = build.Optional(type=TensorType(F32, (2,)))
    assert full.type == OptionalType(x.type)
    outputs = [build.OptionalHasElement(v) for v in (full, empty, x)]
    outputs += [build.OptionalHasElement(), build.OptionalGetElement(full)]
    for value in outputs:
        graph.add_output(value)
    *has, element = run_graph(graph, [np.ones(3, np.float32)])
    assert [bool(v) for v in has] == [True, False, True, False]
    assert element.tolist() == [1, 1, 1]
    graph.add_output(build.OptionalGetElement(empty))
    with pytest.raises(ModelError, match="holds nothing"):
        run_graph(graph, [np.ones(3, np.float32)])
