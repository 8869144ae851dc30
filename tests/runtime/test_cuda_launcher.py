"""The launcher's errors, on machines that a stand-in for the driver plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import ArtifactError, ExecutionError, InputError, OptionError, ToolchainError
from graphopt.runtime.cuda_session import CudaSession
from graphopt.testing.cuda_sim import Simulator
from tests.backends.cuda_nets import NEEDS_TOOLS, compiled, saved
from tests.backends.pipe import Net

pytestmark = NEEDS_TOOLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An artifact of sm_80 and later, and the stand-in with its kernels."""
    net = Net()
    x = net.input("x", (2, 8))
    artifact = compiled(net.output(net("Relu", net("MatMul", x, net.weight(8, 8)))))
    return saved(artifact, tmp_path_factory.mktemp("cuda")), str(Simulator.of(artifact).library)


def _session(made: tuple[Path, str], **options: Any) -> CudaSession:
    return CudaSession(made[0], library=made[1], **options)


def test_load_finds_the_launcher(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_LIBCUDA", made[1])
    session = graphopt.load(made[0])
    assert isinstance(session, CudaSession)
    assert session.isa == "sm_90" and session.device == "graphopt simulator"
    x = np.ones((2, 8), np.float32)
    assert session(x).shape == (2, 8)
    rows = session.profile([x], runs=2)
    assert [row.kind for row in rows] == ["cuda"] * session.launches


@pytest.mark.parametrize(
    ("setting", "value", "error", "words"),
    [
        ("INIT", "100", ToolchainError, "does not start.*is there a GPU"),
        ("DEVICES", "0", ToolchainError, "no CUDA device 0: the driver sees 0"),
        ("SM", "75", ArtifactError, "is sm_75, the artifact holds code for sm_80.*--arch sm_75"),
        ("MEMORY", "100", ExecutionError, r"MiB left for the weights; free some"),
    ],
)
def test_a_machine_that_does_not_fit_is_told_so(
    made: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: str,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setenv(f"GRAPHOPT_SIM_{setting}", value)
    with pytest.raises(error, match=words):
        _session(made)


def test_a_driver_that_is_too_old_is_told_so(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_SIM_DRIVER", "12020")
    with pytest.raises(ArtifactError, match=r"CUDA 12\.2.*update the driver.*--cuda-toolkit 12"):
        _session(made)


def test_no_driver_is_told_so(made: tuple[Path, str]) -> None:
    with pytest.raises(ToolchainError, match="there is no NVIDIA driver here"):
        CudaSession(made[0], library="libcuda-of-nobody.so")


def test_inputs_that_do_not_fit_are_told_so(made: tuple[Path, str]) -> None:
    session = _session(made)
    with pytest.raises(InputError, match=r"expected float32\[2, 8\], got float32\[3, 8\]"):
        session.run({"x": np.zeros((3, 8), np.float32)})
    with pytest.raises(InputError, match=r"expected float32\[2, 8\], got int64"):
        session.run({"x": np.zeros((2, 8), np.int64)})
    with pytest.raises(InputError, match="unknown input 'z'"):
        session.run({"z": np.zeros((2, 8), np.float32)})


def test_a_fault_of_a_kernel_is_an_error_of_the_run(made: tuple[Path, str]) -> None:
    session = _session(made, graph=False)
    session._steps[0][3][0].value = 16  # where no memory is
    with pytest.raises(ExecutionError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.run({"x": np.zeros((2, 8), np.float32)})


def test_options_are_checked() -> None:
    net = Net()
    net.output(net("Relu", net.input("x", (2, 8))))
    for spec, words in [
        ("cuda{arch=sm_70}", "sm_80 or later"),
        ("cuda{precision=int8}", "fp32 or fp16, not 'int8'"),
        ("cuda{toolkit=11}", "13 or 12, not '11'"),
    ]:
        with pytest.raises(OptionError, match=words):
            graphopt.compiler.compile_graph(graphopt.from_onnx(net.model()), spec)
