"""Which layers stay in float32 so that a model at lower precision keeps its error budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

__all__ = ["keep_sensitive"]

_GROUPS = 8
_PARTS = 4


def keep_sensitive(
    layers: Sequence[str], excess: Callable[[Sequence[str]], float]
) -> list[str] | None:
    """Layers to leave at full precision, few of them; None when leaving all is not enough.

    ``layers`` are in order of execution. ``excess(kept)`` measures the model with those left: its
    error over what is allowed, at most 1 when it is within the budget. Neighbours are tried
    together: each of 8 groups alone shows how much it contributes, the worst are kept until the
    budget holds, and what the last one need not keep is given back. About 20 measurements.
    """
    groups = _split(layers, _GROUPS)
    alone = [excess(group) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: (alone[i], i))
    kept: list[str] = []
    for index in order:
        before, kept = kept, kept + groups[index]
        if len(kept) == len(groups[index]):
            found = alone[index]
        else:
            found = excess(kept)
        if found <= 1:
            return _give_back(before, groups[index], excess)
    return None


def _give_back(
    kept: list[str], last: list[str], excess: Callable[[Sequence[str]], float]
) -> list[str]:
    parts = _split(last, _PARTS)
    if len(parts) == 1:
        return kept + last
    for part in list(parts):
        rest = [name for other in parts if other is not part for name in other]
        if excess(kept + rest) <= 1:
            parts.remove(part)
    return kept + [name for part in parts for name in part]


def _split(items: Sequence[str], count: int) -> list[list[str]]:
    """At most ``count`` runs of nearly equal length."""
    count = min(count, len(items))
    cuts = [len(items) * i // count for i in range(count + 1)] if count else [0]
    return [list(items[a:b]) for a, b in pairwise(cuts)]
