"""ONNX tensors as constants: every element type, raw, typed, external and sparse data.

Bytes that lie in a file are mapped, not read; sub-byte elements are unpacked, one a byte, when they
are first looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir import Constant, DType, TensorType

__all__ = ["MAX_DENSE_BYTES", "Slot", "TensorReader", "text"]

Array = np.ndarray[Any, Any]
# A sparse tensor may claim any size in a few bytes; beyond this it is refused.
MAX_DENSE_BYTES = 1 << 30
# Contents up to this many bytes are read at once; larger ones when first looked at.
_EAGER_BYTES = 1 << 12
_EXTERNAL = 1
_PACKED = {DType.I4, DType.U4, DType.F4E2M1, DType.I2, DType.U2}
# Types whose raw bytes are not their bytes in memory. Any byte but 0 is true.
_DECODED = _PACKED | {DType.F6E2M3, DType.F6E3M2, DType.BOOL}
# Which typed field holds an element type, and how many of its numbers one element takes.
_FIELDS = {
    DType.F32: "float_data", DType.C64: "float_data", DType.F64: "double_data",
    DType.C128: "double_data", DType.I64: "int64_data", DType.U32: "uint64_data",
    DType.U64: "uint64_data",
}  # fmt: skip


def text(value: Any) -> str:
    """A protobuf string; bytes that are not UTF-8 stay visible as escapes."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Slot:
    """Raw bytes of one tensor, still inside the model file."""

    offset: int
    nbytes: int


