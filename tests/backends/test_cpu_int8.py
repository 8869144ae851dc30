"""Graphs with QuantizeLinear and DequantizeLinear on the integer kernels, beside onnxruntime, which
computes them in float32: a number that lies between two bytes may become the other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.verify.compare import relative_error
from tests.backends.pipe import Net, compiled, kernels, loaded, onnxruntime_outputs

Array = np.ndarray[Any, Any]


def _whole_range(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 256, shape).astype(np.uint8)


def _signed_range(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(-128, 128, shape).astype(np.int8)


class QuantNet(Net):
    """A net of bytes: each input is dequantized, each result is quantized."""

    def bytes(self, name: str, shape: tuple[int, ...], scale: float, zero: int, dtype: Any) -> str:
        make = _whole_range if dtype is np.uint8 else _signed_range
        x = self.input(name, shape, dtype, make)
        return self.dequantize(x, scale, zero, dtype)

    def dequantize(self, x: str, scale: float, zero: int, dtype: Any) -> str:
        operands = (self.const(scale), self.const(zero, dtype))
        found: str = self("DequantizeLinear", x, *operands)
        return found

    def quantize(self, x: str, scale: float, zero: int, dtype: Any) -> str:
        found: str = self("QuantizeLinear", x, self.const(scale), self.const(zero, dtype))
        return found

    def coded(self, *shape: int, axis: int, per_channel: bool) -> tuple[str, Array]:
        array = self.rng.integers(-127, 128, shape).astype(np.int8)
        count = shape[axis] if per_channel else 1
        scale = self.rng.uniform(0.001, 0.004, count).astype(np.float32)
        operand = self.const(scale if per_channel else scale[0])
        return self("DequantizeLinear", self.const(array), operand, axis=axis), scale

    def whole_bias(self, scale: Array, count: int) -> str:
        whole = self.rng.integers(-3000, 3000, count).astype(np.int32)
        scales = np.ascontiguousarray(np.broadcast_to(scale, (count,)))
        found: str = self("DequantizeLinear", self.const(whole), self.const(scales), axis=0)
        return found


def _check(net: Net, wanted: dict[str, int]) -> list[Array]:
    """All results are within one of onnxruntime's, nearly all equal."""
    model = net.model()
    artifact = compiled(model)
    found = kernels(artifact)
    assert {name: found.count(name) for name in wanted} == wanted, found
    feeds = net.feeds()
    got = [loaded(artifact, threads).run(feeds) for threads in (1, 2)]
    results = list(got[0].values())
    for mine, again, right in zip(
        results, got[1].values(), onnxruntime_outputs(model, feeds), strict=True
    ):
        assert np.array_equal(mine, again)
        if mine.dtype.kind == "f":
            assert relative_error(mine, right) <= 1e-5
            continue
        distance = np.abs(mine.astype(np.int32) - right.astype(np.int32))
        assert distance.max(initial=0) <= 1
        assert np.count_nonzero(distance) <= 3 + 0.03 * distance.size
    return results


