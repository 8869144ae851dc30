"""Lossy: maxima over windows become averages, or convolutions that can be trained.

``MaxPool(x)  ->  AveragePool(x)`` of the same windows, which does not count padding, or ``Conv(x,
w)`` in the same steps, a kernel a channel, that starts as the average (padding counts as 0), as the
option ``kind`` says: ``average``, ``conv``. The model must be trained further.

Windows are fixed, sizes are rounded down, indices are not read; a convolution needs f32 and a fixed
number of channels. Not sound: lossy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import OptionError
from graphopt.ir import Builder, DType, Graph, Value
from graphopt.passes.simplify_pools import Windows, windows
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LossyReplaceMaxPool"]

_KINDS = ("average", "conv")


class ReplaceMaxPool(Rule):
    """``MaxPool(x)  ->  AveragePool(x)`` or a convolution of each channel. Lossy."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Every maximum."""
        return op.MaxPool(x)

    def check(self, m: Match) -> Refusal | None:
        """Windows that both know."""
        found, x = windows(m.root), m["x"]
        if isinstance(found, Refusal):
            return found
        if not x.tensor.dtype.is_float or not found.filled:
            return Refusal("it is not of floats, or windows may lie in the padding", m.root)
        channels = x.shape[1] if x.shape is not None else None
        if self.kind == "conv" and (
            x.tensor.dtype is not DType.F32 or not isinstance(channels, int)
        ):
            return Refusal(lambda: f"{x!r} has no fixed number of f32 channels", x)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """What is asked for, over the same windows."""
        found, x = windows(m.root), m["x"]
        assert isinstance(found, Windows)
        rest = [None] * (len(m.root.outputs) - 1)
        if self.kind == "average":
            return (op.AveragePool(x, **found.attrs), *rest)
        assert x.shape is not None and isinstance(x.shape[1], int)
        shape = (x.shape[1], 1, *found.kernel)
        weight = op.constant(np.full(shape, 1 / found.size, np.float32), "average")
        return (op.Conv(x, weight, group=x.shape[1], **found.attrs), *rest)


@dataclass(frozen=True)
class LossyReplaceMaxPool(RulePass):
    """Lossy: ``MaxPool(x)  ->  AveragePool(x)`` or Conv in steps; train the model further."""

    name: ClassVar[str] = "lossy-replace-max-pool"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy()

    # What takes its place: average or conv.
    kind: str = "average"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise OptionError(f"kind is '{self.kind}', not one of {', '.join(_KINDS)}")

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [ReplaceMaxPool(self.kind)]
