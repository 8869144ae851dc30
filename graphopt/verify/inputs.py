"""Inputs to check and time a model with, when its owner gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir import DType, Graph, TensorType, evaluate, symbols

__all__ = ["default_sizes", "random_inputs"]

# Sizes tried, in this order, for symbols that are not a batch: many models want a multiple of 32.
_SIZES = (64, 32, 128, 224, 16, 48, 8, 2, 1)


def default_sizes(graph: Graph) -> list[dict[str, int]]:
    """Sizes for the symbols of the inputs, likeliest first. A first axis is taken for the batch."""
    names: dict[str, bool] = {}
    for value in graph.inputs:
        if isinstance(value.type, TensorType):
            for axis, dim in enumerate(value.type.shape or ()):
                for name in sorted(symbols(dim)):
                    names[name] = names.get(name, True) and axis == 0
    if not names:
        return [{}]
    return [{name: 1 if batch else size for name, batch in names.items()} for size in _SIZES]


def random_inputs(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Standard normal floats, and 0 or 1 for integers (they may be indices), by input name.

    Raises UnsupportedError for inputs that are not tensors of known rank.
    """
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {}
    for value in graph.inputs:
        type = value.type
        if not isinstance(type, TensorType) or type.shape is None or type.dtype is DType.STRING:
            raise UnsupportedError(f"cannot make up a value for input '{value.name}': {type}")
        shape = tuple(evaluate(dim, sizes) for dim in type.shape)
        if type.dtype.is_float or type.dtype.is_complex:
            result[value.name] = rng.standard_normal(shape).astype(type.dtype.numpy)
        else:
            result[value.name] = rng.integers(0, 2, shape).astype(type.dtype.numpy)
    return result
