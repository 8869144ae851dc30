"""Writing result files: to a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError

__all__ = ["make_folder", "save_bytes", "save_npz", "save_text"]


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name. Raises ArtifactError; nothing is left behind."""

    def write(temporary: Path) -> None:
        with temporary.open("xb") as file:
            named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez(file, **named)

    _replace(path, write)


def save_text(path: Path, text: str) -> None:
    """Writes a text file. Raises ArtifactError; nothing is left behind."""
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_bytes(path: Path, data: bytes) -> None:
    """Writes a file of bytes. Raises ArtifactError; nothing is left behind."""
    _replace(path, lambda temporary: temporary.write_bytes(data))


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are not there. Raises ArtifactError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot make the folder '{path}': {error.strerror or error}"
        ) from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # A rename would put a file in the place of a device or pipe, /dev/null no less.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"cannot write '{path}': it is not a regular file")
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
