"""Element types, numbered and named after ONNX ``TensorProto.DataType``."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

__all__ = ["DType"]


class DType(enum.IntEnum):
    """An element type. The value is ONNX's code, ``str()`` is the short name of the text form."""

    F32 = 1
    U8 = 2
    I8 = 3
    U16 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    STRING = 8
    BOOL = 9
    F16 = 10
    F64 = 11
    U32 = 12
    U64 = 13
    C64 = 14
    C128 = 15
    BF16 = 16
    F8E4M3FN = 17
    F8E4M3FNUZ = 18
    F8E5M2 = 19
    F8E5M2FNUZ = 20
    U4 = 21
    I4 = 22
    F4E2M1 = 23
    F8E8M0 = 24
    U2 = 25
    I2 = 26
    F6E2M3 = 27
    F6E3M2 = 28

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype; the narrow types come from ml_dtypes, strings are objects."""
        return _to_numpy(self)

    @property
    def bits(self) -> int:
        """Bits an element carries (0 for strings)."""
        return _BITS[self]

    @property
    def nbytes(self) -> int:
        """Bytes an element takes in memory: sub-byte types are stored one a byte; 0 for strings."""
        return -(-_BITS[self] // 8)

    @property
    def is_float(self) -> bool:
        """True for every real floating-point type."""
        return self in _FLOATS

    @property
    def is_complex(self) -> bool:
        """True for c64 and c128."""
        return self in (DType.C64, DType.C128)

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers; bool is not one."""
        return self in _SIGNED or self in _UNSIGNED

    @property
    def is_signed(self) -> bool:
        """True for signed integers and every float."""
        return self in _SIGNED or self.is_float

    @classmethod
    def from_numpy(cls, dtype: Any) -> DType:
        """The element type of a numpy dtype. Raises TypeError for one that ONNX lacks."""
        dtype = np.dtype(dtype)
        # numpy composes the name anew each time, which is slow for a model of many constants.
        found = _FROM_NUMPY.get(dtype)
        if found is not None:
            return found
        found = _FROM_NAME.get(dtype.name)
        if found is not None:
            _FROM_NUMPY[dtype] = found
            return found
        if dtype.kind in "OUST":
            return cls.STRING
        raise TypeError(f"numpy dtype {dtype} has no ONNX element type")

    @classmethod
    def parse(cls, text: str) -> DType:
        """The inverse of ``str()``. Raises ValueError."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise ValueError(f"unknown element type '{text}'") from None


_BITS = {
    DType.F32: 32, DType.U8: 8, DType.I8: 8, DType.U16: 16, DType.I16: 16, DType.I32: 32,
    DType.I64: 64, DType.STRING: 0, DType.BOOL: 8, DType.F16: 16, DType.F64: 64, DType.U32: 32,
    DType.U64: 64, DType.C64: 64, DType.C128: 128, DType.BF16: 16, DType.F8E4M3FN: 8,
    DType.F8E4M3FNUZ: 8, DType.F8E5M2: 8, DType.F8E5M2FNUZ: 8, DType.U4: 4, DType.I4: 4,
    DType.F4E2M1: 4, DType.F8E8M0: 8, DType.U2: 2, DType.I2: 2,
    DType.F6E2M3: 6, DType.F6E3M2: 6,
}  # fmt: skip
_FLOATS = frozenset(
    {
        DType.F32, DType.F16, DType.F64, DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ,
        DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1, DType.F8E8M0,
        DType.F6E2M3, DType.F6E3M2,
    }
)  # fmt: skip
_SIGNED = frozenset({DType.I8, DType.I16, DType.I32, DType.I64, DType.I4, DType.I2})
_UNSIGNED = frozenset({DType.U8, DType.U16, DType.U32, DType.U64, DType.U4, DType.U2})
_NUMPY_NAMES = {
    DType.F32: "float32", DType.U8: "uint8", DType.I8: "int8", DType.U16: "uint16",
    DType.I16: "int16", DType.I32: "int32", DType.I64: "int64", DType.BOOL: "bool",
    DType.F16: "float16", DType.F64: "float64", DType.U32: "uint32", DType.U64: "uint64",
    DType.C64: "complex64", DType.C128: "complex128",
}  # fmt: skip
_ML_NAMES = {
    DType.BF16: "bfloat16", DType.F8E4M3FN: "float8_e4m3fn", DType.F8E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8E5M2: "float8_e5m2", DType.F8E5M2FNUZ: "float8_e5m2fnuz", DType.U4: "uint4",
    DType.I4: "int4", DType.F4E2M1: "float4_e2m1fn", DType.F8E8M0: "float8_e8m0fnu",
    DType.U2: "uint2", DType.I2: "int2", DType.F6E2M3: "float6_e2m3fn",
    DType.F6E3M2: "float6_e3m2fn",
}  # fmt: skip
_FROM_NAME = {name: dtype for dtype, name in (_NUMPY_NAMES | _ML_NAMES).items()}
_FROM_NUMPY: dict[np.dtype[Any], DType] = {}
_CACHE: dict[DType, np.dtype[Any]] = {
    **{dtype: np.dtype(name) for dtype, name in _NUMPY_NAMES.items()},
    DType.STRING: np.dtype(object),
}


def _to_numpy(dtype: DType) -> np.dtype[Any]:
    found = _CACHE.get(dtype)
    if found is None:
        try:
            import ml_dtypes
        except ImportError:
            from graphopt.errors import missing_extra

            raise missing_extra("ml_dtypes", "onnx") from None
        found = _CACHE[dtype] = np.dtype(getattr(ml_dtypes, _ML_NAMES[dtype]))
    return found
