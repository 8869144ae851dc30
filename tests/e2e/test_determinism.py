"""Equal models give equal artifacts, whatever process compiles them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from tests.backends.pipe import compiled
from tests.cli.conftest import ROOT
from tests.e2e.models import NETS, SHAPES


def _compile(model: Path, out: Path, cache: Path, seed: str, cwd: Path, *options: str) -> bytes:
    command = [sys.executable, "-m", "graphopt", "compile", str(model), "-o", str(out), *options]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": seed,
        "GRAPHOPT_CACHE": str(cache),
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


@pytest.mark.parametrize("name", NETS)
def test_processes_caches_and_hash_seeds_do_not_show(name: str, tmp_path: Path) -> None:
    """A cold cache, the same cache warm, another cold one; other names, folders, seeds."""
    model = tmp_path / "model.onnx"
    model.write_bytes(NETS[name]().model(SHAPES[name]).SerializeToString())
    other = tmp_path / "elsewhere"
    other.mkdir()
    first = _compile(model, tmp_path / "a.gopt", tmp_path / "cache", "0", tmp_path)
    warm = _compile(model, tmp_path / "b.gopt", tmp_path / "cache", "1", other)
    cold = _compile(model, other / "a.gopt", other / "cache", "random", other)
    assert first == warm
    assert first == cold


def test_in_one_process_too(tmp_path: Path) -> None:
    """Nothing that earlier compiles leave behind is seen by later ones."""
    model = NETS["dense"]().model(SHAPES["dense"])
    files = [tmp_path / f"{k}.gopt" for k in range(3)]
    compiled(model).save(files[0])
    compiled(NETS["control"]().model(SHAPES["control"]))
    compiled(model).save(files[1])
    source = graphopt.from_onnx(model)
    compiled(source)
    compiled(source).save(files[2])
    first, second, third = (file.read_bytes() for file in files)
    assert first == second == third


def test_the_name_of_the_file_is_not_part_of_it(tmp_path: Path) -> None:
    data = NETS["selecting"]().model(SHAPES["selecting"]).SerializeToString()
    artifacts = []
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(data)
        out = tmp_path / f"{name}.gopt"
        graphopt.compile(str(tmp_path / name), output=out, verify=False)
        artifacts.append(out.read_bytes())
    graphopt.compile(data, output=tmp_path / "bytes.gopt", verify=False)
    assert artifacts[0] == artifacts[1] == (tmp_path / "bytes.gopt").read_bytes()


def test_compiling_leaves_the_source_as_it_was() -> None:
    source = graphopt.from_onnx(NETS["dense"]().model(SHAPES["dense"]))
    before = str(source)
    compiled(source)
    assert str(source) == before


@pytest.mark.parametrize("name", NETS)
def test_outputs_do_not_depend_on_threads_or_on_what_ran_before(name: str, tmp_path: Path) -> None:
    net = NETS[name]()
    out = tmp_path / "m.gopt"
    compiled(net.model(SHAPES[name])).save(out)
    one, two = (graphopt.load(out, threads=n) for n in (1, 2))
    feeds = net.feeds()
    first = one.run(feeds)
    larger = {k: np.concatenate([v, v]) for k, v in feeds.items()}
    for session in (one, two):
        session.run(larger)
        again = session.run(feeds)
        assert {k: v.tobytes() for k, v in first.items()} == {
            k: v.tobytes() for k, v in again.items()
        }


def test_large_work_is_split_without_a_trace(tmp_path: Path) -> None:
    """Sizes at which the threads really share: sums must not be cut differently."""
    from tests.backends.pipe import Net

    net = Net(seed=1)
    x = net.input("x", (1, 32, 56, 56))
    h = net("Relu", net("Conv", x, net.weight(64, 32, 3, 3), pads=[1, 1, 1, 1]))
    h = net("Softmax", net("GlobalAveragePool", h), axis=1)
    y = net("MatMul", net("Reshape", x, net.const([1024, 98])), net.weight(98, 300))
    net.output(
        h, y, net("ReduceSum", y, net.const([0])), net("LayerNormalization", y, net.weight(300))
    )
    out = tmp_path / "m.gopt"
    compiled(net.model()).save(out)
    feeds = net.feeds()
    results = [graphopt.load(out, threads=n).run(feeds) for n in (1, 2, 3, 8)]
    for other in results[1:]:
        assert all(results[0][k].tobytes() == other[k].tobytes() for k in other)
