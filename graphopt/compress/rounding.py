"""Rounding by least squares: what one weight loses, the next ones make up for.

Minimises ``|X W - X Q|`` over matrices ``Q`` on a grid, a row of weights after the other: the error
of a row is spread over those that are not rounded yet, by the Cholesky factor of the inverse of
``X' X``. After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (2023), section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.compress.affine import Grid
from graphopt.ops.quantize import integer_range

__all__ = ["least_squares_codes"]

Array = np.ndarray[Any, Any]
# Added to the diagonal, as a share of its mean: rows that data never reaches are rounded as usual.
_DAMP = 0.01


def least_squares_codes(weight: Array, gram: Array, grid: Grid) -> Array:
    """Integers for ``weight`` [K, N], f32, on ``grid``, for inputs with ``gram`` = X' X [K, K].

    Returns codes of the grid's type, [K, N]. Work: K^3 / 3 + K^2 N.
    """
    count = weight.shape[0]
    damped = np.asarray(gram, np.float64).copy()
    mean = float(np.mean(np.diag(damped)))
    damped[np.diag_indices(count)] += _DAMP * mean if mean > 0 else 1.0
    # Inputs that vary most are rounded first, while there are many left to make up for it.
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    scale = np.broadcast_to(grid.spread_scale(weight.shape), weight.shape)[order].astype(np.float64)
    zero = np.broadcast_to(grid.spread_zero(weight.shape), weight.shape)[order]
    low, high = integer_range(grid.dtype)
    left = np.asarray(weight, np.float64)[order].copy()
    codes = np.empty(weight.shape, np.float64)
    for row in range(count):
        found = np.clip(np.rint(left[row] / scale[row]) + zero[row], low, high)
        codes[order[row]] = found
        error = (left[row] - (found - zero[row]) * scale[row]) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    return codes.astype(grid.dtype.numpy)
