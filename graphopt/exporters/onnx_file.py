"""Writing ONNX files: weights stream from where they lie; a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError
from graphopt.exporters.onnx_proto import raw_bytes
from graphopt.frontends.onnx_wire import (
    GRAPH_OF_MODEL,
    INITIALIZER_OF_GRAPH,
    RAW_DATA_OF_TENSOR,
    fields,
    tag,
    varint,
)
from graphopt.ir import Constant

__all__ = ["stored_bytes", "write_model"]

_CHUNK = 1 << 22
Write = Callable[[Any], Any]


def stored_bytes(constant: Constant) -> int:
    """Bytes that a constant takes in a file."""
    return -(-constant.numel * constant.type.dtype.bits // 8)


def write_model(
    model: Any,
    path: Path,
    inline: Mapping[int, Constant],
    data: Path,
    external: Sequence[tuple[int, Constant]],
) -> None:
    """Writes a ModelProto, and the file of its external data first.

    ``inline`` are initializers of the main graph by position whose raw data is not in ``model``
    and goes to the file all the same. ``external`` are constants by offset in ``data``.
    Raises ArtifactError.
    """
    try:
        if external:
            with _replacing(data) as write:
                position = 0
                for offset, constant in external:
                    write(b"\0" * (offset - position))
                    position = offset + stored_bytes(constant)
                    _write_constant(constant, write)
        with _replacing(path) as write:
            _write_spliced(memoryview(model.SerializeToString()), inline, write)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: the model does not fit into one file: {error}") from error


def _write_spliced(view: memoryview, inline: Mapping[int, Constant], write: Write) -> None:
    """The message with the raw data of ``inline`` put into its tensors."""
    for number, start, body, end in fields(view, 0, len(view)):
        if number != GRAPH_OF_MODEL or body is None or not inline:
            write(view[start:end])
            continue
        places = [
            (first, content, last)
            for field, first, content, last in fields(view, body, end)
            if field == INITIALIZER_OF_GRAPH and content is not None
        ]
        heads: dict[int, bytes] = {}
        size = end - body
        for index, constant in inline.items():
            first, content, last = places[index]
            count = stored_bytes(constant)
            key = tag(RAW_DATA_OF_TENSOR) + varint(count)
            tensor = bytes(view[content:last]) + key
            head = tag(INITIALIZER_OF_GRAPH) + varint(len(tensor) + count) + tensor
            heads[index] = head
            size += len(head) + count - (last - first)
        write(tag(GRAPH_OF_MODEL) + varint(size))
        position = body
        for index in sorted(inline):
            first, _, last = places[index]
            write(view[position:first])
            write(heads[index])
            _write_constant(inline[index], write)
            position = last
        write(view[position:end])


def _write_constant(constant: Constant, write: Write) -> None:
    dtype, array = constant.type.dtype, constant.read()
    if dtype.bits % 8:
        write(raw_bytes(array, dtype))
        return
    # No second copy where the memory is the file's form already.
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for begin in range(0, len(flat), _CHUNK):
        write(flat[begin : begin + _CHUNK])
    constant.forget()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Write]:
    """Writes to a file beside ``path`` that takes its place when the block ends well."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        # A rename would put a file in the place of a device or pipe, /dev/null no less.
        raise ArtifactError(f"{path}: cannot be written: it is not a regular file")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file.write
        # mkstemp's files are private; a model is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
