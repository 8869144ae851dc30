"""Lossy: layers compute on integers of 8 bits, written as QuantizeLinear and DequantizeLinear.

``Conv(x, w, b)  ->  Conv(DQ(Q(x)), DQ(w'), DQ(b'))``, and Gemm, MatMul, ConvTranspose alike, with
``w'`` symmetric integers with a scale for each output channel, and ``b'`` of 32 bits at the scale
of the products. What stands between layers and can carry integers on (pools, residual sums,
concatenations, moves) reads quantized values, too; an activation stays with the layer before it,
and the value behind it is quantized. ``graphopt.compress.placement`` says where, and why there.

``ranges`` gives low and high end of each value that may be quantized, as calibration found them;
a layer whose operand has none stays in floats, and so do those that ``keep`` names. ``activations``
is ``u8`` or ``i8``, asymmetric unless ``symmetric``. Weights are of ``weights`` bits, an odd number
of levels about zero; ``per_channel`` false gives a layer one scale. Not sound: lossy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.compress.affine import Grid, activation_grid, bias_grid, channel_grid
from graphopt.compress.placement import Layer, Placement, layer_of, place
from graphopt.errors import OptionError
from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LossyQuantize"]

_TYPES = {"u8": DType.U8, "i8": DType.I8}


@dataclass(frozen=True)
class LossyQuantize(Pass):
    """Lossy: ``Conv(x, w, b)  ->  Conv(DQ(Q(x)), DQ(w'), DQ(b'))`` and what lies between layers."""

    name: ClassVar[str] = "lossy-quantize"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy()

    # (value, low, high) of what may be quantized.
    ranges: tuple[tuple[str, float, float], ...] = ()
    # Names of layers that stay in floats.
    keep: tuple[str, ...] = ()
    # Type of the values between layers: u8 or i8.
    activations: str = "u8"
    symmetric: bool = False
    # Bits of a weight, 2 to 8; they are stored in 8.
    weights: int = 8
    per_channel: bool = True

    def __post_init__(self) -> None:
        if self.activations not in _TYPES:
            raise OptionError(f"activations are u8 or i8, not '{self.activations}'")
        if not 2 <= self.weights <= 8:
            raise OptionError(f"weights have 2 to 8 bits, not {self.weights}")
        for item in self.ranges:
            if len(item) != 3 or not item[1] <= item[2]:
                raise OptionError(f"a range is (value, low, high), not {item!r}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a layer was quantized."""
        ranges = {name: (float(low), float(high)) for name, low, high in self.ranges}
        placement = place(graph, self.keep, ranges)
        if not placement.layers:
            return False
        edit = _Edit(graph, ctx, self)
        grids = self._grids(placement, ranges)
        order = {node: index for index, node in enumerate(graph)}
        for value, readers in placement.readers.items():
            edit.quantize(value, sorted(readers, key=order.__getitem__), grids[value])
        for layer in placement.layers:
            edit.weights(layer)
        return True

    def _grids(
        self, placement: Placement, ranges: dict[str, tuple[float, float]]
    ) -> dict[Value, Grid]:
        dtype = _TYPES[self.activations]
        return {
            value: activation_grid(low, high, dtype, symmetric=self.symmetric)
            for value, (low, high) in placement.shared_ranges(ranges).items()
        }

    def refuses(self, node: Node) -> Refusal | None:
        """Why a layer stays in floats."""
        layer = layer_of(node)
        if isinstance(layer, Refusal):
            return layer
        if layer.name in self.keep:
            return Refusal(f"'{layer.name}' is to stay in floats", node)
        if layer.input.name not in {item[0] for item in self.ranges}:
            return Refusal(f"no range is known of %{layer.input.name}", layer.input)
        return None


class _Edit:
    """Puts quantized values and weights into a graph."""

    def __init__(self, graph: Graph, ctx: PassContext, options: LossyQuantize) -> None:
        self.graph = graph
        self.ctx = ctx
        self.options = options
        self.scales: dict[Value, float] = {}

    def quantize(self, value: Value, readers: list[Node], grid: Grid) -> None:
        """Makes ``readers`` (in order) read the value through integers."""
        start = self.ctx.log.mark
        origin = value.producer.origin if value.producer is not None else readers[0].origin
        op = Builder(self.graph, before=readers[0], origin=origin)
        scale = op.constant(grid.scale, f"{value.name}_scale")
        zero = op.constant(grid.zero, f"{value.name}_zero")
        codes = op.QuantizeLinear(value, scale, zero, _name=f"{value.name}_quantized")
        back = op.DequantizeLinear(codes, scale, zero, _name=f"{value.name}_dequantized")
        reason = f"{len(readers)} read it in integers"
        record_edit(
            self.ctx.log, "lossy-quantize", "QuantizeValue", [], op.created, reason, start=start
        )
        for node in readers:
            for index, operand in enumerate(node.inputs):
                if operand is value:
                    self.graph.set_input(node, index, back)
        self.scales[back] = float(grid.scale)

    def weights(self, layer: Layer) -> None:
        """Makes a layer read its weights, and its bias, as integers."""
        node, start = layer.node, self.ctx.log.mark
        op = Builder(self.graph, before=node, origin=node.origin)
        constant = layer.weights.constant
        assert constant is not None
        weight = constant.array
        axis = layer.axis if self.options.per_channel else None
        grid = channel_grid(weight, axis, self.options.weights)
        bias = None if layer.bias is None else node.input(layer.bias)
        sums: Grid | None = None
        if bias is not None and bias.constant is not None:
            sums, grid = bias_grid(bias.constant.array, self.scales[layer.input], grid)
        operand = _stored(op, layer.weights.name, grid.codes(weight), grid)
        offset = None
        if sums is not None and bias is not None and bias.constant is not None:
            offset = _stored(op, bias.name, sums.codes(bias.constant.array), sums)
        record_edit(self.ctx.log, "lossy-quantize", "QuantizeWeights", [], op.created, start=start)
        self.graph.set_input(node, layer.weight, operand)
        if layer.bias is not None and offset is not None:
            self.graph.set_input(node, layer.bias, offset)


def _stored(op: Builder, name: str, codes: np.ndarray[Any, Any], grid: Grid) -> Value:
    """A constant of integers, dequantized."""
    # Sums of 32 bits have no zero point in ONNX.
    zero = () if grid.dtype is DType.I32 else (op.constant(grid.zero, f"{name}_zero"),)
    result: Value = op.DequantizeLinear(
        op.constant(codes, f"{name}_quantized"),
        op.constant(grid.scale, f"{name}_scale"),
        *zero,
        axis=grid.axis,
        _name=f"{name}_dequantized",
    )
    return result
