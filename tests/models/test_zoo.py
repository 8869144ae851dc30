"""Every model of the zoo, compiled for the cpu and compared with onnxruntime.

The oracle is onnxruntime with its optimizations off. The bound is 1e-5 relative L2, or twice the
distance between onnxruntime's own optimized and plain results where that is larger: a model that
doubles its rounding errors is no measure of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from benchmarks import zoo
from benchmarks.compare import relative_l2

pytestmark = [pytest.mark.zoo, pytest.mark.timeout(1200)]

BOUND = 1e-5
NAMES = [model.name for model in zoo.models()]
Run = Callable[[dict[str, Any]], list[Any]]


@pytest.fixture(scope="module", params=NAMES)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """One compile a model; a fallback to the reference interpreter warns, so it is an error."""
    name: str = request.param
    file = tmp_path_factory.mktemp("zoo") / f"{name}.gopt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphopt.compile(zoo.path(name), target="cpu", output=file, verify=False)
    yield name, file
    file.unlink()


def _onnxruntime(name: str, optimized: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        zoo.path(name), options, providers=["CPUExecutionProvider"]
    )
    return lambda feed: session.run(None, feed)


def test_outputs_agree_with_onnxruntime(compiled: tuple[str, Path]) -> None:
    name, file = compiled
    session = graphopt.load(file, threads=2)
    plain, optimized = _onnxruntime(name, False), _onnxruntime(name, True)
    for case in range(len(zoo.get(name).cases)):
        for seed in range(3):
            feed = zoo.inputs(name, seed, case)
            want, peer = plain(feed), optimized(feed)
            got = list(session.run(feed).values())
            assert len(got) == len(want)
            for index, (mine, right, theirs) in enumerate(zip(got, want, peer, strict=True)):
                assert mine.dtype == right.dtype
                bound = max(BOUND, 2 * relative_l2(theirs, right))
                error = relative_l2(mine, right)
                assert error <= bound, (
                    f"output {index}, seed {seed}, shapes {zoo.get(name).shapes(case)}: "
                    f"{error:.1e} > {bound:.1e}"
                )


def test_equal_inputs_give_equal_bytes(compiled: tuple[str, Path]) -> None:
    """Whatever the number of threads and the shapes seen in between."""
    name, file = compiled
    session, serial = graphopt.load(file, threads=2), graphopt.load(file, threads=1)
    feed = zoo.inputs(name, 0, 0)
    first = session.run(feed)
    session.run(zoo.inputs(name, 1, len(zoo.get(name).cases) - 1))
    for again in (session.run(feed), serial.run(feed)):
        for key, value in first.items():
            assert value.tobytes() == again[key].tobytes(), key


@pytest.mark.parametrize("name", ["ppocr-rec", "mobilenet-v2", "silero-vad"])
def test_two_compiles_are_byte_identical(name: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.gopt", tmp_path / "b.gopt"]
    for file in files:
        graphopt.compile(zoo.path(name), target="cpu", output=file, verify=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_round_trip_through_our_exporter_keeps_the_outputs(tmp_path: Path) -> None:
    import onnxruntime

    for name in ("ppocr-cls", "silero-vad", "minilm-l6"):
        file = tmp_path / f"{name}.onnx"
        graphopt.to_onnx(graphopt.from_onnx(zoo.path(name)), file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        feed = zoo.inputs(name, 0, 1)
        for mine, right in zip(
            session.run(None, feed), _onnxruntime(name, False)(feed), strict=True
        ):
            np.testing.assert_allclose(mine, right, rtol=2e-4, atol=2e-5)
