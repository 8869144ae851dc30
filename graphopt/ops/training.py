"""Steps of optimizers, domain ai.onnx.preview.training: Adagrad, Adam, Momentum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import Type
from graphopt.ops.precision import Array
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__: list[str] = []

_DOMAIN = "ai.onnx.preview.training"


def _groups(ctx: EvalContext, tensors: tuple[Array, ...], kinds: int) -> list[tuple[Array, ...]]:
    """Operands X1 X2.. G1 G2.. S1 S2.. as tuples (X, G, S..)."""
    if len(tensors) % kinds:
        ctx.fail(f"{len(tensors)} tensors do not split into groups of {kinds}")
    count = len(tensors) // kinds
    return [tensors[i::count] for i in range(count)]


def _outputs(results: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.asarray(v) for column in zip(*results, strict=True) for v in column)


def _infer(kinds: int) -> Callable[[InferContext], tuple[Type, ...]]:
    def infer(ctx: InferContext) -> tuple[Type, ...]:
        count = (len(ctx.inputs) - 2) // kinds
        tensors = [ctx.type(i) for i in range(2, len(ctx.inputs))]
        # New values, then new states: everything but the gradients.
        return tuple(tensors[:count] + tensors[2 * count :])

    return infer


def _evaluate_adagrad(ctx: EvalContext, r: Array, t: Array, *tensors: Array) -> tuple[Array, ...]:
    rate = r.item() / (1 + t.item() * ctx.attr("decay_factor"))
    results = []
    for x, gradient, history in _groups(ctx, tensors, 3):
        g = x.dtype.type(ctx.attr("norm_coefficient")) * x + gradient
        h = history + g * g
        results.append((x - x.dtype.type(rate) * g / (np.sqrt(h) + _real(ctx, x, "epsilon")), h))
    return _outputs(results)


def _real(ctx: EvalContext, x: Array, name: str) -> Array:
    return np.asarray(ctx.attr(name), dtype=x.dtype)


def _evaluate_adam(ctx: EvalContext, r: Array, t: Array, *tensors: Array) -> tuple[Array, ...]:
    results = []
    for x, gradient, velocity, history in _groups(ctx, tensors, 4):
        alpha, beta = _real(ctx, x, "alpha"), _real(ctx, x, "beta")
        g = _real(ctx, x, "norm_coefficient") * x + gradient
        v = alpha * velocity + (1 - alpha) * g
        h = beta * history + (1 - beta) * g * g
        rate = r.item()
        if t.item() > 0:
            rate = rate * np.sqrt(1 - ctx.attr("beta") ** t.item())
            rate = rate / (1 - ctx.attr("alpha") ** t.item())
        new = x - x.dtype.type(rate) * v / (np.sqrt(h) + _real(ctx, x, "epsilon"))
        results.append(((1 - _real(ctx, x, "norm_coefficient_post")) * new, v, h))
    return _outputs(results)


def _evaluate_momentum(ctx: EvalContext, r: Array, t: Array, *tensors: Array) -> tuple[Array, ...]:
    mode = ctx.attr("mode")
    if mode not in ("standard", "nesterov"):
        ctx.fail(f"mode is '{mode}'")
    results = []
    for x, gradient, velocity in _groups(ctx, tensors, 3):
        alpha = _real(ctx, x, "alpha")
        beta = _real(ctx, x, "beta") if t.item() > 0 else x.dtype.type(1)
        g = _real(ctx, x, "norm_coefficient") * x + gradient
        v = alpha * velocity + beta * g
        direction = g + alpha * v if mode == "nesterov" else v
        results.append((x - x.dtype.type(r.item()) * direction, v))
    return _outputs(results)


register(
    OpDef(
        "Adagrad",
        _DOMAIN,
        inputs=("R", "T", "inputs*"),
        outputs=("outputs*",),
        attrs=attr_specs(decay_factor=("f", 0.0), epsilon=("f", 1e-6), norm_coefficient=("f", 0.0)),
        infer=_infer(3),
        evaluate=_evaluate_adagrad,
    ),
    OpDef(
        "Adam",
        _DOMAIN,
        inputs=("R", "T", "inputs*"),
        outputs=("outputs*",),
        attrs=attr_specs(
            alpha=("f", 0.9),
            beta=("f", 0.999),
            epsilon=("f", 1e-6),
            norm_coefficient=("f", 0.0),
            norm_coefficient_post=("f", 0.0),
        ),
        infer=_infer(4),
        evaluate=_evaluate_adam,
    ),
    OpDef(
        "Momentum",
        _DOMAIN,
        inputs=("R", "T", "inputs*"),
        outputs=("outputs*",),
        attrs=attr_specs(
            alpha=("f", REQUIRED),
            beta=("f", REQUIRED),
            mode=("s", REQUIRED),
            norm_coefficient=("f", REQUIRED),
        ),
        infer=_infer(3),
        evaluate=_evaluate_momentum,
    ),
)
