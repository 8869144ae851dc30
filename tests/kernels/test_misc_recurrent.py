"""lstm, gru and rnn against onnxruntime, onnx.reference and numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from misc_support import (
    assert_close,
    backend_cases,
    expected_of,
    feeds_of,
    onnxruntime_result,
    run,
    run_node,
)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CASES = [(op, case) for op in GATES for case in backend_cases()[op]]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.name for _, case in CASES])
def test_backend_case(op: str, case: Any) -> None:
    for data_set in case.data_sets:
        expected = expected_of(case, data_set)
        actual = run_node(case.model.graph.node[0], feeds_of(case, data_set), expected)
        for got, want in zip(actual, expected, strict=True):
            if want is not None:
                assert_close(got, want)


def layer(
    op: str,
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    directions: int = 1,
    *,
    seed: int = 0,
    full: bool = True,
    lengths: bool = False,
    peephole: bool = False,
    dtype: Any = np.float32,
) -> list[np.ndarray | None]:
    """Operands of a layer, in ONNX's order."""
    rng = np.random.default_rng(seed)
    gates = GATES[op]

    # Recurrent weights of a spectral radius below 1: otherwise rounding errors grow by the step.
    def random(*shape: int, scale: float = 0.5) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(dtype)

    operands: list[np.ndarray | None] = [
        random(steps, batch, inputs),
        random(directions, gates * hidden, inputs),
        random(directions, gates * hidden, hidden, scale=0.7 / np.sqrt(hidden)),
        random(directions, 2 * gates * hidden) if full else None,
        rng.integers(1, steps + 1, batch).astype(np.int32) if lengths else None,
        random(directions, batch, hidden) if full else None,
    ]
    if op == "LSTM":
        operands.append(random(directions, batch, hidden) if full else None)
        operands.append(random(directions, 3 * hidden) if peephole else None)
    return operands


def outputs_of(
    op: str, operands: list[np.ndarray | None], layout: int = 0
) -> list[tuple[str, Any]]:
    x, _, r = operands[:3]
    assert x is not None and r is not None
    directions, hidden = r.shape[0], r.shape[2]
    steps, batch = (x.shape[1], x.shape[0]) if layout else (x.shape[0], x.shape[1])
    name = x.dtype.name
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    sequence = (batch, steps, directions, hidden) if layout else (steps, directions, batch, hidden)
    shapes = [sequence, state] + ([state] if op == "LSTM" else [])
    return [(name, list(shape)) for shape in shapes]


def check(op: str, operands: list[np.ndarray | None], threads: int = 1, **attrs: Any) -> None:
    hidden = operands[2].shape[2]  # type: ignore[union-attr]
    wanted = outputs_of(op, operands)
    expected = onnxruntime_result(op, operands, len(wanted), 14, hidden_size=hidden, **attrs)
    actual = run(op, operands, wanted, threads, hidden_size=hidden, **attrs)
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, rtol=1e-4, atol=2e-6)  # sums of up to 600 terms of size 1


# Below, at and above a panel of 16 units; depths that are no multiple of a vector.
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [
        (1, 1, 128, 128),
        (3, 1, 7, 5),
        (2, 2, 16, 16),
        (40, 1, 33, 17),
        (9, 5, 8, 31),
        (50, 7, 40, 48),
        (1, 3, 1, 1),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sizes(op: str, steps: int, batch: int, inputs: int, hidden: int, direction: str) -> None:
    operands = layer(op, steps, batch, inputs, hidden, 2 if direction == "bidirectional" else 1)
    check(op, operands, threads=2, direction=direction)


@pytest.mark.parametrize("op", GATES)
def test_bare_operands(op: str) -> None:
    check(op, layer(op, 4, 3, 6, 20, full=False)[:3])


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("steps", "batch"), [(6, 4), (20, 9)])
def test_sequence_lens(op: str, direction: str, steps: int, batch: int) -> None:
    directions = 2 if direction == "bidirectional" else 1
    check(op, layer(op, steps, batch, 5, 18, directions, lengths=True, seed=3), direction=direction)


def test_lstm_peephole() -> None:
    check("LSTM", layer("LSTM", 5, 3, 6, 19, 2, peephole=True), direction="bidirectional")


