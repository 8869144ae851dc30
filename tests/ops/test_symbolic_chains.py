"""Sizes of convolutional networks as symbols: what inference says is what every run computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import Builder, DType, Graph, TensorType, evaluate, parse_dim, sym
from graphopt.ops.interpreter import run_graph
from graphopt.ops.window import sliding_window


def weights(*shape: int) -> Any:
    return np.full(shape, 0.1, np.float32)


def start() -> tuple[Graph, Builder, Any]:
    graph = Graph()
    shape = (sym("N"), 3, sym("H"), sym("W"))
    return (
        graph,
        Builder(graph, origin=["test"]),
        graph.add_input("x", TensorType(DType.F32, shape)),
    )


def check(graph: Graph, sizes: list[tuple[int, int]]) -> None:
    """The inferred type of every value fits every one of these input sizes."""
    for height, width in sizes:
        env = {"N": 2, "H": height, "W": width}

        def observe(node: Any, results: Any, env: dict[str, int] = env) -> None:
            for value, result in zip(node.outputs, results, strict=True):
                inferred = tuple(evaluate(dim, env) for dim in value.shape)
                assert inferred == result.shape, f"{value} in {env}: {result.shape}"

        run_graph(graph, [np.zeros((2, 3, height, width), np.float32)], observe=observe)


def stem(b: Builder, x: Any) -> Any:
    """A ResNet's first layers: 224 -> 112 -> 56."""
    y = b.Conv(x, weights(4, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3))
    return b.MaxPool(y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))


def test_resnet() -> None:
    graph, b, x = start()
    y = stem(b, x)
    # (H + 6 - 7) // 2 + 1, then (h + 2 - 3) // 2 + 1: one floor of the input size.
    assert y.shape == (sym("N"), 4, parse_dim("(H + 3) // 4"), parse_dim("(W + 3) // 4"))
    for channels in (8, 16):
        y = b.Conv(y, weights(channels, y.shape[1], 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    assert y.shape[2:] == (parse_dim("(H + 15) // 16"), parse_dim("(W + 15) // 16"))
    graph.add_output(b.GlobalAveragePool(y))
    assert graph.outputs[0].shape == (sym("N"), 16, 1, 1)
    check(graph, [(224, 224), (33, 47), (16, 16), (17, 31)])


def test_down_and_up_again() -> None:
    graph, b, x = start()
    down = b.MaxPool(x, kernel_shape=(2, 2), strides=(2, 2))
    up = b.ConvTranspose(down, weights(3, 5, 2, 2), strides=(2, 2))
    assert up.shape == (sym("N"), 5, parse_dim("2*(H // 2)"), parse_dim("2*(W // 2)"))
    resized = b.Resize(up, None, np.array([1, 1, 2, 0.5], np.float32), mode="linear")
    assert resized.shape[2:] == (parse_dim("4*(H // 2)"), parse_dim("W // 2"))
    graph.add_output(resized)
    check(graph, [(8, 8), (9, 7), (31, 2)])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_keeps_sizes(auto_pad: str) -> None:
    graph, b, x = start()
    y = b.Conv(x, weights(4, 3, 3, 3), auto_pad=auto_pad)
    assert y.shape == (sym("N"), 4, sym("H"), sym("W"))
    y = b.AveragePool(y, kernel_shape=(2, 2), strides=(2, 2), auto_pad=auto_pad)
    assert y.shape[2] == parse_dim("(H + 1) // 2")
    y = b.ConvTranspose(y, weights(4, 2, 4, 4), strides=(2, 2), auto_pad=auto_pad)
    assert y.shape[2] == parse_dim("2*((H + 1) // 2)")
    graph.add_output(y)
    check(graph, [(8, 5), (1, 2), (7, 9)])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [(1, (0, 0)), *((k, p) for k in (2, 3) for p in [(0, 0), (1, 0), (0, 1), (1, 1)])],
)
def test_ceil_mode_starts_no_window_in_the_end_padding(
    kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    window = sliding_window([sym("L")], [kernel], strides=[stride], pads=pads, ceil_mode=True)
    for size in range(kernel, 20):
        starts = range(-pads[0], size, stride)
        # A window counts when its last element but `stride - 1` lies in the padded input.
        expected = [s for s in starts if s + kernel - (stride - 1) <= size + pads[1]]
        assert evaluate(window.out[0], {"L": size}) == len(expected)


def test_ceil_mode_needs_no_minimum_where_padding_is_small() -> None:
    window = sliding_window([sym("L")], [3], strides=[2], ceil_mode=True)
    assert window.out == (parse_dim("L // 2"),)


def test_lstm_over_the_columns_of_an_image() -> None:
    graph, b, x = start()
    y = b.Conv(x, weights(4, 3, 32, 3), strides=(32, 1), pads=(0, 1, 0, 1))
    columns = b.Reshape(b.Transpose(y, perm=(3, 0, 1, 2)), np.array([0, 0, 4]))
    w, r = weights(2, 20, 4), weights(2, 20, 5)
    y, h, c = b.LSTM(columns, w, r, direction="bidirectional", hidden_size=5, _outputs=3)
    assert y.shape == (sym("W"), 2, sym("N"), 5)
    assert h.shape == c.shape == (2, sym("N"), 5)
    graph.add_output(y)
    check(graph, [(32, 10), (32, 3)])


def test_attention_with_a_cache() -> None:
    graph = Graph()
    b = Builder(graph, origin=["test"])

    def input(name: str, *shape: Any) -> Any:
        return graph.add_input(name, TensorType(DType.F32, shape))

    n, s, past = sym("N"), sym("S"), sym("P")
    q, k = input("q", n, s, 64), input("k", n, s, 16)
    cache = [input(name, n, 2, past, 8) for name in ("pk", "pv")]
    y, key, value, scores = b.Attention(
        q, k, k, None, *cache, q_num_heads=8, kv_num_heads=2, is_causal=1, _outputs=4
    )
    assert y.shape == (n, s, 64)
    assert key.shape == value.shape == (n, 2, past + s, 8)
    assert scores.shape == (n, 8, s, past + s)


def test_signal_lengths() -> None:
    graph = Graph()
    b = Builder(graph, origin=["test"])
    x = graph.add_input("x", TensorType(DType.F32, (1, sym("T"), 1)))
    window = b.HannWindow(np.array(400))
    assert window.shape == (400,)
    y = b.STFT(x, np.array(160), window)
    assert y.shape == (1, parse_dim("(T + 160 - 400) // 160"), 201, 2)
    assert b.DFT(x, None, np.array(1), onesided=1).shape == (1, parse_dim("T // 2 + 1"), 2)
