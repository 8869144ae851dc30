"""Damaged artifacts are refused with an ArtifactError, and never crash the process.

Loads happen in processes of their own (``tests.e2e.damage``): a segmentation fault fails the test
instead of ending it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.errors import ArtifactError
from graphopt.hashing import chunked_xxh64
from graphopt.runtime.artifact import Artifact
from tests.backends.pipe import compiled
from tests.cli.conftest import ROOT
from tests.e2e.models import NETS, SHAPES


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("damage")
    found = {}
    for name in ("dense", "control", "native"):
        found[name] = folder / f"{name}.gopt"
        compiled(NETS[name]().model(SHAPES[name])).save(found[name])
    return found


def _damage(kind: str, file: Path, seed: int) -> tuple[int, int]:
    """(variants tried, variants that loaded)."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.e2e.damage", kind, file, str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    tried, loaded = map(int, done.stdout.split())
    return tried, loaded


@pytest.mark.parametrize("kind", ["truncated", "flipped", "rewritten"])
@pytest.mark.parametrize("name", ["dense", "control"])
def test_damage_is_always_refused(artifacts: dict[str, Path], name: str, kind: str) -> None:
    tried, loaded = _damage(kind, artifacts[name], 1)
    assert tried > 300
    assert loaded == 0


@pytest.mark.parametrize("name", ["dense", "control"])
def test_damage_under_a_right_hash_does_not_crash(artifacts: dict[str, Path], name: str) -> None:
    tried, _ = _damage("signed", artifacts[name], 2)
    assert tried > 300


@pytest.mark.parametrize("name", ["dense", "control"])
def test_plans_that_say_something_else_do_not_crash(artifacts: dict[str, Path], name: str) -> None:
    tried, loaded = _damage("planned", artifacts[name], 3)
    assert tried > 300
    assert loaded < tried // 2


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_other_byte_anywhere_is_refused(
    artifacts: dict[str, Path], data: st.DataObject
) -> None:
    original = artifacts["dense"].read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != original[place]))
    with pytest.raises(ArtifactError):
        graphopt.load(original[:place] + bytes([value]) + original[place + 1 :])


def _resigned(data: bytes) -> bytes:
    return data + b"graphopt-xxh64:" + f"{chunked_xxh64(data):016x}".encode()


def test_a_later_format_is_refused_with_what_to_do(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    data = artifacts["dense"].read_bytes()[:-31]
    newer = _resigned(data.replace(b'"format_version": 1', b'"format_version": 2', 1))
    path = tmp_path / "newer.gopt"
    path.write_bytes(newer)
    for load in (graphopt.load, Artifact.load):
        with pytest.raises(ArtifactError, match="format version"):
            load(path)


def _changed(source: Path, out: Path, **members: bytes | None) -> Path:
    """A copy with members replaced, or left out where None."""
    artifact = Artifact.load(source)
    found = {name: artifact.read(name) for name in artifact.members}
    for name, content in members.items():
        if content is None:
            del found[name]
        else:
            found[name] = content
    Artifact(artifact.manifest, found).save(out)
    return out


@pytest.mark.parametrize(
    "members",
    [
        {"plan": None},
        {"weights": None},
        {"weights": b""},
        {"plan": b""},
        {"plan": b"null"},
        {"plan": b"[" * 100_000},
        {"plan": b"\xff\xfe{}"},
        {"plan": b'{"version": 2}'},
    ],
    ids=lambda members: str({k: v and v[:20] for k, v in members.items()}),
)
def test_members_that_are_missing_or_wrong(
    artifacts: dict[str, Path], tmp_path: Path, members: dict[str, bytes | None]
) -> None:
    path = _changed(artifacts["dense"], tmp_path / "m.gopt", **members)
    with pytest.raises(ArtifactError):
        graphopt.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", b"\x7fELF" + bytes(60), bytes(4096), b"MZ" + bytes(4000)],
    ids=lambda content: str(content[:8]),
)
def test_object_code_that_is_none(
    artifacts: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    names = [n for n in Artifact.load(artifacts["dense"]).members if n.startswith("objects/")]
    path = _changed(artifacts["dense"], tmp_path / "m.gopt", **dict.fromkeys(names, content))
    with pytest.raises(ArtifactError):
        graphopt.load(path)


def test_object_code_missing_altogether(artifacts: dict[str, Path], tmp_path: Path) -> None:
    names = [n for n in Artifact.load(artifacts["dense"]).members if n.startswith("objects/")]
    path = _changed(artifacts["dense"], tmp_path / "m.gopt", **dict.fromkeys(names, None))
    with pytest.raises(ArtifactError, match="object"):
        graphopt.load(path)


def test_the_old_artifact_serves_while_a_new_one_takes_its_place(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """A session maps its file: writing a new one under its name must not pull it away."""
    import numpy as np

    path = tmp_path / "m.gopt"
    path.write_bytes(artifacts["dense"].read_bytes())
    session = graphopt.load(path)
    x = np.ones((1, 3, 8, 8), np.float32)
    wanted = session.run([x])
    Artifact.load(artifacts["control"]).save(path)
    got = session.run([x])
    assert all(np.array_equal(got[k], wanted[k]) for k in wanted)
    path.unlink()
    got = session.run([x])
    assert all(np.array_equal(got[k], wanted[k]) for k in wanted)
