"""Activation functions. Computed in f64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, computable, erf, precise, sigmoid, softplus
from graphopt.ops.infer import broadcast_shapes, same_type
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, pointwise_cost

__all__ = ["ACTIVATIONS", "gelu"]

_POINTWISE = frozenset({Trait.POINTWISE})
_CHEAP = 1
_COSTLY = 12

# name -> function of x in f64 and the attributes, in the order of the schema
ACTIVATIONS: dict[str, Callable[..., Array]] = {}


def _activation(name: str, function: Callable[..., Array], cost: int, **attrs: Any) -> None:
    names = tuple(attrs)
    ACTIVATIONS[name] = function

    def evaluate(ctx: EvalContext, x: Array) -> Array:
        with np.errstate(all="ignore"):
            result = function(precise(x), *(ctx.attr(n) for n in names))
            return np.asarray(result).astype(x.dtype)

    register(
        OpDef(
            name,
            inputs=("X",),
            attrs=attr_specs(**attrs),
            infer=same_type,
            evaluate=evaluate,
            traits=_POINTWISE,
            cost=pointwise_cost(cost),
        )
    )


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution's cumulative function, or its tanh approximation."""
    if approximate == "tanh":
        weight = 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        weight = 1 + erf(x * math.sqrt(0.5))
    return np.asarray(0.5 * x * weight)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return np.asarray(gamma * np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x))


def _celu(x: Array, alpha: float) -> Array:
    return np.asarray(np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)))


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.maximum(0, np.minimum(1, alpha * x + beta)))


def _swish(x: Array, alpha: float) -> Array:
    return np.asarray(x * sigmoid(alpha * x))


_activation("Sigmoid", sigmoid, _COSTLY)
_activation("LeakyRelu", lambda x, a: np.where(x < 0, a * x, x), _CHEAP, alpha=("f", 0.01))
_activation("Elu", _elu, _COSTLY, alpha=("f", 1.0))
_activation(
    "Selu",
    _selu,
    _COSTLY,
    alpha=("f", 1.67326319217681884765625),
    gamma=("f", 1.05070102214813232421875),
)
_activation("Celu", _celu, _COSTLY, alpha=("f", 1.0))
_activation("ThresholdedRelu", lambda x, a: np.where(x > a, x, 0), _CHEAP, alpha=("f", 1.0))
_activation("HardSigmoid", _hard_sigmoid, 3, alpha=("f", 0.2), beta=("f", 0.5))
_activation("HardSwish", lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5), 4)
_activation("Mish", lambda x: x * np.tanh(softplus(x)), 2 * _COSTLY)
_activation("Gelu", gelu, _COSTLY, approximate=("s", "none"))
_activation("Softplus", softplus, _COSTLY)
_activation("Softsign", lambda x: x / (1 + np.abs(x)), 3)
_activation("Swish", _swish, _COSTLY, alpha=("f", 1.0))


def _evaluate_relu(ctx: EvalContext, x: Array) -> Array:
    wide = computable(x)
    return np.asarray(np.maximum(wide, wide.dtype.type(0))).astype(x.dtype, copy=False)


register(
    OpDef(
        "Relu",
        inputs=("X",),
        infer=same_type,
        evaluate=_evaluate_relu,
        traits=_POINTWISE,
        cost=pointwise_cost(_CHEAP),
    )
)


def _evaluate_shrink(ctx: EvalContext, x: Array) -> Array:
    bias, lambd = ctx.attr("bias"), ctx.attr("lambd")
    wide = precise(x)
    result = np.where(wide < -lambd, wide + bias, np.where(wide > lambd, wide - bias, 0))
    with np.errstate(all="ignore"):
        return np.asarray(result).astype(x.dtype)


register(
    OpDef(
        "Shrink",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(bias=("f", 0.0), lambd=("f", 0.5)),
        infer=same_type,
        evaluate=_evaluate_shrink,
        traits=_POINTWISE,
        cost=pointwise_cost(2),
    )
)


def _infer_prelu(ctx: InferContext) -> Type:
    data = ctx.tensor(0)
    if ctx.dtype(1) != data.dtype:
        ctx.fail(f"operand types differ: {data} and {ctx.type(1)}")
    slope = ctx.shape(1)
    if data.shape is not None and slope is not None and len(slope) > len(data.shape):
        ctx.fail(f"a slope {ctx.type(1)} does not broadcast to {data}")
    return TensorType(data.dtype, data.shape)


def _evaluate_prelu(ctx: EvalContext, x: Array, slope: Array) -> Array:
    wide, factor = computable(x), computable(slope)
    with np.errstate(all="ignore"):
        result: Array = np.where(wide < 0, wide * factor, wide).astype(x.dtype)
    # Broadcasting goes one way: a larger slope would make a result of another shape than X's.
    if result.shape != x.shape:
        raise ValueError(f"slope {list(slope.shape)} does not broadcast to X {list(x.shape)}")
    return result


register(
    OpDef(
        "PRelu",
        inputs=("X", "slope"),
        infer=_infer_prelu,
        evaluate=_evaluate_prelu,
        traits=_POINTWISE,
        cost=pointwise_cost(2),
    )
)


def _infer_swiglu(ctx: InferContext) -> Type:
    if ctx.dtype(0) != ctx.dtype(1):
        ctx.fail(f"operand types differ: {ctx.type(0)} and {ctx.type(1)}")
    return TensorType(ctx.dtype(0), broadcast_shapes(ctx, [ctx.shape(0), ctx.shape(1)]))


def _evaluate_swiglu(ctx: EvalContext, gate: Array, value: Array) -> Array:
    with np.errstate(all="ignore"):
        result = _swish(precise(gate), ctx.attr("alpha")) * precise(value)
        return np.asarray(result).astype(gate.dtype)


register(
    OpDef(
        "SwiGLU",
        inputs=("A", "B"),
        attrs=attr_specs(alpha=("f", 1.0)),
        infer=_infer_swiglu,
        evaluate=_evaluate_swiglu,
        traits=_POINTWISE,
        cost=pointwise_cost(_COSTLY + 1),
    )
)
