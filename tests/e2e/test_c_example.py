"""The C example runs what Python compiled, bit for bit, without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.compiler import FallbackWarning
from tests.backends.pipe import Net, compiled
from tests.cli.conftest import ROOT
from tests.e2e.models import NETS, SHAPES

SOURCE = ROOT / "examples" / "c" / "run_artifact.c"


def _library() -> Path | None:
    """The folder of libgraphopt.so as the newest build made it."""
    found = [
        ROOT / "build" / kind / "csrc" / "runtime" / "libgraphopt.so" for kind in ("release", "dev")
    ]
    found = [path for path in found if path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as its users do: with warnings as errors."""
    library, compiler = _library(), shutil.which("cc")
    if library is None or compiler is None:
        pytest.skip("there is no C compiler, or libgraphopt.so was not built")
    path = tmp_path_factory.mktemp("c") / "run_artifact"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    places = [f"-I{ROOT / 'csrc' / 'include'}", f"-L{library}", f"-Wl,-rpath,{library}"]
    command = [compiler, *flags, str(SOURCE), "-o", str(path), *places, "-lgraphopt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def _run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_outputs_have_the_same_bytes(
    program: Path, tmp_path: Path, name: str, threads: int
) -> None:
    artifact = tmp_path / "m.gopt"
    compiled(NETS[name]().model(SHAPES[name])).save(artifact)
    session = graphopt.load(artifact, threads=3)
    for seed, feeds in enumerate((NETS[name]().feeds(1), NETS[name]().feeds(2))):
        x: Any = feeds["x"] if seed == 0 else np.concatenate([feeds["x"]] * 2)
        wanted = session.run([x])
        x.tofile(tmp_path / "x.bin")
        given = f"x={tmp_path / 'x.bin'}:{','.join(map(str, x.shape))}"
        outputs: list[str] = []
        for key in wanted:
            outputs += ["--output", f"{key}={tmp_path / key}.bin"]
        done = _run(program, artifact, "--threads", threads, "--input", given, *outputs)
        assert done.returncode == 0, done.stderr
        for key, value in wanted.items():
            assert (tmp_path / f"{key}.bin").read_bytes() == value.tobytes(), key


def test_what_fails_is_said_in_one_line(program: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "m.gopt"
    compiled(NETS["native"]().model(SHAPES["native"])).save(artifact)
    data = artifact.read_bytes()
    damaged = tmp_path / "damaged.gopt"
    damaged.write_bytes(data[:-100])
    np.zeros((2, 5), np.float32).tofile(tmp_path / "x.bin")
    cases = [
        ((tmp_path / "none.gopt",), "No such file"),
        ((damaged,), "artifact"),
        ((artifact, "--input", f"x={tmp_path / 'x.bin'}:2,5"), "expected float32[N, 4]"),
        ((artifact, "--input", f"x={tmp_path / 'x.bin'}:2,4"), "does not fit the shape"),
        ((artifact, "--threads", "-3"), "threads"),
        ((artifact, "--nonsense", "1"), "unknown option"),
        ((), "usage"),
    ]
    for arguments, message in cases:
        done = _run(program, *arguments)
        assert done.returncode == 1, arguments
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_interpreted_nodes_need_python(program: Path, tmp_path: Path) -> None:
    net = Net()
    y = net("Tile", net.input("x", (2, 3)), net.input("s", (2,), np.int64))
    artifact = tmp_path / "m.gopt"
    with pytest.warns(FallbackWarning, match="Tile"):
        graphopt.compile(net.output(y).model(), verify=False, output=artifact)
    done = _run(program, artifact)
    assert done.returncode == 1
    assert "n0" in done.stderr
    assert "Python" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
