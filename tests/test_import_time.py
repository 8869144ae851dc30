"""Importing graphopt is cheap and pulls in nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUDGET_MS = 60
HEAVY = ("tvm", "onnx", "onnxruntime", "torch", "rich", "typer", "ml_dtypes.onnx", "networkx")


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["graphopt", "graphopt.runtime"])
def test_import_stays_within_budget_over_numpy(module: str) -> None:
    """Processor time, the least of five fresh processes: a busy machine only ever adds."""
    code = (
        "import time, numpy\n"
        "begin = time.process_time()\n"
        f"import {module}\n"
        "print((time.process_time() - begin) * 1e3)"
    )
    least = min(float(_run(code)) for _ in range(5))
    assert least <= BUDGET_MS, f"import {module} costs {least:.0f} ms over numpy"


@pytest.mark.parametrize("module", ["graphopt", "graphopt.runtime", "graphopt.ir", "graphopt.ops"])
def test_import_is_free_of_heavy_packages(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    assert _run(code).split() == []


def test_runtime_import_leaves_the_compiler_alone() -> None:
    """A machine that only runs artifacts never loads the compiler's rooms."""
    rooms = ("ir", "ops", "rewrite", "passes", "codegen", "backends", "frontends", "cli")
    code = (
        "import sys, graphopt.runtime\n"
        f"print(*(r for r in {rooms!r} if 'graphopt.' + r in sys.modules))"
    )
    assert _run(code).split() == []
