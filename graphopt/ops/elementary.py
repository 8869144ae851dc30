"""Elementary functions of evaluation: the precision to compute in, and functions numpy lacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.ir.dtype import DType

__all__ = ["Array", "computable", "erf", "precise", "sigmoid", "softplus"]

Array = np.ndarray[Any, Any]


def computable(x: Array) -> Array:
    """``x`` in a type that numpy computes in: f16 and narrower floats as f32, sub-byte integers
    as i8 or u8, all else as it is."""
    kind = x.dtype.kind
    if kind in "biucO" or (kind == "f" and x.dtype != np.float16):
        return x
    dtype = DType.from_numpy(x.dtype)
    if dtype.is_float:
        return x.astype(np.float32)
    return x.astype(np.int8 if dtype.is_signed else np.uint8)


def precise(x: Array) -> Array:
    """A float ``x`` as f64.

    Results that are rounded once from f64 do not depend on the vector library numpy was built with.
    """
    return x.astype(np.float64)


def erf(x: Array) -> Array:
    """The error function, in f64."""
    flat = np.ravel(x).astype(np.float64)
    return np.fromiter(map(math.erf, flat.tolist()), np.float64, flat.size).reshape(np.shape(x))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(0, x)
