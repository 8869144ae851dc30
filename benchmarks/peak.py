"""How much of the machine's multiply-add peak a model uses, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.worker import ROOT, WorkerError


@dataclass(frozen=True)
class Rate:
    """Operations of a model's products, and operations a second that the machine reaches."""

    flops: float
    peak: float

    def share(self, ns: float) -> float:
        """What ``ns`` nanoseconds for the model are of the peak."""
        return self.flops / self.peak / (ns / 1e9)


def measure(
    artifact: Path, shapes: Mapping[str, Sequence[int]], threads: int, env: Mapping[str, str]
) -> Rate:
    """The rate for ``artifact`` on inputs of ``shapes``. Raises WorkerError."""
    given = {name: list(shape) for name, shape in shapes.items()}
    command = [sys.executable, "-m", "benchmarks.peak", str(artifact), json.dumps(given)]
    own = os.environ | {"PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        [*command, str(threads)], capture_output=True, text=True, check=False, env=own
    )
    if done.returncode != 0:
        raise WorkerError(f"measuring the peak: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    return Rate(found["flops"], found["peak"])


def main() -> int:
    """Entry of the subprocess: ARTIFACT SHAPES THREADS, one JSON object on standard output."""
    from graphopt.runtime.artifact import Artifact
    from graphopt.runtime.roofline import measure_peaks, plan_work

    artifact, shapes, threads = sys.argv[1:]
    work = plan_work(Artifact.load(artifact).json("plan"), json.loads(shapes))
    flops = sum(item.flops or 0.0 for _, item in work if item is not None)
    print(json.dumps({"flops": flops, "peak": measure_peaks(int(threads)).flops}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
