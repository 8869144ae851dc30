"""Precision: which type an op computes in, and how results return to the storage type."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.dtype import DType

__all__ = ["Array", "accumulator", "matmul", "narrow", "widen"]

Array = np.ndarray[Any, Any]

_F32 = np.dtype(np.float32)


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type to compute in: f32 for floats narrower than that, else ``dtype`` itself."""
    if dtype.itemsize >= 4 or dtype.kind in "biu":
        return dtype
    return _F32 if DType.from_numpy(dtype).is_float else dtype


def widen(x: Array) -> Array:
    """``x`` in its accumulator type; no copy where that is its own."""
    return x.astype(accumulator(x.dtype), copy=False)


def narrow(x: Array, dtype: np.dtype[Any]) -> Array:
    """``x`` rounded to the storage type ``dtype``; overflow to infinity is no warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(x).astype(dtype, copy=False)


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` by numpy's rules: narrow floats accumulate in f32, integers wrap around."""
    return narrow(np.matmul(widen(a), widen(b)), a.dtype)
