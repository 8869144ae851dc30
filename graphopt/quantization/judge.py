"""How far a quantized model is from the one before it: errors, and scores with confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.data import Interval, Metric, Sample, Samples, drop_interval
from graphopt.ir import Graph
from graphopt.quantization.engine import Engine

__all__ = ["Judge", "Verdict", "output_error"]

Array = np.ndarray[Any, Any]
# Outputs of the reference are kept up to this many bytes, and computed again beyond.
_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Verdict:
    """Scores on the same samples before and after, and what was lost."""

    before: Interval
    after: Interval
    drop: Interval
    samples: int

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "before": _numbers(self.before),
            "after": _numbers(self.after),
            "drop": _numbers(self.drop),
            "samples": self.samples,
        }


def _numbers(found: Interval) -> list[float]:
    return [round(float(x), 6) for x in (found.value, found.low, found.high)]


class Judge:
    """The model before quantization and samples to compare it on."""

    def __init__(self, reference: Engine, samples: Samples, metric: Metric) -> None:
        self.reference = reference
        self.samples = samples
        self.metric = metric
        self._kept: dict[str, dict[str, Array]] = {}
        self._bytes = 0
        self._before: Array | None = None

    def _expected(self, sample: Sample) -> dict[str, Array]:
        key = sample.digest
        found = self._kept.get(key)
        if found is None:
            found = self.reference.run(sample.feed)
            size = sum(array.nbytes for array in found.values())
            if self._bytes + size <= _KEPT_BYTES:
                self._kept[key] = found
                self._bytes += size
        return found

    def error(self, graph: Graph, limit: int | None = None) -> float:
        """Relative L2 distance of the outputs over the samples, the first ``limit`` spread evenly;
        that of the worst output. Infinite where an output is not finite but should be."""
        engine = Engine(graph)
        samples = self.samples if limit is None else self.samples.first(limit)
        distance: dict[str, float] = {}
        size: dict[str, float] = {}
        for sample in samples:
            expected = self._expected(sample)
            actual = engine.run(sample.feed)
            for name, wanted in expected.items():
                a, b = output_error(actual[name], wanted)
                distance[name] = distance.get(name, 0.0) + a
                size[name] = size.get(name, 0.0) + b
        return max(
            (math.sqrt(distance[n] / size[n]) if size[n] else float(distance[n] > 0))
            for n in distance
        )

    def verdict(self, graph: Graph) -> Verdict:
        """Scores of ``graph`` beside those of the reference."""
        engine = Engine(graph)
        before: list[Array] = []
        after: list[Array] = []
        for sample in self.samples:
            expected = self._expected(sample)
            if self._before is None:
                before.append(self.metric.score(expected, sample.label, expected))
            after.append(self.metric.score(engine.run(sample.feed), sample.label, expected))
        if self._before is None:
            self._before = np.concatenate(before)
        rows = np.concatenate(after)
        return Verdict(
            self.metric.interval(self._before),
            self.metric.interval(rows),
            drop_interval(self.metric, self._before, rows),
            len(rows),
        )


def output_error(actual: Array, wanted: Array) -> tuple[float, float]:
    """Squared distance and squared size. Where the wanted number is not finite, any will do."""
    a, b = np.asarray(actual, np.float64), np.asarray(wanted, np.float64)
    if a.shape != b.shape:
        return math.inf, 1.0
    usable = np.isfinite(b)
    a, b = a[usable], b[usable]
    if not np.all(np.isfinite(a)):
        return math.inf, 1.0
    return float(np.sum((a - b) ** 2)), float(np.sum(b**2))
