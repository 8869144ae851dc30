"""Types of values: tensors, and ONNX's sequences and optionals of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dim import Dim, product, substitute
from graphopt.ir.dtype import DType

__all__ = ["OptionalType", "SequenceType", "TensorType", "Type", "static_shape"]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor: element type and shape. ``shape is None`` means that the rank is unknown."""

    dtype: DType
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[*]"
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int | None:
        """Number of axes, None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def static(self) -> bool:
        """True when every size is a number."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)

    @property
    def numel(self) -> Dim | None:
        """Number of elements, None when the rank is unknown."""
        return None if self.shape is None else product(self.shape)

    def substitute(self, env: Mapping[str, Dim]) -> TensorType:
        """The type with symbols replaced."""
        if self.shape is None:
            return self
        return TensorType(self.dtype, tuple(substitute(dim, env) for dim in self.shape))


@dataclass(frozen=True, slots=True)
class SequenceType:
    """ONNX's sequence of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """ONNX's optional: a value of the element type, or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"opt<{self.element}>"


Type = TensorType | SequenceType | OptionalType


def static_shape(dims: Sequence[Dim] | None) -> tuple[int, ...] | None:
    """``dims`` as numbers, or None when any is symbolic or the rank is unknown."""
    if dims is None:
        return None
    numbers = tuple(dim for dim in dims if isinstance(dim, int))
    return numbers if len(numbers) == len(dims) else None
