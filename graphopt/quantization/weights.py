"""Weights alone in 4 or 8 bits: products that stay in floats read less memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from graphopt.api import optimize
from graphopt.compress.affine import block_grid
from graphopt.compress.placement import Layer, layers_of
from graphopt.compress.rounding import least_squares_codes
from graphopt.data import Samples, find_metric
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph, Node
from graphopt.passes.lossy.lossy_quantize_weights import LossyQuantizeWeights, group_type
from graphopt.quantization.calibrate import observe
from graphopt.quantization.config import WEIGHTS_ALONE, QuantizeConfig
from graphopt.quantization.engine import Engine
from graphopt.quantization.judge import Judge

__all__ = ["Weights"]

Array = np.ndarray[Any, Any]
_TRIED_ON = 16


class Weights:
    """A model whose large matrices are being quantized."""

    def __init__(self, graph: Graph, samples: Samples, config: QuantizeConfig) -> None:
        self.graph = graph
        self.samples = samples
        self.config = config
        self.bits = WEIGHTS_ALONE[config.precision]
        self.method = config.rounding
        self.steps: list[dict[str, Any]] = []
        pass_ = self._pass(config.keep)
        self.layers = [x for x in layers_of(graph) if pass_.refuses(x.node) is None]
        if not self.layers:
            raise UnsupportedError(
                f"the model has no product with at least {pass_.least} constant f32 weights: "
                "there is nothing to quantize"
            )
        self.names = [layer.name for layer in self.layers]
        self.judge = Judge(Engine(graph), samples.first(_TRIED_ON), find_metric("cosine"))
        self._codes: dict[str, Array] = {}
        if config.rounding == "gptq":
            self._codes = self._rounded()

    def _pass(self, keep: Collection[str]) -> LossyQuantizeWeights:
        config = self.config
        return LossyQuantizeWeights(
            bits=self.bits, group=config.group, zeros=config.zeros, keep=tuple(sorted(keep))
        )

    def build(self, keep: Collection[str] = ()) -> Graph:
        """The graph with quantized weights; layers in ``keep`` keep theirs."""
        result = optimize(self.graph, self._pass({*self.config.keep, *keep}))
        if self._codes:
            nodes = {node.output.name: node for node in result}
            for layer in self.layers:
                if layer.name in self._codes:
                    _store(result, nodes[layer.node.output.name], self._codes[layer.name])
        return result

    def _rounded(self) -> dict[str, Array]:
        """Integers by least squares for every layer, on what its input is like in floats."""
        grams: dict[str, Array] = {}
        watch: dict[str, list[Callable[[Array], None]]] = {}
        for layer in self.layers:
            name = layer.input.name
            if name not in watch:
                watch[name] = [_adder(grams, name)]
        observe(self.graph, self.samples, watch, {x.input.name: x.input for x in self.layers})
        return {layer.name: self._solve(layer, grams[layer.input.name]) for layer in self.layers}

    def _solve(self, layer: Layer, gram: Array) -> Array:
        constant = layer.weights.constant
        assert constant is not None
        turned = layer.summed_axis == 1
        weight = constant.array.T if turned else constant.array
        dtype = group_type(self.bits, self.config.zeros)
        grid = block_grid(weight, 0, self.config.group, dtype, symmetric=not self.config.zeros)
        codes = least_squares_codes(weight, gram, grid)
        return np.ascontiguousarray(codes.T) if turned else codes


def _adder(grams: dict[str, Array], name: str) -> Callable[[Array], None]:
    def add(x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        grams[name] = grams.get(name, 0.0) + rows.T @ rows

    return add


def _store(graph: Graph, layer: Node, codes: Array) -> None:
    """Other integers behind the DequantizeLinear of a layer's weights."""
    weights = layer.input(1)
    if weights is None or weights.producer is None:
        return
    old = weights.producer.input(0)
    assert old is not None
    graph.set_input(weights.producer, 0, graph.add_constant(codes, old.name))
    if not old.use_count:
        graph.erase_constant(old)