_KINDS = st.sampled_from([np.uint8, np.int8])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 2), _KINDS,
    _KINDS, st.booleans(), st.sampled_from(["", "Relu", "Clip", "Sigmoid"]),
    st.sampled_from(["", "add", "add relu"]), st.integers(0, 3),
)  # fmt: skip
def test_convolutions(
    cin: int, cout: int, kernel: int, stride: int, dtype: Any, out: Any, per_channel: bool,
    activation: str, residual: str, seed: int,
) -> None:  # fmt: skip
    net = QuantNet(seed=seed)
    zero = 100 if dtype is np.uint8 else -20
    x = net.bytes("x", (1, cin, 9, 8), 0.02, zero, dtype)
    w, scale = net.coded(cout, cin, kernel, kernel, axis=0, per_channel=per_channel)
    bias = net.whole_bias(np.float32(0.02) * scale, cout)
    pads = [kernel // 2] * 4
    y = net("Conv", x, w, bias, strides=[stride, stride], pads=pads)
    if activation == "Clip":
        y = net("Clip", y, net.const(-1.5), net.const(2.0))
    elif activation:
        y = net(activation, y)
    step = 0.03 * max(cin, 4) ** 0.5 * kernel / 8
    zero_out = 128 if out is np.uint8 else 3
    q = net.quantize(y, step, zero_out, out)
    if residual:
        shape = (1, cout, -(-9 // stride), -(-8 // stride))
        y = net(
            "Add", net.dequantize(q, step, zero_out, out), net.bytes("r", shape, 0.05, 90, np.uint8)
        )
        if residual == "add relu":
            y = net("Relu", y)
        q = net.quantize(y, 2 * step, 60, np.uint8)
    _check(net.output(q), {"conv_int8": 1})


@pytest.mark.parametrize("channels", [8, 40, 64, 96])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise(channels: int, kernel: int, stride: int) -> None:
    net = QuantNet()
    x = net.bytes("x", (2, channels, 11, 9), 0.02, 7, np.uint8)
    w, scale = net.coded(channels, 1, kernel, kernel, axis=0, per_channel=True)
    bias = net.whole_bias(np.float32(0.02) * scale, channels)
    window = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": channels}
    y = net("Relu", net("Conv", x, w, bias, **window))
    _check(net.output(net.quantize(y, 0.05, 0, np.uint8)), {"conv_int8": 1})


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 20), st.integers(1, 70), st.integers(1, 70), _KINDS, st.booleans(),
    st.sampled_from(["floats", "gelu", "bytes", "residual"]), st.sampled_from([0, 9]),
)  # fmt: skip
def test_products(
    m: int, k: int, n: int, dtype: Any, per_channel: bool, end: str, weight_zero: int
) -> None:
    net = QuantNet()
    x = net.bytes("x", (2, m, k), 0.02, 5, dtype)
    w, _ = net.coded(k, n, axis=1, per_channel=per_channel)
    if weight_zero:
        array = net.rng.integers(0, 256, (k, n)).astype(np.uint8)
        parameters = (net.const(0.003), net.const(120, np.uint8))
        w = net("DequantizeLinear", net.const(array), *parameters)
    y = net("Add", net("MatMul", x, w), net.weight(n))
    if end == "gelu":
        y = net("Gelu", y)
    elif end == "residual":
        y = net("Add", y, net.bytes("r", (2, m, n), 0.05, 90, np.uint8))
    if end != "floats":
        y = net.quantize(y, 0.03, 120, np.uint8)
    _check(net.output(y), {"gemm_int8": 1})


def test_a_gate_joins_its_convolution() -> None:
    """HardSwish, as two quantized ops, is a table behind the convolution."""
    net = QuantNet()
    x = net.bytes("x", (1, 16, 6, 6), 0.02, 100, np.uint8)
    w, _ = net.coded(24, 16, 1, 1, axis=0, per_channel=True)
    q = net.quantize(net("Conv", x, w), 0.03, 120, np.uint8)
    f = net.dequantize(q, 0.03, 120, np.uint8)
    gate = net.quantize(net("HardSigmoid", f, alpha=1 / 6), 1 / 255, 0, np.uint8)
    y = net("Mul", f, net.dequantize(gate, 1 / 255, 0, np.uint8))
    _check(net.output(net.quantize(y, 0.02, 10, np.uint8)), {"conv_int8": 1, "lookup": 0})


def test_nothing_is_dequantized_inside_a_chain() -> None:
    """Convolutions, a pool, a residual, another pool: two steps of floats, at the ends."""
    net = QuantNet()
    x = net.input("x", (1, 3, 32, 32))
    q = net.quantize(x, 0.03, 120, np.uint8)
    f = net.dequantize(q, 0.03, 120, np.uint8)
    for cin, cout in ((3, 16), (16, 16)):
        w, _ = net.coded(cout, cin, 3, 3, axis=0, per_channel=True)
        y = net("Relu", net("Conv", f, w, pads=[1] * 4))
        f = net.dequantize(net.quantize(y, 0.02, 0, np.uint8), 0.02, 0, np.uint8)
    pooled = net.quantize(net("MaxPool", f, kernel_shape=[2, 2], strides=[2, 2]), 0.02, 0, np.uint8)
    f = net.dequantize(pooled, 0.02, 0, np.uint8)
    w, _ = net.coded(16, 16, 1, 1, axis=0, per_channel=False)
    y = net("Conv", f, w)
    y = net.dequantize(net.quantize(y, 0.02, 128, np.uint8), 0.02, 128, np.uint8)
    y = net.quantize(net("Relu", net("Add", y, f)), 0.03, 0, np.uint8)
    y = net("GlobalAveragePool", net.dequantize(y, 0.03, 0, np.uint8))
    net.output(net.quantize(y, 0.01, 0, np.uint8))
    _check(net, {"conv_int8": 3, "max_pool": 1})
    steps = compiled(net.model()).json("plan")["steps"]
    assert len([s for s in steps if s["kind"] == "object"]) <= 3


def test_ops_on_quantized_operands() -> None:
    """QLinearConv and its like are the same kernels."""
    net = QuantNet()
    x = net.input("x", (1, 8, 9, 9), np.uint8, _whole_range)
    one, zero = net.const(0.02), net.const(100, np.uint8)
    kernel = net.const(net.rng.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8))
    scales = net.const(net.rng.uniform(0.001, 0.004, 16).astype(np.float32))
    zeros = net.const(np.zeros(16, np.int8))
    bias = net.const(net.rng.integers(-3000, 3000, 16).astype(np.int32))
    out = net.const(0.04)
    y = net("QLinearConv", x, one, zero, kernel, scales, zeros, out, zero, bias, pads=[1] * 4)
    shape = net.const([1, 16, 81])
    weight = net.const(net.rng.integers(0, 256, (81, 20)).astype(np.uint8))
    rest = (weight, net.const(0.003), net.const(128, np.uint8), net.const(0.1), zero)
    y = net("QLinearMatMul", net("Reshape", y, shape), out, zero, *rest)
    parts = (net.const(0.1), zero, y, net.const(0.1), zero, net.const(0.15), zero)
    _check(
        net.output(net("QLinearAdd", y, *parts, domain="com.microsoft")),
        {"conv_int8": 1, "gemm_int8": 1, "q_linear_conv": 0, "q_linear_matmul": 0},
    )


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize(("k", "n", "block"), [(64, 40, 32), (96, 16, 16), (128, 7, 128)])
@pytest.mark.parametrize("zeros", [False, True])
def test_weights_of_four_bits(rows: int, k: int, n: int, block: int, zeros: bool) -> None:
    net = Net()
    x = net.input("x", (rows, k))
    codes = net.const(net.rng.integers(0, 256, (n, k // block, block // 2)).astype(np.uint8))
    scale = net.const(net.rng.uniform(0.5, 1, n * (k // block)).astype(np.float32))
    zero = net.const(net.rng.integers(0, 256, n * ((k // block + 1) // 2)).astype(np.uint8))
    operands = (x, codes, scale, zero) if zeros else (x, codes, scale)
    bits = {"K": k, "N": n, "bits": 4, "block_size": block, "domain": "com.microsoft"}
    _check(net.output(net("MatMulNBits", *operands, **bits)), {"gemm_int4": 1})


@pytest.mark.parametrize("zeros", [False, True])
def test_blocks_of_four_bits(zeros: bool) -> None:
    from onnx import TensorProto, helper

    net = Net(opset=21)
    x = net.input("x", (2, 5, 64))

    def codes(name: str, shape: tuple[int, ...]) -> str:
        low, kind = (0, TensorProto.UINT4) if zeros else (-8, TensorProto.INT4)
        values = net.rng.integers(low, low + 16, shape).astype(np.int8)
        net.weights.append(helper.make_tensor(name, kind, shape, values.ravel().tolist()))
        return name

    scale = net.const(net.rng.uniform(0.5, 1, (2, 24)).astype(np.float32))
    operands = [codes("codes", (64, 24)), scale, *([codes("zeros", (2, 24))] if zeros else [])]
    w = net("DequantizeLinear", *operands, axis=0, block_size=32)
    _check(net.output(net("MatMul", x, w)), {"gemm_int4": 1})
