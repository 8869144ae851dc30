"""3 x 3 convolutions of stride one become Winograd step kernels where that is less work.

``Conv(x, const)  ->  Transpose, conv_winograd, Transpose`` in channels-last form, with the weights
at the 36 points of F(4 x 4, 3 x 3): a quarter of the multiplications for four times the weights.

Not exact: the sums are those of a linear transform and its inverse. Relative L2 error of a layer in
float32 about 1e-6, three times that of the direct sum; a NaN or infinity reaches all outputs of its
4 x 4 tile. The target option ``exact=on`` leaves the pass out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.lower_dense import (
    aligned,
    call,
    channels_last_type,
    from_channels_last,
    packed,
    spatial_attrs,
    to_channels_last,
)
from graphopt.ir import Builder, DType, Graph, Value, static_shape
from graphopt.ops.conv import conv_window
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["LowerWinograd"]

# The products of fewer channels are too short to be efficient.
_CHANNELS = 16
# Sizes that only the run knows are taken for these.
_TYPICAL = (1, 32, 32)
# Multiply-adds that take as long as reading a byte of weights from memory (2 cores: 25 GB/s beside
# 110 to 230 G multiply-adds a second), as the transforms of one value at one point, and how much
# slower the products of few rows are.
_PER_BYTE = 6.0
_PER_TRANSFORM = 5.0
_FEW_ROWS = 1.2
# How much faster sums of bfloat16 are, which Winograd does without.
_BF16 = 1.9


def cost(batch: int, height: int, width: int, cin: int, cout: int) -> tuple[float, float]:
    """Predicted work of the direct and of the Winograd kernel for an output of that size, in
    multiply-adds a pair of channels."""
    direct = 9.0 * batch * height * width
    tiles = batch * -(-height // 4) * -(-width // 4)
    products = 36 * tiles * (_FEW_ROWS + _PER_TRANSFORM * (1 / cin + 1 / cout))
    return direct, products + _PER_BYTE * 4 * (36 - 9)


class Winograd(Rule):
    """``Conv(x, const 3 x 3)  ->  conv_winograd``. Beside sums of bfloat16 if ``bf16``."""

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Conv(x, op.constant("w"), op.rest("bias"))

    def check(self, m: Match) -> Refusal | None:
        node, x, w = m.root, m["x"], m["w"]
        shape, out = static_shape(w.shape), node.output.tensor
        if out.dtype is not DType.F32 or out.shape is None or x.shape is None or shape is None:
            return Refusal(f"%{node.output.name} is {out}, not float32 of known rank", node)
        if len(shape) != 4 or shape[2:] != (3, 3):
            return Refusal(f"the window is {list(shape[2:])}, not 3 x 3", w)
        window = conv_window(x.shape[2:], shape[2:], node.attrs)
        if (*window.strides, *window.dilations, int(node.attr("group"))) != (1, 1, 1, 1, 1):
            return Refusal("it has strides, dilations or groups", node)
        cout, cin = shape[:2]
        if min(cout, cin) < _CHANNELS:
            return Refusal(f"{cin} and {cout} channels; fewer than {_CHANNELS} do not pay", w)
        sizes = (out.shape[0], *out.shape[2:])
        batch, height, width = (
            d if isinstance(d, int) else usual for d, usual in zip(sizes, _TYPICAL, strict=True)
        )
        direct, winograd = cost(batch, height, width, cin, cout)
        if self.bf16:
            direct /= _BF16
        if winograd >= direct:
            text = (
                f"it would cost {winograd:.0f} beside {direct:.0f} multiply-adds a pair of channels"
            )
            return Refusal(text, node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        from graphopt import _native

        node, x, w = m.root, m["x"], m["w"]
        shape = static_shape(w.shape)
        assert shape is not None and x.shape is not None
        cout, cin = shape[:2]
        attrs = spatial_attrs(conv_window(x.shape[2:], shape[2:], node.attrs))
        attrs |= {"cin": cin, "cout": cout}
        size = _native.packed_winograd_size(cout, cin)
        weight = packed(w, size, "winograd", aligned(_native.pack_winograd))
        operands = [
            to_channels_last(op, x),
            op.constant(weight, f"{w.name}.packed"),
            *m.values("bias"),
        ]
        type = channels_last_type(node.output.tensor)
        y = call(op, "conv_winograd", operands, [type], attrs)
        return from_channels_last(op, y.output, node.output.name)


@dataclass(frozen=True)
class LowerWinograd(RulePass):
    """Takes 3 x 3 convolutions to the Winograd kernel. ``bf16``: others run on bfloat16."""

    name: ClassVar[str] = "cpu-lower-winograd"
    exact: ClassVar[bool] = False

    bf16: bool = False

    def rules(self, graph: Graph) -> list[Rule]:
        return [Winograd(self.bf16)]
