"""Operations and bytes of a plan's steps, and the bound that they set."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.runtime.roofline import Peaks, Work, measure_peaks, plan_work

# x [N, 2 N, 3] times packed weights for 5 columns.
VALUES = [
    {"name": "x", "dtype": 1, "shape": [1, 2, 3], "kind": "input"},
    {"name": "w", "dtype": 1, "shape": [5], "kind": "constant"},
    {"name": "y", "dtype": 1, "shape": [1, 2, 4], "kind": "temp"},
    {"name": "late", "dtype": 7, "shape": [6], "kind": "temp"},
]
GEMM = {
    "kind": "native", "kernel": "gemm", "name": "product", "inputs": [0, 1, None], "outputs": [2],
    "attrs": {"k": 3, "n": 5},
}  # fmt: skip


def _plan(*steps: dict[str, Any]) -> dict[str, Any]:
    dims = [2, {"sym": 0}, ["*", 0, 1], 3, 5, 48, {"sym": 1}]
    return {"dims": dims, "values": VALUES, "inputs": [0], "steps": list(steps)}


def test_a_product() -> None:
    [(name, work)] = plan_work(_plan(GEMM), {"x": (4, 8, 3)})
    assert name == "product"
    assert work == Work(2 * 4 * 8 * 3 * 5, 4 * (4 * 8 * 3 + 48 + 4 * 8 * 5))


def test_nested_steps_stand_behind_their_parent() -> None:
    branch = {"kind": "if", "name": "choice", "then": [GEMM], "else": [GEMM | {"name": "other"}]}
    found = plan_work(_plan(branch, GEMM | {"name": "last"}), {"x": (1, 2, 3)})
    assert [name for name, _ in found] == ["choice", "product", "other", "last"]
    assert found[0][1] is None


def test_what_only_the_run_knows_has_no_figures() -> None:
    step = {"kind": "object", "name": "late", "args": [0, 3]}
    assert plan_work(_plan(step), {"x": (1, 2, 3)}) == [("late", None)]


@pytest.mark.parametrize(
    ("kernel", "attrs", "flops"),
    [
        ("conv", {"kernel_shape": [3, 3], "cin": 6, "cout": 5, "group": 2}, 2 * 40 * 9 * 3),
        ("conv_winograd", {"kernel_shape": [3, 3], "cin": 6, "cout": 5}, 2 * 40 * 9 * 6),
        ("conv_transpose", {"kernel_shape": [2], "cin": 6, "cout": 5, "group": 1}, 2 * 24 * 2 * 5),
        ("matmul", {"trans_a": 0}, 2 * 40 * 3),
        ("gather", {}, None),
    ],
)
def test_operations(kernel: str, attrs: dict[str, Any], flops: float | None) -> None:
    step = GEMM | {"kernel": kernel, "attrs": attrs, "inputs": [0, 1]}
    [(_, work)] = plan_work(_plan(step), {"x": (2, 4, 3)})
    assert work is not None
    assert work.flops == (None if flops is None else float(flops))


def test_the_bound_is_the_slower_of_the_two() -> None:
    peaks = Peaks(flops=100.0, bandwidth=10.0)
    assert Work(200.0, 10.0).seconds(peaks) == (2.0, "compute")
    assert Work(None, 10.0).seconds(peaks) == (1.0, "memory")


def test_peaks_are_measured_once() -> None:
    peaks = measure_peaks(1)
    assert peaks.flops > 1e8
    assert peaks.bandwidth > 1e7
    assert measure_peaks(1) is peaks
