"""What benchmarks compute: errors, ratios, tables, and the worker's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, report
from benchmarks.worker import Worker, WorkerError
from tests.wheel.model import small_model


def test_relative_l2() -> None:
    want = np.array([3.0, 4.0], np.float32)
    assert compare.relative_l2(want, want) == 0
    assert compare.relative_l2(np.array([3.0, 4.5]), want) == pytest.approx(0.1)
    assert compare.relative_l2(np.array([np.nan, 4.0]), want) == float("inf")
    assert compare.relative_l2(want.reshape(1, 2), want) == float("inf")
    assert compare.relative_l2(np.array([2.0]), np.array([0.0])) == 2.0


def test_ratio_has_the_spread_of_the_rounds() -> None:
    measured = compare.Measured("m", 0, {})
    measured.rounds = {"graphopt": [[10, 10], [30, 30]], "onnxruntime": [[20, 20], [20, 20]]}
    assert measured.ratio("onnxruntime") == (1.0, 0.5, 1.5)


def test_lead_is_over_the_fastest_peer() -> None:
    measured = compare.Measured("m", 0, {}, rounds={"graphopt": [[10]]})
    assert measured.lead() is None
    measured.rounds |= {"onnxruntime": [[30]], "openvino": [[15]]}
    assert measured.lead() == 1.5


def test_a_peer_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, engine: str, *rest: object) -> None:
            if engine == "openvino":
                raise WorkerError("openvino: no such op")
            self.engine = engine

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *rest: object) -> None:
            pass

        def run(self, times: int) -> list[int]:
            return [7] * times

        def outputs(self, file: Path) -> list[np.ndarray]:
            return [np.ones(2)]

    monkeypatch.setattr(compare, "Worker", Fake)
    monkeypatch.setattr(compare.zoo, "path", lambda name: tmp_path)
    engines = ["graphopt", "openvino", "onnxruntime"]
    measured = compare.measure("magika", tmp_path, engines, tmp_path, runs=4, rounds=2)
    assert measured.failed == {"openvino": "openvino: no such op"}
    assert measured.rounds == {"graphopt": [[7, 7]] * 2, "onnxruntime": [[7, 7]] * 2}
    assert measured.error == 0


def test_table_lines_up() -> None:
    table = report.markdown(["model", "ms"], [["a", "1.5"], ["longer", "10"]])
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|--------|----:|"


@pytest.mark.parametrize(
    ("ns", "text"), [(71_200, "0.0712"), (2_954_000, "2.95"), (24_940_000, "24.9"), (1.16e8, "116")]
)
def test_milliseconds(ns: float, text: str) -> None:
    assert report.milliseconds(ns) == text


def test_worker_runs_an_engine_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    onnx.save(small_model(), tmp_path / "m.onnx")
    x = np.ones((1, 3, 16, 16), np.float32)
    np.savez(tmp_path / "feed.npz", x=x)
    with Worker("oracle", tmp_path / "m.onnx", tmp_path / "feed.npz", 1) as worker:
        assert worker.load_ns > 0
        assert len(worker.run(5)) == 5
        (out,) = worker.outputs(tmp_path / "out.npz")
    assert out.shape == (1, 5)
    assert out.sum() == pytest.approx(1, abs=1e-6)


def test_a_failing_engine_is_reported_with_its_own_words(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    np.savez(tmp_path / "feed.npz", x=np.ones(1))
    with pytest.raises(WorkerError, match=r"oracle: .*missing\.onnx"):
        Worker("oracle", tmp_path / "missing.onnx", tmp_path / "feed.npz", 1)
