"""Distances between outputs, and how large they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import DType

__all__ = ["TOLERANCES", "Comparison", "bits_equal", "compare", "relative_error"]

# Relative L2 error allowed by output type: f32 sums in another order stay within 1e-5; a type's own
# rounding step bounds the narrow ones; integers must be equal.
TOLERANCES: dict[DType, float] = {
    DType.F32: 1e-5,
    DType.F64: 1e-9,
    DType.F16: 2e-3,
    DType.BF16: 1.6e-2,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output's error beside what is allowed."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """True when the error is within the tolerance."""
        return self.error <= self.tolerance


def relative_error(actual: Any, expected: Any) -> float:
    """``|actual - expected| / |expected|`` in the L2 norm, in f64; inf when shapes differ.

    NaN and infinity must stand in the same places; they are left out of the norm. A zero reference
    is compared absolutely.
    """
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind in "OUST" or b.dtype.kind in "OUST":
        return 0.0 if bool(np.all(a == b)) else float("inf")
    exact = a.dtype.kind in "biu" and b.dtype.kind in "biu"
    if exact and np.array_equal(a, b):
        return 0.0
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        a, b = (np.stack([x.real, x.imag]).astype(np.float64) for x in (a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return float("inf")
    difference = float(np.linalg.norm(a[finite] - b[finite]))
    norm = float(np.linalg.norm(b[finite]))
    if difference == 0 and exact:
        return float(np.finfo(np.float64).tiny)  # integers that are one number in f64
    return difference / norm if norm > 0 else difference


def bits_equal(actual: Any, expected: Any) -> bool:
    """True when type, shape and every bit agree; one NaN is as good as another."""
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fcV":
        return bool(np.array_equal(a, b))
    if a.dtype.kind == "V":
        a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(a, b, equal_nan=True):
        return False
    real = [(a.real, b.real), (a.imag, b.imag)] if a.dtype.kind == "c" else [(a, b)]
    # -0 equals +0 but is another number.
    return all(
        bool(np.array_equal(np.signbit(x)[~np.isnan(x)], np.signbit(y)[~np.isnan(y)]))
        for x, y in real
    )


def compare(
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
    slack: float = 1.0,
    rounding: Mapping[str, float] | None = None,
    budget: float = 0.0,
) -> list[Comparison]:
    """Errors of all outputs. ``slack`` widens the tolerance of floats; so do ``budget``, at least
    which is allowed, and ``rounding``, what the reference itself moves by rounding, twice which is.

    Another element type is an infinite error, however near the numbers are.
    """
    result = []
    for name, wanted in expected.items():
        array, found = np.asarray(wanted), np.asarray(actual[name])
        try:
            tolerance = TOLERANCES.get(DType.from_numpy(array.dtype), 0.0)
        except TypeError:
            tolerance = 0.0
        same = found.dtype == array.dtype or {found.dtype.kind, array.dtype.kind} <= set("OUST")
        error = relative_error(found, array) if same else float("inf")
        allowed = max(tolerance * slack, budget if tolerance else 0.0)
        if tolerance and rounding is not None:
            allowed = max(allowed, 2 * rounding.get(name, 0.0))
        result.append(Comparison(name, error, allowed))
    return result
