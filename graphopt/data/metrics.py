"""What accuracy is: scores of outputs, their value over many samples, and how sure it is.

Scores without labels are taken against the model before it was compressed: the share of samples
that it classifies alike, or the cosine between the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.data.samples import import_function
from graphopt.errors import InputError, OptionError

__all__ = ["METRICS", "Interval", "Metric", "drop_interval", "find_metric"]

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
# Records of one run: a row for each thing that is scored.
Score = Callable[[Outputs, Any, Outputs], Array]
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Metric:
    """How outputs are judged; larger is better.

    ``score(outputs, label, reference)`` gives a row for each thing scored, ``value`` makes one
    number of many rows. ``proportion``: rows are 0 or 1 and the value is their mean.
    """

    name: str
    score: Score
    value: Callable[[Array], float]
    proportion: bool = False
    needs_labels: bool = False

    def interval(self, rows: Array) -> Interval:
        """The value with its confidence: Wilson's interval of a proportion, else the bootstrap."""
        value = self.value(rows)
        if self.proportion:
            return Interval(value, *wilson(float(rows.sum()), len(rows)))
        return Interval(value, *_bootstrap(len(rows), lambda chosen: self.value(rows[chosen])))


def wilson(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927)."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        / (1 + z * z / count)
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def drop_interval(metric: Metric, before: Array, after: Array) -> Interval:
    """How much of the value is lost, over samples that both were scored on, by the paired bootstrap
    (Efron and Tibshirani, 1993): the samples that both get right say nothing about the difference.
    """
    value = metric.value(before) - metric.value(after)
    ends = _bootstrap(
        len(before), lambda chosen: metric.value(before[chosen]) - metric.value(after[chosen])
    )
    return Interval(value, *ends)


def _bootstrap(count: int, value: Callable[[Array], float]) -> tuple[float, float]:
    if count == 0:
        return -math.inf, math.inf
    rng = np.random.default_rng(0)
    found = [value(rng.integers(0, count, count)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _mean(rows: Array) -> float:
    return float(rows.mean()) if len(rows) else 0.0


def _first(outputs: Outputs) -> Array:
    return np.asarray(next(iter(outputs.values())))


def _classes(outputs: Outputs) -> Array:
    """The likeliest class of each row of the first output, classes along its last axis."""
    found = _first(outputs)
    return np.asarray(np.argmax(found.reshape(-1, found.shape[-1]), axis=1))


def _targets(outputs: Outputs, label: Any, reference: Outputs) -> tuple[Array, Array]:
    predicted = _classes(outputs)
    wanted = _classes(reference) if label is None else np.asarray(label).reshape(-1)
    if wanted.shape != predicted.shape:
        raise InputError(
            f"{wanted.size} labels for {predicted.size} rows of output "
            f"'{next(iter(outputs))}' {list(_first(outputs).shape)}"
        )
    return predicted, wanted


def _top1(outputs: Outputs, label: Any, reference: Outputs) -> Array:
    predicted, wanted = _targets(outputs, label, reference)
    return np.asarray(predicted == wanted, np.float64)


def _f1(outputs: Outputs, label: Any, reference: Outputs) -> Array:
    return np.stack(_targets(outputs, label, reference), axis=1)


def _macro_f1(rows: Array) -> float:
    """The mean over classes that occur of the harmonic mean of precision and recall."""
    if not len(rows):
        return 0.0
    classes, flat = np.unique(rows, return_inverse=True)
    predicted, wanted = flat.reshape(rows.shape).T
    hits = np.bincount(wanted[predicted == wanted], minlength=len(classes))
    sizes = np.bincount(predicted, minlength=len(classes)) + np.bincount(
        wanted, minlength=len(classes)
    )
    return float(np.mean(2 * hits / np.maximum(sizes, 1)))


def _cosine(outputs: Outputs, label: Any, reference: Outputs) -> Array:
    """The least cosine over the float outputs."""
    worst = 1.0
    for name, wanted in reference.items():
        if np.asarray(wanted).dtype.kind != "f":
            continue
        a = np.asarray(outputs[name], np.float64).ravel()
        b = np.asarray(wanted, np.float64).ravel()
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if size == 0:
            worst = min(worst, float(not a.any() and not b.any()))
        else:
            found = float(a @ b) / size
            worst = min(worst, found if math.isfinite(found) else -1.0)
    return np.array([worst])


METRICS: dict[str, Metric] = {
    "top1": Metric("top1", _top1, _mean, proportion=True),
    "f1": Metric("f1", _f1, _macro_f1),
    "cosine": Metric("cosine", _cosine, _mean),
}


def find_metric(spec: str) -> Metric:
    """``top1``, ``f1`` (macro), ``cosine``, or ``module:function``.

    A function takes the outputs by name, the label (None without one) and the outputs of the model
    before compression, and returns a score, larger is better, or a list of them; the value is their
    mean. Raises OptionError for an unknown metric, InputError for a function that does not load.
    """
    found = METRICS.get(spec)
    if found is not None:
        return found
    module, colon, function = spec.partition(":")
    if not colon or not module or not function.isidentifier():
        raise OptionError(
            f"there is no metric '{spec}' (there are: {', '.join(METRICS)}, or module:function)"
        )
    call = import_function(module, function)

    def score(outputs: Outputs, label: Any, reference: Outputs) -> Array:
        result: Sequence[float] | float = call(outputs, label, reference)
        return np.atleast_1d(np.asarray(result, np.float64))

    return Metric(spec, score, _mean)
