"""How far a pass may move the numbers: declared by each pass, checked by ``--verify=each``."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["EXACT", "REASSOCIATES", "Numerics", "lossy"]


@dataclass(frozen=True, slots=True)
class Numerics:
    """What a pass does to outputs.

    ``kind`` is ``exact`` (every bit stays), ``reassociates`` (floats are rounded elsewhere, or
    summed in another order) or ``lossy``. ``budget`` is the relative L2 error that an f32 output
    may have after the pass, compared with before.
    """

    kind: str
    budget: float

    def __str__(self) -> str:
        bounded = 0 < self.budget < math.inf
        return f"{self.kind} up to {self.budget:g}" if bounded else self.kind


EXACT = Numerics("exact", 0.0)
REASSOCIATES = Numerics("reassociates", 1e-5)


def lossy(budget: float = math.inf) -> Numerics:
    """A pass that gives up accuracy, at most ``budget``; infinity: measured, never refused."""
    return Numerics("lossy", budget)
