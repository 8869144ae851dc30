"""Rules of the CUDA sources: PTX only in wrappers, each with a twin in the simulator."""

from __future__ import annotations

import re
from pathlib import Path

import graphopt

PACKAGE = Path(graphopt.__file__).parent
KERNELS = sorted((PACKAGE / "backends/cuda/kernels").glob("*.cuh"))
SHIM = (PACKAGE / "testing/cuda_sim/shim.h").read_text()


def test_ptx_stands_in_one_file() -> None:
    assert [f.name for f in KERNELS if re.search(r"\basm\b", f.read_text())] == ["ptx.cuh"]
    for file in (PACKAGE / "backends/cuda").glob("*.py"):
        assert not re.search(r"\basm\b", file.read_text()), file.name


def test_every_wrapper_has_a_twin() -> None:
    wrappers = set(
        re.findall(r"GO_DEVICE \w+ (ptx_\w+)\(", (KERNELS[0].parent / "ptx.cuh").read_text())
    )
    twins = set(re.findall(r"^(?:template <int N> )?inline .*?(ptx_\w+)\(", SHIM, re.M))
    assert len(wrappers) >= 8
    # Addresses of shared memory are those of the host there.
    assert wrappers - twins == {"ptx_shared_address"}


def test_kernels_include_nothing() -> None:
    for file in KERNELS:
        assert "#include" not in file.read_text(), file.name
