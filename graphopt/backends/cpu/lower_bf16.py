"""Attention, and products and convolutions with constant weights, take their operands as bfloat16.

``gemm(a, packed f32)  ->  gemm(a, packed bfloat16 pairs)``, and ``conv`` the same. Weights are
rounded at compile time, the other operand when the step reads it; sums, bias, residual and
activation stay float32, and so do all other steps: normalisations, softmax, reductions, and
convolutions by Winograd, which are faster than sums of bfloat16. Convolutions of one position, the
gates of squeeze and excitation, take no time but scale whole channels.

Lossy: an operand of a product keeps 8 bits of its 24. For ``precision=bf16`` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.lower_dense import packed
from graphopt.backends.cpu.ops import DOMAIN, native
from graphopt.errors import CompileError
from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass
from graphopt.rewrite.names import split_names
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LowerBf16"]

Array = np.ndarray[Any, Any]

_PANEL = 16
# With fewer, rounding the other operand costs more than the product gains.
_CHANNELS = 16


def _depth(node: Node) -> tuple[int, int]:
    """Repeats and depth of packed weights [panels, repeats, depth, 16]."""
    if node.op.name == "gemm":
        return 1, int(node.attrs["k"])
    taps, channels = math.prod(node.attrs["kernel_shape"]), int(node.attrs["cin"])
    if not _merged(node):
        return taps, channels
    line = int(node.attrs["kernel_shape"][-1])
    return taps // line, line * channels


def _merged(node: Node) -> bool:
    """Whether pairs run through the taps of a line: for few channels, side by side."""
    if node.op.name != "conv" or int(node.attrs["cin"]) >= _CHANNELS:
        return False
    line = int(node.attrs["kernel_shape"][-1])
    return line > 1 and int(node.attrs.get("dilations", (1,))[-1]) == 1


def pairs(weights: Array, repeats: int, depth: int) -> Array:
    """Packed float32 weights as pairs of bfloat16, two neighbours along the depth in a uint32.
    Raises CompileError where a weight would become infinite."""
    import ml_dtypes

    panels = weights.reshape(-1, repeats, depth, _PANEL)
    if depth % 2:
        panels = np.concatenate([panels, np.zeros_like(panels[:, :, :1])], axis=2)
    with np.errstate(over="ignore"):
        rounded = panels.astype(ml_dtypes.bfloat16)
    if np.isinf(rounded).any() and not np.isinf(panels).any():
        raise CompileError("weights beyond the range of bfloat16: exclude the node that reads them")
    halves = rounded.view(np.uint16)
    halves = halves.reshape(*panels.shape[:2], -1, 2, _PANEL).swapaxes(3, 4)
    return np.ascontiguousarray(halves).view(np.uint32).reshape(-1)


class RoundOperands(Rule):
    """``gemm, conv  ->  the same on bfloat16 pairs``."""

    def __init__(self, exclude: frozenset[str]) -> None:
        self.exclude = exclude

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        return [op.op(name, op.rest("operands"), _domain=DOMAIN) for name in ("gemm", "conv")]

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        weight = node.input(1)
        if node.attrs.get("bf16"):
            return Refusal("it is on bfloat16 already", node)
        if kept := sorted(self.exclude & node.origin):
            return Refusal(f"'{kept[0]}' is excluded", node)
        if weight is None or weight.constant is None:
            return Refusal("its weights are not constant", node)
        if int(node.attrs.get("group", 1)) != 1:
            return Refusal(f"it has {node.attrs['group']} groups", node)
        cout = int(node.attrs["n" if node.op.name == "gemm" else "cout"])
        repeats, depth = _depth(node)
        if _merged(node):
            depth *= repeats
        if min(depth, cout) < _CHANNELS:
            return Refusal(f"{depth} by {cout} channels; fewer than {_CHANNELS} do not pay", node)
        if node.op.name == "conv" and set((node.output.shape or ())[1:-1]) == {1}:
            return Refusal("it makes one position an image: a gate on channels, for example", node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        node = m.root
        repeats, depth = _depth(node)
        weight = node.input(1)
        assert weight is not None and weight.constant is not None
        size = weight.constant.numel // depth * ((depth + 1) // 2)
        rounded = packed(
            weight, size, "bf16", lambda array: pairs(array, repeats, depth), DType.U32
        )
        operands = list(node.inputs)
        operands[1] = op.constant(rounded, f"{weight.name}.bf16")
        attrs = {**node.attrs, "bf16": 1}
        if _merged(node):
            attrs["merged"] = 1
        types = [node.output.tensor]
        kernel = native(node.op.name)
        return op.call(kernel, *operands, _types=types, _name=node.output.name, **attrs).output


class RoundAttention(Rule):
    """``attention  ->  the same with products of bfloat16``; its softmax stays float32."""

    def __init__(self, exclude: frozenset[str]) -> None:
        self.exclude = exclude

    def pattern(self, op: PatternOps) -> NodePattern:
        return op.op("attention", op.rest("operands"), _domain=DOMAIN)

    def check(self, m: Match) -> Refusal | None:
        node = m.root
        if node.attrs.get("bf16"):
            return Refusal("it is on bfloat16 already", node)
        if kept := sorted(self.exclude & node.origin):
            return Refusal(f"'{kept[0]}' is excluded", node)
        if (node.output.shape or (0, 0))[-2] == 1:
            return Refusal("it has one query, for which rounding keys does not pay", node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        node = m.root
        types = [node.output.tensor]
        attrs = {**node.attrs, "bf16": 1}
        kernel = native("attention")
        return op.call(kernel, *node.inputs, _types=types, _name=node.output.name, **attrs).output


@dataclass(frozen=True)
class LowerBf16(RulePass):
    """Rounds the operands of products to bfloat16, but for nodes that stand for ``exclude``, names
    of source nodes joined by '+'."""

    name: ClassVar[str] = "cpu-lower-bf16"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy(1.5e-2)

    exclude: str = ""

    def rules(self, graph: Graph) -> list[Rule]:
        excluded = split_names(self.exclude)
        return [RoundOperands(excluded), RoundAttention(excluded)]
