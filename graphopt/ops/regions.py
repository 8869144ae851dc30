"""Regions of images: RoiAlign, NonMaxSuppression, ImageDecoder."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from graphopt.errors import ToolchainError
from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["non_max_suppression"]


def _infer_roi_align(ctx: InferContext) -> Type:
    data, rois, batch = ctx.tensor(0), ctx.shape(1), ctx.shape(2)
    if data.shape is not None and len(data.shape) != 4:
        ctx.fail(f"its input must have 4 axes, not {len(data.shape)}")
    count: Dim = ctx.fresh("rois") if rois is None else rois[0]
    if batch is not None:
        require_equal(ctx, batch[0], count, "there must be a batch index for every region")
    channels: Dim = ctx.fresh("channels") if data.shape is None else data.shape[1]
    size = (ctx.attr("output_height"), ctx.attr("output_width"))
    return TensorType(data.dtype, (count, channels, *size))


def _axis_samples(
    start: float, extent: float, bins: int, count: int, size: int
) -> tuple[Array, Array, Array, Array]:
    """Lower and upper neighbour and their weights of every sample along one axis.

    Both weights are 0 for a sample more than one element outside.
    """
    step = extent / bins
    i = np.arange(bins * count)
    at = start + (i // count) * step + (i % count + 0.5) * step / count
    outside = (at < -1) | (at > size)
    at = np.maximum(at, 0)
    low = at.astype(np.int64)
    last = low >= size - 1
    low = np.where(last, size - 1, low)
    high = np.where(last, size - 1, low + 1)
    upper = np.where(last, 0.0, at - low)
    lower = np.where(outside, 0.0, 1 - upper)
    return low, high, lower, np.where(outside, 0.0, upper)


def _evaluate_roi_align(ctx: EvalContext, x: Array, rois: Array, batch: Array) -> Array:
    mode, shift = ctx.attr("mode"), ctx.attr("coordinate_transformation_mode")
    if mode not in ("avg", "max"):
        ctx.fail(f"mode is '{mode}'")
    half = {"half_pixel": 0.5, "output_half_pixel": 0.0}.get(shift)
    if half is None:
        ctx.fail(f"coordinate_transformation_mode is '{shift}'")
    height, width = ctx.attr("output_height"), ctx.attr("output_width")
    data = widen(x)
    y = np.zeros((rois.shape[0], x.shape[1], height, width), dtype=data.dtype)
    for n, corners in enumerate(rois.astype(np.float64) * ctx.attr("spatial_scale") - half):
        x1, y1, x2, y2 = (float(c) for c in corners)
        extent_w, extent_h = x2 - x1, y2 - y1
        if not half:
            extent_w, extent_h = max(extent_w, 1.0), max(extent_h, 1.0)
        ratio = ctx.attr("sampling_ratio")
        count_h = ratio if ratio > 0 else int(np.ceil(extent_h / height))
        count_w = ratio if ratio > 0 else int(np.ceil(extent_w / width))
        if count_h < 1 or count_w < 1:
            continue
        image = data[int(batch[n])]
        rows = _axis_samples(y1, extent_h, height, count_h, x.shape[2])
        columns = _axis_samples(x1, extent_w, width, count_w, x.shape[3])
        parts = [
            image[:, r][:, :, c] * (rw[:, None] * cw).astype(data.dtype)
            for r, rw in ((rows[0], rows[2]), (rows[1], rows[3]))
            for c, cw in ((columns[0], columns[2]), (columns[1], columns[3]))
        ]
        bins = (x.shape[1], height, count_h, width, count_w)
        if mode == "avg":
            y[n] = np.add.reduce(parts).reshape(bins).mean(axis=(2, 4))
        else:
            # The largest weighted neighbour, not the largest sample: ONNX kept what
            # implementations did.
            y[n] = np.maximum.reduce(parts).reshape(bins).max(axis=(2, 4))
    return narrow(y, x.dtype)


def _infer_nms(ctx: InferContext) -> Type:
    boxes, scores = ctx.shape(0), ctx.shape(1)
    if boxes is not None and scores is not None:
        if len(boxes) != 3 or len(scores) != 3:
            ctx.fail("boxes and scores must have 3 axes")
        require_equal(ctx, boxes[0], scores[0], "boxes and scores have different batch sizes")
        require_equal(ctx, boxes[1], scores[2], "there must be a score for every box")
    return TensorType(DType.I64, (ctx.fresh("selected"), 3))


def _corners(boxes: Array, centred: bool) -> tuple[Array, Array, Array, Array]:
    """Least and greatest coordinate of boxes [..., 4] along both axes."""
    a, b, c, d = (boxes[..., i] for i in range(4))
    if centred:
        return a - c / 2, a + c / 2, b - d / 2, b + d / 2
    return np.minimum(b, d), np.maximum(b, d), np.minimum(a, c), np.maximum(a, c)


def _overlaps(boxes: tuple[Array, ...], areas: Array, i: int, others: Array) -> Array:
    """Intersection over union of box ``i`` with ``others``; 0 where any area is not positive."""
    left, right, top, bottom = boxes
    w = np.minimum(right[i], right[others]) - np.maximum(left[i], left[others])
    h = np.minimum(bottom[i], bottom[others]) - np.maximum(top[i], top[others])
    common = np.maximum(w, 0) * np.maximum(h, 0)
    union = areas[i] + areas[others] - common
    valid = (common > 0) & (areas[i] > 0) & (areas[others] > 0) & (union > 0)
    return np.where(valid, common / np.where(valid, union, 1), 0)


def non_max_suppression(
    boxes: Array,
    scores: Array,
    limit: int,
    iou_threshold: float,
    score_threshold: float | None,
    centred: bool,
) -> Array:
    """Indices [selected, 3] (batch, class, box): by batch and class, best score first.

    Of equal scores the lower box index comes first.
    """
    found: list[tuple[int, int, int]] = []
    for n in range(boxes.shape[0]):
        edges = _corners(boxes[n], centred)
        areas = (edges[1] - edges[0]) * (edges[3] - edges[2])
        for k in range(scores.shape[1]):
            row = scores[n, k]
            order = np.argsort(-row, kind="stable")
            if score_threshold is not None:
                order = order[row[order] > np.float32(score_threshold)]
            taken = 0
            while order.size and taken < limit:
                best, order = int(order[0]), order[1:]
                found.append((n, k, best))
                taken += 1
                order = order[_overlaps(edges, areas, best, order) <= np.float32(iou_threshold)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _scalar(v: Array | None, default: Any) -> Any:
    return default if v is None or v.size == 0 else v.ravel()[0].item()


def _evaluate_nms(
    ctx: EvalContext,
    boxes: Array,
    scores: Array,
    limit: Array | None = None,
    iou: Array | None = None,
    score: Array | None = None,
) -> Array:
    return non_max_suppression(
        boxes,
        scores,
        max(_scalar(limit, 0), 0),
        _scalar(iou, 0.0),
        _scalar(score, None),
        bool(ctx.attr("center_point_box")),
    )


def _infer_decoder(ctx: InferContext) -> Type:
    channels = 1 if ctx.attr("pixel_format") == "Grayscale" else 3
    return TensorType(DType.U8, (ctx.fresh("height"), ctx.fresh("width"), channels))


def _evaluate_decoder(ctx: EvalContext, stream: Array) -> Array:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ToolchainError(
            "Pillow is not installed and ImageDecoder needs it; `pip install pillow` brings it"
        ) from None
    wanted = ctx.attr("pixel_format")
    if wanted not in ("RGB", "BGR", "Grayscale"):
        ctx.fail(f"pixel_format is '{wanted}'")
    grey = wanted == "Grayscale"
    try:
        with Image.open(io.BytesIO(stream.astype(np.uint8).tobytes())) as image:
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        # A stream that does not decode gives an empty image, by definition of the op.
        return np.zeros((0, 0, 1 if grey else 3), dtype=np.uint8)
    if grey:
        return pixels[:, :, None]
    return pixels[:, :, ::-1] if wanted == "BGR" else pixels


register(
    OpDef(
        "RoiAlign",
        inputs=("X", "rois", "batch_indices"),
        attrs=attr_specs(
            coordinate_transformation_mode=("s", "half_pixel"),
            mode=("s", "avg"),
            output_height=("i", 1),
            output_width=("i", 1),
            sampling_ratio=("i", 0),
            spatial_scale=("f", 1.0),
        ),
        infer=_infer_roi_align,
        evaluate=_evaluate_roi_align,
    ),
    OpDef(
        "NonMaxSuppression",
        inputs=(
            "boxes",
            "scores",
            "max_output_boxes_per_class?",
            "iou_threshold?",
            "score_threshold?",
        ),
        outputs=("selected_indices",),
        attrs=attr_specs(center_point_box=("i", 0)),
        infer=_infer_nms,
        evaluate=_evaluate_nms,
    ),
    OpDef(
        "ImageDecoder",
        inputs=("encoded_stream",),
        outputs=("image",),
        attrs=attr_specs(pixel_format=("s", "RGB")),
        infer=_infer_decoder,
        evaluate=_evaluate_decoder,
    ),
)