@dataclass
class TensorReader:
    """Turns TensorProtos into constants.

    ``data`` is the model file as bytes (mapped), ``slots`` say where the raw data of tensors that
    were taken out of the protobuf lies, by the initializer's position. ``folder`` is where
    external data may lie, None when the model came as bytes; ``roots`` bound it, links resolved.
    """

    label: str
    data: Array | None = None
    folder: Path | None = None
    roots: Sequence[Path] = ()
    _files: dict[str, Array] = field(default_factory=dict)

    def constant(self, tensor: Any, slot: Slot | None = None, where: str = "") -> Constant:
        """The constant that a TensorProto describes. Raises ModelError naming it."""
        name = text(tensor.name) or where or "?"

        def fail(cause: str) -> ModelError:
            return ModelError(f"{self.label}: tensor '{name}': {cause}")

        dtype, shape = self._header(tensor, fail)
        count = math.prod(shape)
        if slot is not None:
            assert self.data is not None
            raw = self.data[slot.offset : slot.offset + slot.nbytes]
            return self._from_raw(dtype, shape, raw, fail)
        if tensor.data_location == _EXTERNAL:
            return self._from_raw(dtype, shape, self._external(tensor, dtype, count, fail), fail)
        if dtype is DType.STRING:
            return Constant(_strings(tensor.string_data, shape, fail))
        if tensor.HasField("raw_data"):
            raw = np.frombuffer(tensor.raw_data, np.uint8)
            return self._from_raw(dtype, shape, raw, fail)
        return Constant(_typed(tensor, dtype, shape, fail))

    @property
    def read_files(self) -> bool:
        """True when a tensor lay in a file of its own."""
        return bool(self._files)

    def sparse(self, sparse: Any, where: str = "") -> Constant:
        """The dense constant that a SparseTensorProto describes, made when first looked at."""
        values = self.constant(sparse.values, where=where)
        indices = self.constant(sparse.indices, where=where)
        name = text(sparse.values.name) or where or "?"

        def fail(cause: str) -> ModelError:
            return ModelError(f"{self.label}: sparse tensor '{name}': {cause}")

        shape = _shape(sparse.dims, fail)
        type = TensorType(values.type.dtype, shape)
        size = math.prod(shape)
        if size * max(type.dtype.nbytes, 8) > MAX_DENSE_BYTES:
            raise fail(f"dense it would take {size} elements, more than graphopt accepts")
        if type.dtype is DType.STRING:
            raise fail("strings cannot be sparse")
        if indices.type.dtype is not DType.I64:
            raise fail(f"its indices are {indices.type}, not i64")
        flat = _flat_indices(indices.array, shape, values.numel, fail)

        def load() -> Array:
            dense = np.zeros(size, type.dtype.numpy)
            dense[flat] = values.array.ravel()
            return dense.reshape(shape)

        return Constant(None, type=type, load=load)

    def _header(
        self, tensor: Any, fail: Callable[[str], ModelError]
    ) -> tuple[DType, tuple[int, ...]]:
        try:
            dtype = DType(tensor.data_type)
        except ValueError:
            raise fail(f"element type {tensor.data_type} does not exist") from None
        shape = _shape(tensor.dims, fail)
        if tensor.HasField("segment"):
            raise fail("it is cut into segments, which graphopt does not read")
        return dtype, shape

    def _external(
        self, tensor: Any, dtype: DType, count: int, fail: Callable[[str], ModelError]
    ) -> Array:
        """The bytes of a tensor that lies in a file beside the model, mapped."""
        if dtype is DType.STRING:
            raise fail("strings cannot lie in an external file")
        entries = {text(e.key): text(e.value) for e in tensor.external_data}
        location = entries.get("location", "")
        if not location:
            raise fail("its data is external but no location is given")
        if self.folder is None:
            raise fail(
                f"its data lies in '{location}', but the model came without a folder: pass its path"
            )
        data = self._file(location, fail)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", -1))
        except ValueError:
            raise fail("offset and length of its external data must be numbers") from None
        if length < 0:
            length = _stored_bytes(dtype, count)
        if offset < 0 or offset + length > data.size:
            raise fail(
                f"it needs bytes {offset} to {offset + length} of '{location}', "
                f"which has {data.size}"
            )
        return data[offset : offset + length]

    def _file(self, location: str, fail: Callable[[str], ModelError]) -> Array:
        found = self._files.get(location)
        if found is not None:
            return found
        assert self.folder is not None
        relative = Path(location)
        if relative.is_absolute() or ".." in relative.parts or "\0" in location:
            raise fail(f"its external data '{location}' lies outside the model's folder")
        path = self.folder / relative
        try:
            real = path.resolve()
            if not any(real.is_relative_to(root) for root in self.roots):
                raise fail(f"its external data '{location}' lies outside the model's folder")
            if not real.is_file():
                raise fail(f"its external data file '{path}' does not exist")
            if real.stat().st_size == 0:
                mapped: Array = np.empty(0, np.uint8)
            else:
                mapped = np.asarray(np.memmap(real, np.uint8, mode="r"))
        except OSError as error:
            raise fail(f"its external data '{path}' cannot be read: {error.strerror}") from None
        self._files[location] = mapped
        return mapped

    def _from_raw(
        self, dtype: DType, shape: tuple[int, ...], raw: Array, fail: Callable[[str], ModelError]
    ) -> Constant:
        if dtype is DType.STRING:
            raise fail("strings cannot be raw data")
        needed = _stored_bytes(dtype, math.prod(shape))
        if raw.size != needed:
            raise fail(f"{dtype}{list(shape)} takes {needed} bytes, but it has {raw.size}")
        if raw.size <= _EAGER_BYTES:
            return Constant(_decode(np.array(raw), dtype, shape))
        # Contents are views of the file's pages: nothing is read yet.
        aligned = raw.ctypes.data % dtype.numpy.alignment == 0
        if aligned and dtype not in _DECODED:
            return Constant(raw.view(dtype.numpy).reshape(shape))

        def load() -> Array:
            return _decode(raw, dtype, shape)

        return Constant(None, type=TensorType(dtype, shape), load=load)


