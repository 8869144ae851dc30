"""An average over windows as a convolution of each channel, or the other way round.

``AveragePool(x)  ->  Conv(x, w)`` with one kernel a channel whose weights are all 1 / size, or with
``to=pool`` the reverse. Which one is faster depends on the runtime: no level has this pass.

Values are f32 with a fixed number of channels; sizes are rounded down, padding is counted or there
is none. Weights must be 1 / size to f32 precision, and no bias be added. Sound up to rounding: a
sum of products with 1 / size is a sum divided by size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import OptionError
from graphopt.ir import Builder, DType, Graph, Value
from graphopt.passes.simplify_pools import Windows, windows
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["ReplaceAveragePools"]

_KINDS = ("conv", "pool")
_NEAR = 1e-7


class PoolToConv(Rule):
    """``AveragePool(x)  ->  Conv(x, w)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Every average."""
        return op.AveragePool(x)

    def check(self, m: Match) -> Refusal | None:
        """f32 channels of fixed number; every window divides by its size."""
        found, x = windows(m.root), m["x"]
        if isinstance(found, Refusal):
            return found
        channels = None if x.shape is None else x.shape[1]
        if x.tensor.dtype is not DType.F32 or not isinstance(channels, int):
            return Refusal(lambda: f"{x!r} has no fixed number of f32 channels", x)
        if any((*found.begin, *found.end)) and not m.root.attr("count_include_pad"):
            return Refusal("it does not count the padding that it has", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """A kernel a channel."""
        found, x = windows(m.root), m["x"]
        assert isinstance(found, Windows) and x.shape is not None and isinstance(x.shape[1], int)
        weight = np.full((x.shape[1], 1, *found.kernel), 1 / found.size, np.float32)
        result: Value = op.Conv(x, op.constant(weight, "average"), group=x.shape[1], **found.attrs)
        return result


class ConvToPool(Rule):
    """``Conv(x, w)  ->  AveragePool(x)`` where each kernel is an average."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Constant weights, no bias."""
        return op.Conv(x, op.constant("w"))

    def check(self, m: Match) -> Refusal | None:
        """One kernel a channel, all of 1 / size."""
        node, constant = m.root, m["w"].constant
        assert constant is not None
        shape = constant.array.shape
        if constant.type.dtype is not DType.F32 or node.attr("group") != shape[0] or shape[1] != 1:
            return Refusal("it is not one f32 kernel a channel", node)
        found = _windows(m)
        if isinstance(found, Refusal):
            return found
        if bool((np.abs(constant.array * found.size - 1) > _NEAR).any()):
            return Refusal("its weights are not 1 / size", m["w"])
        return None if found.filled else Refusal("a window may lie in the padding alone", node)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One pool."""
        found = _windows(m)
        assert isinstance(found, Windows)
        attrs: dict[str, Any] = dict(found.attrs)
        if any((*found.begin, *found.end)):
            attrs["count_include_pad"] = 1
        result: Value = op.AveragePool(m["x"], **attrs)
        return result


def _windows(m: Match) -> Windows | Refusal:
    node, constant = m.root, m["w"].constant
    assert constant is not None
    if any(d != 1 for d in node.attr("dilations") or ()):
        return Refusal("its windows are dilated", node)
    if node.attr("auto_pad") not in (None, "", "NOTSET", "VALID"):
        return Refusal(lambda: f"auto_pad is {node.attr('auto_pad')}", node)
    kernel = tuple(int(k) for k in constant.array.shape[2:])
    rank, valid = len(kernel), node.attr("auto_pad") == "VALID"
    pads = tuple(int(p) for p in (not valid and node.attr("pads")) or (0,) * (2 * rank))
    strides = tuple(int(s) for s in node.attr("strides") or (1,) * rank)
    return Windows(kernel, strides, pads[:rank], pads[rank:])


@dataclass(frozen=True)
class ReplaceAveragePools(RulePass):
    """``AveragePool(x)  ->  Conv(x, w)``, or the reverse."""

    name: ClassVar[str] = "replace-average-pools"

    # What they become: conv, or pool for the reverse.
    to: str = "conv"

    def __post_init__(self) -> None:
        if self.to not in _KINDS:
            raise OptionError(f"to is '{self.to}', not one of {', '.join(_KINDS)}")

    def rules(self, graph: Graph) -> list[Rule]:
        """One way alone."""
        return [PoolToConv() if self.to == "conv" else ConvToPool()]
