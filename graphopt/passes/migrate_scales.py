"""Products of matrices share what is hard to quantize between their operand and their weights.

``MatMul(x, w)  ->  MatMul(x * (1 / s), s * w)``, and Gemm alike, with a factor ``s`` for each
column of ``x`` and row of ``w``. All such products of one ``x`` read the same scaled value; who
else reads ``x`` still reads ``x``. ``scales`` gives the factors by the name of the value, as
``graphopt.compress.migrate`` finds them.

The weights are f32 constants, and there is a factor, finite and above 0, for each of their rows.
Sound up to rounding: a factor that divides one operand multiplies the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.compress.placement import Layer, layer_of, layers_of
from graphopt.errors import OptionError
from graphopt.ir import Builder, Graph, Node, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["MigrateScales"]


@dataclass(frozen=True)
class MigrateScales(Pass):
    """``MatMul(x, w)  ->  MatMul(x * (1 / s), s * w)`` for the factors that are given."""

    name: ClassVar[str] = "migrate-scales"

    # (value, its factors) for each value that is scaled.
    scales: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __post_init__(self) -> None:
        for item in self.scales:
            if len(item) != 2 or not all(0 < x < float("inf") for x in item[1]):
                raise OptionError(f"scales are (value, (factors above 0, ...)), not {item!r}")

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a product was changed."""
        factors = dict(self.scales)
        readers: dict[Value, list[Layer]] = {}
        for layer in layers_of(graph) if factors else ():
            if self._refusal(layer) is None:
                readers.setdefault(layer.input, []).append(layer)
        for value, layers in readers.items():
            self._edit(graph, value, layers, np.array(factors[value.name], np.float32), ctx)
        return bool(readers)

    def _edit(
        self,
        graph: Graph,
        value: Value,
        layers: list[Layer],
        factors: np.ndarray[tuple[int], np.dtype[np.float32]],
        ctx: PassContext,
    ) -> None:
        start, first = ctx.log.mark, layers[0].node
        origin = frozenset().union(*(layer.node.origin for layer in layers))
        op = Builder(graph, before=first, origin=origin)
        scaled = op.Mul(value, op.constant(1 / factors, f"{value.name}_factors"))
        weights = []
        for layer in layers:
            constant = layer.weights.constant
            assert constant is not None
            turned = factors if layer.summed_axis == 1 else factors[:, None]
            weights.append(op.constant(constant.array * turned, layer.weights.name))
        nodes = [layer.node for layer in layers]
        record_edit(ctx.log, self.name, "MigrateScale", [], [*op.created, *nodes], start=start)
        for layer, weight in zip(layers, weights, strict=True):
            graph.set_input(layer.node, 0, scaled)
            graph.set_input(layer.node, layer.weight, weight)

    def _refusal(self, layer: Layer) -> Refusal | None:
        node, constant = layer.node, layer.weights.constant
        assert constant is not None
        if node.op.name not in ("MatMul", "Gemm"):
            return Refusal(f"{node.op.qualified} is no product of matrices", node)
        count = len(dict(self.scales).get(layer.input.name, ()))
        if not count:
            return Refusal(f"there are no factors for %{layer.input.name}", layer.input)
        rows = constant.array.shape[layer.summed_axis]
        if count != rows:
            return Refusal(f"there are {count} factors for {rows} rows", layer.weights)
        return None

    def refuses(self, node: Node) -> Refusal | None:
        """Why a product stays as it is."""
        layer = layer_of(node)
        return layer if isinstance(layer, Refusal) else self._refusal(layer)
