"""Resize: random attributes beside onnxruntime, sizes as symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, TensorType, parse_dim, sym
from graphopt.ops import get
from graphopt.ops.resize import scale_fraction, scaled_size
from tests.ops.oracle import assert_same, interpret

FEW = settings(max_examples=60, deadline=None, derandomize=True)
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
# Exact in binary, so that coordinates are.
BINARY = [0.25, 0.5, 1.0, 2.0]
SCALES = [0.25, 0.5, 0.6, 0.7, 1.0, 1.1, 1.5, 1.7, 2.0, 3.0]


@FEW
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATES),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.sampled_from(SCALES), st.sampled_from(SCALES)),
    st.booleans(),
)
def test_scales(
    mode: str, coordinates: str, nearest: str, space: Any, scales: Any, excluded: bool
) -> None:
    out = [int(s * np.float32(f)) for s, f in zip(space, scales, strict=True)]
    # Where no size changes onnxruntime copies, whatever the scales.
    assume(min(out) > 0 and (tuple(out) != space or set(scales) == {1.0}))
    # onnxruntime aligns corners of the rounded size, the specification of the exact one.
    pairs = list(zip(space, scales, strict=True))
    whole = all(float(s * np.float32(f)).is_integer() for s, f in pairs)
    assume(coordinates != "align_corners" or whole)
    # Where coordinates tie, the last bit of a division decides on the nearest pixel.
    assume(mode != "nearest" or all(f in BINARY for f in scales))
    attrs: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": nearest,
    }
    if mode == "cubic":
        attrs["exclude_outside"] = int(excluded)
        attrs["cubic_coeff_a"] = -0.5 if excluded else -0.75
    x = np.random.default_rng(3).standard_normal((1, 2, *space)).astype(np.float32)
    factors = np.array([1, 1, *scales], np.float32)
    # f32 coordinates there, f64 here: an ulp of 12 over the distance of two pixels.
    assert_same("Resize", [x, None, factors], attrs, opset=19, rtol=1e-4, atol=2e-5)


@FEW
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATES),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from(["stretch", "not_larger", "not_smaller"]),
)
def test_sizes(mode: str, coordinates: str, space: Any, sizes: Any, policy: str) -> None:
    assume(policy == "stretch" or coordinates != "align_corners")
    x = np.random.default_rng(5).standard_normal((1, 2, *space)).astype(np.float32)
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "axes": [2, 3],
        "keep_aspect_ratio_policy": policy,
    }
    wanted = np.array(sizes, np.int64)
    assert_same("Resize", [x, None, None, wanted], attrs, opset=19, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7, 1.1, 1.4, 1 / 3, 2 / 3, 1.5, 2.0, 0.123456])
def test_a_scale_is_the_fraction_that_was_meant(scale: float) -> None:
    numerator, denominator = scale_fraction(float(np.float32(scale)))
    assert np.float32(numerator / denominator) == np.float32(scale)
    for size in range(1, 400):
        # The size that f32 arithmetic gives, which is what onnxruntime computes.
        assert scaled_size(size, float(np.float32(scale))) == int(
            np.float32(size) * np.float32(scale)
        )


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ([1, 1, 2, 2], "2*H, 2*W"),
        ([1, 1, 0.5, 0.25], "H // 2, W // 4"),
        ([1, 1, 1.5, 0.7], "3*H // 2, 7*W // 10"),
    ],
)
def test_symbolic_scales(scales: list[float], expected: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (sym("N"), 3, sym("H"), sym("W"))))
    factors = graph.add_constant(np.array(scales, np.float32))
    node = graph.add(get("Resize"), [x, None, factors], {"mode": "linear"})
    want = tuple(parse_dim(text) for text in expected.split(","))
    assert node.output.shape == (sym("N"), 3, *want)


def test_integers_round_and_saturate() -> None:
    # Cubic overshoots: 255 next to 0 would give 277 and -22.
    x = np.array([[[[0, 0, 255, 255]]]], np.uint8)
    scales = np.array([1, 1, 1, 4], np.float32)
    attrs = {"mode": "cubic"}
    (y,) = interpret("Resize", [x, None, scales], attrs)
    (real,) = interpret("Resize", [x.astype(np.float32), None, scales], attrs)
    assert real.min() < -1 and real.max() > 256
    np.testing.assert_array_equal(y, np.clip(np.rint(real), 0, 255).astype(np.uint8))
