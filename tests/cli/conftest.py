"""The command line in this process, and small files to feed it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.cli.main import run
from tests.backends.pipe import Net

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failure prints."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("graphopt: error: ")
        assert self.out == ""
        return lines[0].removeprefix("graphopt: error: ")


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line on arguments, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            run()
        except SystemExit as exit:
            code = exit.code
        found = capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        return Result(int(code or 0), found.out, found.err)

    return call


def spawn(*arguments: object, code: str = "", **options: Any) -> Result:
    """Runs ``python -m graphopt`` in a process of its own, after ``code``."""
    start = ["-m", "graphopt"]
    if code:
        start = ["-c", f"{code}\nfrom graphopt.cli.main import run\nrun()"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **options.pop("env", {})}
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        **options,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def small_net() -> Net:
    """x [N, 4] to y [N, 3], with native and generated code."""
    net = Net()
    h = net("Relu", net("Gemm", net.input("x", (2, 4)), net.weight(4, 8), net.weight(8)))
    return net.output(net("Softsign", net("MatMul", h, net.weight(8, 3))))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX file, alone in its folder. Not to be written to."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(small_net().model({"x": ("N", 4)}).SerializeToString())
    return path


@pytest.fixture(scope="session")
def artifact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model compiled. Not to be written to."""
    path = tmp_path_factory.mktemp("artifact") / "small.gopt"
    graphopt.compile(str(model), output=path, verify=False)
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Input arrays that fit the small model."""
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.arange(12, dtype=np.float32).reshape(3, 4))
    return path


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes; folders have none."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in sorted(folder.rglob("*"))
    }