def test_lstm_couples_gates() -> None:
    operands = layer("LSTM", 5, 3, 6, 10, seed=5)
    hidden = 10
    (y,) = run("LSTM", operands, outputs_of("LSTM", operands)[:1], input_forget=1)
    x, w, r, b, _, h, c = (None if a is None else a.astype(np.float64) for a in operands[:7])
    assert x is not None and w is not None and r is not None
    assert b is not None and h is not None and c is not None

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    h, c = h[0], c[0]
    for t in range(x.shape[0]):
        gates = x[t] @ w[0].T + h @ r[0].T + b[0, : 4 * hidden] + b[0, 4 * hidden :]
        i, o, _, g = np.split(gates, 4, axis=-1)
        c = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        assert_close(y[t, 0], h.astype(np.float32))


@pytest.mark.parametrize("reset", [0, 1])
@pytest.mark.parametrize(("steps", "batch"), [(3, 2), (30, 3)])
def test_gru_linear_before_reset(reset: int, steps: int, batch: int) -> None:
    operands = layer("GRU", steps, batch, 9, 21, 2)
    check("GRU", operands, direction="bidirectional", linear_before_reset=reset)


@pytest.mark.parametrize("op", GATES)
def test_clip(op: str) -> None:
    check(op, layer(op, 6, 2, 6, 18, seed=9), clip=0.3)


ACTIVATIONS = {
    "Relu": ([], []),
    "Tanh": ([], []),
    "Sigmoid": ([], []),
    "Affine": ([0.7], [0.1]),
    "LeakyRelu": ([0.2], []),
    "ThresholdedRelu": ([0.3], []),
    "ScaledTanh": ([1.3], [0.6]),
    "HardSigmoid": ([0.3], [0.4]),
    "Elu": ([0.8], []),
    "Softsign": ([], []),
    "Softplus": ([], []),
}


