"""Factors along one axis of a tensor, and how shape operations carry that axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Dim, DType, Node, Value, product, static_shape

__all__ = ["Scale", "along", "carry_back", "carry_on", "read_scale"]

Array = np.ndarray[Any, Any]
# Between these an f32 keeps all its digits, and so do products with numbers of common size.
_SMALLEST, _LARGEST = 1e-30, 1e30
_MAX_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Scale:
    """One factor (f64) for all elements where ``axis`` is None, else one an index of ``axis``."""

    numbers: Array
    axis: int | None

    @property
    def positive(self) -> bool:
        """True when no factor changes the order of what it multiplies."""
        return bool((self.numbers > 0).all())

    def shaped(self, rank: int) -> Array:
        """The factors, shaped to broadcast against a tensor of ``rank`` axes."""
        if self.axis is None:
            return self.numbers.reshape(())
        return along(self.numbers, 0, rank - self.axis)

    def inverse(self) -> Scale:
        """The factors that undo these."""
        return Scale(1.0 / self.numbers, self.axis)

    def moved(self, axis: int | None) -> Scale:
        """The same factors along another axis."""
        return Scale(self.numbers, axis)


def along(numbers: Array, axis: int, rank: int) -> Array:
    """A vector, shaped to vary along ``axis`` of ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return numbers.reshape(shape)


def read_scale(value: Value, result: Value, *, inverse: bool = False) -> Scale | None:
    """A constant operand of the product ``result`` as a scale: f32, and neither zero, infinite nor
    near the ends of its range."""
    constant, rank = value.constant, result.tensor.rank
    if constant is None or rank is None or constant.type.dtype is not DType.F32:
        return None
    if constant.numel > _MAX_NUMBERS or not constant.numel or len(value.shape or ()) > rank:
        return None
    array = constant.array.astype(np.float64)
    size = np.abs(array)
    if not bool(((size > _SMALLEST) & (size < _LARGEST)).all()):
        return None
    if inverse:
        array = 1.0 / array
    if bool((array == array.flat[0]).all()):
        return Scale(array.reshape(-1)[:1], None)
    wide = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(wide) != 1:
        return None
    return Scale(array.reshape(-1), wide[0] + rank - array.ndim)


def _permutation(node: Node) -> tuple[int, ...] | None:
    rank = node.output.tensor.rank
    if rank is None:
        return None
    return tuple(node.attr("perm") or range(rank - 1, -1, -1))


def carry_on(node: Node, scale: Scale) -> Scale | None:
    """What ``scale`` on the first operand of a shape operation is on its result."""
    if scale.axis is None:
        return scale
    if node.is_a("Transpose"):
        perm = _permutation(node)
        return None if perm is None else scale.moved(perm.index(scale.axis))
    source = node.input(0)
    assert source is not None
    axis = _same_axis(source.shape, node.output.shape, scale.axis)
    return None if axis is None else scale.moved(axis)


def carry_back(node: Node, scale: Scale) -> Scale | None:
    """What ``scale`` on the result of a shape operation is on its first operand."""
    if scale.axis is None:
        return scale
    if node.is_a("Transpose"):
        perm = _permutation(node)
        return None if perm is None else scale.moved(perm[scale.axis])
    source = node.input(0)
    assert source is not None
    axis = _same_axis(node.output.shape, source.shape, scale.axis)
    return None if axis is None else scale.moved(axis)


def _same_axis(source: Sequence[Dim] | None, result: Sequence[Dim] | None, axis: int) -> int | None:
    """Where a reshape puts ``axis``, if it leaves it whole."""
    if source is None or result is None:
        return None
    before, size = product(source[:axis]), source[axis]
    if static_shape((size,)) is None:
        return None
    for place, dim in enumerate(result):
        if dim == size and product(result[:place]) == before:
            return place
    return None
