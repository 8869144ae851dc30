"""Running graphs on made-up inputs in the interpreter, and comparing what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir import DType, Graph, TensorType, Value, evaluate, symbols
from graphopt.ops.interpreter import run_graph
from graphopt.verify.compare import bits_equal

__all__ = ["bits_differ", "run_seeded", "seeded_inputs", "worst_error"]

_DEFAULT_SIZE = 3
# Numbers that break careless rewrites; sprinkled over float inputs where asked for.
_SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0)


def seeded_inputs(
    graph: Graph,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    special: bool = False,
) -> list[Any]:
    """Inputs of ``graph`` that follow from ``seed`` and their types alone.

    Symbols that ``sizes`` lacks are 3. Floats are standard normal; with ``special``, some are NaN,
    infinities and zeros of both signs. Integers are 0, 1 or 2.
    """
    names = {
        name
        for value in graph.inputs
        if isinstance(value.type, TensorType)
        for dim in value.type.shape or ()
        for name in symbols(dim)
    }
    env = dict.fromkeys(names, _DEFAULT_SIZE) | dict(sizes or {})
    rng = np.random.default_rng(seed)
    return [_array(value, env, rng, special) for value in graph.inputs]


def run_seeded(
    graph: Graph,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    special: bool = False,
) -> list[Any]:
    """Outputs of ``graph`` in the interpreter for its :func:`seeded_inputs`."""
    inputs = seeded_inputs(graph, sizes=sizes, seed=seed, special=special)
    # NaN and infinities are wanted here: numpy need not warn of them.
    with np.errstate(all="ignore"):
        return run_graph(graph, inputs)


def _array(
    value: Value, env: Mapping[str, int], rng: np.random.Generator, special: bool
) -> np.ndarray[Any, Any]:
    type = value.tensor
    if type.shape is None:
        raise ValueError(f"the rank of input '{value.name}' is not known")
    shape = tuple(evaluate(dim, env) for dim in type.shape)
    if type.dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if not type.dtype.is_float:
        return rng.integers(0, 3, shape).astype(type.dtype.numpy)
    array = rng.standard_normal(shape)
    if special:
        places = rng.random(shape) < 0.25
        array = np.where(places, rng.choice(_SPECIAL, shape), array)
    return array.astype(type.dtype.numpy)


def worst_error(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest relative L2 error among outputs; inf where shapes, types, NaN or infinities
    differ."""
    return max((_error(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)


def _error(actual: Any, expected: Any) -> float:
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind in "OUST":
        return 0.0 if bool(np.all(a == b)) else float("inf")
    if a.dtype.kind == "c":
        a, b = (np.stack([x.real, x.imag]) for x in (a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    if not np.isfinite(a).all():
        return float("inf")
    norm = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(a - b))
    return distance / norm if norm > 0 else distance


def bits_differ(actual: Sequence[Any], expected: Sequence[Any]) -> bool:
    """True unless every output is the same to the last bit; one NaN is as good as another."""
    return any(not bits_equal(a, b) for a, b in zip(actual, expected, strict=True))
