"""3 x 3 convolutions of stride one become Winograd step kernels where that is less work.

``Conv(x, const)  ->  Transpose, conv_winograd, Transpose`` in channels-last form, with the weights
at the 36 points of F(4 x 4, 3 x 3): a quarter of the multiplications for four times the weights.

Not exact: the sums are those of a linear transform and its inverse. Relative L2 error of a layer in
float32 about 1e-6, three times that of the direct sum; a NaN or infinity reaches all outputs of its
4 x 4 tile. The target option ``exact=on`` leaves the pass out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.backends.cpu.cost import Cost, direct, known, winograd
from graphopt.backends.cpu.lower_dense import (
    aligned,
    call,
    channels_last_type,
    from_channels_last,
    packed,
    spatial_attrs,
    to_channels_last,
)
from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.ops.conv import conv_window
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var
from graphopt.rewrite.names import split_names

__all__ = ["LowerWinograd"]

# The products of fewer channels are too short to be efficient.
_CHANNELS = 16
# How much faster sums of bfloat16 are, which Winograd does without.
_BF16 = 1.9


def refusal(node: Node, x: Value, w: Value) -> Refusal | None:
    """Why the kernel does not compute ``node``; None when it does."""
    shape, out = static_shape(w.shape), node.output.tensor
    if out.dtype is not DType.F32 or out.shape is None or x.shape is None or shape is None:
        return Refusal(f"%{node.output.name} is {out}, not float32 of known rank", node)
    if len(shape) != 4 or shape[2:] != (3, 3):
        return Refusal(f"the window is {list(shape[2:])}, not 3 x 3", w)
    window = conv_window(x.shape[2:], shape[2:], node.attrs)
    if (*window.strides, *window.dilations, int(node.attr("group"))) != (1, 1, 1, 1, 1):
        return Refusal("it has strides, dilations or groups", node)
    if min(shape[:2]) < _CHANNELS:
        text = f"{shape[1]} and {shape[0]} channels; fewer than {_CHANNELS} do not pay"
        return Refusal(text, w)
    return None


def costs(node: Node, w: Value) -> tuple[Cost, Cost]:
    """Predicted costs of a convolution that :func:`refusal` passes: plain sum, Winograd."""
    shape, out = static_shape(w.shape), node.output.shape
    assert shape is not None and out is not None
    sizes = (known(out[0], "batch"), known(out[2], "spatial"), known(out[3], "spatial"))
    return direct(*sizes, shape[1], shape[0]), winograd(*sizes, shape[1], shape[0])


class Winograd(Rule):
    """``Conv(x, const 3 x 3)  ->  conv_winograd``, beside sums of bfloat16 if ``bf16``; but for
    weights that are among ``direct``, and those among ``winograd`` whatever is predicted."""

    def __init__(self, bf16: bool, direct: frozenset[str], winograd: frozenset[str]) -> None:
        self.bf16 = bf16
        self.direct = direct
        self.winograd = winograd

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        return op.Conv(x, op.constant("w"), op.rest("bias"))

    def check(self, m: Match) -> Refusal | None:
        node, x, w = m.root, m["x"], m["w"]
        refused = refusal(node, x, w)
        if refused is not None or w.name in self.winograd:
            return refused
        if w.name in self.direct:
            return Refusal("it is chosen to be a plain sum", w)
        plain, points = costs(node, w)
        if self.bf16:
            plain = replace(plain, macs=plain.macs / _BF16)
        if points.seconds() >= plain.seconds():
            slow, fast = 1e6 * points.seconds(), 1e6 * plain.seconds()
            text = f"it would take {slow:.3g} us beside {fast:.3g}"
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
    """Takes 3 x 3 convolutions to the Winograd kernel where the cost model says so; ``direct`` and
    ``winograd``, names of weights joined by '+', overrule it. ``bf16``: others run on bfloat16."""

    name: ClassVar[str] = "cpu-lower-winograd"
    exact: ClassVar[bool] = False

    bf16: bool = False
    direct: str = ""
    winograd: str = ""

    def rules(self, graph: Graph) -> list[Rule]:
        return [Winograd(self.bf16, split_names(self.direct), split_names(self.winograd))]
