import numpy as np
import pytest

from graphopt import _native
from graphopt.hashing import (
    CHUNK,
    ChunkedHash,
    chunked_xxh64,
    chunked_xxh64_numpy,
    xxh64_rows,
)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 1000])
def test_numpy_rows_equal_native(length: int) -> None:
    rows = np.random.default_rng(length).integers(0, 256, (3, length), dtype=np.uint8)
    assert [int(h) for h in xxh64_rows(rows)] == [_native.xxh64(row) for row in rows]


def test_known_value() -> None:
    assert _native.xxh64(b"abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("size", [0, 5, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 77])
def test_chunked_hash_is_the_same_by_every_route(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    expected = _native.chunked_xxh64(data)
    assert chunked_xxh64(data) == expected
    assert chunked_xxh64_numpy(data) == expected
    for step in (1 + size // 3, CHUNK // 2, 2 * CHUNK + 5):
        hasher = ChunkedHash()
        for at in range(0, size, step):
            hasher.update(data[at : at + step])
        assert hasher.digest() == expected
