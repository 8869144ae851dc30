"""Inputs to check and time a model with, when its owner gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import InputError, UnsupportedError
from graphopt.ir import DType, Graph, Node, TensorType, Value, evaluate, symbols

__all__ = ["default_sizes", "fit_inputs", "random_inputs"]

# Sizes tried, in this order, for symbols that are not a batch: many models want a multiple of 32.
_SIZES = (64, 32, 128, 224, 16, 48, 8, 2, 1)

# Ops after which integers are still the same indices.
_RENAMING = frozenset(
    {
        "Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip


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
    """Standard normal floats and random integers, by input name.

    Integers are indices more often than not: they stay below what the tables hold that they are
    looked up in, or the classes that they are compared with; where there are none, they are 0 or 1.

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
            result[value.name] = rng.integers(0, _limit(value), shape).astype(type.dtype.numpy)
    return result


def _limit(value: Value) -> int:
    """The number that integers of this input stay below."""
    seen, queue, limits = {value}, [value], [] if value.tensor.dtype.is_integer else [2]
    while queue:
        current = queue.pop()
        for node in current.users:
            if node.op.name in _RENAMING and not node.op.domain:
                fresh = [v for v in node.outputs if v not in seen]
                seen.update(fresh)
                queue.extend(fresh)
                continue
            limit = _limit_of(node, current)
            if limit is not None:
                limits.append(limit)
    highest = 1 << min(value.tensor.dtype.bits - 1, 31)
    return min([*limits, highest]) if limits else 2


def _limit_of(node: Node, value: Value) -> int | None:
    """How large the indices ``value`` may get for ``node``; None when it does not say."""
    first, second = node.input(0), node.input(1)
    if node.is_a("Gather") and second is value and first is not None and first.shape is not None:
        size = first.shape[int(node.attr("axis"))]
        return size if isinstance(size, int) and size > 0 else None
    if node.is_a("OneHot") and first is value and second is not None:
        return _largest(second)
    if node.is_a("Equal"):
        largest = _largest(second if first is value else first)
        return None if largest is None else largest + 1
    return None


def _largest(value: Value | None) -> int | None:
    """The largest element of a constant of integers, where it is at least 1."""
    if value is None or value.constant is None or not value.constant.type.dtype.is_integer:
        return None
    array = value.constant.array
    return int(array.max()) if array.size and array.max() >= 1 else None


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
    tensors = {n: v for n, v in known.items() if isinstance(v.type, TensorType)}
    for _ in range(2):  # sizes that stand alone first, then those that are computed from them
        for name, value in tensors.items():
            _fit(value, np.asarray(inputs[name]), sizes)
    return dict(inputs)


def _fit(value: Value, array: np.ndarray[Any, Any], sizes: dict[str, int]) -> None:
    """Checks one input, as far as ``sizes`` are known; adds the sizes of its symbols."""
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
        elif symbols(dim) <= sizes.keys():
            wanted = evaluate(dim, sizes)
        else:
            continue
        if wanted != size:
            where = "" if isinstance(dim, int) else f": {dim} is {wanted} elsewhere"
            raise InputError(given + where)
