"""RNN, GRU and LSTM with random attributes beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError
from tests.ops.oracle import assert_same, interpret

FEW = settings(max_examples=30, deadline=None, derandomize=True)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
# onnxruntime's Affine, ScaledTanh and the rest agree; Elu has no single-precision expm1 there.
NAMES = ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ScaledTanh", "HardSigmoid", "Softsign"]


def layer(kind: str, direction: str, seed: int, *, steps: int = 4, batch: int = 3) -> list[Any]:
    """Operands X, W, R, B, sequence_lens, initial_h (and initial_c, P) of a small layer."""
    rng = np.random.default_rng(seed)
    count, gates, features, hidden = (2 if direction == "bidirectional" else 1), GATES[kind], 3, 2
    shapes: list[tuple[int, ...]] = [
        (steps, batch, features),
        (count, gates * hidden, features),
        (count, gates * hidden, hidden),
        (count, 2 * gates * hidden),
        (count, batch, hidden),
        (count, batch, hidden),
        (count, 3 * hidden),
    ]
    x, w, r, b, h, c, p = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    lengths = np.array([steps, 2, 1], np.int32)
    return [x, w, r, b, lengths, h, c, p]


@FEW
@given(
    st.sampled_from(sorted(GATES)),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.sampled_from([None, 0.5, 3.0]),
    st.booleans(),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.data(),
)
def test_layer(
    kind: str, direction: str, clip: float | None, flag: bool, present: list[bool], data: Any
) -> None:
    operands = layer(kind, direction, 7)[: 8 if kind == "LSTM" else 6]
    for index, keep in zip(range(3, len(operands)), present, strict=False):
        if not keep:
            operands[index] = None
    if kind == "LSTM" and (operands[5] is None) != (operands[6] is None):
        operands[5] = operands[6] = None
    attrs: dict[str, Any] = {"direction": direction, "hidden_size": 2}
    if clip is not None:
        # onnxruntime does not bound the cell state on its way into the last activation: with the
        # usual functions it stays within the number of steps.
        attrs["clip"] = 10 * clip if kind == "LSTM" else clip
    if kind == "GRU":
        attrs["linear_before_reset"] = int(flag)
    if data.draw(st.booleans()) and (kind != "LSTM" or clip is None):
        count = FUNCTIONS[kind] * (2 if direction == "bidirectional" else 1)
        names = data.draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count))
        attrs["activations"] = names
        attrs["activation_alpha"] = [0.3 + 0.1 * i for i in range(count)]
        attrs["activation_beta"] = [0.2 + 0.1 * i for i in range(count)]
    assert_same(kind, operands, attrs, outputs=3 if kind == "LSTM" else 2)


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_batch_first_is_a_transposition(kind: str, direction: str) -> None:
    operands = layer(kind, direction, 3)[: 7 if kind == "LSTM" else 6]
    count = 3 if kind == "LSTM" else 2
    expected = interpret(kind, operands, {"direction": direction}, count)
    swapped = [
        np.ascontiguousarray(np.swapaxes(x, 0, 1)) if i == 0 or i > 4 else x
        for i, x in enumerate(operands)
    ]
    found = interpret(kind, swapped, {"direction": direction, "layout": 1}, count)
    np.testing.assert_array_equal(found[0], expected[0].transpose(2, 0, 1, 3))
    for a, b in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(a, np.swapaxes(b, 0, 1))


def test_coupled_gates_forget_what_they_do_not_take_in() -> None:
    operands = layer("LSTM", "forward", 5)
    operands[4] = None
    y, _, _ = interpret("LSTM", operands, {"input_forget": 1}, 3)
    x, w, r, b, _, h, c, p = (None if v is None else v.astype(np.float64) for v in operands)
    h, c = h[0], c[0]
    for t in range(len(x)):
        gates = x[t] @ w[0].T + h @ r[0].T + b[0, :8] + b[0, 8:]
        i, o, _, g = np.split(gates, 4, axis=1)
        i = 1 / (1 + np.exp(-(i + p[0, :2] * c)))
        c = (1 - i) * c + i * np.tanh(g)
        h = np.tanh(c) / (1 + np.exp(-(o + p[0, 2:4] * c)))
        # Sums of a few products of order 1 in f32.
        np.testing.assert_allclose(y[t, 0], h, rtol=1e-5, atol=1e-6)


def test_clip_bounds_the_input_of_every_activation() -> None:
    # All gates saturate: c = sigmoid(1/2) (c + tanh(1/2)) grows beyond the bound.
    x, w = np.full((6, 1, 1), 5, np.float32), np.full((1, 4, 1), 5, np.float32)
    y, _, c = interpret("LSTM", [x, w, np.zeros_like(w)], {"clip": 0.5}, 3)
    gate, cell = 1 / (1 + np.exp(-0.5)), 0.0
    for _ in range(6):
        cell = gate * (cell + np.tanh(0.5))
    assert cell > 0.5
    np.testing.assert_allclose(c.item(), cell, rtol=1e-6)
    np.testing.assert_allclose(y[-1].item(), gate * np.tanh(0.5), rtol=1e-6)


def test_half_precision_rounds_once() -> None:
    operands = layer("GRU", "forward", 1)[:6]
    narrow = [v.astype(np.float16) if v.dtype == np.float32 else v for v in operands]
    wide = [v.astype(np.float32) if v.dtype == np.float16 else v for v in narrow]
    for a, b in zip(interpret("GRU", narrow, {}, 2), interpret("GRU", wide, {}, 2), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float16))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"activations": ["Tanh", "Tanh"]}, "3 activations"),
        ({"activations": ["Tanh", "Tanh", "Swish"]}, "no activation 'Swish'"),
        ({"direction": "sideways"}, "sideways"),
    ],
)
def test_refusals(attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        interpret("LSTM", layer("LSTM", "forward", 0), attrs, 3)
