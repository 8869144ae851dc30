"""Composite ops in terms of simpler ones: the CORE form that other passes match.

``BatchNormalization(x)  ->  x * s + t``; ``GlobalAveragePool(x)  ->  ReduceMean(x, spatial axes)``;
``GlobalMaxPool(x)  ->  ReduceMax``; ``Sum(a, b, c)  ->  a + b + c``; variadic ``Max``, ``Min`` and
``Mean`` to two operands at a time; ``CastLike(x, y)  ->  Cast(x)`` to the type of ``y``.

Sound: the definitions of the ops. BatchNormalization's scale and shift are computed once when its
parameters are constants, in f64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["Decompose"]


class DecomposeBatchNorm(Rule):
    """``BatchNormalization(x, s, b, m, v)  ->  x * (s / sqrt(v + eps)) + (b - m * ...)``."""

    def pattern(self, op: PatternOps, x: Var, s: Var, b: Var, mean: Var, var: Var) -> NodePattern:
        """Inference mode."""
        return op.BatchNormalization(x, s, b, mean, var)

    def check(self, m: Match) -> Refusal | None:
        """Constant f32 parameters, and no statistics read."""
        if m.root.attr("training_mode") or any(v.use_count for v in m.root.outputs[1:]):
            return Refusal("it runs in training mode", m.root)
        if not all(m[name].is_constant for name in ("s", "b", "mean", "var")):
            return Refusal("its parameters are not constant", m.root)
        if m.root.output.tensor.dtype is not DType.F32 or m["x"].tensor.rank is None:
            return Refusal("it is not an f32 tensor of known rank", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """A factor and a summand an input channel."""
        arrays = []
        for name in ("s", "b", "mean", "var"):
            constant = m[name].constant
            assert constant is not None
            arrays.append(constant.array.astype(np.float64))
        s, b, mean, var = arrays
        scale = s / np.sqrt(var + float(m.root.attr("epsilon")))
        shift = b - mean * scale
        rank = m["x"].tensor.rank or 2
        shape = (-1, *[1] * (rank - 2)) if rank >= 2 else (-1,)
        factor = op.constant(scale.astype(np.float32).reshape(shape), f"{m['s'].name}.scale")
        summand = op.constant(shift.astype(np.float32).reshape(shape), f"{m['b'].name}.shift")
        result: Value = op.Add(op.Mul(m["x"], factor), summand)
        return (result, *[None] * (len(m.root.outputs) - 1))


class DecomposeGlobalPool(Rule):
    """``GlobalAveragePool(x)  ->  ReduceMean(x, axes=[2, ...])``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Average and maximum."""
        return [op.GlobalAveragePool(x), op.GlobalMaxPool(x)]

    def check(self, m: Match) -> Refusal | None:
        """The rank must be known."""
        rank = m["x"].tensor.rank
        return None if rank is not None and rank > 2 else Refusal("no spatial axes", m.root)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A reduction that keeps its axes."""
        rank = m["x"].tensor.rank or 3
        axes = op.constant(np.arange(2, rank, dtype=np.int64), "axes")
        name = "ReduceMean" if m.root.is_a("GlobalAveragePool") else "ReduceMax"
        result: Value = op.op(name, m["x"], axes, keepdims=1)
        return result


class DecomposeVariadic(Rule):
    """``Sum(a, b, c)  ->  Add(Add(a, b), c)``; Max, Min and Mean alike."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Any number of operands."""
        return [op.op(name, op.rest("xs")) for name in ("Sum", "Max", "Min", "Mean")]

    def check(self, m: Match) -> Refusal | None:
        """Max and Min of two operands are simple already."""
        if m.root.op.name in ("Max", "Min") and len(m.values("xs")) == 2:
            return Refusal("it has two operands", m.root)
        if m.root.is_a("Mean") and m.root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal("a mean of narrow numbers rounds once", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A chain from the left."""
        values = [v for v in m.values("xs") if v is not None]
        binary = {"Sum": "Add", "Mean": "Add"}.get(m.root.op.name, m.root.op.name)
        result = values[0]
        for value in values[1:]:
            result = op.op(binary, result, value)
        if len(values) == 1 and not m.root.is_a("Mean"):
            result = op.Identity(result)
        if m.root.is_a("Mean"):
            dtype = m.root.output.tensor.dtype.numpy
            result = op.Div(result, op.constant(np.asarray(len(values), dtype)))
        return result


class DecomposeCastLike(Rule):
    """``CastLike(x, y)  ->  Cast(x, to=type of y)``: y's contents do not matter."""

    def pattern(self, op: PatternOps, x: Var, y: Var) -> NodePattern:
        """Types are always known."""
        return op.CastLike(x, y)

    def check(self, m: Match) -> Refusal | None:
        """One that changes no type goes without a trace, by simplify."""
        same = m["x"].tensor.dtype is m["y"].tensor.dtype
        return Refusal("it changes no type", m.root) if same else None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The attributes mean the same."""
        result: Value = op.Cast(m["x"], to=int(m["y"].tensor.dtype), **m.root.attrs)
        return result


@dataclass(frozen=True)
class Decompose(RulePass):
    """Composite ops ``->`` simpler ones."""

    name: ClassVar[str] = "decompose"
    follows: ClassVar[tuple[str, ...]] = ("fold-affine",)

    def rules(self, graph: Graph) -> list[Rule]:
        """All decompositions."""
        return [
            DecomposeBatchNorm(),
            DecomposeCastLike(),
            DecomposeGlobalPool(),
            DecomposeVariadic(),
        ]
