"""Upgrades of normalisation, pooling, recurrent and sampling layers."""

from __future__ import annotations

import numpy as np

from graphopt.frontends.onnx_draft import Draft, step
from graphopt.ir import DType, Value

__all__: list[str] = []


@step(7, "BatchNormalization")
def batch_norm_7(draft: Draft) -> list[Value] | None:
    """``is_test`` chose inference; without it the statistics are those of the batch."""
    if draft.pop_int("is_test", 0):
        draft.wanted = draft.wanted[:1]
        return None
    if draft.pop_int("spatial", 1) == 0:
        draft.unsupported("training per activation (is_test=0, spatial=0) has no newer form")
    return _train(draft)


@step(9, "BatchNormalization")
def batch_norm_9(draft: Draft) -> list[Value] | None:
    """``spatial=0`` normalises every activation by itself, not every channel."""
    if draft.pop_int("spatial", 1) or draft.tensor(0).rank == 2:
        return None
    if any(draft.wanted[1:]):
        draft.unsupported("training per activation (spatial=0) has no newer form")
    b = draft.build
    x, scale, bias, mean, variance = (draft.value(i) for i in range(5))
    epsilon = draft.scalar(draft.pop_float("epsilon", 1e-5), draft.tensor(4).dtype, "epsilon")
    normal = b.Div(b.Sub(x, mean), b.Sqrt(b.Add(variance, epsilon)))
    return [b.Add(b.Mul(normal, scale), bias)]


@step(14, "BatchNormalization")
def batch_norm_14(draft: Draft) -> list[Value] | None:
    """Outputs beyond the first meant training."""
    return _train(draft) if any(draft.wanted[1:]) else None


def _train(draft: Draft) -> list[Value]:
    if any(draft.wanted[3:]):
        draft.unsupported("the outputs saved_mean and saved_var have no newer form")
    b = draft.build
    operands = [draft.value(i) for i in range(5)]
    kept = {k: draft.attrs[k] for k in ("epsilon", "momentum") if k in draft.attrs}
    results = b.BatchNormalization(*operands, training_mode=1, _outputs=3, **kept)
    return list(results[: max(draft.n_outputs, 1)])


@step(21, "GroupNormalization")
def group_norm_21(draft: Draft) -> None:
    """Scale and bias were one a group, now one a channel."""
    groups = draft.attrs.get("num_groups")
    if not isinstance(groups, int) or groups < 1:
        draft.fail("attribute 'num_groups' is required")
    channels = draft.shape(0)[1] if draft.rank(0) > 1 else draft.fail("it takes rank 2 or more")
    b = draft.build
    if isinstance(channels, int):
        size: Value = draft.ints([1, channels // groups])
    else:
        count = b.Shape(draft.value(0), start=1, end=2)
        each = b.Div(count, draft.ints([groups]))
        size = b.Concat(draft.ints([1]), each, axis=0)
    for index in (1, 2):
        column = b.Reshape(draft.value(index), draft.ints([-1, 1]))
        draft.inputs[index] = b.Reshape(b.Expand(column, size), draft.ints([-1]))


@step(2, "LpPool", "GlobalLpPool")
def lp_pool_2(draft: Draft) -> None:
    """The exponent was a float."""
    p = draft.pop_float("p", 2.0)
    if p != int(p):
        draft.unsupported(f"the exponent {p} is not a whole number")
    draft.attrs["p"] = int(p)


@step(7, "LSTM", "GRU", "RNN")
def recurrent_7(draft: Draft) -> None:
    """``output_sequence`` said whether the first output is wanted; its name says so now."""
    draft.attrs.pop("output_sequence", None)
    # The default of opset 1 was misspelt, and so are files that state it.
    if draft.attrs.get("direction") == "foward":
        draft.attrs["direction"] = "forward"


@step(16, "RoiAlign")
def roi_align_16(draft: Draft) -> None:
    """The half-pixel shift of the input came with a new default."""
    draft.attrs["coordinate_transformation_mode"] = "output_half_pixel"


@step(20, "GridSample")
def grid_sample_20(draft: Draft) -> None:
    """Interpolation modes got names that fit any number of axes."""
    mode = draft.pop_str("mode", "bilinear")
    draft.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


@step(20, "DFT")
def dft_20(draft: Draft) -> None:
    """The axis was an attribute."""
    axis = draft.pop_int("axis", 1)
    draft.set_input(2, draft.scalar(axis, DType.I64, "axis"))


@step(7, "Upsample")
def upsample_7(draft: Draft) -> None:
    """Height and width had a factor each."""
    height, width = draft.pop_float("height_scale", 1.0), draft.pop_float("width_scale", 1.0)
    draft.attrs["scales"] = (1.0, 1.0, height, width)
    if draft.attrs.get("mode") == "bilinear":
        draft.attrs["mode"] = "linear"


@step(9, "Upsample")
def upsample_9(draft: Draft) -> None:
    """The factors were an attribute."""
    scales = draft.attrs.pop("scales", None)
    if not isinstance(scales, tuple):
        draft.fail("attribute 'scales' is required")
    scales = draft.build.constant(np.array(scales, np.float32), "scales")
    draft.set_input(1, scales)


@step(10, "Upsample")
def upsample_10(draft: Draft) -> None:
    """Resize took its place."""
    draft.op = "Resize"


@step(11, "Resize")
def resize_11(draft: Draft) -> list[Value] | None:
    """Before: coordinates divide by the factor; nearest rounds down to grow, up to shrink."""
    x, scales = draft.value(0), draft.value(1)
    mode = draft.pop_str("mode", "nearest")
    draft.attrs = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    draft.inputs = [x, None, scales]
    if mode != "nearest":
        return None
    draft.attrs["nearest_mode"] = "floor"
    if scales.constant is None:
        return None
    factors = scales.constant.array
    shrinking = factors < 1
    if not shrinking.any():
        return None
    if (shrinking | (factors == 1)).all():
        draft.attrs["nearest_mode"] = "ceil"
        return None
    grown = draft.build.Resize(
        x, None, draft.build.constant(np.where(shrinking, 1, factors).astype(np.float32)),
        **draft.attrs,
    )  # fmt: skip
    down = draft.build.constant(np.where(shrinking, factors, 1).astype(np.float32))
    attrs = {**draft.attrs, "nearest_mode": "ceil"}
    return [draft.build.Resize(grown, None, down, **attrs)]


@step(13, "Resize")
def resize_13(draft: Draft) -> None:
    """One coordinate mode went; in its usual form it is half pixels, rounded up at one half."""
    if draft.attrs.get("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    if draft.attrs.get("mode", "nearest") != "nearest" or (
        draft.attrs.get("nearest_mode", "round_prefer_floor") != "floor"
    ):
        draft.unsupported("tf_half_pixel_for_nn is known for nearest_mode 'floor' only")
    draft.attrs["coordinate_transformation_mode"] = "half_pixel"
    draft.attrs["nearest_mode"] = "round_prefer_ceil"
