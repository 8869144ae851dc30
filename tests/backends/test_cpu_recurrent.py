"""Single steps of recurrent layers through the CPU pipe: cells spelled out, and ONNX's ops."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from tests.backends.pipe import Net, check, kernels

_BATCHES = ({"x": ("N", 5), "h": ("N", 4), "c": ("N", 4)}, {"x": (3, 5), "h": (3, 4), "c": (3, 4)})


def _gates(net: Net, x: str, h: str, count: int) -> list[str]:
    """Products of input and state, as PyTorch exports cells."""
    return [
        net("Gemm", value, net.weight(count * 4, width), net.weight(count * 4), transB=1)
        for value, width in ((x, 5), (h, 4))
    ]


def test_a_cell_of_an_lstm() -> None:
    net = Net()
    x, h, c = net.input("x", (1, 5)), net.input("h", (1, 4)), net.input("c", (1, 4))
    gates = net("Add", *_gates(net, x, h, 4))
    i, f, g, o = net("Split", gates, net.const([4] * 4), axis=1, outputs=4)
    kept = net("Mul", net("Sigmoid", f), c)
    state = net("Add", kept, net("Mul", net("Sigmoid", i), net("Tanh", g)))
    hidden = net("Mul", net("Sigmoid", o), net("Tanh", state))
    found = kernels(check(net.output(hidden, state), _BATCHES[0], [_BATCHES[1]]))
    assert found.count("gemm") == 1 and "lstm" not in found


def test_a_cell_of_a_gru() -> None:
    net = Net()
    x, h = net.input("x", (1, 5)), net.input("h", (1, 4))
    parts = [
        net("Split", value, net.const([4] * 3), axis=1, outputs=3) for value in _gates(net, x, h, 3)
    ]
    (rx, zx, nx), (rh, zh, nh) = parts
    r, z = net("Sigmoid", net("Add", rx, rh)), net("Sigmoid", net("Add", zx, zh))
    n = net("Tanh", net("Add", nx, net("Mul", r, nh)))
    net.output(net("Add", net("Mul", net("Sub", h, n), z), n))
    symbols = {name: _BATCHES[0][name] for name in "xh"}
    found = kernels(check(net, symbols, [{name: _BATCHES[1][name] for name in "xh"}]))
    assert found.count("gemm") == 2 and "gru" not in found


@pytest.mark.parametrize("state", [True, False])
def test_one_step_of_the_op(state: bool) -> None:
    net = Net()
    x = net.input("x", (1, 2, 5))
    operands = [x, net.weight(1, 16, 5), net.weight(1, 16, 4), net.weight(1, 32)]
    if state:
        operands += ["", net.input("h", (1, 2, 4)), net.input("c", (1, 2, 4))]
    found = kernels(check(net.output(*net("LSTM", *operands, outputs=3, hidden_size=4))))
    assert "lstm" not in found and "gemm" in found


def test_several_steps_stay_with_the_kernel() -> None:
    net = Net()
    x = net.input("x", (3, 2, 5))
    operands = [x, net.weight(1, 16, 5), net.weight(1, 16, 4), net.weight(1, 32)]
    found = kernels(check(net.output(*net("LSTM", *operands, outputs=3, hidden_size=4))))
    assert "lstm" in found


@pytest.mark.parametrize("before", [0, 1])
def test_one_step_of_a_gru(before: int) -> None:
    net = Net()
    x, h = net.input("x", (1, 2, 5)), net.input("h", (1, 2, 4))
    operands = [x, net.weight(1, 12, 5), net.weight(1, 12, 4), net.weight(1, 24), "", h]
    y = net("GRU", *operands, outputs=2, hidden_size=4, linear_before_reset=before)
    found = kernels(check(net.output(*y)))
    assert ("gru" in found) == (not before)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_scan_of_cells_is_a_recurrence(direction: int) -> None:
    body = Net(seed=3)
    gates = body("Add", *_gates(body, "x", "h", 4))
    i, f, g, o = body("Split", gates, body.const([4] * 4), axis=1, outputs=4)
    kept = body("Mul", body("Sigmoid", f), "c")
    state = body("Add", kept, body("Mul", body("Sigmoid", i), body("Tanh", g)))
    hidden = body("Mul", body("Sigmoid", o), body("Tanh", state))
    every = body("Identity", hidden)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, size))
        for name, size in (("h", 4), ("c", 4), ("x", 5))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 4))
        for name in (hidden, state, every)
    ]
    graph = helper.make_graph(body.nodes, "body", infos, ends, body.weights)
    net = Net()
    operands = [net.input("h0", (2, 4)), net.input("c0", (2, 4)), net.input("xs", (7, 2, 5))]
    turns = {"scan_input_directions": [direction], "scan_output_directions": [direction]}
    found = net("Scan", *operands, outputs=3, body=graph, num_scan_inputs=1, **turns)
    symbols = {"h0": (2, 4), "c0": (2, 4), "xs": ("S", 2, 5)}
    more = [{"h0": (2, 4), "c0": (2, 4), "xs": (1, 2, 5)}]
    steps = kernels(check(net.output(*found), symbols, more))
    assert "lstm" in steps and "scan" not in steps
