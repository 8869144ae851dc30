"""Inputs to check and time a model with, when its owner gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir import DType, Graph, TensorType, Value, evaluate, symbols

__all__ = ["default_sizes", "fit_inputs", "random_inputs"]

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


def fit_inputs(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays that somebody gave, by input name, once they are seen to fit.

    Raises InputError for a name, element type or shape that the graph does not take.
    """
    known = {value.name: value for value in graph.inputs}
    for name in inputs:
        if name not in known:
            listing = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs) or "none"
            raise InputError(f"unknown input '{name}'; the model has inputs {listing}")
    sizes: dict[str, int] = {}
    for name, value in known.items():
        if name not in inputs:
            raise InputError(f"input '{name}' is missing; expected {value.type}")
        if isinstance(value.type, TensorType):
            _fit(value, np.asarray(inputs[name]), sizes)
    return dict(inputs)


def _fit(value: Value, array: np.ndarray[Any, Any], sizes: dict[str, int]) -> None:
    type = value.tensor
    given = f"input '{value.name}': expected {type}, got {array.dtype}{list(array.shape)}"
    if type.dtype is not DType.STRING and array.dtype != type.dtype.numpy:
        raise InputError(given)
    if type.shape is None:
        return
    if len(type.shape) != array.ndim:
        raise InputError(given)
    for dim, size in zip(type.shape, array.shape, strict=True):
        if isinstance(dim, int):
            wanted = dim
        elif dim.is_symbol:
            wanted = sizes.setdefault(str(dim), size)
        else:
            continue
        if wanted != size:
            where = "" if isinstance(dim, int) else f": {dim} is {wanted} elsewhere"
            raise InputError(given + where)