def _shape(dims: Any, fail: Callable[[str], ModelError]) -> tuple[int, ...]:
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape):
        raise fail(f"its shape {list(shape)} has a negative size")
    if len(shape) > 64:
        raise fail(f"it has {len(shape)} axes; at most 64 are possible")
    # numpy refuses such shapes even where an axis of 0 makes them empty.
    if math.prod(max(d, 1) for d in shape) > 1 << 58:
        raise fail(f"its shape {list(shape)} is too large")
    return shape


def _stored_bytes(dtype: DType, count: int) -> int:
    return -(-count * dtype.bits // 8)


def _decode(raw: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    if dtype is DType.BOOL:
        return np.not_equal(raw, 0).reshape(shape)
    if dtype in _DECODED:
        return _unpack(raw, dtype, count).reshape(shape)
    return raw.view(dtype.numpy).reshape(shape)


def _unpack(raw: Array, dtype: DType, count: int) -> Array:
    """Elements of ``dtype.bits`` bits, lowest bits first, one a byte."""
    bits = dtype.bits
    if 8 % bits:
        stream = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
        codes = np.packbits(stream, axis=1, bitorder="little").ravel()
    else:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).ravel()[:count]
    if dtype.is_float:
        return codes.view(dtype.numpy)
    if dtype.is_signed:
        sign = np.int8(1 << (bits - 1))
        codes = ((codes.view(np.int8) ^ sign) - sign).view(np.int8)
    return codes.astype(dtype.numpy)


def _strings(items: Any, shape: tuple[int, ...], fail: Callable[[str], ModelError]) -> Array:
    if len(items) != math.prod(shape):
        raise fail(f"its shape {list(shape)} does not fit its {len(items)} strings")
    result = np.empty(len(items), object)
    for index, item in enumerate(items):
        result[index] = item.decode("utf-8", "surrogateescape")
    return result.reshape(shape)


def _typed(
    tensor: Any, dtype: DType, shape: tuple[int, ...], fail: Callable[[str], ModelError]
) -> Array:
    """Contents from one of the typed fields of the protobuf."""
    count = math.prod(shape)
    items = getattr(tensor, _FIELDS.get(dtype, "int32_data"))
    stored = count * 2 if dtype.is_complex else count
    if dtype in _PACKED:
        stored = _stored_bytes(dtype, count)
    if len(items) != stored:
        raise fail(f"{dtype}{list(shape)} needs {stored} stored numbers, but it has {len(items)}")
    target = dtype.numpy
    if dtype in (DType.F32, DType.F64, DType.I64, DType.U64):
        flat = np.array(items, target)
    elif dtype.is_complex:
        flat = np.array(items, np.float32 if dtype is DType.C64 else np.float64).view(target)
    elif dtype in _PACKED:
        flat = _unpack((np.array(items, np.int64) & 0xFF).astype(np.uint8), dtype, count)
    elif dtype is DType.BOOL:
        flat = np.array(items, np.int64) != 0
    elif dtype.is_integer:
        flat = np.array(items, np.int64 if dtype is not DType.U32 else np.uint64).astype(target)
    else:
        # The bits of a float of 8 or 16 bits, in the low end of an int32.
        carrier = np.uint16 if dtype.bits == 16 else np.uint8
        mask = (1 << dtype.bits) - 1
        flat = (np.array(items, np.int64) & mask).astype(carrier).view(target)
    return flat.reshape(shape)


def _flat_indices(
    indices: Array, shape: tuple[int, ...], count: int, fail: Callable[[str], ModelError]
) -> Array:
    size = math.prod(shape)
    if indices.shape == (count,):
        flat = indices
    elif indices.shape == (count, len(shape)):
        flat = np.zeros(count, np.int64)
        for axis, dim in enumerate(shape):
            column = indices[:, axis]
            if count and (column.min() < 0 or column.max() >= dim):
                raise fail(f"an index is out of range on axis {axis} of {dim}")
            flat = flat * dim + column
    else:
        raise fail(f"{count} values cannot have indices of shape {list(indices.shape)}")
    if count and (flat.min() < 0 or flat.max() >= size):
        raise fail(f"an index is out of range for {size} elements")
    return flat
