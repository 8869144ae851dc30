"""Samples from an ``.npz`` file, read row by row: no array is in memory as a whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphopt.data.samples import LABELS, ChunkPlan, Sample, Samples
from graphopt.errors import InputError
from graphopt.ir import Graph

__all__ = ["npz_samples"]

Array = np.ndarray[Any, Any]


class _Rows:
    """One array of an ``.npz``: its type, and its rows from the first to the last."""

    def __init__(self, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        header = read(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
        self.shape, fortran, self.dtype = header
        if fortran and len(self.shape) > 1:
            raise ValueError("it is stored column by column; save a C-contiguous copy")
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        self._file = file

    def take(self, count: int) -> Array:
        """The next ``count`` entries along the first axis."""
        shape = (count, *self.shape[1:])
        size = int(np.prod(shape)) * self.dtype.itemsize
        data = bytearray(size)
        view = memoryview(data)
        done = 0
        while done < size:
            piece = self._file.read(min(size - done, 1 << 20))
            if not piece:
                raise ValueError("it is truncated")
            view[done : done + len(piece)] = piece
            done += len(piece)
        return np.frombuffer(data, self.dtype).reshape(shape)


def npz_samples(path: Path, graph: Graph, batch: int = 1) -> Samples:
    """Samples of an ``.npz`` of arrays by input name, with ``labels`` beside them.

    Raises InputError naming the file for one that cannot be read or does not fit the model.
    """
    with _Reading(path) as stack:
        arrays = _open(path, stack)
        labels = arrays.pop(LABELS, None) if LABELS not in {v.name for v in graph.inputs} else None
        plan = ChunkPlan(graph, arrays, batch, f"'{path}'")
        wanted = plan.count if all(plan.stacked.values()) else plan.count * plan.step
        if labels is not None and (not labels.shape or labels.shape[0] < wanted):
            raise InputError(f"'{path}': {list(labels.shape)} labels for {wanted} entries")

    def make() -> Iterator[Sample]:
        with _Reading(path) as stack:
            rows = _open(path, stack)
            found = rows.pop(LABELS, None) if labels is not None else None
            for index in range(plan.count):
                feed: dict[str, Array] = {}
                for name in rows:
                    begin, end = plan.rows(name, index)
                    taken = rows[name].take(end - begin)
                    feed[name] = taken[0] if plan.stacked[name] else taken
                label = None
                if found is not None:
                    step = 1 if all(plan.stacked.values()) else plan.step
                    row = found.take(step)
                    label = row[0] if step == 1 else row
                yield Sample(feed, label)

    return Samples(make, path.name, plan.count)


class _Reading(ExitStack):
    """An exit stack whose body's failures to read the file become InputError."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, OSError | ValueError | EOFError | zipfile.BadZipFile | KeyError):
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise InputError(f"cannot read data from '{self._path}': {reason}") from error


def _open(path: Path, stack: ExitStack) -> dict[str, _Rows]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [n for n in archive.namelist() if n.endswith(".npy")]
    if not names:
        raise ValueError("it holds no arrays")
    result = {}
    for name in names:
        try:
            result[name.removesuffix(".npy")] = _Rows(stack.enter_context(archive.open(name)))
        except ValueError as error:
            raise ValueError(f"array '{name.removesuffix('.npy')}': {error}") from None
    return result
