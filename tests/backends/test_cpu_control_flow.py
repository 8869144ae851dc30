"""If, Loop and Scan through the CPU pipe: captures, nesting, growing values, early exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.backends.pipe import Net, check, kernels

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _info(name: str, dtype: int = F32, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def _graph(name: str, nodes: Any, inputs: Any, outputs: Any, weights: Any = ()) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(weights).items()]
    return helper.make_graph(nodes, name, inputs, outputs, tensors)


def _flag(value: bool) -> Any:
    return lambda rng, shape: np.array(value)


def _count(value: int) -> Any:
    return lambda rng, shape: np.array(value, np.int64)


def _node(op: str, inputs: str, outputs: str, **attrs: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=outputs.split()[0], **attrs)


# ---- If ----


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("more", [(), ((1, 4), (7, 4))], ids=["one size", "sizes"])
def test_branches_read_values_from_outside(flag: bool, more: Sequence[tuple[int, int]]) -> None:
    net = Net()
    x = net.input("x", (3, 4))
    c = net.input("c", (), bool, make=_flag(flag))
    w, r = net.weight(4, 4), net("Relu", x)
    then = _graph(
        "then", [_node("MatMul", f"{r} {w}", "p"), _node("Tanh", "p", "t")], [], [_info("t")]
    )
    other = _graph("other", [_node("Neg", x, "e")], [], [_info("e")])
    y = net("If", c, then_branch=then, else_branch=other)
    check(net.output(net("Add", y, x)), {"x": ("N", 4)}, [{"x": shape} for shape in more])


@pytest.mark.parametrize("flag", [True, False])
def test_branches_of_different_shapes(flag: bool) -> None:
    """The result's size is known to the run alone; what follows is allocated then."""
    net = Net()
    x = net.input("x", (6, 4))
    c = net.input("c", (), bool, make=_flag(flag))
    then = _graph(
        "then", [_node("Slice", f"{x} zero two", "t")], [], [_info("t")],
        {"zero": np.array([0]), "two": np.array([2])},
    )  # fmt: skip
    other = _graph("other", [_node("Identity", x, "e")], [], [_info("e")])
    y = net("If", c, then_branch=then, else_branch=other)
    check(net.output(net("Relu", y), net("Shape", y)), {"x": ("N", 4)}, [{"x": (9, 4)}])


@pytest.mark.parametrize("flag", [True, False])
def test_branches_that_yield_outer_values_and_constants(flag: bool) -> None:
    net = Net()
    x = net.input("x", (2, 3))
    c = net.input("c", (), bool, make=_flag(flag))
    kept = {"k": np.ones((2, 3), np.float32)}
    then = _graph("then", [_node("Identity", x, "t")], [], [_info("t"), _info("k")], kept)
    nodes = [_node("Relu", x, "e"), _node("Neg", "e", "f")]
    other = _graph("other", nodes, [], [_info("e"), _info("f")])
    a, b = net("If", c, outputs=2, then_branch=then, else_branch=other)
    check(net.output(a, b))


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_nested_branches(outer: bool, inner: bool) -> None:
    net = Net()
    x = net.input("x", (2, 3))
    a = net.input("a", (), bool, make=_flag(outer))
    b = net.input("b", (), bool, make=_flag(inner))
    yes = _graph("yes", [_node("Mul", "h " + x, "p")], [], [_info("p")])
    no = _graph("no", [_node("Sub", "h " + x, "q")], [], [_info("q")])
    nest = helper.make_node("If", [b], ["r"], "nest", then_branch=yes, else_branch=no)
    then = _graph("then", [_node("Exp", x, "h"), nest], [], [_info("r")])
    other = _graph("other", [_node("Abs", x, "s")], [], [_info("s")])
    y = net("If", a, then_branch=then, else_branch=other)
    check(net.output(y))


def test_a_condition_that_is_computed() -> None:
    net = Net()
    x = net.input("x", (4, 4))
    total = net("ReduceSum", x, keepdims=0)
    c = net("Greater", total, net.const(np.float32(0)))
    then = _graph("then", [_node("Neg", x, "t")], [], [_info("t")])
    other = _graph("other", [_node("Identity", x, "e")], [], [_info("e")])
    check(net.output(net("If", c, then_branch=then, else_branch=other)))


