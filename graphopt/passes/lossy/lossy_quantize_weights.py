"""Lossy: weights of large products are stored in 4 or 8 bits, with a scale for each group of them.

``MatMul(x, w)  ->  MatMul(x, DQ(w', s, z))``, and Gemm alike, with ``w'`` of ``bits`` bits and a
scale, and with ``zeros`` a zero point, for each ``group`` weights along the axis that is summed
over. What is computed stays in floats: it is memory, and the time to read it, that is saved.

The weights are an f32 matrix of at least ``least`` elements. Layers named in ``keep`` are left
alone. Not sound: lossy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.compress.affine import block_grid
from graphopt.compress.placement import Layer, layer_of, layers_of
from graphopt.errors import OptionError
from graphopt.ir import Builder, DType, Graph, Node
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["LossyQuantizeWeights", "group_type"]

_TYPES = {(4, False): DType.I4, (4, True): DType.U4, (8, False): DType.I8, (8, True): DType.U8}


@dataclass(frozen=True)
class LossyQuantizeWeights(Pass):
    """Lossy: ``MatMul(x, w)  ->  MatMul(x, DQ(w', s, z))`` with a scale for each group."""

    name: ClassVar[str] = "lossy-quantize-weights"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy()

    # Bits of a weight: 4 or 8.
    bits: int = 4
    # Weights that share a scale.
    group: int = 128
    # Whether groups have zero points.
    zeros: bool = True
    # Elements of a matrix that is worth it.
    least: int = 65536
    # Names of layers that are left alone.
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionError(f"weights have 4 or 8 bits, not {self.bits}")
        if self.group < 2:
            raise OptionError(f"a group has at least 2 weights, not {self.group}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a weight was quantized."""
        changed = False
        for layer in layers_of(graph):
            if self._refusal(layer) is None:
                self._edit(graph, layer, ctx)
                changed = True
        return changed

    def _edit(self, graph: Graph, layer: Layer, ctx: PassContext) -> None:
        constant, start = layer.weights.constant, ctx.log.mark
        assert constant is not None
        dtype = group_type(self.bits, self.zeros)
        axis = layer.summed_axis
        grid = block_grid(constant.array, axis, self.group, dtype, symmetric=not self.zeros)
        op = Builder(graph, before=layer.node, origin=layer.node.origin)
        name = layer.weights.name
        stored = op.DequantizeLinear(
            op.constant(grid.codes(constant.array), f"{name}_quantized"),
            op.constant(grid.scale, f"{name}_scale"),
            *((op.constant(grid.zero, f"{name}_zero"),) if self.zeros else ()),
            axis=axis,
            block_size=self.group,
            _name=f"{name}_dequantized",
        )
        record_edit(ctx.log, self.name, "QuantizeGroups", [], op.created, start=start)
        graph.set_input(layer.node, layer.weight, stored)

    def _refusal(self, layer: Layer) -> Refusal | None:
        constant, node = layer.weights.constant, layer.node
        assert constant is not None
        if node.op.name not in ("MatMul", "Gemm"):
            return Refusal(f"{node.op.qualified} is no product of matrices", node)
        if layer.name in self.keep:
            return Refusal(f"'{layer.name}' is to stay as it is", node)
        if constant.numel < self.least:
            return Refusal(f"{constant.numel} weights are fewer than {self.least}", layer.weights)
        return None

    def refuses(self, node: Node) -> Refusal | None:
        """Why the weights stay as they are."""
        layer = layer_of(node)
        return layer if isinstance(layer, Refusal) else self._refusal(layer)


def group_type(bits: int, zeros: bool) -> DType:
    """The element type of weights in groups."""
    return _TYPES[bits, zeros]
