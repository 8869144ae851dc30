"""One engine in a process of its own, told over pipes when to run.

The worker blocks on its pipe between turns, so that it costs nothing while another is measured.
Requests and answers are one JSON object a line: ``{"run": k}`` answers ``{"ns": [...]}``,
``{"save": path}`` writes the outputs as ``.npz``, ``{"peak": true}`` answers with the most memory
that was resident; the first line a worker prints tells how long
loading and the first inference took. A failure answers ``{"error": text}``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from benchmarks import engines

ROOT = Path(__file__).resolve().parent.parent


class WorkerError(RuntimeError):
    """The engine in the other process failed; the message is its own."""


class Worker:
    """A subprocess that holds one engine with one model and one feed loaded."""

    def __init__(
        self,
        engine: str,
        file: Path,
        feed: Path,
        threads: int,
        *,
        limit: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the engine and wait until its first inference is done. Raises WorkerError.

        ``limit`` seconds are all that it may take for that; ``env`` is set for it alone.
        """
        self.engine = engine
        env = (
            os.environ
            | {"PYTHONPATH": _python_path(), **engines.environment(engine, threads)}
            | (dict(env or {}))
        )
        command = [sys.executable, "-m", "benchmarks.worker", engine]
        self._process = subprocess.Popen(
            [*command, str(file), str(feed), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        ready = self._first(limit)
        self.load_ns: int = ready["load_ns"]
        """From an imported engine to the first output."""
        self.ready_ns: int = ready["ready_ns"]
        """From an imported engine to a loaded model."""

    def run(self, times: int) -> list[int]:
        """Run the model and answer with the nanoseconds that each run took."""
        return list(self._ask({"run": times})["ns"])

    def outputs(self, file: Path) -> list[engines.Array]:
        """The outputs of one run, through an ``.npz`` written at ``file``."""
        self._ask({"save": str(file)})
        with np.load(file) as saved:
            return [saved[f"arr_{i}"] for i in range(len(saved.files))]

    def peak_bytes(self) -> int:
        """The most memory that the process has had resident so far, in bytes."""
        return int(self._ask({"peak": True})["bytes"])

    def close(self) -> None:
        """End the worker."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(timeout=60)
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _first(self, limit: float | None) -> dict[str, Any]:
        """The line that tells that the engine is ready."""
        if limit is None:
            return self._answer()
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            return self._answer()
        except WorkerError:
            if late.is_set():
                raise WorkerError(f"{self.engine}: no first result within {limit:.0f} s") from None
            raise
        finally:
            timer.cancel()

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(f"{self.engine} ended too early") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerError(f"{self.engine} ended with exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._process.wait()
            raise WorkerError(f"{self.engine}: {answer['error']}")
        return answer


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)


def _serve(engine: str, file: Path, feed_file: Path, threads: int, out: IO[str]) -> None:
    with np.load(feed_file) as saved:
        feed = {name: saved[name] for name in saved.files}
    __import__(engines.module(engine))
    begin = time.perf_counter_ns()
    run = engines.load(engine, file, threads, {name: x.shape for name, x in feed.items()})
    loaded = time.perf_counter_ns()
    run(feed)
    ready = {"ready_ns": loaded - begin, "load_ns": time.perf_counter_ns() - begin}
    print(json.dumps(ready), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "save" in request:
            np.savez(request["save"], *run(feed))
        elif "peak" in request:
            answer["bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        else:
            answer["ns"] = [_time(run, feed) for _ in range(request["run"])]
        print(json.dumps(answer), file=out, flush=True)


def _time(run: engines.Run, feed: Mapping[str, engines.Array]) -> int:
    begin = time.perf_counter_ns()
    run(feed)
    return time.perf_counter_ns() - begin


def main() -> int:
    """Entry of the subprocess. Engines that print do so on stderr: stdout is the protocol's."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine, file, feed, threads = sys.argv[1:]
    try:
        _serve(engine, Path(file), Path(feed), int(threads), out)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
