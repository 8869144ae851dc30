"""XXH64 of large buffers: by the native module, or by numpy where that is not built.

The chunked hash is the XXH64 of the little-endian XXH64 values of the 1 MiB chunks, so that chunks
can be hashed side by side: by threads in the native module, as rows of one array here.
Algorithm: doc/xxhash_spec.md of https://github.com/Cyan4973/xxHash.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK", "Buffer", "ChunkedHash", "chunked_xxh64", "chunked_xxh64_numpy", "xxh64_rows"]

CHUNK: Final = 1 << 20

# C-contiguous bytes-like objects (collections.abc.Buffer, before Python 3.12).
Buffer = bytes | bytearray | memoryview | mmap.mmap

_Words = npt.NDArray[np.uint64]

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


def chunked_xxh64(data: Buffer) -> int:
    """The chunked hash of a C-contiguous bytes-like object."""
    try:
        from graphopt import _native
    except ImportError:
        return chunked_xxh64_numpy(data)
    return _native.chunked_xxh64(data)


class ChunkedHash:
    """The chunked hash of data that comes in pieces of any size, without putting them together."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._rest = bytearray()

    def update(self, piece: Buffer) -> None:
        view = memoryview(piece).cast("B")
        if self._rest:
            missing = CHUNK - len(self._rest)
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) == CHUNK:
                self._hashes.append(_xxh64(self._rest))
                self._rest = bytearray()
        whole = len(view) // CHUNK * CHUNK
        self._hashes.extend(_xxh64(view[at : at + CHUNK]) for at in range(0, whole, CHUNK))
        self._rest += view[whole:]

    def digest(self) -> int:
        hashes = [*self._hashes, _xxh64(self._rest)] if self._rest else self._hashes
        return _xxh64(np.array(hashes, dtype="<u8").tobytes())


def _xxh64(data: Buffer) -> int:
    try:
        from graphopt import _native
    except ImportError:
        return int(xxh64_rows(np.frombuffer(data, dtype=np.uint8)[None, :])[0])
    return _native.xxh64(data)


def chunked_xxh64_numpy(data: Buffer) -> int:
    """The chunked hash without the native module."""
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    whole = bytes_.size // CHUNK * CHUNK
    hashes = xxh64_rows(bytes_[:whole].reshape(-1, CHUNK))
    if whole < bytes_.size:
        hashes = np.concatenate([hashes, xxh64_rows(bytes_[None, whole:])])
    return int(xxh64_rows(hashes.astype("<u8").view(np.uint8)[None, :])[0])


def xxh64_rows(rows: npt.NDArray[np.uint8]) -> _Words:
    """XXH64 (seed 0) of every row of a C-contiguous [N, length] array of bytes."""
    count, length = rows.shape
    with np.errstate(over="ignore"):
        stripes = length // 32
        if stripes:
            hashes = _stripes(rows[:, : 32 * stripes], stripes)
        else:
            hashes = np.full(count, _P5)
        hashes = hashes + np.uint64(length)
        return _avalanche(_tail(hashes, rows[:, 32 * stripes :]))


def _stripes(rows: npt.NDArray[np.uint8], stripes: int) -> _Words:
    start = np.array([_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1], dtype=np.uint64)
    lanes = np.tile(start, (rows.shape[0], 1))
    words = np.ascontiguousarray(rows).view("<u8").reshape(rows.shape[0], stripes, 4)
    for i in range(stripes):
        lanes = _round(lanes, words[:, i])
    hashes: _Words = np.zeros(rows.shape[0], dtype=np.uint64)
    for i, turn in enumerate((1, 7, 12, 18)):
        hashes = hashes + _rotate(lanes[:, i], turn)
    for i in range(4):
        hashes = (hashes ^ _round(np.zeros_like(hashes), lanes[:, i])) * _P1 + _P4
    return hashes


def _tail(hashes: _Words, rest: npt.NDArray[np.uint8]) -> _Words:
    length = rest.shape[1]
    at = 0
    while length - at >= 8:
        word = np.ascontiguousarray(rest[:, at : at + 8]).view("<u8")[:, 0]
        hashes = _rotate(hashes ^ _round(np.zeros_like(hashes), word), 27) * _P1 + _P4
        at += 8
    if length - at >= 4:
        half = np.ascontiguousarray(rest[:, at : at + 4]).view("<u4")[:, 0].astype(np.uint64)
        hashes = _rotate(hashes ^ (half * _P1), 23) * _P2 + _P3
        at += 4
    for i in range(at, length):
        hashes = _rotate(hashes ^ (rest[:, i].astype(np.uint64) * _P5), 11) * _P1
    return hashes


def _round(lanes: _Words, words: _Words) -> _Words:
    return _rotate(lanes + words * _P2, 31) * _P1


def _rotate(words: _Words, turn: int) -> _Words:
    return (words << np.uint64(turn)) | (words >> np.uint64(64 - turn))


def _avalanche(hashes: _Words) -> _Words:
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _P2
    hashes = (hashes ^ (hashes >> np.uint64(29))) * _P3
    return hashes ^ (hashes >> np.uint64(32))
