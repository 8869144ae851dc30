"""Random numbers: RandomNormal, RandomUniform, Bernoulli, Multinomial, Dropout.

A seed gives the stream of numpy's legacy generator, which onnx's reference implementation uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import TensorType, Type
from graphopt.ops.elementary import Array, precise
from graphopt.ops.infer import attr_dtype
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__: list[str] = []

_RANDOM = frozenset({Trait.NONDETERMINISTIC})
_RANDOM_LIKE = frozenset({Trait.NONDETERMINISTIC, Trait.SHAPE_ONLY})
Draw = Callable[[EvalContext, np.random.RandomState, tuple[int, ...]], Any]


def _generator(ctx: EvalContext) -> np.random.RandomState:
    seed = ctx.attr("seed")
    return np.random.RandomState(None if seed is None else int(seed) & 0xFFFFFFFF)


def _normal(ctx: EvalContext, random: np.random.RandomState, shape: tuple[int, ...]) -> Any:
    return random.normal(size=shape) * ctx.attr("scale") + ctx.attr("mean")


def _uniform(ctx: EvalContext, random: np.random.RandomState, shape: tuple[int, ...]) -> Any:
    low, high = ctx.attr("low"), ctx.attr("high")
    return random.uniform(size=shape) * (high - low) + low


def _infer_shaped(ctx: InferContext) -> Type:
    dims: tuple[Dim, ...] = tuple(ctx.attr("shape"))
    return TensorType(attr_dtype(ctx, "dtype", DType.F32), dims)


def _infer_like(ctx: InferContext) -> Type:
    return TensorType(attr_dtype(ctx, "dtype", ctx.dtype(0)), ctx.shape(0))


def _register(name: str, draw: Draw, **attrs: Any) -> None:
    def evaluate_shaped(ctx: EvalContext) -> Array:
        result = draw(ctx, _generator(ctx), tuple(ctx.attr("shape")))
        return np.asarray(result).astype(DType(ctx.attr("dtype")).numpy)

    def evaluate_like(ctx: EvalContext, x: Array) -> Array:
        code = ctx.attr("dtype")
        result = draw(ctx, _generator(ctx), x.shape)
        return np.asarray(result).astype(DType(code).numpy if code else x.dtype)

    register(
        OpDef(
            name,
            outputs=("output",),
            attrs=attr_specs(dtype=("i", 1), seed="f", shape=("ints", REQUIRED), **attrs),
            infer=_infer_shaped,
            evaluate=evaluate_shaped,
            traits=_RANDOM,
        ),
        OpDef(
            name + "Like",
            inputs=("input",),
            outputs=("output",),
            attrs=attr_specs(dtype="i", seed="f", **attrs),
            infer=_infer_like,
            evaluate=evaluate_like,
            traits=_RANDOM_LIKE,
        ),
    )


_register("RandomNormal", _normal, mean=("f", 0.0), scale=("f", 1.0))
_register("RandomUniform", _uniform, high=("f", 1.0), low=("f", 0.0))


def _evaluate_bernoulli(ctx: EvalContext, p: Array) -> Array:
    code = ctx.attr("dtype")
    drawn = _generator(ctx).uniform(size=p.shape) < precise(p)
    return np.asarray(drawn).astype(DType(code).numpy if code else p.dtype)


register(
    OpDef(
        "Bernoulli",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(dtype="i", seed="f"),
        infer=_infer_like,
        evaluate=_evaluate_bernoulli,
        traits=_RANDOM,
    )
)


def _infer_multinomial(ctx: InferContext) -> Type:
    shape = ctx.shape(0)
    if shape is not None and len(shape) != 2:
        ctx.fail(f"its operand has {len(shape)} axes, not 2")
    batch: Dim = ctx.fresh("batch") if shape is None else shape[0]
    return TensorType(attr_dtype(ctx, "dtype", DType.I32), (batch, ctx.attr("sample_size")))


def _evaluate_multinomial(ctx: EvalContext, logits: Array) -> Array:
    wide = precise(logits)
    weight = np.exp(wide - wide.max(axis=1, keepdims=True))
    bound = np.cumsum(weight, axis=1)
    drawn = _generator(ctx).uniform(size=(logits.shape[0], ctx.attr("sample_size")))
    drawn = drawn * bound[:, -1:]
    found = (drawn[:, :, None] >= bound[:, None, :]).sum(axis=2)
    result: Array = np.minimum(found, logits.shape[1] - 1)
    return result.astype(DType(ctx.attr("dtype")).numpy)


register(
    OpDef(
        "Multinomial",
        inputs=("input",),
        outputs=("output",),
        attrs=attr_specs(dtype=("i", int(DType.I32)), sample_size=("i", 1), seed="f"),
        infer=_infer_multinomial,
        evaluate=_evaluate_multinomial,
        traits=_RANDOM,
    )
)


def _infer_dropout(ctx: InferContext) -> tuple[Type, Type]:
    data = ctx.tensor(0)
    return data, TensorType(DType.BOOL, data.shape)


def _evaluate_dropout(
    ctx: EvalContext, x: Array, ratio: Array | None = None, training: Array | None = None
) -> tuple[Array, Array]:
    share = 0.5 if ratio is None else float(ratio.reshape(()))
    if training is None or not bool(training.reshape(())) or share == 0:
        return x, np.ones(x.shape, dtype=np.bool_)
    if not 0 <= share < 1:
        ctx.fail(f"the ratio is {share}, not in [0, 1)")
    mask = np.asarray(_generator(ctx).uniform(0, 1.0, x.shape) >= share)
    return (precise(x) * mask / (1 - share)).astype(x.dtype), mask


register(
    OpDef(
        "Dropout",
        inputs=("data", "ratio?", "training_mode?"),
        outputs=("output", "mask?"),
        attrs=attr_specs(seed="i"),
        infer=_infer_dropout,
        evaluate=_evaluate_dropout,
        traits=_RANDOM,
    )
)
