"""Factors that even out the columns of an operand at the cost of the weights that it meets.

The idea is of Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models" (2023). Only columns that stick out are touched here: the scale of a tensor
is set by a few of them, while weights with a scale a column bear large rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["migration_factors"]

Array = np.ndarray[Any, Any]
# A column may be that much larger than the median one.
_USUAL = 2.5


def migration_factors(magnitudes: Array) -> tuple[float, ...] | None:
    """A factor of at least 1 for each column, given the largest magnitude in each; rounded to 6
    digits. None where no column sticks out."""
    found = np.asarray(magnitudes, np.float64)
    usual = _USUAL * float(np.median(found))
    if usual <= 0 or found.max() <= usual:
        return None
    return tuple(float(f"{x:.6g}") for x in np.maximum(1.0, found / usual))
