"""Build the wheel and try it in an environment that holds numpy and nothing else.

``python -m tests.wheel.smoke FOLDER [LIBRARY]``: this environment compiles small models; the other
one loads the artifacts and must give the same bytes, without tvm, onnx or torch. So must the C
example, linked with the ``libgraphopt.so`` in the folder LIBRARY. The environment in FOLDER is
kept, so that a second run needs no network.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import warnings
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
        _command_line(python, away)
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
    """Artifacts of all models, with inputs and the outputs of this process."""
    import graphopt
    from tests.wheel.model import models

    for name, (model, inputs) in models().items():
        artifact = folder / f"{name}.gopt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the node that is to be interpreted
            graphopt.compile(model, target="cpu", output=artifact, inputs=inputs)
        outputs = graphopt.load(artifact, threads=2).run(inputs)
        np.savez(folder / f"{name}.in.npz", **inputs)
        np.savez(folder / f"{name}.want.npz", **outputs)


def _same(folder: Path) -> None:
    for artifact in folder.glob("*.gopt"):
        wanted, got = (artifact.with_suffix(f".{kind}.npz") for kind in ("want", "got"))
        with np.load(wanted) as want, np.load(got) as found:
            for name in want.files:
                if want[name].tobytes() != found[name].tobytes():
                    raise SystemExit(
                        f"output {name!r} of {artifact.name} in the wheel differs from the "
                        "compiler's own"
                    )


def _command_line(python: Path, folder: Path) -> None:
    """Without typer the command says in one line what brings it."""
    command = [str(python), "-I", "-m", "graphopt", "targets"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 6 or "graphopt[cli]" not in done.stderr or done.stderr.count("\n") != 1:
        raise SystemExit(f"graphopt without typer: code {done.returncode}\n{done.stderr}")


def _example(folder: Path, library: Path) -> None:
    """The C example on the same artifacts and inputs, in a program without Python."""
    from tests.wheel.model import INTERPRETED

    program = folder / "run_artifact"
    source = ROOT / "examples" / "c" / "run_artifact.c"
    places = ["-I", ROOT / "csrc" / "include", "-L", library, "-lgraphopt"]
    _call("cc", "-O2", source, "-o", program, *places)
    for artifact in folder.glob("*.gopt"):
        if artifact.stem == INTERPRETED:
            continue
        arguments: list[str | Path] = ["--threads", "2"]
        with np.load(artifact.with_suffix(".in.npz")) as inputs:
            for name in inputs.files:
                file = folder / f"{artifact.stem}.{name}.in.bin"
                inputs[name].tofile(file)
                shape = ",".join(map(str, inputs[name].shape))
                arguments += ["--input", f"{name}={file}:{shape}"]
        with np.load(artifact.with_suffix(".want.npz")) as want:
            files = {name: folder / f"{artifact.stem}.{name}.out.bin" for name in want.files}
            for name, file in files.items():
                arguments += ["--output", f"{name}={file}"]
            _call(program, artifact, *arguments, LD_LIBRARY_PATH=str(library))
            for name, file in files.items():
                if file.read_bytes() != want[name].tobytes():
                    raise SystemExit(
                        f"output {name!r} of {artifact.name} in C differs from the compiler's own"
                    )


def _call(program: str | Path, *args: str | Path, cwd: Path | None = None, **extra: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | extra
    command = [str(program), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
