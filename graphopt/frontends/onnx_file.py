"""Reading ONNX files: protobuf without the weights, which stay mapped where they are.

The protobuf library copies every byte of a message. So the file is scanned first, field by field,
for the raw data of large initializers; those bytes are left out of what the library parses and are
used in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ModelError, missing_extra
from graphopt.frontends.onnx_tensor import Slot, TensorReader
from graphopt.frontends.onnx_wire import (
    GRAPH_OF_MODEL,
    INITIALIZER_OF_GRAPH,
    RAW_DATA_OF_TENSOR,
    WireError,
    fields,
    tag,
    varint,
)

__all__ = ["ModelFile", "open_model"]

# Raw data shorter than this stays in the protobuf.
_MIN_SLOT_BYTES = 1 << 12


@dataclass
class ModelFile:
    """A parsed model: the protobuf, and where the bytes of its large initializers lie."""

    proto: Any
    reader: TensorReader
    slots: dict[int, Slot] = field(default_factory=dict)


def open_model(source: Any) -> ModelFile:
    """The model in a file, in bytes, or given as a ModelProto.

    Raises ModelError when there is none or it cannot be parsed.
    """
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "onnx") from None
    if isinstance(source, onnx.ModelProto):
        return ModelFile(source, TensorReader("model"))
    if isinstance(source, bytes | bytearray | memoryview):
        data = np.frombuffer(source, np.uint8) if len(source) else np.empty(0, np.uint8)
        return _parse(data, TensorReader("model", data))
    path = Path(source)
    label = str(path)
    try:
        if path.is_dir():
            raise ModelError(f"{label}: is a folder, not an ONNX file")
        size = path.stat().st_size
        data = np.asarray(np.memmap(path, np.uint8, mode="r")) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise ModelError(f"{label}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{label}: cannot be read: {error}") from None
    # A model in a content store is a link whose data lies beside the target.
    roots = (path.parent.resolve(), path.resolve().parent)
    return _parse(data, TensorReader(label, data, path.parent, roots))


def _parse(data: np.ndarray[Any, Any], reader: TensorReader) -> ModelFile:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if data.size == 0:
        raise ModelError(f"{reader.label}: is empty")
    view = data.data
    slots: dict[int, Slot] = {}
    try:
        slim: Any = _without_weights(view, slots)
    except WireError:
        slots.clear()
        slim = view
    try:
        proto = onnx.ModelProto.FromString(bytes(slim))
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{reader.label}: is not an ONNX model, or it is truncated or damaged ({error})"
        ) from None
    return ModelFile(proto, reader, slots)


def _without_weights(view: memoryview, slots: dict[int, Slot]) -> bytes:
    """The message less the raw data of large initializers, which ``slots`` gets by position."""
    pieces: list[bytes | memoryview] = []
    position = 0
    for number, start, body, end in fields(view, 0, len(view)):
        if number == GRAPH_OF_MODEL and body is not None:
            graph, position = _slim_graph(view, body, end, position, slots)
            pieces += [tag(GRAPH_OF_MODEL), varint(sum(map(len, graph))), *graph]
        else:
            pieces.append(view[start:end])
    return b"".join(pieces)


def _slim_graph(
    view: memoryview, begin: int, end: int, position: int, slots: dict[int, Slot]
) -> tuple[list[bytes | memoryview], int]:
    pieces: list[bytes | memoryview] = []
    copied = begin  # everything before is in `pieces`
    for number, start, body, stop in fields(view, begin, end):
        if number != INITIALIZER_OF_GRAPH or body is None:
            continue
        if stop - body >= _MIN_SLOT_BYTES:
            tensor, slot = _slim_tensor(view, body, stop)
            if slot is not None:
                slots[position] = slot
                pieces.append(view[copied:start])
                size = sum(map(len, tensor))
                pieces += [tag(INITIALIZER_OF_GRAPH), varint(size), *tensor]
                copied = stop
        position += 1
    pieces.append(view[copied:end])
    return pieces, position


def _slim_tensor(
    view: memoryview, begin: int, end: int
) -> tuple[list[bytes | memoryview], Slot | None]:
    pieces: list[bytes | memoryview] = []
    slot = None
    for number, start, body, stop in fields(view, begin, end):
        if number == RAW_DATA_OF_TENSOR and body is not None:
            slot = Slot(body, stop - body)  # the last one counts
        else:
            pieces.append(view[start:stop])
    if slot is not None and slot.nbytes < _MIN_SLOT_BYTES:
        slot = None
    return pieces, slot