def test_convolutions_inside_branches() -> None:
    net = Net()
    x = net.input("x", (1, 3, 6, 6))
    c = net.input("c", (), bool, make=_flag(True))
    w = net.weight(4, 3, 3, 3)
    conv = _node("Conv", f"{x} {w}", "u", pads=[1, 1, 1, 1])
    then = _graph("then", [conv, _node("Relu", "u", "t")], [], [_info("t")])
    other = _graph("other", [_node("Conv", f"{x} {w}", "e", pads=[1, 1, 1, 1])], [], [_info("e")])
    y = net("If", c, then_branch=then, else_branch=other)
    artifact = check(net.output(y), {"x": ("N", 3, "H", "W")}, [{"x": (2, 3, 4, 5)}])
    assert kernels(artifact).count("conv") == 2


# ---- Loop ----


def _body(nodes: Any, carried: Any, results: Any, weights: Any = ()) -> Any:
    head = [_info("i", I64, []), _info("go", BOOL, [])]
    steps = [_node("Identity", "go", "go2"), *nodes]
    return _graph("body", steps, [*head, *carried], [_info("go2", BOOL, []), *results], weights)


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loop_carries_a_state(trips: int) -> None:
    net = Net()
    x, n = net.input("x", (3, 4)), net.input("n", (), np.int64, make=_count(trips))
    w = net.weight(4, 4)
    body = _body(
        [_node("MatMul", f"s {w}", "p"), _node("Tanh", "p", "q"), _node("Add", f"q {x}", "s2")],
        [_info("s", F32, [None, 4])],
        [_info("s2", F32, [None, 4])],
    )
    check(net.output(net("Loop", n, "", x, body=body)), {"x": ("N", 4)}, [{"x": (1, 4)}])


@pytest.mark.parametrize("trips", [1, 4])
def test_loop_stacks_what_it_scans(trips: int) -> None:
    net = Net()
    x, n = net.input("x", (2, 3)), net.input("n", (), np.int64, make=_count(trips))
    body = _body(
        [
            _node("Cast", "i", "f", to=F32), _node("Add", "s f", "s2"),
            _node("ReduceMax", "s2", "m", keepdims=0),
        ],
        [_info("s", F32, [2, 3])],
        [_info("s2", F32, [2, 3]), _info("s2copy", F32, [2, 3]), _info("m", F32, [])],
    )  # fmt: skip
    body.node.append(_node("Relu", "s2", "s2copy"))
    last, all_of_them, tops = net("Loop", n, "", x, outputs=3, body=body)
    check(net.output(last, all_of_them, tops))


def test_loop_that_stops_by_its_condition() -> None:
    net = Net()
    x = net.input("x", (), make=lambda rng, shape: np.array(1.0, np.float32))
    body = _graph(
        "body",
        [_node("Add", "s s", "s2"), _node("Less", "s2 limit", "go2")],
        [_info("i", I64, []), _info("go", BOOL, []), _info("s", F32, [])],
        [_info("go2", BOOL, []), _info("s2", F32, []), _info("s2", F32, [])],
        {"limit": np.array(100.0, np.float32)},
    )
    body.output[2].name = "out"
    body.node.append(_node("Identity", "s2", "out"))
    yes = net.const(np.array(True))
    last, doubled = net("Loop", "", yes, x, outputs=2, body=body)
    check(net.output(last, doubled))


def test_loop_with_trips_and_condition_false_at_the_start() -> None:
    net = Net()
    x, n = net.input("x", (2,)), net.input("n", (), np.int64, make=_count(3))
    go = net.input("go", (), bool, make=_flag(False))
    body = _body([_node("Neg", "s", "s2")], [_info("s", F32, [2])], [_info("s2", F32, [2])])
    check(net.output(net("Loop", n, go, x, body=body)))


def test_loop_that_grows_what_it_carries() -> None:
    net = Net()
    x, n = net.input("x", (2, 3)), net.input("n", (), np.int64, make=_count(4))
    body = _body(
        [_node("Concat", f"s {x}", "s2", axis=0)],
        [_info("s", F32, [None, 3])],
        [_info("s2", F32, [None, 3])],
    )
    y = net("Loop", n, "", x, body=body)
    check(net.output(net("Relu", y), net("Shape", y)), {"x": ("N", 3)}, [{"x": (1, 3)}])


