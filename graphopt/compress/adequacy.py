"""Whether there was enough data: how far ranges still move when more of it comes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.compress.observe import Observation

__all__ = ["Adequacy", "assess"]

# Fewer samples than this say little about the ends of a distribution, however alike they are.
_LEAST = 16
# Share of numbers beyond the calibrated range, or of the range itself, that is no drift.
_TOLERATED = 0.05


@dataclass(frozen=True)
class Adequacy:
    """``samples`` were seen. ``drift`` is how much wider the ranges are on the part held out, as a
    share, the median over values; ``worst`` names the value that drifts most, by ``worst_drift``.
    ``more`` samples would be needed for a drift of at most 5 %; 0 where there were enough."""

    samples: int
    drift: float
    worst: str
    worst_drift: float
    more: int

    @property
    def enough(self) -> bool:
        """True when calibrating with more samples would change little."""
        return self.more == 0

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "samples": self.samples,
            "enough": self.enough,
            "text": self.text,
            "drift": self.drift,
            "more": self.more,
        }

    @property
    def text(self) -> str:
        """One sentence for people."""
        if self.samples < _LEAST:
            return (
                f"{self.samples} samples are too few to calibrate with: give at least "
                f"{self.samples + self.more}"
            )
        where = f"the range of '{self.worst}' by {self.worst_drift:.0%}"
        if self.enough:
            return f"{self.samples} samples are enough: held-out ones widen {where} at most"
        return (
            f"{self.samples} samples are too few: held-out ones widen ranges by {self.drift:.0%} "
            f"(median), {where}; give about {self.more} more"
        )


def assess(observed: Mapping[str, Observation]) -> Adequacy:
    """Compares the ranges of each first half of the runs with those of the second.

    The expected excess of a new maximum falls about as 1 / n for n samples of a distribution with
    bounded or exponential tails, which gives how many more are needed.
    """
    drifts: dict[str, float] = {}
    samples = 0
    for name, item in observed.items():
        parts = item.parts
        samples = max(samples, len(parts))
        # Interleaved halves: data that is sorted by class would drift for another reason.
        seen, held = parts[::2], parts[1::2]
        if not held:
            continue
        low, high = min(0.0, *(p[0] for p in seen)), max(0.0, *(p[1] for p in seen))
        beyond = max(0.0, low - min(p[0] for p in held)) + max(0.0, max(p[1] for p in held) - high)
        drifts[name] = beyond / (high - low) if high > low else float(beyond > 0)
    ordered = sorted(drifts.values())
    median = ordered[len(ordered) // 2] if ordered else math.inf
    worst = max(drifts, key=lambda n: (drifts[n], n), default="")
    more = max(0, _LEAST - samples)
    if median > _TOLERATED:
        more = max(more, math.ceil(samples * (min(median, 10.0) / _TOLERATED - 1)))
    return Adequacy(samples, median, worst, drifts.get(worst, math.inf), more)
