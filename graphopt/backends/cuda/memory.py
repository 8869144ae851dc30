"""The arena: where each buffer lies, from when it is written first to when it is read last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Buffer", "place"]

ALIGNMENT = 256


@dataclass
class Buffer:
    """Bytes that are needed in steps [first, last]; ``offset`` is where they are put."""

    nbytes: int
    first: int
    last: int
    offset: int = -1


def place(buffers: Sequence[Buffer]) -> int:
    """Gives every buffer its offset, the largest first into the lowest gap; returns the size."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.nbytes, b.first, b.last)):
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        at = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if at + size <= other.offset:
                break
            end = other.offset + -(-max(other.nbytes, 1) // ALIGNMENT) * ALIGNMENT
            at = max(at, end)
        buffer.offset = at
        placed.append(buffer)
    ends = [b.offset + -(-max(b.nbytes, 1) // ALIGNMENT) * ALIGNMENT for b in buffers]
    return max(ends, default=ALIGNMENT)
