"""Factors along one axis of a tensor, and how shape operations carry that axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Builder, Constant, Dim, DType, Node, Value, product, static_shape
from graphopt.passes.merge_reductions import reduced_axes
from graphopt.passes.polynomial import number

__all__ = ["MOVES", "Scale", "along", "carry_back", "carry_on", "fits", "read_scale", "scaled"]

Array = np.ndarray[Any, Any]
# What moves elements, drops some, or sums them, along axes that factors do not vary along.
MOVES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Pad",
     "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"}
)  # fmt: skip
# Between these an f32 keeps all its digits, and so do products with numbers of common size.
_SMALLEST, _LARGEST = 1e-15, 1e15
_F32_MAX = 3e38
_MAX_LOOK = 1 << 22
_MAX_NUMBERS = 1 << 16
_LAZY_BYTES = 1 << 24


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


def scaled(op: Builder, weight: Value, factors: Array) -> Value:
    """``weight * factors`` as f32, rounded once. What is large is made when read, and not kept."""
    source = weight.constant
    assert source is not None

    def make() -> Array:
        product = (source.read() * factors).astype(np.float32)
        source.forget()
        return product

    shape = static_shape(source.type.shape) or ()
    same = np.broadcast_shapes(shape, factors.shape) == shape
    lazy = same and source.nbytes >= _LAZY_BYTES
    made = Constant(None, type=source.type, load=make) if lazy else Constant(make())
    return op.constant(made, weight.name)


def fits(value: Value, scale: Scale) -> bool:
    """True unless a number of a constant times a factor is too large for f32.

    Constants too large to look at are taken for weights, which are small numbers.
    """
    constant = value.constant
    if constant is None or constant.numel > _MAX_LOOK:
        return True
    array = constant.read()
    largest = max(float(np.max(array, initial=0.0)), -float(np.min(array, initial=0.0)))
    if not math.isfinite(largest):  # also where a NaN hides how large the others are
        size = np.abs(array)
        largest = float(size[np.isfinite(size)].max(initial=0.0))
    return largest * float(np.abs(scale.numbers).max()) < _F32_MAX


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
    """What ``scale`` on the first operand of one of :data:`MOVES` is on its result."""
    if node.is_a("Pad") and not _pads_zeros(node):
        return None
    if scale.axis is None:
        return scale
    if node.op.name in _ALONG:
        axes = _touched(node)
        if axes is None or scale.axis in axes:
            return None
        dropped = sum(axis < scale.axis for axis in axes) if _drops(node) else 0
        return scale.moved(scale.axis - dropped)
    if node.is_a("Transpose"):
        perm = _permutation(node)
        return None if perm is None else scale.moved(perm.index(scale.axis))
    source = node.input(0)
    assert source is not None
    axis = _same_axis(source.shape, node.output.shape, scale.axis)
    return None if axis is None else scale.moved(axis)


def carry_back(node: Node, scale: Scale) -> Scale | None:
    """What ``scale`` on the result of one of :data:`MOVES` is on its first operand."""
    if node.is_a("Pad") and not _pads_zeros(node):
        return None
    if scale.axis is None:
        return scale
    if node.op.name in _ALONG:
        axes, rank = _touched(node), node.inputs[0].tensor.rank  # type: ignore[union-attr]
        if axes is None or rank is None:
            return None
        kept = [axis for axis in range(rank) if axis not in axes or not _drops(node)]
        return None if kept[scale.axis] in axes else scale.moved(kept[scale.axis])
    if node.is_a("Transpose"):
        perm = _permutation(node)
        return None if perm is None else scale.moved(perm[scale.axis])
    source = node.input(0)
    assert source is not None
    axis = _same_axis(node.output.shape, source.shape, scale.axis)
    return None if axis is None else scale.moved(axis)


_ALONG = frozenset({"Slice", "Pad", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"})


def _drops(node: Node) -> bool:
    return node.op.name.startswith("Reduce") and not node.attr("keepdims")


def _pads_zeros(node: Node) -> bool:
    value = node.input(2)
    return node.attr("mode") in (None, "constant") and (value is None or number(value) == 0)


def _touched(node: Node) -> tuple[int, ...] | None:
    """Axes along which a Slice, Pad or reduction does something; None where not known."""
    if node.op.name.startswith("Reduce"):
        return reduced_axes(node)
    source, given = node.input(0), node.input(3)
    rank = None if source is None else source.tensor.rank
    if rank is None:
        return None
    if given is not None:
        axes = None if given.constant is None else given.constant.array.ravel()
        return None if axes is None else tuple(int(a) % rank for a in axes)
    counted = node.input(1)
    if counted is None or counted.constant is None:
        return None
    amounts = counted.constant.array.ravel()
    if node.is_a("Slice"):
        return tuple(range(amounts.size))
    return tuple(axis for axis in range(rank) if amounts[axis] or amounts[axis + rank])


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
