"""The wire format of protobuf, as far as weights are concerned.

See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "GRAPH_OF_MODEL",
    "INITIALIZER_OF_GRAPH",
    "RAW_DATA_OF_TENSOR",
    "WireError",
    "fields",
    "tag",
    "varint",
]

# Field numbers of onnx.proto.
GRAPH_OF_MODEL = 7
INITIALIZER_OF_GRAPH = 5
RAW_DATA_OF_TENSOR = 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(Exception):
    """The bytes are not what the scanner understands; the protobuf library shall judge."""


def fields(view: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int | None, int]]:
    """(field number, start, start of the body if it is length-delimited, end), one a field."""
    while position < end:
        start = position
        key, position = _read_varint(view, position, end)
        wire = key & 7
        body = None
        if wire == _VARINT:
            _, position = _read_varint(view, position, end)
        elif wire == _BYTES:
            length, position = _read_varint(view, position, end)
            body = position
            position += length
        elif wire == _FIXED32:
            position += 4
        elif wire == _FIXED64:
            position += 8
        else:
            raise WireError
        if position > end:
            raise WireError
        yield key >> 3, start, body, position


def _read_varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError


def varint(value: int) -> bytes:
    """``value`` in groups of seven bits."""
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def tag(number: int) -> bytes:
    """The key of a length-delimited field."""
    return varint(number << 3 | _BYTES)
