"""Which choices of the cost model a measurement overturns: each against the default, in turns.

Every alternative is built into the whole model and timed step by step in it, by the runtime that
will run it: caches are as warm or cold as they will be. Alternatives for different steps share a
build. The default stays unless the alternative is faster by more than the noise of the
measurement; the whole model with all winners must be faster, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.choices import Alternative
from graphopt.errors import GraphoptError
from graphopt.runtime.artifact import Artifact

__all__ = ["Build", "Race", "Turn", "faster", "first_runnable", "measure", "tune"]

# Turns that a verdict needs, and the least gain that is worth a choice.
_TURNS = 5
_LEAST = 0.02
# A standard error is this share of the median distance from the median of normal noise.
_SIGMA = 1.4826
_ERRORS = 3.0
# Steps that take less of the model than this are left alone.
_SHARE = 0.005


@dataclass(frozen=True)
class Build:
    """A compiled model and the source nodes that each of its steps stands for."""

    artifact: Artifact
    origins: Sequence[frozenset[str]]


@dataclass(frozen=True)
class Turn:
    """Microseconds of each step in one run, and of a run as a whole."""

    steps: Sequence[float]
    run: float


Race = Callable[[Build, Build, float], tuple[list[Turn], list[Turn]]]
"""Measures two builds in turns for some seconds: as many turns of the one as of the other."""


def tune(
    default: Build,
    alternatives: Iterable[Alternative],
    rebuild: Callable[[Sequence[Alternative]], Build],
    seconds: float,
    race: Race,
    clock: Callable[[], float] = time.monotonic,
) -> list[Alternative]:
    """The alternatives that are faster than the default; none when time does not suffice to tell.

    ``alternatives`` come most promising first. ``rebuild`` compiles the model with some of them,
    each for another step. No measurement starts after ``seconds``.
    """
    deadline = clock() + seconds
    groups = _groups(alternatives)
    best: dict[str, tuple[float, Alternative]] = {}
    light: set[str] = set()
    for index, group in enumerate(groups):
        group = [item for item in group if item.name not in light]
        if not group or clock() >= deadline:
            continue
        other = rebuild(group)
        # What is left is for the other groups and the last race alike.
        share = (deadline - clock()) / (len(groups) - index + 1)
        if share <= 0:
            break
        mine, theirs = race(default, other, share)
        for item in group:
            before, after = _times(default, mine, item), _times(other, theirs, item)
            if _is_light(before, mine):
                light.add(item.name)
                continue
            gain = faster(before, after)
            if gain is not None and gain > best.get(item.name, (1.0, item))[0]:
                best[item.name] = (gain, item)
    winners = [item for _, item in best.values()]
    if not winners or clock() >= deadline:
        return []
    final = rebuild(winners)
    mine, theirs = race(default, final, max(deadline - clock(), 0.0))
    whole = faster([turn.run for turn in mine], [turn.run for turn in theirs], least=0.0)
    return [] if whole is None else sorted(winners, key=str)


def faster(
    default: Sequence[float], candidate: Sequence[float], *, least: float = _LEAST
) -> float | None:
    """How many times faster the candidate is, by medians of times taken in turns; None where the
    difference is within the noise, or less than ``least`` of the default.

    The noise is three standard errors of the median of the paired differences, from their median
    distance to it: an outlier moves neither.
    """
    count = min(len(default), len(candidate))
    if count < _TURNS:
        return None
    differences = [a - b for a, b in zip(default, candidate, strict=False)]
    middle = statistics.median(differences)
    distance = statistics.median(abs(d - middle) for d in differences)
    noise = _ERRORS * _SIGMA * distance / count**0.5
    before, after = statistics.median(default), statistics.median(candidate)
    if after <= 0 or middle <= noise or middle <= least * before:
        return None
    return before / after


def _groups(alternatives: Iterable[Alternative]) -> list[list[Alternative]]:
    """The first alternative of every name, the second of every name, and so on."""
    groups: list[list[Alternative]] = []
    seen: dict[str, int] = {}
    for item in dict.fromkeys(alternatives):
        place = seen.get(item.name, 0)
        seen[item.name] = place + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(item)
    return groups


def _times(build: Build, turns: Sequence[Turn], item: Alternative) -> list[float]:
    """What the steps at an alternative's sites took in each turn."""
    places = [i for i, origin in enumerate(build.origins) if origin & item.sites]
    return [sum(turn.steps[i] for i in places) for turn in turns]


def _is_light(times: Sequence[float], turns: Sequence[Turn]) -> bool:
    whole = statistics.median(sum(turn.steps) for turn in turns) if turns else 0.0
    return not times or statistics.median(times) < _SHARE * whole


def measure(
    inputs: Mapping[str, Any], threads: int | None, clock: Callable[[], float] = time.monotonic
) -> Race:
    """A race by the real runtime, on arrays by input name."""

    def race(a: Build, b: Build, seconds: float) -> tuple[list[Turn], list[Turn]]:
        from graphopt.runtime import open_artifact

        sessions = [open_artifact(build.artifact, threads) for build in (a, b)]
        for session in sessions:
            _turn(session, inputs)
        turns: tuple[list[Turn], list[Turn]] = ([], [])
        end = clock() + seconds
        while len(turns[0]) < _TURNS or clock() < end:
            # Who goes first changes, so that a drift falls on both.
            order = (0, 1) if len(turns[0]) % 2 == 0 else (1, 0)
            for index in order:
                turns[index].append(_turn(sessions[index], inputs))
        return turns

    return race


def first_runnable(
    build: Build, candidates: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The first of ``candidates`` that a build runs on; None when it takes none of them."""
    from graphopt.runtime import open_artifact

    session = open_artifact(build.artifact)
    for inputs in candidates:
        try:
            session.run(inputs)
        except GraphoptError:
            continue
        return inputs
    return None


def _turn(session: Any, inputs: Mapping[str, Any]) -> Turn:
    started = time.perf_counter()
    session.run(inputs)
    run = time.perf_counter() - started
    rows = [row for row in session.profile(inputs, runs=1) if row.depth == 0]
    return Turn([row.microseconds for row in rows], 1e6 * run)
