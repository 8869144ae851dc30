"""Pointwise ops of one and two operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.op import EvalContext, OpDef, Trait
from graphopt.ops.infer import broadcast, same_type
from graphopt.ops.registry import register

Array = np.ndarray[Any, Any]
_POINTWISE = frozenset({Trait.POINTWISE})
_COMMUTATIVE = frozenset({Trait.POINTWISE, Trait.COMMUTATIVE})


def _unary(name: str, function: Callable[[Array], Array]) -> None:
    def evaluate(ctx: EvalContext, x: Array) -> Array:
        return function(x).astype(x.dtype, copy=False)

    register(OpDef(name, inputs=("X",), infer=same_type, evaluate=evaluate, traits=_POINTWISE))


def _binary(name: str, function: Callable[[Array, Array], Array], commutes: bool) -> None:
    def evaluate(ctx: EvalContext, a: Array, b: Array) -> Array:
        return function(a, b)

    register(
        OpDef(
            name,
            inputs=("A", "B"),
            infer=broadcast(),
            evaluate=evaluate,
            traits=_COMMUTATIVE if commutes else _POINTWISE,
        )
    )


_unary("Relu", lambda x: np.maximum(x, x.dtype.type(0)))
_binary("Add", np.add, True)
