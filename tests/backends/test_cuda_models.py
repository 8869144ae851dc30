"""Small models from ONNX to CUDA text and machine code, run by the simulator and the launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.runtime.cuda_session import CudaSession
from graphopt.testing.cuda_sim import Simulator
from tests.backends.cuda_nets import (
    BARS,
    NEEDS_TOOLS,
    check,
    cnn,
    compiled,
    error_of,
    saved,
    transformer,
)
from tests.backends.pipe import Net, onnxruntime_outputs

pytestmark = NEEDS_TOOLS

NETS = {"cnn": cnn, "transformer": transformer}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_a_model_is_right_in_every_order_of_threads(name: str, precision: str) -> None:
    check(NETS[name](), precision, orders=(0, 1, 2))


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_launcher_runs_it_one_by_one_and_as_a_graph(name: str, tmp_path: Path) -> None:
    net = NETS[name]()
    artifact = compiled(net)
    library = str(Simulator.of(artifact).library)
    path = saved(artifact, tmp_path)
    for graph in (False, True):
        session = CudaSession(path, graph=graph, library=library)
        for seed in (1, 2):
            feeds = net.feeds(seed)
            wanted = onnxruntime_outputs(net.model(), feeds)
            assert error_of(session.run(feeds), wanted) <= BARS["fp32"]
        assert error_of(session.submit(feeds).result(), wanted) <= BARS["fp32"]
        session.close()


def test_a_compile_is_repeatable() -> None:
    first, second = compiled(cnn(), "fp16"), compiled(cnn(), "fp16")
    assert first.members.keys() == second.members.keys()
    for name in first.members:
        assert first.read(name) == second.read(name), name


def test_code_for_both_architectures_and_later_ones_is_in_the_artifact() -> None:
    artifact = compiled(cnn(), "fp16", "sm_80+sm_90")
    made = {name for name in artifact.members if name.startswith("objects/")}
    assert made == {"objects/sm_80.cubin", "objects/sm_90.cubin", "objects/compute_90.ptx"}
    used = artifact.json("report.json")["notes"]["used"]
    kernels = {step["kernel"] for step in artifact.json("cuda.json")["steps"]}
    for arch in ("sm_80", "sm_90"):
        assert set(used[arch]) == kernels
        assert not [k for k, u in used[arch].items() if u["spills"]]


def test_products_run_on_tensor_cores_and_load_16_bytes() -> None:
    text = compiled(cnn(), "fp16").read("kernels.cu").decode()
    assert "gemm_f16" in text
    ptx = compiled(cnn(), "fp16").read("objects/compute_80.ptx").decode()
    assert "mma.sync.aligned.m16n8k16" in ptx and "cp.async.cg.shared.global" in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4" in ptx


def test_launches_stay_few() -> None:
    assert len(compiled(cnn()).json("cuda.json")["steps"]) <= 11
    assert len(compiled(transformer()).json("cuda.json")["steps"]) <= 20


def test_outputs_may_be_inputs_constants_and_views() -> None:
    net = Net()
    x = net.input("x", (2, 6))
    y = net("Relu", x)
    shaped = net("Reshape", y, net.const([3, 4]))
    check(net.output(net("Identity", x), y, shaped))
