"""Convolutions and pools: random attributes beside onnxruntime, and what the suite leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError
from tests.ops.oracle import assert_same, interpret

FEW = settings(max_examples=25, deadline=None, derandomize=True)
AUTO = st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])


@st.composite
def windows(draw: Any, low: int = 1) -> tuple[list[int], dict[str, Any]]:
    """Input sizes, and attributes of a window over them that fits."""
    rank = draw(st.integers(1, 3 if low == 1 else 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "dilations": dilations,
        "strides": [draw(st.integers(1, 3)) for _ in range(rank)],
    }
    auto = draw(AUTO)
    if auto == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    else:
        attrs["auto_pad"] = auto
    return [e + draw(st.integers(0, 5)) for e in extents(attrs)], attrs


def extents(attrs: dict[str, Any]) -> list[int]:
    pairs = zip(attrs["kernel_shape"], attrs["dilations"], strict=True)
    return [(k - 1) * d + 1 for k, d in pairs]


def usual(attrs: dict[str, Any]) -> bool:
    """No automatic padding where onnxruntime's differs: it ignores dilations, and where a stride
    exceeds the window it pads by a negative amount."""
    if "auto_pad" not in attrs:
        return True
    fits = all(s <= e for s, e in zip(attrs["strides"], extents(attrs), strict=True))
    return fits and set(attrs["dilations"]) == {1}


def values(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@FEW
@given(windows(), st.sampled_from([(1, 2, 3), (2, 4, 6), (4, 4, 4), (3, 3, 6)]), st.booleans())
def test_conv(window: Any, channels: tuple[int, int, int], bias: bool) -> None:
    spatial, attrs = window
    group, cin, cout = channels
    x = values((2, cin, *spatial), 0)
    w = values((cout, cin // group, *attrs["kernel_shape"]), 1)
    b = values((cout,), 2) if bias else None
    assume(usual(attrs))
    assert_same("Conv", [x, w, b], {**attrs, "group": group})


@FEW
@given(windows(), st.sampled_from([(1, 2, 3), (2, 4, 6), (3, 3, 3)]), st.data())
def test_conv_transpose(window: Any, channels: tuple[int, int, int], data: Any) -> None:
    spatial, attrs = window
    group, cin, cout = channels
    more = [data.draw(st.integers(0, s - 1)) for s in attrs["strides"]]
    # Where full output is smaller than input times stride, onnxruntime keeps it so.
    assume(
        "pads" in attrs
        or all(e + m >= s for e, m, s in zip(extents(attrs), more, attrs["strides"], strict=True))
    )
    attrs = {**attrs, "group": group, "output_padding": more}
    x = values((2, cin, *spatial), 0)
    w = values((cin, cout // group, *attrs["kernel_shape"]), 1)
    assume(attrs.get("auto_pad") != "VALID")
    assert_same("ConvTranspose", [x, w, values((cout,), 2)], attrs)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_conv_transpose_to_a_given_size(auto_pad: str, size: int) -> None:
    # By the specification's formula; onnxruntime splits an odd padding the other way round.
    x, w = np.ones((1, 1, 4), np.float32), np.array([[[1.0, 2.0, 4.0]]], np.float32)
    attrs = {"strides": [2], "output_shape": [size], "auto_pad": auto_pad}
    (y,) = interpret("ConvTranspose", [x, w], attrs)
    full = np.array([1, 2, 5, 2, 5, 2, 5, 2, 4], np.float32)
    total = 9 - size
    begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    np.testing.assert_array_equal(y[0, 0], full[begin : begin + size])


@FEW
@given(windows(2), st.booleans(), st.booleans())
def test_max_pool(window: Any, ceil: bool, column_major: bool) -> None:
    spatial, attrs = window
    attrs = {**attrs, "storage_order": int(column_major)}
    assume(usual(attrs))
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = int(ceil)
    assert_same("MaxPool", [values((2, 3, *spatial), 0)], attrs, outputs=2)


@FEW
@given(windows(2), st.booleans(), st.booleans())
def test_average_pool(window: Any, ceil: bool, padding: bool) -> None:
    spatial, attrs = window
    assume(usual(attrs))
    attrs = {**attrs, "count_include_pad": int(padding)}
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = int(ceil)
    assert_same("AveragePool", [values((2, 3, *spatial), 0)], attrs)


@FEW
@given(windows(2), st.integers(1, 3))
def test_lp_pool(window: Any, p: int) -> None:
    spatial, attrs = window
    assume(usual(attrs))
    assert_same("LpPool", [values((2, 3, *spatial), 0)], {**attrs, "p": p})


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("name", ["GlobalLpPool", "GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(name: str, p: int) -> None:
    attrs = {"p": p} if name == "GlobalLpPool" else {}
    # onnxruntime implements GlobalLpPool and MaxRoiPool of old opsets only.
    opset = 13 if name == "GlobalLpPool" else 22
    assert_same(name, [values((2, 3, 4, 5), 0)], attrs, opset=opset)


def test_max_roi_pool() -> None:
    rois = np.array([[0, 0, 0, 6, 9], [1, 2, 1, 9, 4], [1, 20, 20, 30, 30]], np.float32)
    attrs = {"pooled_shape": [3, 2], "spatial_scale": 0.5}
    assert_same("MaxRoiPool", [values((2, 3, 6, 7), 0), rois], attrs, opset=13)


@pytest.mark.parametrize("name", ["Conv", "ConvInteger"])
def test_a_window_larger_than_the_input_is_an_error(name: str) -> None:
    dtype = np.float32 if name == "Conv" else np.uint8
    x, w = np.zeros((1, 1, 2), dtype), np.zeros((1, 1, 5), dtype)
    with pytest.raises(ModelError, match="larger than the padded input"):
        interpret(name, [x, w], {})


def test_half_precision_accumulates_in_single() -> None:
    # 4096 times 1 in f16 would stop counting at 2048.
    x, w = np.ones((1, 4096, 1), np.float16), np.ones((1, 4096, 1), np.float16)
    (y,) = interpret("Conv", [x, w], {})
    assert y.dtype == np.float16 and y.item() == 4096


def test_pooled_indices_skip_padding() -> None:
    x = np.full((1, 1, 2, 2), -np.inf, np.float32)
    y, index = interpret("MaxPool", [x], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, outputs=2)
    assert np.isneginf(y).all()
    np.testing.assert_array_equal(index[0, 0], [[0, 0], [0, 0]])
