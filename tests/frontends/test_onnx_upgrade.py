"""Nodes of old opsets mean what they meant: numbers against numpy or onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError, ModelError, UnsupportedError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import DType, verify
from graphopt.ops.interpreter import run_graph
from tests.frontends.onnx_models import info, model_of

RNG = np.random.default_rng(7)
Array = np.ndarray[Any, Any]


def old_model(
    op: str,
    opset: int,
    feeds: dict[str, Array],
    n_outputs: int = 1,
    symbolic: bool = False,
    inputs: Sequence[str] | None = None,
    **attrs: Any,
) -> Any:
    """A model of one node; ``symbolic`` leaves every size of the inputs open."""
    outputs = [f"y{k}" for k in range(n_outputs)]
    node = helper.make_node(op, inputs if inputs is not None else list(feeds), outputs, **attrs)
    infos = []
    for name, array in feeds.items():
        shape: list[Any] = list(array.shape)
        if symbolic:
            shape = [f"{name}{axis}" for axis in range(array.ndim)]
        infos.append(info(name, int(DType.from_numpy(array.dtype)), shape))
    graph = helper.make_graph([node], "old", infos, [info(o) for o in outputs])
    return model_of(graph, opset, ir_version=7)


def run(
    op: str, opset: int, feeds: dict[str, Array], n_outputs: int = 1, **options: Any
) -> list[Array]:
    graph = from_onnx(old_model(op, opset, feeds, n_outputs, **options))
    verify(graph)
    return run_graph(graph, feeds)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
def test_broadcast_at_an_axis(op: str) -> None:
    a, b = np.abs(floats(2, 3, 4, 5)) + 1, np.abs(floats(3, 4)) + 1
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
                "Pow": np.power}[op]  # fmt: skip
    [y] = run(op, 6, {"a": a, "b": b}, broadcast=1, axis=1)
    np.testing.assert_allclose(y, function(a, b[:, :, None]), rtol=1e-6)
    [y] = run(op, 6, {"a": a, "b": b}, broadcast=1, axis=-3)
    np.testing.assert_allclose(y, function(a, b[:, :, None]), rtol=1e-6)


def test_broadcast_of_the_last_axes_is_the_default() -> None:
    a, b = floats(2, 3, 4), floats(4)
    np.testing.assert_array_equal(run("Add", 6, {"a": a, "b": b}, broadcast=1)[0], a + b)


def test_broadcast_compares_too() -> None:
    a, b = floats(2, 3), floats(2)
    [y] = run("Less", 1, {"a": a, "b": b}, broadcast=1, axis=0)
    np.testing.assert_array_equal(y, a < b[:, None])


def test_broadcast_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="does not fit at axis 2"):
        run("Add", 6, {"a": floats(2, 3, 4), "b": floats(4, 1)}, broadcast=1, axis=2)


def test_consumed_inputs_are_forgotten() -> None:
    x = floats(3)
    [y] = run("Relu", 1, {"x": x}, consumed_inputs=[0])
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_cast_to_a_name() -> None:
    [y] = run("Cast", 1, {"x": np.array([1.7, -2.2], np.float32)}, to="INT32")
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, [1, -2])


def test_selu_had_shorter_constants() -> None:
    x = np.array([-1.0, 2.0], np.float32)
    alpha, gamma = np.float32(1.6732), np.float32(1.0507)
    expected = gamma * np.where(x > 0, x, alpha * (np.exp(x) - 1))
    np.testing.assert_allclose(run("Selu", 1, {"x": x})[0], expected, rtol=1e-6)
    assert not np.allclose(run("Selu", 6, {"x": x})[0], expected, rtol=1e-6)


def test_prelu_slope_of_the_channels() -> None:
    x, slope = floats(2, 3, 4, 4), floats(3)
    expected = np.where(x < 0, x * slope[:, None, None], x)
    np.testing.assert_array_equal(run("PRelu", 6, {"x": x, "s": slope})[0], expected)
    one = floats(1)
    expected = np.where(x < 0, x * one, x)
    np.testing.assert_array_equal(run("PRelu", 6, {"x": x, "s": one})[0], expected)


@pytest.mark.parametrize("opset", [1, 6])
def test_clip_bounds_as_attributes(opset: int) -> None:
    x = np.array([-np.inf, -5, 0.5, 7, np.inf], np.float32)
    [y] = run("Clip", opset, {"x": x}, min=0.0, max=6.0)
    np.testing.assert_array_equal(y, np.clip(x, 0, 6))


def test_clip_without_bounds_stops_at_the_extremes_of_f32() -> None:
    x = np.array([-np.inf, np.inf], np.float32)
    limit = np.finfo(np.float32).max
    np.testing.assert_array_equal(run("Clip", 6, {"x": x})[0], [-limit, limit])
    np.testing.assert_array_equal(run("Clip", 1, {"x": x})[0], x)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_over_flattened_axes(op: str, axis: int, symbolic: bool) -> None:
    x = floats(2, 3, 4)
    [y] = run(op, 11, {"x": x}, axis=axis, symbolic=symbolic)
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    if op == "Hardmax":
        expected = np.eye(rows.shape[1])[rows.argmax(1)]
    else:
        expected = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
        expected = np.log(expected) if op == "LogSoftmax" else expected
    np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-5, atol=1e-6)


def test_softmax_default_axis_was_one() -> None:
    x = floats(2, 3, 2, 2)
    rows = np.exp(x.reshape(2, -1).astype(np.float64))
    expected = (rows / rows.sum(1, keepdims=True)).reshape(x.shape)
    np.testing.assert_allclose(run("Softmax", 11, {"x": x})[0], expected, rtol=1e-5)


def test_softmax_of_one_wide_axis_needs_no_reshape() -> None:
    graph = from_onnx(old_model("Softmax", 11, {"x": floats(2, 5, 1, 1)}, axis=1))
    assert [(n.op.name, n.attr("axis")) for n in graph] == [("Softmax", 1)]


@pytest.mark.parametrize(("op", "opset"), [("ReduceSum", 11), ("ReduceMean", 13), ("ReduceL2", 1)])
def test_reduction_axes_as_attribute(op: str, opset: int) -> None:
    x = floats(2, 3, 4)
    function = {"ReduceSum": lambda v, a: v.sum(a), "ReduceMean": lambda v, a: v.mean(a),
                "ReduceL2": lambda v, a: np.sqrt((v * v).sum(a))}[op]  # fmt: skip
    [y] = run(op, opset, {"x": x}, axes=[0, 2], keepdims=0)
    np.testing.assert_allclose(y, function(x, (0, 2)), rtol=1e-5)
    [y] = run(op, opset, {"x": x}, keepdims=0)
    np.testing.assert_allclose(y, function(x, (0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("opset", [1, 6, 7, 10])
def test_dropout_infers(opset: int) -> None:
    x = floats(4, 4)
    attrs = {"is_test": 1} if opset < 7 else {}
    [y] = run("Dropout", opset, {"x": x}, ratio=0.9, **attrs)
    np.testing.assert_array_equal(y, x)


def test_dropout_mask_had_the_type_of_the_data() -> None:
    _, mask = run("Dropout", 7, {"x": floats(3)}, n_outputs=2)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, 1)
    assert run("Dropout", 10, {"x": floats(3)}, n_outputs=2)[1].dtype == np.bool_


def test_one_hot_of_negative_indices_was_off() -> None:
    feeds = {"i": np.array([0, -1, 2]), "d": np.array(3), "v": np.array([0.0, 1.0], np.float32)}
    np.testing.assert_array_equal(run("OneHot", 9, feeds)[0], [[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(run("OneHot", 11, feeds)[0], np.eye(3)[[0, 2, 2]])


def batch_norm_feeds(x: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    names = ("scale", "bias", "mean", "var")
    return {"x": x, **{n: np.abs(floats(*shape)) + 0.5 for n in names}}


@pytest.mark.parametrize(("opset", "attrs"), [
    (1, {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}), (6, {"is_test": 1}),
    (7, {}), (9, {}), (14, {}),
])  # fmt: skip
def test_batch_norm_infers(opset: int, attrs: dict[str, Any]) -> None:
    f = batch_norm_feeds(floats(2, 3, 4), (3,))
    scale, bias, mean, var = (f[k][:, None] for k in ("scale", "bias", "mean", "var"))
    expected = (f["x"] - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(run("BatchNormalization", opset, f, **attrs)[0], expected, rtol=1e-5)


def test_batch_norm_of_every_activation() -> None:
    f = batch_norm_feeds(floats(2, 3, 4), (3, 4))
    expected = (f["x"] - f["mean"]) / np.sqrt(f["var"] + 1e-3) * f["scale"] + f["bias"]
    [y] = run("BatchNormalization", 7, f, spatial=0, epsilon=1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_batch_norm_with_more_outputs_trained() -> None:
    f = batch_norm_feeds(floats(5, 3, 4), (3,))
    y, mean, _ = run("BatchNormalization", 9, f, n_outputs=3, momentum=0.8)
    now = f["x"].mean((0, 2))
    np.testing.assert_allclose(mean, f["mean"] * 0.8 + now * 0.2, rtol=1e-5)
    np.testing.assert_allclose(y.mean((0, 2)), f["bias"], atol=1e-5)
    with pytest.raises(UnsupportedError, match="saved_mean"):
        run("BatchNormalization", 9, f, n_outputs=5)


@pytest.mark.parametrize("symbolic", [False, True])
def test_group_norm_scale_of_the_groups(symbolic: bool) -> None:
    x, scale, bias = floats(2, 6, 5), floats(2), floats(2)
    groups = x.reshape(2, 2, -1)
    normal = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    expected = normal * scale[:, None] + bias[:, None]
    feeds = {"x": x, "s": scale, "b": bias}
    [y] = run("GroupNormalization", 18, feeds, num_groups=2, symbolic=symbolic)
    np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_lp_pool_exponent_was_a_float() -> None:
    x = floats(1, 1, 4)
    [y] = run("LpPool", 1, {"x": x}, kernel_shape=[2], p=2.0)
    expected = np.sqrt(x[..., :-1] ** 2 + x[..., 1:] ** 2)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="whole number"):
        run("LpPool", 1, {"x": x}, kernel_shape=[2], p=2.5)


def test_concat_axis_had_a_default() -> None:
    a, b = floats(2, 3), floats(2, 1)
    np.testing.assert_array_equal(run("Concat", 1, {"a": a, "b": b})[0], np.hstack([a, b]))


def test_shapes_and_axes_as_attributes() -> None:
    x = floats(2, 1, 6)
    np.testing.assert_array_equal(run("Reshape", 1, {"x": x}, shape=[3, 4])[0], x.reshape(3, 4))
    np.testing.assert_array_equal(run("Squeeze", 11, {"x": x}, axes=[1])[0], x[:, 0])
    np.testing.assert_array_equal(run("Squeeze", 11, {"x": x})[0], x[:, 0])
    np.testing.assert_array_equal(run("Unsqueeze", 11, {"x": x}, axes=[-1])[0], x[..., None])
    [y] = run("Slice", 1, {"x": x}, starts=[1, -3], ends=[9, -1], axes=[0, 2])
    np.testing.assert_array_equal(y, x[1:, :, -3:-1])
    [y] = run("Slice", 1, {"x": x}, starts=[0], ends=[1])
    np.testing.assert_array_equal(y, x[:1])


def test_split_sizes_as_attribute_or_equal_parts() -> None:
    x = floats(2, 6)
    parts = run("Split", 11, {"x": x}, n_outputs=2, axis=1, split=[2, 4])
    np.testing.assert_array_equal(parts[1], x[:, 2:])
    parts = run("Split", 13, {"x": x}, n_outputs=3, axis=1)
    np.testing.assert_array_equal(parts[2], x[:, 4:])


def test_pads_as_attribute() -> None:
    x = floats(2, 3)
    [y] = run("Pad", 2, {"x": x}, pads=[0, 1, 0, 2], value=1.5)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (1, 2)), constant_values=1.5))
    [y] = run("Pad", 1, {"x": x}, paddings=[1, 0, 0, 0], mode="edge")
    np.testing.assert_array_equal(y, np.pad(x, ((1, 0), (0, 0)), mode="edge"))


def test_tile_of_one_axis() -> None:
    x = floats(2, 3, 4)
    node = helper.make_node("Tile", ["x", "n", "axis"], ["y"])
    constants = [helper.make_tensor("axis", TensorProto.INT64, [], [1])]
    graph = helper.make_graph(
        [node], "tile", [info("x", 1, [2, 3, 4]), info("n", TensorProto.INT64, [])],
        [info("y")], constants,
    )  # fmt: skip
    [y] = run_graph(from_onnx(model_of(graph, 1)), {"x": x, "n": np.array(2)})
    np.testing.assert_array_equal(y, np.tile(x, (1, 2, 1)))


def test_top_k_count_as_attribute() -> None:
    x = floats(3, 5)
    values, indices = run("TopK", 1, {"x": x}, n_outputs=2, k=2, axis=1)
    np.testing.assert_array_equal(values, -np.sort(-x, 1)[:, :2])
    np.testing.assert_array_equal(indices, np.argsort(-x, 1, kind="stable")[:, :2])


def test_scatter_was_renamed() -> None:
    feeds = {"x": np.zeros((1, 4), np.float32), "i": np.array([[1, 3]]), "u": floats(1, 2)}
    for opset in (9, 13):
        [y] = run("Scatter", opset, feeds, axis=1)
        np.testing.assert_array_equal(y[0, [1, 3]], feeds["u"][0])


@pytest.mark.parametrize(("opset", "form"), [(1, "sides"), (7, "attribute"), (9, "operand")])
def test_upsample_became_resize(opset: int, form: str) -> None:
    x = floats(1, 1, 2, 3)
    feeds, attrs = {"x": x}, {}
    if form == "sides":
        attrs = {"height_scale": 2.0, "width_scale": 3.0}
    elif form == "attribute":
        attrs = {"scales": [1.0, 1.0, 2.0, 3.0]}
    else:
        feeds = {"x": x, "s": np.array([1, 1, 2, 3], np.float32)}
    [y] = run("Upsample", opset, feeds, **attrs)
    np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(3, 3))


def resize_10(scales: list[float], mode: str) -> Any:
    node = helper.make_node("Resize", ["x", "s"], ["y"], mode=mode)
    constants = [helper.make_tensor("s", 1, [4], scales)]
    graph = helper.make_graph([node], "r", [info("x", 1, [1, 1, 4, 5])], [info("y")], constants)
    return model_of(graph, 10, ir_version=5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    "scales", [[1, 1, 2, 2], [1, 1, 0.6, 0.6], [1, 1, 0.5, 2], [1, 1, 1.5, 1.7]]
)
def test_resize_10_is_that_of_onnxruntime(scales: list[float], mode: str) -> None:
    import onnxruntime

    model = resize_10(scales, mode)
    x = floats(1, 1, 4, 5)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    [y] = run_graph(from_onnx(model), {"x": x})
    np.testing.assert_allclose(y, session.run(None, {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_resize_for_nearest_neighbours_of_tensorflow() -> None:
    import onnxruntime

    node = helper.make_node(
        "Resize", ["x", "", "", "n"], ["y"], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    )  # fmt: skip
    node.input[1] = node.input[2] = "none"
    constants = [
        helper.make_tensor("n", TensorProto.INT64, [4], [1, 1, 7, 3]),
        helper.make_tensor("none", 1, [0], []),
    ]
    graph = helper.make_graph([node], "r", [info("x", 1, [1, 1, 4, 5])], [info("y")], constants)
    model = model_of(graph, 11, ir_version=7)
    x = floats(1, 1, 4, 5)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    [y] = run_graph(from_onnx(model), {"x": x})
    np.testing.assert_array_equal(y, session.run(None, {"x": x})[0])


def test_roi_align_had_no_half_pixel_shift() -> None:
    import onnxruntime

    feeds = {
        "x": floats(1, 2, 8, 8), "rois": np.array([[0, 0, 5, 6]], np.float32), "b": np.array([0]),
    }  # fmt: skip
    model = old_model("RoiAlign", 10, feeds, output_height=3, output_width=3, sampling_ratio=2)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(run_graph(from_onnx(model), feeds)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_grid_sample_modes_were_renamed(mode: str) -> None:
    import onnxruntime

    feeds = {"x": floats(1, 2, 5, 5), "g": np.clip(floats(1, 3, 3, 2), -1, 1)}
    model = old_model("GridSample", 16, feeds, mode=mode)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(
        run_graph(from_onnx(model), feeds)[0], expected, rtol=1e-4, atol=1e-5
    )


def test_dft_axis_as_attribute() -> None:
    x = floats(2, 4, 8, 1)
    [y] = run("DFT", 17, {"x": x}, axis=2)
    expected = np.fft.fft(x[..., 0], axis=2)
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_said_that_they_yield_the_sequence(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    feeds = {"x": floats(2, 1, 3), "w": floats(1, gates * 2, 3), "r": floats(1, gates * 2, 2)}
    old = run(op, 3, feeds, n_outputs=2, hidden_size=2, output_sequence=1)
    new = run(op, 14, feeds, n_outputs=2, hidden_size=2)
    np.testing.assert_array_equal(old[0], new[0])


def test_label_encoder_was_a_list_of_classes() -> None:
    def encode(feed: Array) -> Array:
        node = helper.make_node(
            "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", classes_strings=["a", "b"],
            default_int64=-7, default_string="?",
        )  # fmt: skip
        graph = helper.make_graph(
            [node], "l", [info("x", int(DType.from_numpy(feed.dtype)), [3])], [info("y")]
        )
        model = model_of(graph, 9, imports=[helper.make_opsetid("ai.onnx.ml", 1)])
        node_types = [n.op.name for n in from_onnx(model)]
        assert node_types == ["LabelEncoder"]
        attrs = next(iter(from_onnx(model))).attrs
        keys = attrs.get("keys_strings") or attrs["keys_int64s"]
        values = attrs.get("values_int64s") or attrs["values_strings"]
        default = attrs["default_int64" if "values_int64s" in attrs else "default_string"]
        table = dict(zip(keys, values, strict=True))
        return np.array([table.get(k, default) for k in feed.tolist()])

    assert encode(np.array(["b", "a", "z"], object)).tolist() == [1, 0, -7]
    assert encode(np.array([1, 0, 5])).tolist() == ["b", "a", "?"]


def test_scan_8_has_a_batch() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["s2"]), helper.make_node("Identity", ["s2"], ["o"])],
        "body", [info("s", 1, [2]), info("x", 1, [2])], [info("s2", 1, [2]), info("o", 1, [2])],
    )  # fmt: skip
    feeds = {"init": floats(3, 2), "xs": floats(3, 5, 2)}
    model = old_model(
        "Scan", 8, feeds, 2, inputs=["", "init", "xs"], body=body, num_scan_inputs=1,
        directions=[1],
    )  # fmt: skip
    final, outs = run_graph(from_onnx(model), feeds)
    expected = feeds["init"][:, None] + np.cumsum(feeds["xs"][:, ::-1], 1)
    np.testing.assert_allclose(outs, expected, rtol=1e-5)
    np.testing.assert_allclose(final, expected[:, -1], rtol=1e-5)


@pytest.mark.parametrize(("op", "opset", "attrs", "message"), [
    ("Cast", 1, {"to": "COMPLEX7"}, "no element type"),
    ("Unsqueeze", 11, {}, "attribute 'axes' is required"),
    ("TopK", 1, {}, "attribute 'k' is required"),
    ("Relu", 13, {"alpha": 1.0}, "no attribute 'alpha'"),
    ("Relu", 13, {"consumed_inputs": [0]}, "no attribute 'consumed_inputs'"),
    ("Softmax", 11, {"axis": 9}, "axis 9 is out of range"),
    ("Squeeze", 11, {"axes": "x"}, "not a list of integers"),
    ("Nonesuch", 13, {}, "the ONNX domain has no op 'Nonesuch'"),
    ("Flatten", 13, {"axis": 1.0}, "attribute 'axis' has the wrong type"),
])  # fmt: skip
def test_what_is_wrong_is_said(op: str, opset: int, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message) as caught:
        run(op, opset, {"x": floats(2, 3)}, **attrs)
    assert f"{op}" in str(caught.value)


def test_every_pytorch_model_of_the_suite_is_upgraded_whole() -> None:
    from pathlib import Path

    data = Path(onnx.__file__).parent / "backend/test/data"
    paths = sorted(data.glob("pytorch-*/*/model.onnx"))
    assert len(paths) > 100
    for path in paths:
        verify(from_onnx(path))
