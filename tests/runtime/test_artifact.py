from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import ArtifactError
from graphopt.hashing import chunked_xxh64
from graphopt.runtime.artifact import Artifact


def _example() -> Artifact:
    weights = np.arange(1000, dtype=np.float32)
    return Artifact(
        manifest={
            "target": "cpu",
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3]}],
        },
        members={
            "graph.gir": b"graph {}",
            "objects/x86-64-v4.o": b"v4",
            "objects/x86-64-v3.o": b"v3",
            "weights": [weights.tobytes()[:100], memoryview(weights)[25:]],
            "plan": b"{}",
            "report.json": b"{}",
        },
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    _example().save(path)
    loaded = Artifact.load(path)
    assert loaded.manifest["target"] == "cpu"
    assert loaded.manifest["format_version"] == 1
    assert loaded.read("weights") == np.arange(1000, dtype=np.float32).tobytes()
    assert loaded.json("plan") == {}
    stored = loaded.manifest["members"]["weights"]
    digest = chunked_xxh64(np.arange(1000, dtype=np.float32).data)
    assert stored == {"size": 4000, "xxh64": f"{digest:016x}"}
    with pytest.raises(ArtifactError, match="no member 'nothing'"):
        loaded.read("nothing")


def test_arrays_are_members_whatever_their_type(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pieces = [
        np.arange(3, dtype=ml_dtypes.bfloat16),
        np.array(7, np.int64),
        np.zeros((2, 0), np.float32),
        np.arange(6).reshape(2, 3).T,
    ]
    path = tmp_path / "m.gopt"
    Artifact({}, {"weights": pieces}).save(path)
    assert Artifact.load(path).read("weights") == b"".join(piece.tobytes() for piece in pieces)


def test_it_is_a_plain_zip_with_aligned_members_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    _example().save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "manifest.json",
            "plan",
            "weights",
            "objects/x86-64-v3.o",
            "objects/x86-64-v4.o",
            "report.json",
            "graph.gir",
        ]
        assert json.loads(archive.read("manifest.json"))["target"] == "cpu"


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gopt", tmp_path / "b.gopt"
    _example().save(first)
    shuffled = Artifact(_example().manifest, dict(reversed(_example().members.items())))
    shuffled.save(second)
    assert first.read_bytes() == second.read_bytes()


def test_every_truncation_and_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    _example().save(path)
    original = path.read_bytes()
    random = np.random.default_rng(1)
    for size in [*range(200), *random.integers(0, len(original), 50)]:
        path.write_bytes(original[:size])
        with pytest.raises(ArtifactError, match=r"artifact|empty"):
            Artifact.load(path)
    for at in random.integers(0, len(original), 200):
        damaged = bytearray(original)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="artifact"):
            Artifact.load(path)


def test_unknown_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    _example().save(path)
    data = path.read_bytes()[:-31].replace(b'"format_version": 1', b'"format_version": 9')
    path.write_bytes(data + b"graphopt-xxh64:" + f"{chunked_xxh64(data):016x}".encode())
    with pytest.raises(ArtifactError, match="format version is 9"):
        Artifact.load(path)


def test_unwritable_path_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write '.*missing/m\.gopt': No such file"):
        _example().save(tmp_path / "missing" / "m.gopt")
    folder = tmp_path / "m.gopt"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        _example().save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gopt"]


def test_missing_file_and_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        Artifact.load(tmp_path / "none.gopt")
    foreign = tmp_path / "model.onnx"
    foreign.write_bytes(b"\x08\x07" * 100)
    with pytest.raises(ArtifactError, match="not a graphopt artifact"):
        Artifact.load(foreign)


def test_a_failed_save_keeps_the_old_artifact(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    _example().save(path)
    before = path.read_bytes()
    bad = Artifact({"x": 1}, {"weights": [memoryview(np.zeros(4)[::2])]})
    with pytest.raises(TypeError):
        bad.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.gopt"]
