"""Sessions of compiled models, as programs use them: threads, layouts, sizes, other arrays."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.runtime import Session
from tests.backends.pipe import compiled
from tests.cli.conftest import ROOT
from tests.e2e.models import NETS, SHAPES

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of all nets, with symbolic sizes, and of the dense one with fixed ones."""
    folder = tmp_path_factory.mktemp("sessions")
    found = {}
    for name, make in NETS.items():
        found[name] = folder / f"{name}.gopt"
        compiled(make().model(SHAPES[name])).save(found[name])
    found["static"] = folder / "static.gopt"
    compiled(NETS["dense"]().model()).save(found["static"])
    return found


def _input(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SIZES: dict[str, list[tuple[int, ...]]] = {
    "static": [(2, 3, 12, 10)],
    "dense": [(n, 3, h, w) for n in (1, 2) for h in range(8, 18) for w in (8, 13)],
    "selecting": [(n, 6) for n in range(30)],
    "control": [(n, 4) for n in range(1, 20)],
}


@pytest.mark.parametrize("name", SIZES)
def test_eight_threads_share_a_session(files: dict[str, Path], name: str) -> None:
    """1,000 runs in all, of more shapes than plans are kept; every output bit is checked."""
    cases = [(_input(shape, seed), seed) for seed, shape in enumerate(SIZES[name] * 2)]
    serial = graphopt.load(files[name], threads=1)
    wanted = [[y.tobytes() for y in serial.run([x]).values()] for x, _ in cases]
    shared = graphopt.load(files[name], threads=2)
    failures: list[Any] = []
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        try:
            for k in range(125):
                at = (worker * 31 + k * 7) % len(cases)
                got = [y.tobytes() for y in shared.run([cases[at][0]]).values()]
                if got != wanted[at]:
                    failures.append((worker, k, at))
        except BaseException as error:
            failures.append((worker, error))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("name", SIZES)
def test_submitted_runs(files: dict[str, Path], name: str) -> None:
    session = graphopt.load(files[name], threads=2)
    arrays = [_input(shape, k) for k, shape in enumerate((SIZES[name] * 20)[:20])]
    wanted = [session.run([x]) for x in arrays]
    futures = [session.submit([x]) for x in arrays]
    for future, right in zip(futures, wanted, strict=True):
        got = future.result(timeout=60)
        assert {k: v.tobytes() for k, v in got.items()} == {
            k: v.tobytes() for k, v in right.items()
        }


def test_runs_outlive_the_session(files: dict[str, Path]) -> None:
    session = graphopt.load(files["dense"], threads=2)
    x = _input((2, 3, 12, 10))
    wanted = session.run([x])
    future = session.submit([x])
    outputs = session.run([x])
    del session
    gc.collect()
    for got in (outputs, future.result(timeout=60)):
        assert all(np.array_equal(got[k], wanted[k]) for k in wanted)


def test_shapes_alternate(files: dict[str, Path]) -> None:
    """Plans are cached by shape; the cache forgets and comes back."""
    session = graphopt.load(files["dense"], threads=2)
    shapes = [(n, 3, h, w) for n in (1, 2, 3) for h in (8, 9, 12) for w in (8, 11, 20)]
    wanted = {s: {k: v.tobytes() for k, v in session.run([_input(s)]).items()} for s in shapes}
    for _ in range(3):
        for shape in (*shapes, *reversed(shapes)):
            got = session.run([_input(shape)])
            assert {k: v.tobytes() for k, v in got.items()} == wanted[shape]


@pytest.mark.parametrize("name", ["dense", "selecting"])  # the other takes a maximum over the batch
def test_an_empty_batch(files: dict[str, Path], name: str) -> None:
    shape = (0, *SIZES[name][0][1:])
    results = graphopt.load(files[name]).run([np.zeros(shape, np.float32)])
    first = next(iter(results.values()))
    assert first.shape[0] == 0
    assert first.dtype == np.float32


# ---- arrays ----


class DLPackOnly:
    """Speaks DLPack and nothing else, as another library's tensor does."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def _readonly(x: Array) -> Array:
    y = x.copy()
    y.flags.writeable = False
    return y


def _unaligned(x: Array) -> Array:
    raw = np.empty(x.nbytes + 1, np.uint8)
    y = raw[1:].view(np.float32).reshape(x.shape)
    y[:] = x
    return y


def _reversed(x: Array) -> Array:
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


class Subclass(np.ndarray[Any, Any]):
    """An array of a class of its own."""


LAYOUTS: dict[str, Callable[[Array], Any]] = {
    "fortran order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "negative strides": _reversed,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "read only": _readonly,
    "unaligned": _unaligned,
    "subclass": lambda x: x.view(Subclass),
    "list": lambda x: x.tolist(),
    "dlpack": DLPackOnly,
    "dlpack strided": lambda x: DLPackOnly(np.repeat(x, 2, axis=-1)[..., ::2]),
    "dlpack read only": lambda x: DLPackOnly(_readonly(x)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["static", "dense", "selecting"])
def test_layouts(files: dict[str, Path], name: str, layout: str) -> None:
    session = graphopt.load(files[name], threads=2)
    x = _input((2, 3, 12, 10) if name != "selecting" else (9, 6))
    given = LAYOUTS[layout](x)
    plain = np.ascontiguousarray(np.broadcast_to(x[:1], x.shape)) if layout == "broadcast" else x
    kept = plain.copy()
    wanted, got = session.run([plain]), session.run([given])
    assert all(np.array_equal(got[k], wanted[k]) for k in wanted)
    assert np.array_equal(plain, kept)


def test_the_other_byte_order_is_converted_or_refused(files: dict[str, Path]) -> None:
    """Never read as if it were ours."""
    session = graphopt.load(files["dense"])
    x = _input((1, 3, 8, 8))
    swapped = x.astype(x.dtype.newbyteorder())
    try:
        got = session.run([swapped])
    except InputError as error:
        assert "input 'x'" in str(error)
    else:
        wanted = session.run([x])
        assert all(np.array_equal(got[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64"])
def test_other_element_types_are_refused(files: dict[str, Path], dtype: str) -> None:
    session = graphopt.load(files["dense"])
    x = np.zeros((1, 3, 8, 8), dtype)
    for given in (x, DLPackOnly(x)):
        with pytest.raises(InputError, match=f"expected float32.*got {dtype}"):
            session.run([given])
        with pytest.raises(InputError):
            session.submit([given]).result()


def test_outputs_are_the_callers_own(files: dict[str, Path]) -> None:
    session = graphopt.load(files["dense"])
    x = _input((1, 3, 8, 8))
    first = session.run([x])
    kept = {k: v.copy() for k, v in first.items()}
    for value in first.values():
        value[:] = 7
    session.run([x * 2])
    second = session.run([x])
    assert all(np.array_equal(second[k], kept[k]) for k in kept)
    assert all((value == 7).all() for value in first.values())


# ---- processes ----


def test_many_sessions_of_one_file(files: dict[str, Path]) -> None:
    sessions = [graphopt.load(files["dense"], threads=2) for _ in range(40)]
    x = _input((1, 3, 8, 8))
    wanted = sessions[0].run([x])
    for session in sessions:
        got = session.run([x])
        assert all(np.array_equal(got[k], wanted[k]) for k in wanted)


def test_sessions_do_not_leak_threads(files: dict[str, Path]) -> None:
    def count() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    x = _input((1, 3, 8, 8))
    graphopt.load(files["dense"], threads=4).run([x])
    gc.collect()
    before = count()
    for _ in range(20):
        session = graphopt.load(files["dense"], threads=4)
        session.run([x])
        del session
    gc.collect()
    assert count() <= before


def test_a_forked_child_can_run_what_its_parent_loaded(files: dict[str, Path]) -> None:
    """multiprocessing forks by default: worker threads do not come along, nobody may wait for
    them."""
    code = (
        "import os, sys, numpy as np, graphopt\n"
        "session = graphopt.load(sys.argv[1], threads=4)\n"
        "x = np.ones((2, 3, 64, 64), np.float32)\n"
        "first = session.run([x])\n"
        "child = os.fork()\n"
        "again = session.run([x])\n"
        "same = all(np.array_equal(first[k], again[k]) for k in first)\n"
        "if child == 0:\n"
        "    os._exit(0 if same else 3)\n"
        "_, status = os.waitpid(child, 0)\n"
        "sys.exit(os.waitstatus_to_exitcode(status) or (0 if same else 4))\n"
    )
    command = [sys.executable, "-c", code, str(files["dense"])]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, start_new_session=True)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)


def test_the_interpreter_runs_beside_a_run(files: dict[str, Path]) -> None:
    """Runs release the lock of Python: another thread gets its turn meanwhile."""
    session: Session = graphopt.load(files["dense"], threads=1)
    x = _input((16, 3, 160, 160))
    done = threading.Event()
    turns = 0

    def spin() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            select.select([], [], [], 0.0005)

    other = threading.Thread(target=spin)
    other.start()
    try:
        before = turns
        session.run([x])
        during = turns - before
    finally:
        done.set()
        other.join()
    assert during >= 1
