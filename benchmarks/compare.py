"""Compile a zoo model and measure it beside its peers: what ``cpu.py`` and ``demo.py`` share."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import zoo
from benchmarks.engines import Array
from benchmarks.worker import ROOT, Worker, WorkerError

REST_SECONDS = 0.02
"""Pause between turns: longer than any engine's threads spin after their last run."""


@dataclass
class Measured:
    """Times of each engine by round, and the error of graphopt against the oracle."""

    model: str
    case: int
    shapes: dict[str, tuple[int, ...]]
    error: float | None = None
    compile_seconds: float | None = None
    rounds: dict[str, list[list[int]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Peers that cannot load or run the model, and what they say."""

    def median(self, engine: str) -> float:
        """Median nanoseconds over all runs of all rounds."""
        return statistics.median(t for block in self.rounds[engine] for t in block)

    def ratio(self, peer: str) -> tuple[float, float, float]:
        """graphopt over ``peer``: ratio of medians, then the least and greatest of any round."""
        each = self._each(peer)
        return self.median("graphopt") / self.median(peer), min(each), max(each)

    def paired(self, peer: str) -> float:
        """graphopt over ``peer``, median of the rounds' ratios: unlike the ratio of the medians it
        does not move when the machine changes its pace between rounds."""
        return statistics.median(self._each(peer))

    def _each(self, peer: str) -> list[float]:
        pairs = zip(self.rounds["graphopt"], self.rounds[peer], strict=True)
        return [statistics.median(a) / statistics.median(b) for a, b in pairs]

    def spread(self, engine: str) -> float:
        """Half the distance between the quartiles of an engine's times, over their median."""
        low, middle, high = statistics.quantiles(
            (t for block in self.rounds[engine] for t in block), n=4
        )
        return (high - low) / 2 / middle

    def lead(self) -> float | None:
        """Median of the fastest peer over graphopt's: above 1 graphopt is the fastest. None
        without peers."""
        peers = [self.median(name) for name in self.rounds if name != "graphopt"]
        return min(peers) / self.median("graphopt") if peers else None


def compile_model(name: str, folder: Path, *options: str) -> tuple[Path, float]:
    """Compile zoo model ``name`` by the command line in a process of its own.

    Returns the artifact and the wall time. Raises WorkerError with the compiler's own message.
    """
    artifact = folder / f"{name}.gopt"
    command = [sys.executable, "-m", "graphopt", "compile", str(zoo.path(name))]
    command += ["--target", "cpu", "--output", str(artifact), *options]
    begin = time.perf_counter()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise WorkerError(f"graphopt compile {name}: {(done.stderr or done.stdout).strip()}")
    return artifact, time.perf_counter() - begin


def measure(
    name: str,
    artifact: Path,
    engines: Sequence[str],
    folder: Path,
    *,
    case: int = 0,
    threads: int = 2,
    runs: int = 60,
    rounds: int = 3,
    warmups: int = 3,
    limit: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Measured:
    """Time every engine on one input, in blocks of runs that take turns.

    The order of the engines turns around every round, so that a drift of the machine's speed
    falls on all of them. A peer that fails, or has no result after ``limit`` seconds, is left out,
    with its reason in the result. ``env`` is set for graphopt alone. Raises WorkerError when
    graphopt or the oracle fails.
    """
    feed = folder / f"{name}-{case}.npz"
    np.savez(feed, **zoo.inputs(name, 0, case))
    result = Measured(name, case, zoo.get(name).shapes(case))
    with ExitStack() as stack:
        workers: list[Worker] = []
        for engine in engines:
            mine = engine == "graphopt"
            file = artifact if mine else zoo.path(name)
            own = env if mine else None
            try:
                worker = Worker(engine, file, feed, threads, limit=limit, env=own)
                workers.append(stack.enter_context(worker))
            except WorkerError as error:
                if engine == "graphopt":
                    raise
                result.failed[engine] = str(error)
        for worker in workers:
            worker.run(warmups)
            result.rounds[worker.engine] = []
        for index in range(rounds):
            for worker in workers if index % 2 == 0 else reversed(workers):
                time.sleep(REST_SECONDS)
                worker.run(1)
                result.rounds[worker.engine].append(worker.run(max(1, runs // rounds)))
        got = next(w for w in workers if w.engine == "graphopt").outputs(folder / "got.npz")
    with Worker("oracle", zoo.path(name), feed, threads) as oracle:
        want = oracle.outputs(folder / "want.npz")
    result.error = worst_error(got, want)
    return result


def worst_error(got: Sequence[Array], want: Sequence[Array]) -> float:
    """Largest relative L2 distance over the outputs; inf where shapes or finiteness differ."""
    return max(relative_l2(a, b) for a, b in zip(got, want, strict=True))


def relative_l2(got: Array, want: Array) -> float:
    """``|got - want| / |want|`` in double precision; inf where shapes or finiteness differ."""
    if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    a = np.where(np.isfinite(got), got, 0).astype(np.float64)
    b = np.where(np.isfinite(want), want, 0).astype(np.float64)
    norm = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(a - b))
    return distance / norm if norm else distance
