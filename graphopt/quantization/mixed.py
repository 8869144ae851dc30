"""Sensitivity by measurement, and the layers that go back to floats so that a budget holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphopt.compress.placement import Layer, layers_of
from graphopt.ir import Graph, evaluate, symbols
from graphopt.quantization.config import QuantizeConfig
from graphopt.quantization.judge import Judge, Verdict
from graphopt.quantization.static import Static
from graphopt.quantization.weights import Weights

__all__ = ["Maker", "sensitivities", "settle"]

Maker = Static | Weights

# Samples that a layer's own error is measured on.
_SAMPLES = 4


def sensitivities(maker: Maker, seconds: float) -> dict[str, float]:
    """The error of the outputs when a layer alone is quantized, for each layer, in order.

    Where time runs out, neighbours are measured together from then on: each gets its share of what
    they cause.
    """
    names = [name for name in maker.names if name not in maker.config.keep]
    started = time.monotonic()
    found: dict[str, float] = {}
    rest = list(names)
    size = 1
    while rest:
        group, rest = rest[:size], rest[size:]
        error = maker.judge.error(maker.build(set(names).difference(group)), _SAMPLES)
        # Errors of independent roundings add up by their squares.
        found.update(dict.fromkeys(group, error / len(group) ** 0.5))
        spent = time.monotonic() - started
        each = spent / max(len(found) / size, 1)
        left = max(seconds - spent, 1e-3)
        size = max(1, round(len(rest) * each / left)) if len(rest) * each > left else 1
    return found


@dataclass
class _Attempt:
    """A graph with the layers that it keeps in floats, and how it was judged."""

    kept: list[str]
    graph: Graph
    verdict: Verdict
    met: bool


def settle(maker: Maker, judge: Judge, config: QuantizeConfig) -> tuple[Graph, dict[str, Any]]:
    """The quantized graph whose loss on held-out data is within the budget, if there is one.

    ``int8`` quantizes every layer; ``mixed`` leaves as few as it must in floats, those that cause
    the most error for the work that they save first: as many again until the budget holds, then as
    few as bisection finds.
    """
    judged = 0

    def attempt(kept: list[str]) -> _Attempt:
        nonlocal judged
        judged += 1
        graph = maker.build(kept)
        verdict = judge.verdict(graph)
        met = config.max_drop is None or verdict.drop.value <= config.max_drop
        return _Attempt(kept, graph, verdict, met)

    best = attempt([])
    mixed = config.precision != "int8" and not best.met
    found: dict[str, float] = {}
    if config.sensitivity or mixed:
        found = sensitivities(maker, config.seconds)
    if mixed:
        best = _search(_order(maker, found), attempt)
    kept = {*best.kept, *config.keep}
    return best.graph, {
        "met": best.met,
        "judged": judged,
        "accuracy": best.verdict.as_dict(),
        "kept": sorted(kept),
        "layers": _rows(maker, found, kept),
    }


def _search(order: list[str], attempt: Callable[[list[str]], _Attempt]) -> _Attempt:
    failed, count = 0, 1
    best = attempt(order[:count])
    while not best.met and count < len(order):
        failed, count = count, min(2 * count, len(order))
        best = attempt(order[:count])
    while best.met and count - failed > 1:
        middle = (count + failed) // 2
        tried = attempt(order[:middle])
        if tried.met:
            best, count = tried, middle
        else:
            failed = middle
    return best


def _order(maker: Maker, found: dict[str, float]) -> list[str]:
    """Layers by squared error for each multiplication that integers would save, worst first."""
    work = {layer.name: max(work_of(layer), 1.0) for layer in layers_of(maker.graph)}
    total = sum(work.values())
    # A small constant share: a layer with next to no work is no bargain for any error at all.
    return sorted(found, key=lambda n: (-(found[n] ** 2) / (work[n] / total + 1e-3), n))


def work_of(layer: Layer) -> float:
    """Multiplications of a run with open sizes taken as 1."""
    cost = layer.node.op.cost
    if cost is None:
        return 1.0
    flops = cost(layer.node).flops
    return evaluate(flops, dict.fromkeys(symbols(flops), 1)) / 2


def _rows(maker: Maker, found: dict[str, float], kept: set[str]) -> list[dict[str, Any]]:
    """One row a layer, those that cause the most error first."""
    rows = []
    for layer in layers_of(maker.graph):
        if layer.name not in maker.names:
            continue
        rows.append(
            {
                "name": layer.name,
                "op": layer.node.op.name,
                "bits": 32 if layer.name in kept else maker.bits,
                "weights": layer.weights.constant.numel if layer.weights.constant else 0,
                "multiplications": work_of(layer),
                "error": found.get(layer.name),
            }
        )
    return sorted(rows, key=lambda row: (-(row["error"] or 0.0), row["name"]))
