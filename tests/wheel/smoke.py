"""Build the wheel and try it in an environment that holds numpy and nothing else.

``python -m tests.wheel.smoke FOLDER [LIBRARY]``: this environment compiles a small model; the other
one loads the artifact and must give the same bytes, without tvm, onnx or torch. So must the C
example, linked with the ``libgraphopt.so`` in the folder LIBRARY. The environment in FOLDER is
kept, so that a second run needs no network.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Build, install, run elsewhere and compare. Returns the exit code."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = _environment(folder)
    wheel = _build(folder / "dist")
    _call(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        wheel,
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        away = Path(elsewhere)
        _compile(away)
        guest = Path(__file__).with_name("guest.py").read_text()
        _call(python, "-I", "-c", guest, cwd=away)
        _same(away)
        if len(sys.argv) > 2:
            _example(away, Path(sys.argv[2]).resolve())
    size = wheel.stat().st_size / 1e6
    sys.stdout.write(f"{wheel.name} ({size:.1f} MB): same bytes as the compiling process\n")
    return 0


def _environment(folder: Path) -> Path:
    """The interpreter of a virtual environment with numpy alone; made on the first run."""
    python = folder / "venv" / "bin" / "python"
    stamp = folder / "venv" / ".ready"
    if not stamp.exists():
        _call(Path(sys.executable), "-m", "venv", "--clear", folder / "venv")
        numpy = f"numpy=={importlib.metadata.version('numpy')}"
        _call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", numpy)
        stamp.touch()
    return python


def _build(dist: Path) -> Path:
    for old in dist.glob("*.whl"):
        old.unlink()
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    _call(Path(sys.executable), *build, "--wheel-dir", dist, ROOT)
    (wheel,) = dist.glob("*.whl")
    return wheel


def _compile(folder: Path) -> None:
    import graphopt
    from tests.wheel.model import small_model

    artifact = folder / "model.gopt"
    graphopt.compile(small_model(), target="cpu", output=artifact)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    outputs = graphopt.load(artifact, threads=2).run({"x": x})
    np.savez(folder / "want.npz", x=x, **outputs)


def _same(folder: Path) -> None:
    with np.load(folder / "want.npz") as want, np.load(folder / "got.npz") as got:
        for name in want.files:
            if want[name].tobytes() != got[name].tobytes():
                raise SystemExit(f"output {name!r} of the wheel differs from the compiler's own")


def _example(folder: Path, library: Path) -> None:
    """The C example on the same artifact and input, in a program without Python."""
    program = folder / "run_artifact"
    source = ROOT / "examples" / "c" / "run_artifact.c"
    _call(
        "cc",
        "-O2",
        source,
        "-o",
        program,
        "-I",
        ROOT / "csrc" / "include",
        "-L",
        library,
        "-lgraphopt",
    )
    with np.load(folder / "want.npz") as want:
        x = want["x"]
        x.tofile(folder / "x.bin")
        names = [name for name in want.files if name != "x"]
        given = f"x={folder / 'x.bin'}:{','.join(map(str, x.shape))}"
        wanted = [("--output", f"{name}={folder / name}.bin") for name in names]
        arguments = [
            "--threads",
            "2",
            "--input",
            given,
            *(part for pair in wanted for part in pair),
        ]
        _call(program, folder / "model.gopt", *arguments, LD_LIBRARY_PATH=str(library))
        for name in names:
            if (folder / f"{name}.bin").read_bytes() != want[name].tobytes():
                raise SystemExit(
                    f"output {name!r} of the C example differs from the compiler's own"
                )


def _call(program: str | Path, *args: str | Path, cwd: Path | None = None, **extra: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | extra
    command = [str(program), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
