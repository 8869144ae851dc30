"""A small decoder, spelled out as exporters do: shared key heads, rotary angles, norms, gates."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

_HIDDEN, _HEADS, _KEY_HEADS, _SIZE, _GATED = 24, 6, 2, 8, 40


class Decoder:
    """Writes a decoder as the exporter of PyTorch does, ``spelling`` by ``spelling``."""

    def __init__(self, net: Net, spelling: str) -> None:
        self.net = net
        self.spelling = spelling
        self.x = net.input("x", (2, 5, _HIDDEN))
        self.mask = net.input("mask", (2, 1, 5, 5), make=_causal)
        self.cos, self.sin = self.angles()

    def angles(self) -> tuple[str, str]:
        net = self.net
        length = net("Shape", self.x, start=1, end=2)
        end = net("Squeeze", length, net.const([0]))
        at = net("Range", net.const(np.int64(0)), end, net.const(np.int64(1)))
        at = net("Cast", net("Unsqueeze", at, net.const([0, 2])), to=1)
        rate = 10000.0 ** (-np.arange(_SIZE // 2) / (_SIZE // 2))
        angle = net("Mul", at, net.const(rate.astype(np.float32)))
        if self.spelling == "pairs":
            wide = net("Unsqueeze", angle, net.const([-1]))
            pair = net("Concat", wide, wide, axis=-1)
            angle = net("Reshape", pair, net.const([1, -1, _SIZE]))
        else:
            angle = net("Concat", angle, angle, axis=-1)
        one = net.const([1])
        return net("Unsqueeze", net("Cos", angle), one), net("Unsqueeze", net("Sin", angle), one)

    def norm(self, x: str) -> str:
        net = self.net
        mean = net("ReduceMean", net("Pow", x, net.const(2.0)), net.const([-1]), keepdims=1)
        root = net("Sqrt", net("Add", mean, net.const(1e-6)))
        scaled = net("Mul", x, net("Div", net.const(1.0), root))
        result: str = net("Mul", net.const(1 + net.rng.random(_HIDDEN, np.float32)), scaled)
        return result

    def heads(self, x: str, count: int) -> str:
        net = self.net
        y = net("MatMul", x, net.weight(_HIDDEN, count * _SIZE, scale=0.2))
        y = net("Reshape", y, net.const([0, 0, count, _SIZE]))
        result: str = net("Transpose", y, perm=[0, 2, 1, 3])
        return result

    def rotated(self, x: str) -> str:
        net = self.net
        last, step = net.const([3]), net.const([2])
        half, end, begin = net.const([_SIZE // 2]), net.const([2**62]), net.const([0])
        if self.spelling == "pairs":
            a = net("Slice", x, begin, end, last, step)
            b = net("Slice", x, net.const([1]), end, last, step)
            axis = net.const([-1])
            parts = [net("Unsqueeze", part, axis) for part in (net("Neg", b), a)]
            y = net("Concat", *parts, axis=-1)
            turned = net("Reshape", y, net("Shape", x))
        else:
            a = net("Slice", x, begin, half, last)
            b = net("Slice", x, half, end, last)
            turned = net("Concat", net("Neg", b), a, axis=-1)
        return str(net("Add", net("Mul", x, self.cos), net("Mul", turned, self.sin)))

    def repeated(self, x: str) -> str:
        net, times = self.net, _HEADS // _KEY_HEADS
        wide = net("Unsqueeze", x, net.const([2]))
        wide = net("Expand", wide, net.const([1, 1, times, 1, 1]))
        result: str = net("Reshape", wide, net.const([0, _HEADS, -1, _SIZE]))
        return result

    def attention(self, x: str) -> str:
        net = self.net
        q = self.rotated(self.heads(x, _HEADS))
        k = self.repeated(self.rotated(self.heads(x, _KEY_HEADS)))
        v = self.repeated(self.heads(x, _KEY_HEADS))
        scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
        scores = net("Add", net("Mul", scores, net.const(_SIZE**-0.5)), self.mask)
        y = net("MatMul", net("Softmax", scores, axis=-1), v)
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, -1]))
        return str(net("MatMul", y, net.weight(_HEADS * _SIZE, _HIDDEN, scale=0.2)))

    def gated(self, x: str) -> str:
        net = self.net
        gate, up = (net("MatMul", x, net.weight(_HIDDEN, _GATED, scale=0.2)) for _ in range(2))
        y = net("Mul", net("Mul", gate, net("Sigmoid", gate)), up)
        return str(net("MatMul", y, net.weight(_GATED, _HIDDEN, scale=0.2)))

    def build(self, layers: int) -> Net:
        x = self.x
        for _ in range(layers):
            x = self.net("Add", x, self.attention(self.norm(x)))
            x = self.net("Add", x, self.gated(self.norm(x)))
        return self.net.output(self.norm(x))


def _causal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:  # type: ignore[type-arg]
    keep = np.tri(shape[-2], shape[-1], dtype=bool)
    return np.broadcast_to(np.where(keep, 0, -1e9), shape).astype(np.float32)


@pytest.mark.parametrize("spelling", ["halves", "pairs"])
def test_a_decoder_is_fused(spelling: str) -> None:
    """Per layer: one projection, two rotations, attention, three products, two norms, one gate."""
    net = Decoder(Net(), spelling).build(layers=2)
    symbols = {"x": ("N", "T", _HIDDEN), "mask": ("N", 1, "T", "T")}
    more = [{"x": (n, t, _HIDDEN), "mask": (n, 1, t, t)} for n, t in ((1, 1), (1, 40), (3, 2))]
    found = kernels(check(net, symbols, more))
    assert found.count("attention") == 2
    assert found.count("rotary_embedding") == 4
    assert found.count("gemm") == 2 * 5
    assert "softmax" not in found and "matmul" not in found
    static = kernels(check(Decoder(Net(), spelling).build(layers=2)))
    # Two norms and the gate a layer, and the last norm; the angles of fixed sizes are constants.
    assert static.count("object") == 2 * 3 + 1


def test_keys_that_are_kept_for_later() -> None:
    """Rotated keys are an output too, heads first."""
    net = Net()
    decoder = Decoder(net, "halves")
    k = decoder.rotated(decoder.heads(decoder.x, _KEY_HEADS))
    q = decoder.rotated(decoder.heads(decoder.x, _HEADS))
    wide = decoder.repeated(k)
    scores = net("MatMul", q, net("Transpose", wide, perm=[0, 1, 3, 2]))
    net.output(net("MatMul", net("Softmax", scores), wide), k)
    found = kernels(check(net, {"x": ("N", "T", _HIDDEN)}, [{"x": (1, 9, _HIDDEN)}]))
    assert found.count("attention") == 1 and found.count("rotary_embedding") == 2


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_the_op_of_onnx(interleaved: int, width: int) -> None:
    net = Net(opset=23)
    x, flat = net.input("x", (2, 3, 5, 8)), net.input("f", (2, 5, 24))
    half = (width or 8) // 2
    cos, sin = net.input("c", (2, 5, half)), net.input("s", (2, 5, half))
    table = [net.weight(11, half) for _ in range(2)]
    at = net.input("p", (2, 5), np.int64)
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": width}
    if width:
        attrs["num_heads"] = 3
    net.output(net("RotaryEmbedding", x, cos, sin, **attrs))
    net.output(net("RotaryEmbedding", x, *table, at, **attrs))
    attrs["num_heads"] = 3
    net.output(net("RotaryEmbedding", flat, cos, sin, **attrs))
    assert set(kernels(check(net))) == {"rotary_embedding"}
