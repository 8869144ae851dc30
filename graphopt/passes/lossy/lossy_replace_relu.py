"""Lossy: Relu becomes an activation that does not stop gradients below 0.

``Relu(x)  ->  LeakyRelu(x, alpha)``, ``PRelu(x, slopes)`` with a slope ``alpha`` for each channel,
or ``Elu(x, alpha)``, as the option ``kind`` says: ``leaky``, ``prelu``, ``elu``. The model must be
trained further: numbers below 0, which were 0, are ``alpha * x`` or ``alpha * (exp(x) - 1)``.

Values are floats; slopes of PRelu need a fixed number of channels (axis 1). Not sound: lossy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import OptionError
from graphopt.ir import Builder, Graph, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LossyReplaceRelu"]

_KINDS = ("leaky", "prelu", "elu")


class ReplaceRelu(Rule):
    """``Relu(x)  ->  LeakyRelu(x, alpha)``, PRelu or Elu. Lossy."""

    def __init__(self, kind: str, alpha: float) -> None:
        self.kind = kind
        self.alpha = alpha

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Every Relu."""
        return op.Relu(x)

    def check(self, m: Match) -> Refusal | None:
        """Floats; for PRelu, a fixed number of channels."""
        if not m["x"].tensor.dtype.is_float:
            return Refusal(lambda: f"it computes on {m['x']!r}", m.root)
        if self.kind == "prelu" and _channels(m["x"]) is None:
            return Refusal("the number of channels is not fixed", m["x"])
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The activation that is asked for."""
        x = m["x"]
        if self.kind == "prelu":
            channels, rank = _channels(x), x.tensor.rank
            assert channels is not None and rank is not None
            shape = (channels, *[1] * (rank - 2))
            slopes = np.full(shape, self.alpha, x.tensor.dtype.numpy)
            learned: Value = op.PRelu(x, op.constant(slopes, "slopes"))
            return learned
        name = "LeakyRelu" if self.kind == "leaky" else "Elu"
        result: Value = op.op(name, x, alpha=self.alpha)
        return result


def _channels(value: Value) -> int | None:
    shape = value.shape
    found = shape[1] if shape is not None and len(shape) > 1 else None
    return found if isinstance(found, int) else None


@dataclass(frozen=True)
class LossyReplaceRelu(RulePass):
    """Lossy: ``Relu(x)  ->  LeakyRelu(x, alpha)``, PRelu or Elu; train the model further."""

    name: ClassVar[str] = "lossy-replace-relu"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy()

    # What takes its place: leaky, prelu or elu.
    kind: str = "leaky"
    # The slope below 0, or the limit of Elu.
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise OptionError(f"kind is '{self.kind}', not one of {', '.join(_KINDS)}")

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule."""
        return [ReplaceRelu(self.kind, float(self.alpha))]
