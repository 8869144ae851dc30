"""Loads damaged artifacts, in a process of its own: ``python -m tests.e2e.damage KIND FILE SEED``.

A crash of this process is what the test looks for. Prints how many variants were tried and how many
of them loaded.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.errors import ArtifactError, GraphoptError
from graphopt.hashing import chunked_xxh64
from graphopt.runtime.artifact import Artifact

COMMENT = 31  # "graphopt-xxh64:" and 16 digits


def _signed(data: bytes) -> bytes:
    return data + b"graphopt-xxh64:" + f"{chunked_xxh64(data):016x}".encode()


def truncated(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Every length near the ends, and some in between."""
    lengths = {*range(64), *range(len(data) - 200, len(data))}
    lengths |= {rng.randrange(len(data)) for _ in range(150)}
    for length in sorted(lengths):
        yield data[:length]


def flipped(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """One bit in every region: each of 400 slices, the first and last bytes, header and end."""
    slices = [(k * len(data) // 400, (k + 1) * len(data) // 400) for k in range(400)]
    places = {*range(64), *range(len(data) - 120, len(data))}
    places |= {rng.randrange(a, max(a + 1, b)) for a, b in slices}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        yield bytes(damaged)


def rewritten(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Longer damage: blocks zeroed, doubled, swapped, cut out; bytes after the end."""
    for _ in range(150):
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        yield data[:a] + bytes(b - a + 1) + data[b + 1 :]
        yield data[:b] + data[a:]
        yield data[:a] + data[b + 1 :]
        yield data + rng.randbytes(rng.randrange(1, 40))


def signed(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Damage under a hash that is right, in the structure of the archive."""
    body = data[:-COMMENT]
    central = body.rindex(b"PK\x01\x02")
    first = body.index(b"PK\x01\x02")
    places = {*range(80), *range(central, len(body))} | set(
        range(first, central, max(1, (central - first) // 200))
    )
    for place in sorted(places):
        for value in {body[place] ^ (1 << rng.randrange(8)), 0, 255} - {body[place]}:
            yield _signed(body[:place] + bytes([value]) + body[place + 1 :])


_NUMBERS = (-1, 0, 1, 2, 7, 2**31, 2**31 - 1, 2**32, 2**62, 2**63 - 1, -(2**63), 10**30, 1.5)
_OTHERS: tuple[Any, ...] = (None, "", "x", [], {}, True, [[]], [0], {"sym": 0})


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, dict):
        for key in node:
            yield (*path, key)
            yield from _places(node[key], (*path, key))
    elif isinstance(node, list):
        for k, item in enumerate(node):
            yield (*path, k)
            yield from _places(item, (*path, k))


def planned(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Plans that say something else, in artifacts that are sound otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gopt"
        path.write_bytes(data)
        source = Artifact.load(path)
        members = {name: source.read(name) for name in source.members}
        manifest = dict(source.manifest)
        plan = members["plan"]
        places = list(_places(json.loads(plan)))
        for _ in range(500):
            document = json.loads(plan)
            *parents, last = rng.choice(places)
            parent = document
            for key in parents:
                parent = parent[key]
            how = rng.randrange(4)
            if how == 0:
                del parent[last]
            elif how == 1 and isinstance(parent, list):
                parent.insert(last, rng.choice(parent))
            else:
                parent[last] = rng.choice(_NUMBERS if how == 2 else _OTHERS)
            other = Path(folder) / "other.gopt"
            Artifact(manifest, {**members, "plan": json.dumps(document).encode()}).save(other)
            yield other.read_bytes()


def main() -> int:
    """Tries every variant of one kind. Returns the exit code."""
    kind, file, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    data = file.read_bytes()
    session = graphopt.load(data)
    shape = [d if isinstance(d, int) else 12 for d in session.inputs[0].shape]
    x = np.ones(shape, np.float32)
    tried = loaded = 0
    has_code = any(name.startswith("objects/") for name in Artifact.load(file).members)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.gopt"
        for variant in globals()[kind](data, random.Random(seed)):
            if variant == data:
                continue
            tried += 1
            path.write_bytes(variant)
            try:
                Artifact.load(path)
            except ArtifactError as error:
                assert str(path) in str(error), error
            try:
                found = graphopt.load(path, threads=1)
            except ArtifactError as error:
                assert str(path) in str(error), error
                assert "\n" not in str(error)
                continue
            loaded += 1
            if has_code and kind == "planned":
                continue  # machine code that is called in another way than it was made for
            try:
                found.run([x])
            except GraphoptError:
                continue
    sys.stdout.write(f"{tried} {loaded}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
