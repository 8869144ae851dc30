"""Histograms of streams: bins widen as the range grows, and counts stay exact.

A bin is ``[k * width, (k + 1) * width)`` with a width that is a power of two, so that two bins
merge into one of the next width without a rest. The result does not depend on the order of what is
added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["Histogram"]

Array = np.ndarray[Any, Any]


class Histogram:
    """Counts of all finite numbers added, in at most ``bins`` bins; ``low`` and ``high`` are exact.

    ``broken`` counts what is not finite. Memory does not grow with what is added.
    """

    def __init__(self, bins: int = 4096) -> None:
        self.bins = bins
        self.low = math.inf
        self.high = -math.inf
        self.count = 0
        self.broken = 0
        self._exponent: int | None = None
        self._first = 0
        self._counts: Array = np.zeros(0, np.int64)

    def add(self, x: Array) -> None:
        """Counts every element of ``x``."""
        flat = x.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.broken += flat.size - finite.size
            self.add(finite)
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += flat.size
        self._grow()
        assert self._exponent is not None
        # Powers of two divide exactly.
        index = np.floor(flat * np.float32(2.0**-self._exponent)).astype(np.int64) - self._first
        np.clip(index, 0, len(self._counts) - 1, out=index)
        self._counts += np.bincount(index, minlength=len(self._counts))

    def _grow(self) -> None:
        """Widens bins, and adds some, until the range fits."""
        span = max(self.high - self.low, abs(self.low), abs(self.high), 1e-30)
        wanted = max(math.ceil(math.log2(span / (self.bins - 2))), -120)
        if self._exponent is None:
            self._exponent = wanted
            self._first = math.floor(self.low * 2.0**-wanted)
        while self._exponent < wanted:
            if self._first % 2:
                self._first -= 1
                self._counts = np.concatenate([[0], self._counts])
            if len(self._counts) % 2:
                self._counts = np.concatenate([self._counts, [0]])
            self._counts = self._counts.reshape(-1, 2).sum(axis=1)
            self._first //= 2
            self._exponent += 1
        first = math.floor(self.low * 2.0**-self._exponent)
        last = math.floor(self.high * 2.0**-self._exponent)
        before = max(self._first - first, 0)
        after = max(last - (self._first + len(self._counts) - 1), 0)
        if before or after:
            self._counts = np.pad(self._counts, (before, after))
            self._first -= before

    @property
    def width(self) -> float:
        """Of every bin."""
        return 2.0 ** (self._exponent or 0)

    @property
    def counts(self) -> Array:
        """How many numbers fell into each bin, i64."""
        return self._counts

    @property
    def centers(self) -> Array:
        """The middle of each bin, f64; the outermost are moved into the range."""
        middle = (np.arange(len(self._counts)) + self._first + 0.5) * self.width
        return np.clip(middle, self.low, self.high) if self.count else middle
