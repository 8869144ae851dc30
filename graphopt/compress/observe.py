"""What is known of a value after the model has run on data: its histogram and its channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.compress.histogram import Histogram

__all__ = ["Channels", "Observation"]

Array = np.ndarray[Any, Any]


@dataclass
class Channels:
    """Extremes and magnitudes for each index of ``axis``, over all that was added."""

    axis: int
    lows: Array | None = None
    highs: Array | None = None

    def add(self, x: Array) -> None:
        """Takes in a tensor of any batch."""
        axis = self.axis % x.ndim
        others = tuple(i for i in range(x.ndim) if i != axis)
        lows, highs = x.min(axis=others), x.max(axis=others)
        if self.lows is None or self.highs is None:
            self.lows, self.highs = lows, highs
            return
        self.lows = np.minimum(self.lows, lows)
        self.highs = np.maximum(self.highs, highs)

    @property
    def magnitudes(self) -> Array:
        """The largest magnitude of each channel."""
        assert self.lows is not None and self.highs is not None
        return np.maximum(-self.lows, self.highs)


@dataclass
class Observation:
    """One value over all samples. ``parts`` are the ranges of single runs, to see them settle."""

    histogram: Histogram = field(default_factory=Histogram)
    channels: Channels | None = None
    parts: list[tuple[float, float]] = field(default_factory=list)

    def add(self, x: Array) -> None:
        """Takes in what a run gave."""
        if not x.size:
            return
        x = x.astype(np.float32, copy=False)
        self.histogram.add(x)
        self.parts.append((float(x.min()), float(x.max())))
        if self.channels is not None:
            self.channels.add(x)