def numpy_activation(name: str, x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    table = {
        "Relu": lambda: np.maximum(x, 0),
        "Tanh": lambda: np.tanh(x),
        "Sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "Affine": lambda: alpha * x + beta,
        "LeakyRelu": lambda: np.where(x < 0, alpha * x, x),
        "ThresholdedRelu": lambda: np.where(x >= alpha, x, 0),
        "ScaledTanh": lambda: alpha * np.tanh(beta * x),
        "HardSigmoid": lambda: np.clip(alpha * x + beta, 0, 1),
        "Elu": lambda: np.where(x < 0, alpha * np.expm1(x), x),
        "Softsign": lambda: x / (1 + np.abs(x)),
        "Softplus": lambda: np.logaddexp(0, x),
    }
    return table[name]()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    """One step of an RNN whose pre-activations are chosen: wide, tiny and special values."""
    alphas, betas = ACTIVATIONS[name]
    special = [0.0, -0.0, 1e-8, -1e-8, 1e-4, -1e-4, 88.0, -88.0, 1e4, -1e4]
    x = np.concatenate([np.array(special), np.linspace(-20, 20, 502)]).astype(np.float32)
    w = np.ones((1, 1, 1), np.float32)
    r = np.zeros((1, 1, 1), np.float32)
    attrs: dict[str, Any] = {"activations": [name]}
    if alphas:
        attrs["activation_alpha"] = alphas
    if betas:
        attrs["activation_beta"] = betas
    y, _ = run("RNN", [x.reshape(1, -1, 1), w, r], [("float32", [1, 1, x.size, 1]), None], **attrs)
    alpha = np.float32(alphas[0] if alphas else 0).astype(np.float64)
    beta = np.float32(betas[0] if betas else 0).astype(np.float64)
    with np.errstate(over="ignore"):
        expected = numpy_activation(name, x.astype(np.float64), alpha, beta)
    # 1e-6 of the value, or of the largest term where terms are subtracted; flat below e^-87.
    atol = 1e-6 if name in {"Affine", "HardSigmoid"} else 1.7e-38
    np.testing.assert_allclose(y.reshape(-1).astype(np.float64), expected, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("op", GATES)
def test_activations_of_both_directions(op: str) -> None:
    names = {"LSTM": ["Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Softsign"]}
    names["GRU"] = ["HardSigmoid", "ScaledTanh", "Sigmoid", "Elu"]
    names["RNN"] = ["LeakyRelu", "Affine"]
    alphas = {"LSTM": [0.1, 0.3, 0.9], "GRU": [0.3, 1.1, 0.7], "RNN": [0.2, 0.5]}[op]
    betas = {"LSTM": [0.45], "GRU": [0.4, 0.9], "RNN": [0.05]}[op]
    check(
        op,
        layer(op, 4, 2, 6, 9, 2, seed=2),
        direction="bidirectional",
        activations=names[op],
        activation_alpha=alphas,
        activation_beta=betas,
    )


@pytest.mark.parametrize("op", GATES)
def test_layout_swaps_axes(op: str) -> None:
    operands = layer(op, 5, 4, 6, 17, 2, lengths=True)
    plain = run(op, operands, outputs_of(op, operands), direction="bidirectional")
    swapped = list(operands)
    for k in (0, 5, 6):
        if k < len(swapped) and swapped[k] is not None:
            swapped[k] = np.ascontiguousarray(np.swapaxes(swapped[k], 0, 1))
    wanted = outputs_of(op, swapped, layout=1)
    actual = run(op, swapped, wanted, direction="bidirectional", layout=1)
    np.testing.assert_array_equal(actual[0], np.transpose(plain[0], (2, 0, 1, 3)))
    for got, want in zip(actual[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(got, np.swapaxes(want, 0, 1))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float64, 1e-12), (np.float16, 2e-3), (ml_dtypes.bfloat16, 1e-2)]
)
def test_other_float_types(op: str, dtype: Any, rtol: float) -> None:
    # Half precision: operands are exact in f32, so only the rounding of the results remains.
    operands = layer(op, 4, 2, 6, 9, dtype=dtype, lengths=True)
    wide_type = np.float64 if dtype is np.float64 else np.float32
    wide = [a if a is None or a.dtype == np.int32 else a.astype(wide_type) for a in operands]
    actual = run(op, operands, outputs_of(op, operands))
    expected = run(op, wide, outputs_of(op, wide))
    if dtype is np.float64:
        narrow = [a if a is None or a.dtype == np.int32 else a.astype(np.float32) for a in operands]
        expected = run(op, narrow, outputs_of(op, narrow))
        rtol = 1e-5
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, 1e-6)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"), [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4)]
)
def test_empty(op: str, steps: int, batch: int, inputs: int, hidden: int) -> None:
    operands = layer(op, steps, batch, inputs, hidden)
    outputs = [np.full(shape, 7, np.float32) for _, shape in outputs_of(op, operands)]
    from graphopt import _native

    _native.run_kernel(op.lower(), operands, outputs, {})
    if steps == 0:  # the states pass through
        np.testing.assert_array_equal(outputs[1], operands[5])
    assert all(np.all(o != 7) for o in outputs)


def test_zero_length_keeps_the_initial_state() -> None:
    operands = layer("LSTM", 3, 2, 4, 5)
    operands[4] = np.array([0, 3], np.int32)
    y, y_h, y_c = run("LSTM", operands, outputs_of("LSTM", operands))
    assert np.all(y[:, 0, 0] == 0)
    np.testing.assert_array_equal(y_h[0, 0], operands[5][0, 0])  # type: ignore[index]
    np.testing.assert_array_equal(y_c[0, 0], operands[6][0, 0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "attrs", "message"),
    [
        ({1: np.zeros((1, 20, 7), np.float32)}, {}, "W has shape"),
        ({4: np.array([9, 1], np.int32)}, {}, "sequence_lens"),
        ({4: np.array([-1, 1], np.int32)}, {}, "sequence_lens"),
        ({3: np.zeros((1, 39), np.float32)}, {}, "B has shape"),
        ({}, {"direction": "sideways"}, "direction"),
        ({}, {"activations": ["Sigmoid"]}, "activations"),
        ({}, {"activations": ["Sigmoid", "Tanh", "Cube"]}, "Cube"),
        ({}, {"hidden_size": 6}, "hidden_size"),
        ({0: np.zeros((3, 2, 4), np.float64)}, {}, "element type"),
    ],
)
def test_errors(change: dict[int, np.ndarray], attrs: dict[str, Any], message: str) -> None:
    operands = layer("LSTM", 3, 2, 4, 5)
    wanted = outputs_of("LSTM", operands)
    for k, value in change.items():
        operands[k] = value
    with pytest.raises(RuntimeError, match=message):
        run("LSTM", operands, wanted, **attrs)
