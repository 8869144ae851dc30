"""What quantization gains in time, measured: both models on the same inputs, in turns."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping
from typing import Any

from graphopt.compiler import FallbackWarning, compile_graph
from graphopt.ir import Graph
from graphopt.runtime import Session, open_artifact

__all__ = ["measure_gain"]

_ROUNDS = 7
# A round of one model takes about this long, in seconds.
_ROUND_SECONDS = 0.05
# Faster by less than this is no gain.
_NOISE = 0.02


def measure_gain(before: Graph, after: Graph, feed: Mapping[str, Any]) -> dict[str, Any]:
    """Median milliseconds of both on the CPU, their ratio (above 1: ``after`` is faster), the time
    of each step by the node that it stands for, and an ``alarm`` where nothing was gained."""
    sessions = (_session(before), _session(after))
    times: tuple[list[float], list[float]] = ([], [])
    for session in sessions:
        session.run(feed)
    for _ in range(_ROUNDS):
        for session, found in zip(sessions, times, strict=True):
            found.append(_median(session, feed))
    first, second = (statistics.median(found) for found in times)
    ratio = first / second if second else 1.0
    result: dict[str, Any] = {
        "before_ms": round(first * 1e3, 4),
        "after_ms": round(second * 1e3, 4),
        "speedup": round(ratio, 3),
        "steps_before": _steps(sessions[0], feed),
        "steps_after": _steps(sessions[1], feed),
    }
    if ratio < 1 + _NOISE:
        result["alarm"] = (
            f"no gain: {second * 1e3:.3g} ms a run after quantization, {first * 1e3:.3g} ms before"
        )
    return result


def _session(graph: Graph) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return open_artifact(compile_graph(graph, "cpu"))


def _median(session: Session, feed: Mapping[str, Any]) -> float:
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < _ROUND_SECONDS:
        start = time.perf_counter()
        session.run(feed)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _steps(session: Session, feed: Mapping[str, Any]) -> dict[str, float]:
    """Microseconds by the name of a step."""
    result: dict[str, float] = {}
    for row in session.profile(feed, runs=5):
        result[row.name] = result.get(row.name, 0.0) + row.microseconds
    return {name: round(value, 2) for name, value in result.items()}
