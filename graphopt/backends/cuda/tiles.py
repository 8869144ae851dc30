"""Choosing tiles without a device: a model of waves, tensor-core rates and bytes.

Rates are those of an H100 data sheet, by multiprocessor; the efficiencies of tiles are estimates
that order them, not measurements. What is compared is one product's candidates, so only ratios
matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["PROCESSORS", "Tile", "choose"]

PROCESSORS = 132
# Operations a nanosecond on one multiprocessor: dense f16 tensor cores, plain f32 cores.
_RATE = {"f16": 7490.0, "f32": 507.0}
_BYTES_PER_NS = 3350.0
# What the last block of a split sum does after the others, and filling a block's pipeline, take.
_JOIN_NS = 1500.0
_START_NS = 900.0
_SPLITS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a block, how warps (f16) or threads (f32) share them: ``wm`` x ``wn``
    warps, or ``wm`` x ``wn`` sums a thread; ``stages`` of k in flight; parts of k."""

    bm: int
    bn: int
    wm: int
    wn: int
    stages: int
    efficiency: float
    split: int = 1

    def threads(self, kind: str) -> int:
        """Threads of a block."""
        if kind == "f16":
            return 32 * self.wm * self.wn
        return self.bm // self.wm * (self.bn // self.wn)

    def shared(self, kind: str) -> int:
        """Bytes of shared memory of a block."""
        if kind == "f16":
            return self.stages * (self.bm + self.bn) * 128
        return 2 * 16 * (self.bm + self.bn + 8) * 4


_TILES = {
    "f16": (
        Tile(128, 128, 2, 4, 3, 0.62), Tile(128, 64, 4, 2, 3, 0.50), Tile(64, 128, 2, 4, 3, 0.50),
        Tile(64, 64, 2, 2, 3, 0.36), Tile(32, 64, 1, 4, 4, 0.22), Tile(64, 32, 4, 1, 4, 0.22),
        Tile(16, 64, 1, 4, 4, 0.12), Tile(32, 32, 2, 2, 4, 0.12),
    ),
    "f32": (
        Tile(128, 64, 8, 4, 2, 0.62), Tile(64, 64, 4, 4, 2, 0.50),
        Tile(32, 64, 4, 4, 2, 0.34), Tile(32, 32, 4, 2, 2, 0.25), Tile(16, 64, 4, 4, 2, 0.20),
    ),
}  # fmt: skip


def choose(kind: str, m: int, n: int, k: int, z: int, vector: bool = True) -> Tile:
    """The tile for ``z`` products of m x n x k, in ``kind`` (f16, f32). Without ``vector`` loads,
    addresses of single elements take so many registers that f32 tiles stay small."""
    most = 128 if vector or kind == "f16" else 64
    found = [tile for tile in _candidates(kind, k) if tile.bm <= most]
    return min(found, key=lambda tile: (_time(tile, kind, m, n, k, z), -tile.bm))


def _candidates(kind: str, k: int) -> Iterator[Tile]:
    block = 64 if kind == "f16" else 16
    for tile in _TILES[kind]:
        for split in _SPLITS:
            if split == 1 or -(-k // block) >= 4 * split:
                yield Tile(tile.bm, tile.bn, tile.wm, tile.wn, tile.stages, tile.efficiency, split)


def _time(tile: Tile, kind: str, m: int, n: int, k: int, z: int) -> float:
    """Nanoseconds by the model."""
    blocks = -(-m // tile.bm) * -(-n // tile.bn) * z * tile.split
    waves = -(-blocks // PROCESSORS)
    work = 2.0 * tile.bm * tile.bn * math.ceil(k / tile.split)
    # Blocks of one multiprocessor share its cores.
    compute = waves * work / (_RATE[kind] * tile.efficiency)
    size = 2 if kind == "f16" else 4
    loads = blocks * (tile.bm + tile.bn) * math.ceil(k / tile.split) * size
    # Most loads hit the second-level cache, which is about three times as fast as memory.
    traffic = loads / (3 * _BYTES_PER_NS) * max(1.0, PROCESSORS / 4 / blocks)
    join = 0.0
    if tile.split > 1:
        join = _JOIN_NS + 2 * 4.0 * m * n * z * tile.split / _BYTES_PER_NS
    return max(compute, traffic) + _START_NS + join
