"""Samples from files, arrays, images and functions; metrics and their confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.data import (
    drop_interval,
    find_metric,
    from_arrays,
    load_samples,
    refuse_overlap,
    split,
)
from graphopt.data.metrics import wilson
from graphopt.errors import InputError, OptionError
from graphopt.ops.text import parse

GRAPH = parse(
    "graph @main(%x: f32[N, 3], %k: i64[N]) -> (%y) {\n  %f = Cast(%k) {to = 1}\n"
    "  %u = Unsqueeze(%f, %a)\n  %y = Add(%x, %u)\n}".replace(
        "  %f =", "  %a = const i64[1] splat(1)\n  %f ="
    )
)
FIXED = parse("graph @main(%x: f32[1, 3, 4, 4]) -> (%y) {\n  %y = Relu(%x)\n}")


def test_an_npz_is_read_row_by_row(tmp_path: Path) -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    k = np.arange(5)
    for save, name in ((np.savez, "a.npz"), (np.savez_compressed, "b.npz")):
        save(tmp_path / name, x=x, k=k, labels=k * 2)
        samples = load_samples(tmp_path / name, GRAPH)
        assert len(samples) == 5
        assert samples.labelled
        for _ in range(2):
            for i, sample in enumerate(samples):
                np.testing.assert_array_equal(sample.feed["x"], x[i : i + 1])
                np.testing.assert_array_equal(sample.feed["k"], k[i : i + 1])
                assert sample.label == 2 * i
    pairs = list(load_samples(tmp_path / "a.npz", GRAPH, batch=2))
    assert [p.feed["x"].shape for p in pairs] == [(2, 3), (2, 3)]
    np.testing.assert_array_equal(pairs[1].label, [4, 6])


def test_stacked_inputs_lose_their_first_axis(tmp_path: Path) -> None:
    x = np.zeros((6, 1, 3, 4, 4), np.float32)
    np.savez(tmp_path / "a.npz", x=x)
    samples = load_samples(tmp_path / "a.npz", FIXED)
    assert len(samples) == 6
    assert next(iter(samples)).feed["x"].shape == (1, 3, 4, 4)
    assert len(from_arrays({"x": x[:, 0]}, FIXED)) == 6


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros((4, 3), np.float32)}, "lacks input 'k'"),
        ({"x": np.zeros((4, 3)), "k": np.zeros(4, np.int64)}, "is of f32, the array of float64"),
        ({"x": np.zeros((4, 2), np.float32), "k": np.zeros(4, np.int64)}, "has the shape"),
        (
            {"x": np.zeros((4, 3), np.float32), "k": np.zeros(3, np.int64)},
            "different numbers of samples",
        ),
        (
            {
                "x": np.zeros((4, 3), np.float32),
                "k": np.zeros(4, np.int64),
                "z": np.zeros(4, np.int64),
            },
            "holds 'z', which is no input",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=reason):
        load_samples(tmp_path / "a.npz", GRAPH)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip at all"])
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read data from '.*a.npz'"):
        load_samples(tmp_path / "a.npz", GRAPH)
    with pytest.raises(InputError, match="it does not exist"):
        load_samples(tmp_path / "nothing", GRAPH)


def test_images_go_through_the_steps(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for index, group in enumerate(("cat", "dog")):
        (tmp_path / "im" / group).mkdir(parents=True)
        pixels = np.full((8, 6, 3), (10 * index, 20, 30), np.uint8)
        image.fromarray(pixels).save(tmp_path / "im" / group / "a.png")
    spec = tmp_path / "p.toml"
    spec.write_text('color = "bgr"\nscale = 10.0\nmean = [1.0, 1.0, 1.0]\nstd = [2.0, 2.0, 2.0]\n')
    samples = load_samples(tmp_path / "im", FIXED, preprocess=spec)
    found = list(samples)
    assert [s.label for s in found] == [0, 1]
    np.testing.assert_allclose(found[1].feed["x"][0, :, 0, 0], [1.0, 0.5, 0.0])
    spec.write_text("colour = 'rgb'\n")
    with pytest.raises(InputError, match="there is no setting 'colour'"):
        load_samples(tmp_path / "im", FIXED, preprocess=spec)
    (tmp_path / "im" / "cat" / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image"):
        list(load_samples(tmp_path / "im", FIXED))


def test_a_function_yields_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feeds_of_test.py").write_text(
        "import numpy as np\ndef feeds():\n    for i in range(3):\n"
        "        yield {'x': np.full((1, 3, 4, 4), i, np.float32)}, i\n"
    )
    monkeypatch.chdir(tmp_path)
    samples = load_samples("feeds_of_test:feeds", FIXED)
    assert [s.label for s in samples] == [0, 1, 2]
    with pytest.raises(InputError, match="cannot load feeds_of_test:nothing"):
        load_samples("feeds_of_test:nothing", FIXED)


def test_samples_in_both_sets_are_refused() -> None:
    x = np.random.default_rng(0).random((8, 3, 4, 4), dtype=np.float32)
    whole = from_arrays({"x": x}, FIXED)
    first, second = split(whole)
    assert (len(first), len(second)) == (6, 2)
    refuse_overlap(first, second)
    with pytest.raises(InputError, match=r"2 of 2 samples of .* are also in the calibration data"):
        refuse_overlap(whole, second)


# ---- metrics ----


def test_top1_and_its_interval() -> None:
    metric = find_metric("top1")
    out = {"y": np.array([[1.0, 3.0], [2.0, 0.0]])}
    np.testing.assert_array_equal(metric.score(out, np.array([1, 1]), out), [1, 0])
    np.testing.assert_array_equal(metric.score(out, None, out), [1, 1])
    low, high = wilson(90, 100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-3), pytest.approx(0.9448, abs=1e-3))
    with pytest.raises(InputError, match="3 labels for 2 rows"):
        metric.score(out, np.zeros(3), out)


def test_f1_is_the_mean_over_classes() -> None:
    metric = find_metric("f1")
    rows = np.array([[0, 0], [0, 0], [1, 0], [1, 1]])
    assert metric.value(rows) == pytest.approx((2 * 2 / (2 + 3) + 2 * 1 / (2 + 1)) / 2)


def test_cosine_of_broken_outputs_is_the_worst() -> None:
    metric = find_metric("cosine")
    good = {"y": np.array([1.0, 2.0])}
    assert metric.score(good, None, good)[0] == pytest.approx(1)
    assert metric.score({"y": np.array([np.nan, 1])}, None, good)[0] == -1


def test_a_drop_is_paired() -> None:
    metric = find_metric("top1")
    before = np.array([1.0] * 90 + [0.0] * 10)
    after = before.copy()
    after[0] = 0
    found = drop_interval(metric, before, after)
    assert found.value == pytest.approx(0.01)
    assert found.high - found.low < 0.05
    with pytest.raises(OptionError, match="there is no metric 'best'"):
        find_metric("best")
