"""Finding backends: the entry point group ``graphopt.backends``, ours and everybody's alike."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from graphopt.backends.base import Backend
from graphopt.errors import OptionError, ToolchainError

__all__ = ["find", "names"]

_GROUP = "graphopt.backends"
# Ours, for a source tree that was never installed.
_OWN = {
    "cpu": "graphopt.backends.cpu:CpuBackend",
    "cuda": "graphopt.backends.cuda:CudaBackend",
    "reference": "graphopt.backends.reference:ReferenceBackend",
}


@cache
def _entries() -> dict[str, EntryPoint]:
    found = {name: EntryPoint(name, value, _GROUP) for name, value in _OWN.items()}
    for entry in entry_points(group=_GROUP):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise OptionError(
                f"two backends are called '{entry.name}': {other.value} and {entry.value}"
            )
        found[entry.name] = entry
    return found


def names() -> list[str]:
    """Names of all backends that are installed, sorted."""
    return sorted(_entries())


@cache
def find(name: str) -> Backend:
    """The backend of that name. Raises OptionError when there is none."""
    entry = _entries().get(name)
    if entry is None:
        close = difflib.get_close_matches(name, _entries(), 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise OptionError(f"there is no target '{name}' (there are: {', '.join(names())}){hint}")
    try:
        backend = entry.load()()
    except (ImportError, AttributeError) as error:
        raise ToolchainError(
            f"backend '{name}' ({entry.value}) cannot be imported: {error}"
        ) from error
    if not isinstance(backend, Backend):
        raise ToolchainError(f"backend '{name}' ({entry.value}) is not a graphopt Backend")
    return backend
