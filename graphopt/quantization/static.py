"""Static quantization: ranges from calibration, then whatever lowers the error without training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from graphopt.api import optimize
from graphopt.compress.migrate import migration_factors
from graphopt.compress.placement import layers_of
from graphopt.compress.ranges import METHODS, find_range
from graphopt.data import Samples, find_metric
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph
from graphopt.passes.lossy.lossy_quantize import LossyQuantize
from graphopt.passes.migrate_scales import MigrateScales
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
        """Settles method and migration, by the error of the outputs on calibration data."""
        error = self._choose_method()
        if self.config.migrate is False:
            return
        migrated = self._migrated()
        if migrated is None:
            return
        plain = (self.graph, self.observed, self.method)
        self.graph = migrated
        self.observed = observe_layers(self.graph, self.samples)
        found = self._choose_method(" after migration")
        if self.config.migrate is None and found > _MARGIN * error:
            self.graph, self.observed, self.method = plain

    def _choose_method(self, note: str = "") -> float:
        methods = _TRIED_METHODS if self.config.method == "auto" else (self.config.method,)
        if len(methods) == 1 and self.config.migrate is not None:
            self.method = methods[0]
            return 0.0
        errors = {m: self.judge.error(self.build(method=m)) for m in methods}
        for method, error in errors.items():
            self.steps.append({"step": f"ranges by {method}{note}", "error": error})
        self.method = min(errors, key=lambda m: (errors[m], list(METHODS).index(m)))
        return errors[self.method]

    def _migrated(self) -> Graph | None:
        """The graph with evened operands of products; None where no column sticks out."""
        scales = {}
        for layer in layers_of(self.graph):
            name = layer.input.name
            channels = self.observed[name].channels
            if layer.node.op.name not in ("MatMul", "Gemm") or channels is None:
                continue
            if channels.lows is not None and (found := migration_factors(channels.magnitudes)):
                scales[name] = found
        if not scales:
            return None
        return optimize(self.graph, MigrateScales(tuple(scales.items())))