def test_two_states_that_swap() -> None:
    """Carried values are all read before any is written."""
    net = Net()
    a, b = net.input("a", (2, 3)), net.input("b", (2, 3))
    n = net.input("n", (), np.int64, make=_count(3))
    body = _body(
        [_node("Identity", "q", "p2"), _node("Identity", "p", "q2")],
        [_info("p", F32, [2, 3]), _info("q", F32, [2, 3])],
        [_info("p2", F32, [2, 3]), _info("q2", F32, [2, 3])],
    )
    check(net.output(*net("Loop", n, "", a, b, outputs=2, body=body)))


def test_nested_loops_with_captures() -> None:
    net = Net()
    x, n = net.input("x", (2, 2)), net.input("n", (), np.int64, make=_count(3))
    inner = _graph(
        "inner",
        [_node("Identity", "go_", "go3"), _node("Add", f"t {x}", "u"), _node("Mul", "u s", "t2")],
        [_info("j", I64, []), _info("go_", BOOL, []), _info("t", F32, [2, 2])],
        [_info("go3", BOOL, []), _info("t2", F32, [2, 2])],
    )
    nest = helper.make_node("Loop", [n, "", "s"], ["v"], "nest", body=inner)
    states = [_info("s", F32, [2, 2])], [_info("s2", F32, [2, 2])]
    body = _body([nest, _node("Tanh", "v", "s2")], *states)
    check(net.output(net("Loop", n, "", x, body=body)))


def test_a_branch_inside_a_loop() -> None:
    net = Net()
    x, n = net.input("x", (2, 2)), net.input("n", (), np.int64, make=_count(5))
    then = _graph("then", [_node("Neg", "s", "p")], [], [_info("p")])
    other = _graph("other", [_node("Add", f"s {x}", "q")], [], [_info("q")])
    choose = helper.make_node("If", ["even"], ["s2"], "choose", then_branch=then, else_branch=other)
    body = _body(
        [_node("Mod", "i two", "rest"), _node("Equal", "rest zero", "even"), choose],
        [_info("s", F32, [2, 2])], [_info("s2", F32, [2, 2])],
        {"two": np.array(2), "zero": np.array(0)},
    )  # fmt: skip
    check(net.output(net("Loop", n, "", x, body=body)))


# ---- Scan ----


def test_scan_over_rows() -> None:
    net = Net()
    x, s = net.input("x", (5, 3)), net.input("s", (3,))
    w = net.weight(3, 3)
    body = _graph(
        "body",
        [
            _node("MatMul", f"state {w}", "p"), _node("Add", "p row", "new"),
            _node("Tanh", "new", "out"),
        ],
        [_info("state", F32, [3]), _info("row", F32, [3])],
        [_info("new", F32, [3]), _info("out", F32, [3])],
    )  # fmt: skip
    last, rows = net("Scan", s, x, outputs=2, body=body, num_scan_inputs=1)
    check(net.output(last, rows), {"x": ("T", 3)}, [{"x": (1, 3)}, {"x": (20, 3)}])


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scan_axes_and_directions(axis: int, direction: int) -> None:
    net = Net()
    x, y = net.input("x", (4, 4)), net.input("y", (4, 4))
    body = _graph(
        "body",
        [_node("Add", "s a", "t"), _node("Mul", "t b", "s2"), _node("Identity", "t", "out")],
        [_info("s", F32, [4]), _info("a", F32, [4]), _info("b", F32, [4])],
        [_info("s2", F32, [4]), _info("out", F32, [4])],
    )
    attrs = {
        "scan_input_axes": [axis, 0], "scan_input_directions": [direction, 1],
        "scan_output_axes": [axis], "scan_output_directions": [1 - direction],
    }  # fmt: skip
    s = net.input("s", (4,))
    found = net("Scan", s, x, y, outputs=2, body=body, num_scan_inputs=2, **attrs)
    check(net.output(*found))
