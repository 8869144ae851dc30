"""The zoo's catalog, feeds and cache, without any real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import zoo
from benchmarks.zoo import store
from benchmarks.zoo.catalog import Package

NAMES = [model.name for model in zoo.models()]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_models_have_three_different_shapes(name: str) -> None:
    model = zoo.get(name)
    shapes = [
        str(model.shapes(case)) + str(dict(model.cases[case])) for case in range(len(model.cases))
    ]
    assert len(set(shapes)) == len(shapes)
    assert len(model.cases) == (3 if model.dynamic else 1)


@pytest.mark.parametrize("name", NAMES)
def test_feeds_fit_the_declared_inputs_and_repeat(name: str) -> None:
    model = zoo.get(name)
    for case in range(len(model.cases)):
        feed, again = zoo.inputs(name, 3, case), zoo.inputs(name, 3, case)
        for item in model.inputs:
            array = feed[item.name]
            assert array.dtype == np.dtype(item.dtype)
            assert array.shape == model.shapes(case)[item.name]
            assert np.array_equal(array, again[item.name])
            if item.kind == "tokens":
                assert 0 <= array.min() <= array.max() < item.high
            if array.dtype.kind == "f":
                assert np.isfinite(array).all()


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ(name: str) -> None:
    one, two = zoo.inputs(name, 0), zoo.inputs(name, 1)
    assert any(not np.array_equal(one[key], two[key]) for key in one)


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="ppocr-det"):
        zoo.get("resnet-5")


def test_a_changed_catalog_row_gets_a_new_cache_file() -> None:
    model = zoo.get("magika")
    newer = type(model)(
        model.name, model.title, model.inputs, model.cases, Package("magika", "9.9.9", ("m.onnx",))
    )
    assert store._key(newer) != store._key(model)


def test_path_is_the_cached_file_and_stale_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "wheel.onnx"
    source.write_bytes(b"model")
    monkeypatch.setenv("GRAPHOPT_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setattr(store, "packaged", lambda package, folder: [source])
    stale = tmp_path / "zoo" / "magika-000000000000.onnx"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    file = zoo.path("magika")
    assert file.read_bytes() == b"model"
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    source.unlink()
    assert zoo.path("magika") == file


def test_a_failed_fetch_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_ZOO", str(tmp_path))
    monkeypatch.setattr(store, "_installed", lambda package: None)
    monkeypatch.setattr(store.sys, "executable", "/bin/false")
    with pytest.raises(zoo.ZooError, match=r"magika==1\.0\.3.*check that pip reaches its index"):
        zoo.path("magika")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_changes_sizes_and_symbols() -> None:
    assert zoo.get("resnet-50@16").shapes(0) == {"pixel_values": (16, 3, 224, 224)}
    assert set(zoo.get("bert-base@4").shapes(0).values()) == {(4, 128)}
    vad = zoo.get("silero-vad@16").shapes(0)
    assert vad == {"input": (16, 576), "state": (2, 16, 128), "sr": ()}
    feed = zoo.inputs("magika@3")
    assert feed["bytes"].shape == (3, 2048)
    assert store.cached("magika@3") == store.cached("magika")
    assert store.cached("resnet-50@3") != store.cached("resnet-50")
    with pytest.raises(KeyError, match="one sample at a time"):
        zoo.get("silero-vad-openvino-16k@2")
