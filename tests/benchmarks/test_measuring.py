"""What benchmarks compute: errors, ratios, tables, and the worker's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, engines, load_time, peak, report
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
        def __init__(self, engine: str, *rest: object, **options: object) -> None:
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
        assert worker.load_ns >= worker.ready_ns > 0
        assert worker.peak_bytes() > 1 << 20
        assert len(worker.run(5)) == 5
        (out,) = worker.outputs(tmp_path / "out.npz")
    assert out.shape == (1, 5)
    assert out.sum() == pytest.approx(1, abs=1e-6)


def test_a_failing_engine_is_reported_with_its_own_words(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    np.savez(tmp_path / "feed.npz", x=np.ones(1))
    with pytest.raises(WorkerError, match=r"oracle: .*missing\.onnx"):
        Worker("oracle", tmp_path / "missing.onnx", tmp_path / "feed.npz", 1)


def test_an_engine_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    np.savez(tmp_path / "feed.npz", x=np.ones(1))
    with pytest.raises(WorkerError, match="no first result within 0 s"):
        Worker("oracle", tmp_path / "m.onnx", tmp_path / "feed.npz", 1, limit=0.001)


def test_spread_is_half_the_distance_of_the_quartiles() -> None:
    measured = compare.Measured("m", 0, {}, rounds={"graphopt": [[90, 100], [110, 100]]})
    assert measured.spread("graphopt") == pytest.approx(0.075)


def test_share_of_the_peak() -> None:
    assert peak.Rate(flops=1e9, peak=100e9).share(20e6) == pytest.approx(0.5)


def test_a_line_of_load_times() -> None:
    mine = {"ready_ns": 20e6, "first_ns": 50e6, "rss_bytes": 150e6}
    peer = {"ready_ns": 100e6, "first_ns": 100e6, "rss_bytes": 300e6}
    record = {"model": "m", "engines": {"graphopt": mine, "onnxruntime": peer}}
    cells = load_time.row(record, ["graphopt", "onnxruntime", "openvino"])
    assert cells[1:4] == ["20.0", "50.0", "150"]
    assert cells[7:10] == ["-", "-", "-"]
    assert cells[-3:] == ["0.20", "0.50", "0.50"]
    failed = load_time.row({"model": "m", "failed": "no"}, ["graphopt", "onnxruntime"])
    assert len(failed) == 10


@pytest.mark.parametrize("engine", ["tvm", "iree"])
def test_further_engines_agree_with_the_oracle(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip(engines.module(engine))
    import onnx

    onnx.save(small_model(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    np.savez(tmp_path / "feed.npz", x=x)
    results = []
    for name in ("oracle", engine):
        with Worker(name, tmp_path / "m.onnx", tmp_path / "feed.npz", 1) as worker:
            results.append(worker.outputs(tmp_path / "out.npz"))
    assert compare.worst_error(*results) < 1e-5
