"""Element types, as the artifact numbers them (as ONNX does) and as numpy names them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from graphopt.errors import InputError

__all__ = ["CODES", "FIRST_OF_ML_DTYPES", "NAMES", "dtype_code"]

# Types of numpy itself; the others are ml_dtypes', which only models that have one of them need.
NAMES: Final[dict[int, str]] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
CODES: Final[dict[str, int]] = {name: code for code, name in NAMES.items()}
FIRST_OF_ML_DTYPES: Final = 16


def dtype_code(dtype: np.dtype[Any]) -> int:
    """The code of a numpy or ml_dtypes type. Raises InputError for any other."""
    code = CODES.get(dtype.name)
    if code is None:
        raise InputError(f"element type {dtype.name} is not supported")
    return code
