"""Running cases in worker processes: one that crashes or hangs fails alone."""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["Outcome", "run_all"]

_FORK = mp.get_context("fork")


@dataclass(frozen=True)
class Outcome:
    """What became of one case: ``pass``, ``fail``, ``crash`` or ``timeout``, and the message."""

    index: int
    status: str
    message: str
    seconds: float


class _Worker:
    """A forked process that runs cases by index; it inherits what the parent has loaded."""

    def __init__(self, run: Callable[[int], str | None], recycle: int) -> None:
        self.pipe, child = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(child, run), daemon=True)
        self.process.start()
        child.close()
        self.left = recycle
        self.index: int | None = None
        self.fresh = True
        self.started = 0.0

    def send(self, index: int) -> None:
        self.index = index
        self.started = time.monotonic()
        self.left -= 1
        self.pipe.send(index)

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, run: Callable[[int], str | None]) -> None:
    # What a case prints is not part of the report, nor is how it crashes.
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        pipe.send((index, run(index)))


def run_all(
    indices: Sequence[int],
    run: Callable[[int], str | None],
    *,
    workers: int,
    timeout: float,
    recycle: int = 200,
) -> Iterator[Outcome]:
    """Outcomes of ``run(index)`` (a failure message, or None) as they come in.

    A case that crashes a process which ran others before is tried once more in a fresh one, so that
    a predecessor's damage is not blamed on it.
    """
    queue = list(reversed(indices))
    running: list[_Worker] = []
    try:
        while queue or running:
            while queue and len(running) < workers:
                worker = _Worker(run, recycle)
                worker.send(queue.pop())
                running.append(worker)
            now = time.monotonic()
            patience = max(0.0, min(w.started + timeout - now for w in running))
            ready = wait([w.pipe for w in running], patience)
            for worker in list(running):
                outcome = _collect(worker, worker.pipe in ready, timeout, queue)
                if outcome is None and worker.index is not None:
                    continue
                if outcome is not None:
                    yield outcome
                if outcome is not None and outcome.status in ("pass", "fail") and worker.left > 0:
                    worker.fresh = False
                    if queue:
                        worker.send(queue.pop())
                        continue
                worker.stop()
                running.remove(worker)
    finally:
        for worker in running:
            worker.stop()


def _collect(worker: _Worker, ready: bool, timeout: float, queue: list[int]) -> Outcome | None:
    """The outcome of the worker's case. None: it runs (index kept), or is to be retried."""
    assert worker.index is not None
    index, seconds = worker.index, time.monotonic() - worker.started
    if ready:
        try:
            answered: Any = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            code = worker.process.exitcode
            if not worker.fresh:
                queue.append(index)
                worker.index = None
                return None
            return Outcome(index, "crash", f"the process ended with code {code}", seconds)
        message = answered[1]
        return Outcome(index, "pass" if message is None else "fail", message or "", seconds)
    if seconds > timeout:
        return Outcome(index, "timeout", f"not done after {timeout:.0f} s", seconds)
    return None
