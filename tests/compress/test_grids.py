"""Grids and ranges, against onnxruntime's QuantizeLinear and against plain sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from graphopt.compress.adequacy import assess
from graphopt.compress.affine import Grid, activation_grid, bias_grid, block_grid, channel_grid
from graphopt.compress.histogram import Histogram
from graphopt.compress.observe import Observation
from graphopt.compress.ranges import METHODS, find_range
from graphopt.errors import OptionError
from graphopt.ir import DType

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _own_numbers() -> None:
    """Each test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


Array = np.ndarray[Any, Any]


def runtime_codes(x: Array, grid: Grid) -> tuple[Array, Array]:
    """Codes and values as onnxruntime has them."""
    kind = {DType.U8: TensorProto.UINT8, DType.I8: TensorProto.INT8}[grid.dtype]
    vector = [] if grid.scale.ndim == 0 else [grid.scale.size]
    names = ["x", "scale", "zero"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, vector),
        helper.make_tensor_value_info("zero", kind, vector),
    ]
    outputs = [
        helper.make_tensor_value_info("q", kind, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", names, ["q"], axis=grid.axis),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=grid.axis),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, {"x": x, "scale": grid.scale, "zero": grid.zero})
    return found[0], found[1]


@pytest.mark.parametrize("low", [-3.0, 0.0, 0.7, -0.01])
@pytest.mark.parametrize("high", [0.0, 0.001, 2.5])
@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_activations_round_as_onnxruntime_does(
    low: float, high: float, dtype: DType, symmetric: bool
) -> None:
    grid = activation_grid(low, max(high, low), dtype, symmetric=symmetric)
    x = RNG.uniform(low * 1.2 - 0.1, max(high, low) * 1.2 + 0.1, (7, 11)).astype(np.float32)
    codes, values = runtime_codes(x, grid)
    np.testing.assert_array_equal(grid.codes(x), codes)
    np.testing.assert_array_equal(grid.values(codes), values)
    # Zero is exact, and what lies in the range is off by half a step at most.
    assert grid.rounded(np.zeros(1, np.float32))[0] == 0
    inside = x[(x >= min(low, 0)) & (x <= max(high, low, 0))]
    assert np.all(np.abs(grid.rounded(inside) - inside) <= grid.scale * 0.5001)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_round_as_onnxruntime_does(axis: int | None) -> None:
    w = RNG.standard_normal((6, 5)).astype(np.float32) * np.logspace(-3, 3, 5, dtype=np.float32)
    grid = channel_grid(w, axis)
    codes, values = runtime_codes(w, grid)
    np.testing.assert_array_equal(grid.codes(w), codes)
    np.testing.assert_array_equal(grid.values(codes), values)
    assert np.abs(codes.astype(int)).max() == 127
    assert not grid.zero.any()


def test_a_channel_of_zeros_gets_a_usual_scale() -> None:
    w = np.array([[1.0, -2.0], [0.0, 0.0], [0.5, 0.25]], np.float32)
    grid = channel_grid(w, 0)
    assert np.all(grid.scale > 1e-4)
    assert not grid.rounded(w)[1].any()


def test_biases_stand_at_the_scale_of_the_products() -> None:
    w = RNG.standard_normal((4, 8)).astype(np.float32)
    w[2] *= 1e-12
    bias = np.array([0.3, -4.0, 1e3, 0.0], np.float32)
    sums, weights = bias_grid(bias, 0.02, channel_grid(w, 0))
    np.testing.assert_array_equal(sums.scale, np.float32(0.02) * weights.scale)
    np.testing.assert_allclose(sums.rounded(bias), bias, atol=float(sums.scale.max()))
    # A bias that dwarfs its channel's weights still fits 32 bits.
    assert np.abs(sums.codes(bias).astype(np.int64)).max() <= 1 << 30


@pytest.mark.parametrize("dtype", [DType.I4, DType.U4, DType.I8, DType.U8])
@pytest.mark.parametrize("block", [4, 16, 100])
def test_blocks_are_scaled_one_by_one(dtype: DType, block: int) -> None:
    w = RNG.standard_normal((37, 3)).astype(np.float32)
    w[:4] *= 100
    symmetric = dtype.is_signed
    grid = block_grid(w, 0, block, dtype, symmetric=symmetric)
    assert grid.scale.shape == (-(-37 // block), 3)
    off = np.abs(grid.rounded(w) - w)
    # A symmetric grid of 2n numbers ends half a step short on one side.
    steps = np.abs(grid.spread_scale(w.shape))
    assert np.all(off <= steps * (1.001 if symmetric else 0.501 + 0.5))


# ---- histograms ----


def test_a_histogram_does_not_depend_on_order() -> None:
    pieces = [RNG.standard_normal(1000).astype(np.float32) * s for s in (1, 1e-3, 50, 2)]
    first, second = Histogram(512), Histogram(512)
    for piece in pieces:
        first.add(piece)
    for piece in reversed(pieces):
        second.add(piece)
    whole = np.concatenate(pieces)
    assert first.width == second.width
    assert (first.low, first.high, first.count) == (whole.min(), whole.max(), whole.size)
    np.testing.assert_array_equal(np.trim_zeros(first.counts), np.trim_zeros(second.counts))
    assert first.counts.sum() == whole.size
    assert len(first.counts) <= 514
    edges = (np.arange(len(first.counts) + 1) + first._first) * first.width
    np.testing.assert_array_equal(first.counts, np.histogram(whole, edges)[0])


def test_what_is_not_finite_is_counted_apart() -> None:
    seen = Histogram()
    seen.add(np.array([1.0, np.nan, np.inf, -2.0], np.float32))
    seen.add(np.array([], np.float32))
    assert (seen.count, seen.broken, seen.low, seen.high) == (2, 2, -2.0, 1.0)


# ---- ranges ----


def seen_of(x: Array) -> Histogram:
    result = Histogram()
    result.add(x.astype(np.float32))
    return result


def test_minmax_and_percentile() -> None:
    x = np.arange(-1000, 1001) / 1000
    assert find_range(seen_of(x), "minmax") == (-1, 1)
    low, high = find_range(seen_of(x), "percentile", percentile=90)
    assert low == pytest.approx(-0.9, abs=2e-3)
    assert high == pytest.approx(0.9, abs=2e-3)
    # One end to cut after ReLU.
    low, high = find_range(seen_of(np.abs(x)), "percentile", percentile=90)
    assert low == 0
    assert high == pytest.approx(0.9, abs=3e-3)
    assert find_range(Histogram(), "mse") == (0, 0)


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("shape", ["normal", "relu", "outlier"])
def test_mse_finds_the_range_of_least_error(shape: str, levels: int) -> None:
    x = RNG.standard_normal(20000)
    x = np.maximum(x, 0) if shape == "relu" else x
    x[:1] = 60 if shape == "outlier" else x[:1]

    def error(low: float, high: float) -> float:
        scale = (high - low) / (levels - 1)
        return float(np.mean((np.rint(np.clip(x, low, high) / scale) * scale - x) ** 2))

    found = find_range(seen_of(x), "mse", levels=levels)
    brute = min(
        error(x.min() * a, x.max() * b)
        for a in np.linspace(0.05, 1, 40)
        for b in np.linspace(0.05, 1, 40)
    )
    assert error(*found) <= 1.1 * brute
    assert error(*found) <= error(float(x.min()), float(x.max())) * 1.001


def test_entropy_cuts_outliers_and_keeps_what_is_dense() -> None:
    x = RNG.standard_normal(50000)
    x[:3] = [70, -50, 90]
    low, high = find_range(seen_of(x), "entropy")
    assert -50 < low < -1.5
    assert 1.5 < high < 70
    uniform = RNG.uniform(0, 1, 50000)
    low, high = find_range(seen_of(uniform), "entropy")
    assert low == 0
    assert high > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_a_symmetric_range_reaches_both_ways(method: str) -> None:
    low, high = find_range(seen_of(np.array([-1.0, 0.5, 0.2, 3.0])), method, symmetric=True)
    assert low == -high
    assert find_range(seen_of(np.array([0.0, 3.0])), "minmax", symmetric=True) == (0, 3)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(OptionError, match="there is no calibration method 'best'"):
        find_range(seen_of(np.ones(3)), "best")
    with pytest.raises(OptionError, match="percentile is 12"):
        find_range(seen_of(np.ones(3)), "percentile", percentile=12)


# ---- adequacy ----


def observed(x: Array) -> dict[str, Observation]:
    item = Observation()
    for row in x:
        item.add(row)
    return {"v": item}


def test_two_samples_are_flagged() -> None:
    found = assess(observed(RNG.standard_normal((2, 100))))
    assert not found.enough
    assert "2 samples are too few" in found.text


def test_many_like_samples_are_enough() -> None:
    found = assess(observed(RNG.uniform(-1, 1, (64, 1000))))
    assert found.enough
    assert found.more == 0


def test_a_drifting_range_asks_for_more() -> None:
    x = RNG.standard_cauchy((32, 2))
    x[1::2] *= 10
    found = assess(observed(x))
    assert not found.enough
    assert found.worst == "v"
    assert found.more > 32
