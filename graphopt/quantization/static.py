"""Static quantization: ranges from calibration, then whatever lowers the error without training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from graphopt.api import optimize
from graphopt.compress.placement import layers_of
from graphopt.compress.ranges import METHODS, find_range
from graphopt.data import Samples, find_metric
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph
from graphopt.passes.lossy.lossy_quantize import LossyQuantize
from graphopt.quantization.calibrate import Observed, observe_layers
from graphopt.quantization.config import QuantizeConfig
from graphopt.quantization.engine import Engine
from graphopt.quantization.judge import Judge
from graphopt.rewrite import PassContext

__all__ = ["Static"]

# Choices are compared on so many calibration samples.
_TRIED_ON = 16
# What is tried must win by this share to be kept: less is noise.
_MARGIN = 0.98
_TRIED_METHODS = ("minmax", "percentile", "mse")


@dataclass
class Static:
    """A model that is being quantized: the graph in floats, what was observed, what was chosen."""

    graph: Graph
    samples: Samples
    config: QuantizeConfig
    observed: Observed = field(default_factory=dict)
    method: str = "minmax"
    steps: list[dict[str, Any]] = field(default_factory=list)
    bits: int = 8

    def __post_init__(self) -> None:
        if not layers_of(self.graph):
            raise UnsupportedError(
                "the model has no Conv, ConvTranspose, Gemm or MatMul in f32 with constant "
                "weights: there is nothing to quantize"
            )
        self.names = [layer.name for layer in layers_of(self.graph)]
        self.observed = observe_layers(self.graph, self.samples)
        self.judge = Judge(Engine(self.graph), self.samples.first(_TRIED_ON), find_metric("cosine"))

    def build(
        self, keep: Collection[str] = (), method: str | None = None, ctx: PassContext | None = None
    ) -> Graph:
        """The quantized graph; layers in ``keep`` stay in floats."""
        config = self.config
        ranges = tuple(
            (name, *self._range(name, method or self.method)) for name in sorted(self.observed)
        )
        names = tuple(sorted({*config.keep, *keep}))
        pass_ = LossyQuantize(
            ranges=ranges,
            keep=names,
            activations=config.activations,
            symmetric=config.symmetric,
            per_channel=config.per_channel,
        )
        return optimize(self.graph, pass_, ctx=ctx)

    def _range(self, name: str, method: str) -> tuple[float, float]:
        return find_range(
            self.observed[name].histogram,
            method,
            percentile=self.config.percentile,
            symmetric=self.config.symmetric,
        )

    def choose(self) -> None:
        """Settles the method, by the error of the outputs on calibration data."""
        if self.config.method != "auto":
            self.method = self.config.method
            return
        errors = {m: self.judge.error(self.build(method=m)) for m in _TRIED_METHODS}
        for method, error in errors.items():
            self.steps.append({"step": f"ranges by {method}", "error": error})
        self.method = min(errors, key=lambda m: (errors[m], list(METHODS).index(m)))
