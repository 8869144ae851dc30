"""One artifact on processors of every level: GRAPHOPT_MAX_ISA plays the lesser ones.

The cap is read once a process, so each level runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt import _native
from graphopt.ops.interpreter import run_graph
from graphopt.runtime.artifact import Artifact
from graphopt.verify import relative_error
from tests.backends.pipe import Net, compiled

ROOT = Path(__file__).resolve().parent.parent.parent
LEVELS = {"portable": "x86-64-v2", "avx2": "x86-64-v3", "avx512": "x86-64-v4"}

GUEST = """
import pathlib, sys
import numpy as np
import graphopt
for file in map(pathlib.Path, sys.argv[1:]):
    session = graphopt.load(file, threads=2)
    with np.load(file.with_suffix(".npz")) as feeds:
        outputs = session.run(dict(feeds))
    np.savez(file.with_suffix(".out.npz"), **outputs)
    print(session.isa)
"""


def _vision() -> Net:
    """Convolutions of every kind with epilogues, pools, resize."""
    net = Net(seed=1)
    x = net.input("x", (2, 3, 17, 19))
    h = net("Relu", net("Conv", x, net.weight(19, 3, 3, 3), net.weight(19), pads=[1, 1, 1, 1]))
    d = net("HardSwish", net("Conv", h, net.weight(19, 1, 3, 3), group=19, pads=[1, 1, 1, 1]))
    g = net("Sigmoid", net("Conv", d, net.weight(19, 19, 1, 1)))
    h = net("Add", net("Mul", d, g), h)
    p = net("MaxPool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    a = net("AveragePool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    u = net("ConvTranspose", net("Add", p, a), net.weight(19, 5, 2, 2), strides=[2, 2])
    r = net("Resize", p, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="linear")
    return net.output(u, r, net("GlobalAveragePool", h))


def _language() -> Net:
    """Products, attention, norms, GELU, softmax, gathers."""
    net = Net(seed=2)
    ids = net.input("ids", (2, 9), np.int64)
    x = net("Gather", net.weight(10, 24), ids)
    x = net("LayerNormalization", x, net.weight(24), net.weight(24))
    heads = []
    for _ in range(3):
        y = net("Add", net("MatMul", x, net.weight(24, 24, scale=0.2)), net.weight(24))
        y = net("Reshape", y, net.const([0, 0, 3, 8]))
        heads.append(net("Transpose", y, perm=[0, 2, 1, 3]))
    kt = net("Transpose", heads[1], perm=[0, 1, 3, 2])
    weights = net("Softmax", net("Mul", net("MatMul", heads[0], kt), net.const(0.35)))
    y = net("Transpose", net("MatMul", weights, heads[2]), perm=[0, 2, 1, 3])
    y = net("Add", net("Reshape", y, net.const([0, 0, 24])), x)
    y = net("Gelu", net("MatMul", y, net.weight(24, 50, scale=0.2)))
    top, where = net("TopK", y, net.const([3]), outputs=2)
    return net.output(top, where, net("LogSoftmax", y, axis=1))


def _generated() -> Net:
    """Vector math, reductions, movements and integers of generated code."""
    net = Net(seed=3)
    x, i = net.input("x", (7, 37)), net.input("i", (7, 37), np.int64)
    math = [net(op, x) for op in ("Exp", "Tanh", "Sigmoid", "Erf", "Sin", "Softplus", "Atan")]
    total = net("Sum", *math)
    moved = net("Concat", net("Transpose", total), net("Transpose", x), axis=1)
    padded = net("Pad", moved, net.const([1, 2, 3, 4]), mode="reflect")
    reduced = [net(f"Reduce{op}", total, net.const([1])) for op in ("Sum", "Max", "LogSumExp")]
    whole = net("Where", net("Equal", net("Mod", i, net.const(3)), net.const(0)), i, net("Neg", i))
    return net.output(total, padded, *reduced, whole, net("CumSum", whole, net.const(1)))


def _recurrent() -> Net:
    """LSTM and GRU in both directions."""
    net = Net(seed=4)
    x = net.input("x", (6, 2, 5))
    results = []
    for op, gates in (("LSTM", 4), ("GRU", 3)):
        weights = [net.weight(2, gates * 8, 5), net.weight(2, gates * 8, 8)]
        bias = net.weight(2, 2 * gates * 8)
        results += net(op, x, *weights, bias, outputs=2, hidden_size=8, direction="bidirectional")
    return net.output(*results)


NETS = {"vision": _vision, "language": _language, "generated": _generated, "recurrent": _recurrent}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All nets compiled for all levels, with their inputs."""
    folder = tmp_path_factory.mktemp("levels")
    for name, make in NETS.items():
        net = make()
        compiled(net.model(), "cpu{levels=v2+v3+v4}").save(folder / f"{name}.gopt")
        np.savez(folder / f"{name}.npz", **net.feeds())
    return folder


def _run(folder: Path, level: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """(level in use by file, outputs by net)."""
    files = [str(folder / f"{name}.gopt") for name in NETS]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GRAPHOPT_MAX_ISA": level}
    command = [sys.executable, "-c", GUEST, *files]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = {}
    for name in NETS:
        with np.load(folder / f"{name}.out.npz") as found:
            outputs[name] = dict(found)
    return done.stdout.split("\n")[:-1], outputs


@pytest.mark.parametrize("level", [x for x in LEVELS if x in _native.isa_levels()])
def test_every_level_computes_the_same(folder: Path, level: str) -> None:
    used, outputs = _run(folder, level)
    for name, found in zip(NETS, used, strict=True):
        members = Artifact.load(folder / f"{name}.gopt").members
        has_code = any(member.startswith("objects/") for member in members)
        assert found == (LEVELS[level] if has_code else "")
    for name, make in NETS.items():
        net = make()
        wanted = run_graph(graphopt.from_onnx(net.model()), net.feeds())
        for (key, mine), right in zip(outputs[name].items(), wanted, strict=True):
            assert mine.dtype == right.dtype
            error = relative_error(mine, right)
            assert error <= (1e-5 if right.dtype.kind == "f" else 0), f"{name}/{key}: {error:.1e}"


def test_a_processor_below_all_levels_is_told_so(tmp_path: Path) -> None:
    net = _generated()
    path = tmp_path / "m.gopt"
    compiled(net.model(), "cpu{levels=v3}").save(path)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GRAPHOPT_MAX_ISA": "portable"}
    command = [sys.executable, "-m", "graphopt", "run", str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "x86-64-v3" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_levels_make_one_object_each(folder: Path) -> None:
    members = list(Artifact.load(folder / "vision.gopt").members)
    assert [m for m in members if m.startswith("objects/")] == [
        f"objects/{level}.o" for level in sorted(LEVELS.values())
    ]
    single = compiled(_generated().model(), "cpu{levels=v3}")
    assert [m for m in single.members if m.startswith("objects/")] == ["objects/x86-64-v3.o"]


def test_native_code_alone_needs_no_object() -> None:
    net = Net()
    net.output(net("Relu", net("Gemm", net.input("x", (2, 4)), net.weight(4, 3))))
    assert not [m for m in compiled(net.model()).members if m.startswith("objects/")]
