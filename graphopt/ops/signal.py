"""Signals: DFT, STFT, the window functions, MelWeightMatrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs

__all__ = ["as_complex", "as_pairs"]


def as_complex(x: Array) -> Array:
    """[..., 1] as reals and [..., 2] as complex numbers, of the accumulator's precision."""
    wide = widen(x)
    if x.shape[-1] == 1:
        return wide[..., 0]
    if x.shape[-1] != 2:
        raise ValueError(f"the last axis has {x.shape[-1]} elements, not 1 or 2")
    return np.asarray(wide[..., 0] + 1j * wide[..., 1])


def as_pairs(x: Array, dtype: np.dtype[Any]) -> Array:
    """Complex numbers as [..., 2] reals of the storage type."""
    return narrow(np.stack([x.real, x.imag], axis=-1), dtype)


def _scalar(ctx: InferContext, index: int) -> Dim | None:
    """The only element of an integer operand, where it is known."""
    found = ctx.elements(index)
    return found[0] if found is not None and len(found) == 1 else None


def _infer_dft(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return data
    rank = len(data.shape)
    if rank < 2:
        ctx.fail(f"its input must have at least 2 axes, not {rank}")
    inverse, onesided = bool(ctx.attr("inverse")), bool(ctx.attr("onesided"))
    last: Dim = 1 if inverse and onesided else 2
    at = _scalar(ctx, 2) if ctx.has(2) else -2
    if not isinstance(at, int):
        return TensorType(data.dtype, (*(ctx.fresh("dft") for _ in data.shape[1:]), last))
    axis = ctx.axis(at, rank)
    if axis == rank - 1:
        ctx.fail("the last axis holds real and imaginary parts: it has no transform")
    size = data.shape[axis]
    length: Dim | None = 2 * (size - 1) if inverse and onesided else size
    if ctx.has(1):
        length = _scalar(ctx, 1)
    if length is None:
        out = ctx.fresh("dft")
    else:
        out = length // 2 + 1 if onesided and not inverse else length
    shape = list(data.shape)
    shape[axis], shape[-1] = out, last
    return TensorType(data.dtype, tuple(shape))


def _evaluate_dft(
    ctx: EvalContext, x: Array, length: Array | None = None, axis: Array | None = None
) -> Array:
    at = -2 if axis is None else int(axis.item())
    at = at + x.ndim if at < 0 else at
    if not 0 <= at < x.ndim - 1:
        ctx.fail(f"axis {at} is no signal axis of an input of rank {x.ndim}")
    inverse, onesided = bool(ctx.attr("inverse")), bool(ctx.attr("onesided"))
    signal = as_complex(x)
    size = None if length is None else int(length.item())
    if inverse and onesided:
        return narrow(np.fft.irfft(signal, n=size, axis=at)[..., None], x.dtype)
    if inverse:
        return as_pairs(np.fft.ifft(signal, n=size, axis=at), x.dtype)
    result = np.fft.fft(signal, n=size, axis=at)
    if onesided:
        result = np.take(result, np.arange(result.shape[at] // 2 + 1), axis=at)
    return as_pairs(result, x.dtype)


def _infer_stft(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if data.shape is None:
        return data
    if len(data.shape) != 3:
        ctx.fail(f"its signal must have 3 axes, not {len(data.shape)}")
    batch, size, parts = data.shape
    window = ctx.shape(2) if ctx.has(2) else None
    # None: only the run knows.
    length: Dim | None = size
    if ctx.has(2):
        length = None if window is None else window[0]
    if ctx.has(3):
        given = _scalar(ctx, 3)
        if given is not None and window is not None:
            require_equal(ctx, given, window[0], "window and frame_length differ")
        if given is not None or window is None:
            length = given
    step = _scalar(ctx, 1)
    if ctx.attr("onesided") and parts == 2:
        ctx.fail("a complex signal has no one-sided spectrum: set onesided to 0")
    # Each axis that only the run knows has a symbol of its own, which can be read off the output.
    if step is None or length is None:
        frames = ctx.fresh("frames")
    else:
        frames = (size - length) // step + 1
    if length is None:
        bins = ctx.fresh("bins")
    else:
        bins = length // 2 + 1 if ctx.attr("onesided") else length
    return TensorType(data.dtype, (batch, frames, bins, 2))


def _evaluate_stft(
    ctx: EvalContext,
    x: Array,
    step: Array,
    window: Array | None = None,
    frame_length: Array | None = None,
) -> Array:
    if frame_length is not None:
        length = int(frame_length.item())
    else:
        length = x.shape[1] if window is None else window.shape[0]
    hop = int(step.item())
    frames = (x.shape[1] - length) // hop + 1
    if frames < 0:
        ctx.fail(f"a frame of {length} is longer than the signal of {x.shape[1]}")
    signal = as_complex(x)
    places = np.arange(frames)[:, None] * hop + np.arange(length)
    cut = signal[:, places]
    if window is not None:
        cut = cut * widen(window)
    spectrum = np.fft.fft(cut, axis=-1)
    if ctx.attr("onesided"):
        spectrum = spectrum[..., : length // 2 + 1]
    return as_pairs(spectrum, x.dtype)


def _infer_window(ctx: InferContext) -> Type:
    size = _scalar(ctx, 0)
    dtype = DType(ctx.attr("output_datatype"))
    return TensorType(dtype, (ctx.fresh("window") if size is None else size,))


def _window(*cosines: float) -> Callable[..., Array]:
    """A window that is the alternating sum of cosines with these amplitudes."""

    def evaluate(ctx: EvalContext, size: Array) -> Array:
        count = int(size.item())
        dtype = DType(ctx.attr("output_datatype")).numpy
        span = count if ctx.attr("periodic") else count - 1
        phase = 2 * np.pi * np.arange(count) / max(span, 1)
        total = np.zeros(count)
        for k, amplitude in enumerate(cosines):
            total += (-1) ** k * amplitude * np.cos(k * phase)
        # A symmetric window of one element is its peak.
        return narrow(np.ones(1) if count == 1 and span == 0 else total, dtype)

    return evaluate


def _infer_mel(ctx: InferContext) -> Type:
    bins, length = _scalar(ctx, 0), _scalar(ctx, 1)
    rows = ctx.fresh("spectrum") if length is None else length // 2 + 1
    columns = ctx.fresh("mel") if bins is None else bins
    return TensorType(DType(ctx.attr("output_datatype")), (rows, columns))


def _evaluate_mel(
    ctx: EvalContext, bins: Array, length: Array, rate: Array, low: Array, high: Array
) -> Array:
    count, size = int(bins.item()), int(length.item())
    edges = [2595 * np.log10(1 + float(widen(f).item()) / 700) for f in (low, high)]
    # ONNX divides the mel range by bins + 2, not by the bins + 1 gaps between the edges.
    mel = np.arange(count + 2) * (edges[1] - edges[0]) / (count + 2) + edges[0]
    hertz = 700 * np.expm1(mel / 2595 * np.log(10))
    points = np.floor((size + 1) * hertz / rate.item()).astype(np.int64)
    rows = np.arange(size // 2 + 1)[:, None]
    left, centre, right = points[:-2], points[1:-1], points[2:]
    rise = np.where(centre == left, 1.0, (rows - left) / np.maximum(centre - left, 1))
    fall = (right - rows) / np.maximum(right - centre, 1)
    up = (rows >= left) & (rows <= centre)
    down = (rows >= centre) & (rows < right)
    matrix = np.where(down, fall, np.where(up, rise, 0.0))
    return narrow(matrix, DType(ctx.attr("output_datatype")).numpy)


_WINDOW_ATTRS = attr_specs(output_datatype=("i", int(DType.F32)), periodic=("i", 1))

register(
    OpDef(
        "DFT",
        inputs=("input", "dft_length?", "axis?"),
        outputs=("output",),
        attrs=attr_specs(inverse=("i", 0), onesided=("i", 0)),
        infer=_infer_dft,
        evaluate=_evaluate_dft,
    ),
    OpDef(
        "STFT",
        inputs=("signal", "frame_step", "window?", "frame_length?"),
        outputs=("output",),
        attrs=attr_specs(onesided=("i", 1)),
        infer=_infer_stft,
        evaluate=_evaluate_stft,
    ),
    *(
        OpDef(
            name,
            inputs=("size",),
            outputs=("output",),
            attrs=_WINDOW_ATTRS,
            infer=_infer_window,
            evaluate=_window(*cosines),
        )
        for name, cosines in (
            ("HannWindow", (0.5, 0.5)),
            ("HammingWindow", (25 / 46, 21 / 46)),
            ("BlackmanWindow", (0.42, 0.5, 0.08)),
        )
    ),
    OpDef(
        "MelWeightMatrix",
        inputs=(
            "num_mel_bins",
            "dft_length",
            "sample_rate",
            "lower_edge_hertz",
            "upper_edge_hertz",
        ),
        outputs=("output",),
        attrs=attr_specs(output_datatype=("i", int(DType.F32))),
        infer=_infer_mel,
        evaluate=_evaluate_mel,
    ),
)
