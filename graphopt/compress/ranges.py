"""Ranges to quantize over, from a histogram of what was seen.

- ``minmax``: all of it;
- ``percentile``: all but a share of the numbers at each end;
- ``mse``: the range whose grid has the least squared error, rounding and clamping together;
- ``entropy``: the range whose quantized distribution diverges least from what was seen (Migacz,
  "8-bit Inference with TensorRT", 2017).

Every range holds zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.compress.histogram import Histogram
from graphopt.errors import OptionError

__all__ = ["METHODS", "find_range"]

Array = np.ndarray[Any, Any]
Range = tuple[float, float]
# Shares of the full range that the searching methods try for each end.
_SHARES = np.concatenate([np.geomspace(0.02, 0.5, 16), np.linspace(0.52, 1.0, 25)])


def find_range(
    seen: Histogram,
    method: str = "minmax",
    *,
    percentile: float = 99.99,
    levels: int = 256,
    symmetric: bool = False,
) -> Range:
    """The range of a value by ``method``, for a grid of ``levels`` numbers; (0, 0) of nothing seen.

    ``percentile`` keeps that share of the numbers (in per cent), what lies outside at both ends
    together. A symmetric range reaches as far below zero as above, unless nothing lies below.
    Raises OptionError for an unknown method.
    """
    search = METHODS.get(method)
    if search is None:
        raise OptionError(
            f"there is no calibration method '{method}' (there are: {', '.join(METHODS)})"
        )
    if not seen.count:
        return 0.0, 0.0
    low, high = search(seen, percentile, levels)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric and low < 0:
        high = max(-low, high)
        low = -high
    return low, high


def _minmax(seen: Histogram, percentile: float, levels: int) -> Range:
    return seen.low, seen.high


def _percentile(seen: Histogram, percentile: float, levels: int) -> Range:
    if not 50 < percentile <= 100:
        raise OptionError(f"the percentile is {percentile}; it must be above 50 and at most 100")
    outside = (1 - percentile / 100) * seen.count
    # A range that starts at zero, as after ReLU, has one end to cut.
    if seen.low < 0 < seen.high:
        outside /= 2
    sums = np.cumsum(seen.counts)
    centers = seen.centers
    low = seen.low if seen.low >= 0 else float(centers[np.searchsorted(sums, outside, "right")])
    last = int(np.searchsorted(sums, seen.count - outside, "left"))
    high = seen.high if seen.high <= 0 else float(centers[min(last, len(centers) - 1)])
    return (seen.low, seen.high) if percentile == 100 else (low, high)


def _mse(seen: Histogram, percentile: float, levels: int) -> Range:
    return _search(seen, levels, _squared_error)


def _entropy(seen: Histogram, percentile: float, levels: int) -> Range:
    return _search(seen, levels, _divergence)


def _search(
    seen: Histogram, levels: int, cost: Callable[[Array, Array, Range, int], float]
) -> Range:
    """The cheapest of shares of the range: both ends together, then each alone."""
    centers, counts = seen.centers, seen.counts.astype(np.float64)
    full_low, full_high = min(seen.low, 0.0), max(seen.high, 0.0)

    def best(candidates: list[Range]) -> Range:
        costs = [cost(centers, counts, found, levels) for found in candidates]
        # Of equal ones the widest, which comes last.
        return candidates[len(costs) - 1 - int(np.argmin(costs[::-1]))]

    low, high = best([(full_low * s, full_high * s) for s in _SHARES])
    if full_low < 0 < full_high:
        for _ in range(2):
            low, high = best([(full_low * s, high) for s in _SHARES])
            low, high = best([(low, full_high * s) for s in _SHARES])
    return low, high


def _squared_error(centers: Array, counts: Array, found: Range, levels: int) -> float:
    low, high = found
    scale = (high - low) / (levels - 1)
    if scale <= 0:
        return float(np.dot(counts, centers**2))
    inside = np.clip(centers, low, high)
    off = inside - np.rint(inside / scale) * scale
    # Within a bin that is wider than a few steps, every rounding error is as likely.
    fine = len(centers) < 2 or centers[1] - centers[0] < scale / 4
    rounded = off**2 if fine else np.full(len(off), scale**2 / 12)
    return float(np.dot(counts, (centers - inside) ** 2 + rounded))


def _divergence(centers: Array, counts: Array, found: Range, levels: int) -> float:
    """KL divergence of the quantized distribution from the clamped one."""
    low, high = found
    if high <= low:
        return float("inf")
    inside = (centers >= low) & (centers <= high)
    kept = counts[inside]
    if not kept.size:
        return float("inf")
    reference = kept.copy()
    reference[0] += counts[centers < low].sum()
    reference[-1] += counts[centers > high].sum()
    cells = np.clip(
        ((centers[inside] - low) * ((levels - 1) / (high - low)) + 0.5).astype(np.int64),
        0,
        levels - 1,
    )
    mass = np.bincount(cells, weights=kept, minlength=levels)
    filled = np.bincount(cells, weights=kept > 0, minlength=levels)
    spread = np.where(filled > 0, mass / np.maximum(filled, 1), 0)[cells] * (kept > 0)
    total = spread.sum()
    if total <= 0:
        return float("inf")
    p, q = reference / reference.sum(), spread / total
    some = p > 0
    # Clamped numbers that fall into an empty bin would make it infinite.
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


METHODS: dict[str, Callable[[Histogram, float, int], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
