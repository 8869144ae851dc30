"""Constants: tensors known at compile time, loaded only when looked at."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.hashing import CHUNK, chunked_xxh64
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType

__all__ = ["Constant"]

Array = np.ndarray[Any, Any]
# Smaller arrays are not worth a system call.
_FORGET_BYTES = 1 << 20


class Constant:
    """An immutable tensor. The array may be memory-mapped, or made by a loader on first use.

    Equality is identity; compare :attr:`digest` to compare contents.
    """

    __slots__ = ("_array", "_digest", "_load", "type")

    def __init__(
        self,
        array: Array | None,
        *,
        type: TensorType | None = None,
        load: Callable[[], Array] | None = None,
        digest: str | None = None,
    ) -> None:
        if array is not None:
            type = TensorType(DType.from_numpy(array.dtype), tuple(array.shape))
        if type is None or not type.static:
            raise ValueError("a constant without an array needs a static type")
        self.type = type
        self._array = None if array is None else _frozen(array)
        self._load = load
        self._digest = digest

    @property
    def loaded(self) -> bool:
        """True when the array is in reach without running the loader."""
        return self._array is not None

    @property
    def available(self) -> bool:
        """True unless this constant is known by type and digest alone."""
        return self._array is not None or self._load is not None

    @property
    def array(self) -> Array:
        """The contents, read-only. Raises ModelError when this constant is known by hash alone."""
        if self._array is None:
            self._array = np.require(self.read(), requirements="A")
        return self._array

    def read(self) -> Array:
        """The contents, read-only. What a loader makes is made anew each time and not kept, so that
        going through all constants of a model takes the memory of one. A view of a mapped file is
        not always aligned. Raises what `array` does.
        """
        if self._array is not None:
            return self._array
        if self._load is None:
            raise ModelError(
                f"the contents of constant {self.type} #{self._digest} are not part of the text"
            )
        array = self._load()
        if array.dtype != self.type.dtype.numpy or tuple(array.shape) != self.type.shape:
            raise ModelError(f"constant data is {array.dtype}{array.shape}, not {self.type}")
        return _frozen(array)

    def forget(self) -> None:
        """Gives the pages of a mapped file back: they are read again when they are next needed.

        Until then they count as memory of the process, and going through all weights of a model
        would take as much as the model.
        """
        source = None if self._array is None else _mapped(self._array)
        if source is not None and self._array is not None and self._array.nbytes >= _FORGET_BYTES:
            page = mmap.ALLOCATIONGRANULARITY
            flat = np.frombuffer(source, np.uint8)
            begin = (self._array.ctypes.data - flat.ctypes.data) // page * page
            end = self._array.ctypes.data + self._array.nbytes - flat.ctypes.data
            with contextlib.suppress(OSError, ValueError):
                source.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = self.type.numel
        assert isinstance(count, int)
        return count

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.numel * self.type.dtype.nbytes

    @property
    def digest(self) -> str:
        """32 hex digits that stand for type and contents: a hash of them, or of how a loader makes
        them.

        Above 1 MiB they are taken over a 64-bit hash of the contents, which is ten times faster:
        equal digests of large constants mean equal contents but for a one in 2**64 accident.
        """
        if self._digest is None:
            hasher = hashlib.blake2b(str(self.type).encode(), digest_size=16)
            array = self.read()
            if self.type.dtype is DType.STRING:
                for item in array.ravel():
                    text = item if isinstance(item, bytes) else str(item).encode()
                    hasher.update(len(text).to_bytes(8, "little") + text)
            else:
                data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                large = len(data) > CHUNK
                hasher.update(chunked_xxh64(data).to_bytes(8, "little") if large else data)
            self._digest = hasher.hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f"Constant({self.type})"


def _mapped(array: Array) -> mmap.mmap | None:
    """The mapped file that an array is a contiguous view of."""
    base: Any = array if array.flags.c_contiguous else None
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def _frozen(array: Array) -> Array:
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
