"""CUDA artifacts of small nets, in the simulator, beside onnxruntime."""

from __future__ import annotations

import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.cuda.nvrtc import library_path
from graphopt.compiler import FallbackWarning, compile_graph
from graphopt.runtime.artifact import Artifact
from graphopt.testing.cuda_sim import Simulator
from tests.backends.pipe import Net, onnxruntime_outputs

__all__ = ["NEEDS_TOOLS", "check", "cnn", "compiled", "error_of", "transformer"]

# Relative L2 error that outputs may have.
BARS = {"fp32": 1e-5, "fp16": 1e-2}

NEEDS_TOOLS = pytest.mark.skipif(
    library_path("13") is None or shutil.which("g++") is None,
    reason="needs nvidia-cuda-nvrtc (`pip install graphopt[cuda]`) and g++",
)


def compiled(net: Net, precision: str = "fp32", arch: str = "sm_80") -> Artifact:
    """The artifact of a net; a node without a kernel is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        source = graphopt.from_onnx(net.model())
        return compile_graph(source, f"cuda{{arch={arch},precision={precision}}}", strict=True)


def error_of(got: dict[str, Any], wanted: list[Any]) -> float:
    """The worst relative L2 error; infinite for NaN where there should be none."""
    worst = 0.0
    for mine, right in zip(got.values(), wanted, strict=True):
        assert mine.shape == right.shape and mine.dtype == right.dtype
        if right.dtype.kind not in "fc":
            worst = max(worst, float(np.any(mine != right)))
            continue
        mine64, right64 = mine.astype(np.float64), right.astype(np.float64)
        same = (mine64 == right64) | (np.isnan(mine64) & np.isnan(right64))
        with np.errstate(invalid="ignore"):
            difference = np.linalg.norm(np.where(same, 0.0, mine64 - right64))
        scale = np.linalg.norm(np.where(np.isfinite(right64), right64, 0.0)) or 1.0
        error = float(difference / scale)
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def check(net: Net, *precisions: str, orders: tuple[int, ...] = (0, 3)) -> Artifact:
    """Compiles, replays in some orders of threads, compares. The last artifact."""
    feeds = net.feeds()
    wanted = onnxruntime_outputs(net.model(), feeds)
    for precision in precisions or ("fp32",):
        artifact = compiled(net, precision)
        simulator = Simulator.of(artifact)
        for order in orders:
            error = error_of(simulator.replay(artifact, feeds, order), wanted)
            assert error <= BARS[precision], f"{precision}, order {order}: {error:.3g}"
    return artifact


@cache
def cnn() -> Net:
    """Every kind of convolution and pool once, with tails of several kinds."""
    net = Net()
    x = net.input("x", (1, 3, 18, 18))
    y = net("Conv", x, net.weight(16, 3, 3, 3), net.weight(16), pads=[1] * 4, strides=[2, 2])
    y = net("Clip", y, net.const(0.0), net.const(6.0))
    y = net("Conv", y, net.weight(16, 1, 3, 3), net.weight(16), pads=[1] * 4, group=16)
    y = net("Relu", y)
    wide = net("Conv", y, net.weight(24, 16, 1, 1), net.weight(24))
    y = net("Conv", wide, net.weight(24, 24, 3, 3, scale=0.1), pads=[1] * 4)
    y = net("Relu", net("Add", wide, y))
    y = net("Sigmoid", net("Conv", y, net.weight(24, 8, 3, 3), pads=[1] * 4, group=3))
    y = net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4)
    y = net("Flatten", net("GlobalAveragePool", y))
    y = net("Gemm", y, net.weight(10, 24), net.weight(10), transB=1)
    return net.output(net("Softmax", y))


@cache
def transformer() -> Net:
    """Two layers of an encoder: lookups, masked attention, normalisations, Gelu."""
    length, width, heads, hidden, words = 12, 32, 2, 64, 50
    net = Net()
    ids = net.input("ids", (1, length), np.int64, lambda rng, shape: rng.integers(0, words, shape))
    mask = net.input(
        "mask", (1, 1, 1, length), np.float32,
        lambda rng, shape: np.where(np.arange(length) < length - 3, 0, -1e4)
        .astype(np.float32).reshape(shape),
    )  # fmt: skip
    y = net("Gather", net.weight(words, width), ids)
    y = net("Add", y, net.weight(1, length, width, scale=0.1))
    split = net.const(np.array([1, length, heads, width // heads], np.int64))
    joined = net.const(np.array([1, length, width], np.int64))

    def linear(x: str, inner: int, outer: int) -> str:
        weight = net.weight(inner, outer, scale=inner**-0.5)
        return str(net("Add", net("MatMul", x, weight), net.weight(outer, scale=0.1)))

    def normal(x: str) -> str:
        scale, bias = net.weight(width, scale=1.0), net.weight(width, scale=0.1)
        return str(net("LayerNormalization", x, scale, bias, axis=-1))

    for _ in range(2):
        q, k, v = (
            net("Transpose", net("Reshape", linear(y, width, width), split), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = net("Mul", net("MatMul", q, k), net.const((width // heads) ** -0.5))
        weights = net("Softmax", net("Add", scores, mask), axis=-1)
        mixed = net("Transpose", net("MatMul", weights, v), perm=[0, 2, 1, 3])
        out = linear(net("Reshape", mixed, joined), width, width)
        y = normal(net("Add", out, y))
        out = linear(net("Gelu", linear(y, width, hidden)), hidden, width)
        y = normal(net("Add", out, y))
    return net.output(y)


def saved(artifact: Artifact, folder: Path) -> Path:
    """The artifact as a file."""
    path = folder / "net.gopt"
    artifact.save(path)
    return path
