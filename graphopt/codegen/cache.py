"""A content-addressed cache on disk. Entries are written atomically and checked when read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["Cache", "default_folder"]

_DIGEST = 16


def default_folder() -> Path:
    """``$GRAPHOPT_CACHE``, else ``graphopt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("GRAPHOPT_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphopt"


class Cache:
    """Bytes by key. A damaged entry counts as absent; a folder that cannot be written is no error.

    ``folder`` None switches the cache off.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.folder / "codegen" / name[:2] / name[2:]

    def get(self, key: str) -> bytes | None:
        """The entry of that key, None when there is none."""
        if self.folder is None:
            return None
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        body = data[_DIGEST:]
        intact = hashlib.blake2b(body, digest_size=_DIGEST).digest() == data[:_DIGEST]
        return body if intact else None

    def put(self, key: str, data: bytes) -> None:
        """Stores an entry; readers see all of it or nothing."""
        if self.folder is None:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.blake2b(data, digest_size=_DIGEST).digest())
                file.write(data)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
