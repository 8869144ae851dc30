from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_plans import PlanWriter

import graphopt.runtime as rt
from graphopt import _native
from graphopt.errors import ArtifactError, ExecutionError, InputError, OptionError


def _add_then_scale(path: Path) -> Path:
    """y = (a + b) * 3 with a, b of shape [N, 4]."""
    plan = PlanWriter()
    a, b = plan.input("a", ["N", 4]), plan.input("b", ["N", 4])
    total, y = plan.temp("total", ["N", 4]), plan.temp("y", ["N", 4])
    plan.call("k_add", [a, b, total], ["*", "N", 4])
    plan.call("k_scale", [total, y], ["*", "N", 4], dims=[3])
    plan.output("y", y)
    return plan.save(path)


@pytest.fixture
def session(tmp_path: Path) -> rt.Session:
    return rt.load(_add_then_scale(tmp_path / "m.gopt"), threads=2)


def _arrays(n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(n)
    return (random.random((n, 4), dtype=np.float32), random.random((n, 4), dtype=np.float32))


def test_describes_itself(session: rt.Session) -> None:
    assert session.inputs == (
        rt.TensorSpec("a", "float32", ("N", 4)),
        rt.TensorSpec("b", "float32", ("N", 4)),
    )
    assert [str(spec) for spec in session.outputs] == ["y: float32[N, 4]"]
    assert session.threads == 2
    assert session.isa == "x86-64"
    assert "a: float32[N, 4]" in repr(session)
    assert session.artifact().manifest["target"] == "cpu"


@pytest.mark.parametrize("n", [0, 1, 5, 1000])
def test_runs_at_any_size_by_name_and_by_position(session: rt.Session, n: int) -> None:
    a, b = _arrays(n)
    expected = (a + b) * 3
    by_name = session.run({"b": b, "a": a})
    assert list(by_name) == ["y"]
    np.testing.assert_array_equal(by_name["y"], expected)
    np.testing.assert_array_equal(session(a, b), expected)
    np.testing.assert_array_equal(session(a=a, b=b), expected)
    np.testing.assert_array_equal(session.run([a, b], outputs=["y"])["y"], expected)
    np.testing.assert_array_equal(session.submit({"a": a, "b": b}).result()["y"], expected)


def test_outputs_belong_to_the_caller(session: rt.Session) -> None:
    a, b = _arrays(7)
    first = session.run([a, b])["y"]
    kept = first.copy()
    session.run([b * 2, a])
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # writable, and nobody else's
    np.testing.assert_array_equal(session.run([a, b])["y"], kept)
    assert first.ctypes.data % 64 == 0


def test_odd_memory_layouts(session: rt.Session) -> None:
    a, b = _arrays(6)
    expected = (a + b) * 3
    np.testing.assert_array_equal(session(np.asfortranarray(a), b), expected)
    np.testing.assert_array_equal(session(np.repeat(a, 2, axis=0)[::2], b), expected)
    unaligned = np.empty(6 * 16 + 1, np.uint8)[1:].view(np.float32).reshape(6, 4)
    unaligned[:] = a
    np.testing.assert_array_equal(session(unaligned, b), expected)
    readonly = a.copy()
    readonly.flags.writeable = False
    np.testing.assert_array_equal(session(readonly, b), expected)
    np.testing.assert_array_equal(session(a.tolist(), b), (a + b) * 3)


class _DLPackOnly:
    """Speaks DLPack and nothing else, as another library's tensor does."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_dlpack(session: rt.Session) -> None:
    a, b = _arrays(3)
    y = session(_DLPackOnly(a), _DLPackOnly(b))
    np.testing.assert_array_equal(np.from_dlpack(y), (a + b) * 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": 0}, "input 'b' is missing; expected float32[N, 4]"),
        ({"a": 0, "b": 0, "c": 0}, "unknown input 'c'; the model has inputs a: float32[N, 4], b"),
        ([0], "expected 2 inputs, got 1"),
        (np.zeros((2, 4), np.float32), "give a dictionary of arrays by name, or a list"),
        (
            {"a": np.zeros((2, 4)), "b": np.zeros((2, 4), np.float32)},
            "input 'a': expected float32[N, 4], got float64[2, 4]",
        ),
        (
            {"a": np.zeros((2, 5), np.float32), "b": np.zeros((2, 4), np.float32)},
            "input 'a': expected float32[N, 4], got float32[2, 5]",
        ),
        (
            {"a": np.zeros(4, np.float32), "b": np.zeros((2, 4), np.float32)},
            "input 'a': expected float32[N, 4], got float32[4]",
        ),
        (
            {"a": np.zeros((2, 4), np.float32), "b": np.zeros((3, 4), np.float32)},
            "input 'b': expected float32[N, 4], got float32[3, 4]: N is 2 in input 'a'",
        ),
        ({"a": "text", "b": 0}, "input 'a': expected float32[N, 4], got str"),
        (
            {"a": np.array([["x"]]), "b": np.zeros((1, 4), np.float32)},
            "input 'a' has an element type that is not supported",
        ),
    ],
)
def test_wrong_inputs(session: rt.Session, inputs: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        session.run(inputs)
    assert message in str(error.value)


def test_wrong_names_and_options(session: rt.Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown output 'z'; the model has outputs y"):
        session.run([0, 0], outputs=["z"])
    with pytest.raises(InputError, match="not both"):
        session(0, b=0)
    with pytest.raises(OptionError, match="number of threads is 0"):
        rt.load(tmp_path / "m.gopt", threads=0)
    with pytest.raises(OptionError, match="number of runs is 0"):
        session.profile([0, 0], runs=0)
    with pytest.raises(InputError, match="unknown input"):
        session.submit({"z": 0})


def test_loads_from_bytes(tmp_path: Path) -> None:
    a, b = _arrays(4)
    session = rt.load(_add_then_scale(tmp_path / "m.gopt").read_bytes())
    np.testing.assert_array_equal(session(a, b), (a + b) * 3)
    with pytest.raises(ArtifactError, match="not loaded from a file"):
        session.artifact()


def test_bad_artifacts(tmp_path: Path) -> None:
    path = _add_then_scale(tmp_path / "m.gopt")
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2])
    with pytest.raises(ArtifactError, match=r"cannot load '.*m\.gopt': the artifact is truncated"):
        rt.load(path)
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="do not match its hash"):
        rt.load(path)
    path.write_bytes(b"\x08\x07onnx" * 50)
    with pytest.raises(ArtifactError, match="not a graphopt artifact"):
        rt.load(path)
    with pytest.raises(ArtifactError, match="No such file"):
        rt.load(tmp_path / "none.gopt")


def test_profile_has_a_row_a_step(session: rt.Session) -> None:
    rows = session.profile(list(_arrays(1000)), runs=3)
    assert [(row.name, row.kind, row.kernel, row.depth, row.calls) for row in rows] == [
        ("k_add", "object", "k_add", 0, 1.0),
        ("k_scale", "object", "k_scale", 0, 1.0),
    ]
    assert all(0 < row.microseconds < 1e6 for row in rows)


def test_eight_threads_share_a_session(session: rt.Session) -> None:
    failures: list[Any] = []

    def work(seed: int) -> None:
        for i in range(200):
            a, b = _arrays(1 + (seed * 31 + i) % 23)  # more shapes than plans are kept
            if not np.array_equal(session(a, b), (a + b) * 3):
                failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_forked_child_runs_and_ends(session: rt.Session) -> None:
    """A child has none of the parent's threads: neither a run nor the end may wait for them."""
    a, b = _arrays(1000)
    expected = session(a, b)
    child = os.fork()
    if child == 0:
        same = np.array_equal(session(a, b), expected)
        own = rt.load(session._path, threads=2)
        same = same and np.array_equal(own(a, b), expected)
        del session, own
        os._exit(0 if same else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_native_and_object_steps_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    w = random.random((8, 20), dtype=np.float32)
    bias = random.random(20, dtype=np.float32)
    plan = PlanWriter()
    x = plan.input("x", ["N", 8])
    packed = plan.constant("w", _native.pack_gemm(w))
    b = plan.constant("bias", bias)
    h, y = plan.temp("h", ["N", 20]), plan.temp("y", ["N", 20])
    attrs = {"k": 8, "n": 20, "activation": "relu"}
    plan.step("native", kernel="gemm", inputs=[x, packed, b, None], outputs=[h], attrs=attrs)
    plan.call("k_scale", [h, y], ["*", "N", 20], dims=["N"])
    plan.output("y", y)
    session = rt.load(plan.save(tmp_path / "m.gopt"), threads=2)
    for n in (1, 3, 64):
        data = random.random((n, 8), dtype=np.float32) - 0.5
        expected = np.maximum(data @ w + bias, 0) * n
        # Sums of 8 products of values below 1: a few units in the last place.
        np.testing.assert_allclose(session(data), expected, rtol=1e-6, atol=1e-6)


def test_failures_name_the_step(tmp_path: Path) -> None:
    plan = PlanWriter()
    x = plan.input("x", [2])
    y = plan.temp("y", [2])
    plan.call("k_fail", [y], 2, name="model/broken")
    plan.output("x", x)
    session = rt.load(plan.save(tmp_path / "m.gopt"))
    with pytest.raises(ExecutionError, match="step 'model/broken': the generated code failed"):
        session(np.zeros(2, np.float32))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_numpy_types_pass_through(tmp_path: Path, dtype: str) -> None:
    _check_copy(tmp_path, np.arange(6).reshape(2, 3).astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "uint4", "float6_e2m3fn"])
def test_ml_dtypes_pass_through(tmp_path: Path, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _check_copy(tmp_path, np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype)))


def test_plain_numbers_are_no_ml_dtypes(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    plan = PlanWriter()
    plan.output("x", plan.input("x", [2], ml_dtypes.bfloat16))  # type: ignore[arg-type]
    session = rt.load(plan.save(tmp_path / "m.gopt"))
    with pytest.raises(InputError, match=r"expected bfloat16\[2\], got list: .* give an array"):
        session([1.0, 2.0])


def _check_copy(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    plan = PlanWriter()
    x = plan.input("x", list(data.shape), data.dtype)  # type: ignore[arg-type]
    y = plan.temp("y", list(data.shape), data.dtype)  # type: ignore[arg-type]
    plan.call("k_copy", [x, y], 1, dims=[data.nbytes])
    plan.output("y", y)
    plan.output("again", y)
    plan.output("same", x)
    session = rt.load(plan.save(tmp_path / "m.gopt"))
    assert session.inputs[0].dtype == data.dtype.name
    for result in session(data):
        assert result.dtype == data.dtype
        np.testing.assert_array_equal(result, data)
        assert not np.shares_memory(result, data)
