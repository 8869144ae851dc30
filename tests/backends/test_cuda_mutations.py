"""The simulator sees bugs: each one seeded into the text of a kernel ends in a fault or in wrong
numbers, in some order of threads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from graphopt.errors import ExecutionError
from graphopt.runtime.artifact import Artifact
from graphopt.testing.cuda_sim import Simulator
from tests.backends.cuda_nets import BARS, NEEDS_TOOLS, compiled, error_of
from tests.backends.pipe import Net, onnxruntime_outputs

pytestmark = NEEDS_TOOLS

ORDERS = (0, 1, 2, 3)


def _product() -> Net:
    net = Net()
    y = net("MatMul", net.input("x", (30, 520)), net.weight(520, 72, scale=0.05))
    return net.output(net("Relu", y))


def _split() -> Net:
    net = Net()
    y = net("MatMul", net.input("x", (4, 2048)), net.weight(2048, 32, scale=0.02))
    return net.output(net("Tanh", y))


def _conv() -> Net:
    net = Net()
    y = net(
        "Conv", net.input("x", (1, 16, 7, 7)), net.weight(24, 16, 3, 3, scale=0.1), pads=[1] * 4
    )
    return net.output(y)


def _rows() -> Net:
    net = Net()
    return net.output(net("Softmax", net.input("x", (2, 3000)), axis=-1))


def _short_rows() -> Net:
    net = Net()
    return net.output(net("Softmax", net.input("x", (6, 33)), axis=-1))


def _attention() -> Net:
    net = Net()
    q, k, v = (net.input(name, (1, 2, 40 if name != "q" else 7, 16)) for name in "qkv")
    scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), net.const(0.9))
    return net.output(net("MatMul", net("Softmax", scores, axis=-1), v))


def _pool() -> Net:
    net = Net()
    y = net("MaxPool", net.input("x", (1, 8, 9, 9)), kernel_shape=[3, 3], pads=[1] * 4)
    return net.output(y)


def _pointwise() -> Net:
    net = Net()
    return net.output(net("Exp", net.input("x", (4, 28))))


NETS = {
    "product": (_product, "fp16"), "plain product": (_product, "fp32"),
    "split product": (_split, "fp16"), "conv": (_conv, "fp16"),
    "rows": (_rows, "fp32"), "short rows": (_short_rows, "fp32"),
    "attention": (_attention, "fp32"), "pool": (_pool, "fp32"), "pointwise": (_pointwise, "fp32"),
}  # fmt: skip

# What is wrong, in which net, and how the text becomes so.
BUGS = {
    "waits for one group too few": (
        "product", "ptx_cp_async_wait<STAGES - 2>()", "ptx_cp_async_wait<STAGES - 1>()"
    ),
    "no barrier after the wait": (
        "product", "ptx_cp_async_wait<STAGES - 2>();\n    __syncthreads();",
        "ptx_cp_async_wait<STAGES - 2>();",
    ),
    "no group for the last blocks": (
        "product", "(step + STAGES - 1) % STAGES);\n    ptx_cp_async_commit();",
        "(step + STAGES - 1) % STAGES), ptx_cp_async_commit();",
    ),
    "fetches into the stage that is read": (
        "product", "fetch(kb + STAGES - 1, (step + STAGES - 1) % STAGES)",
        "fetch(kb + STAGES - 1, stage)",
    ),
    "reads rows of the left operand unswizzled": (
        "product", "a_tile + r * BK + ((c ^ (r & 7)) << 3)", "a_tile + r * BK + (c << 3)"
    ),
    "swaps registers of the right operand": (
        "product", "b[j][1] = q[1];\n        b[j + 1][0] = q[2];",
        "b[j][1] = q[2];\n        b[j + 1][0] = q[1];",
    ),
    "maps lanes to rows of a matrix wrongly": (
        "product", "(lane & 15), c = kk * 2 + (lane >> 4)", "(lane >> 1), c = kk * 2 + (lane & 1)"
    ),
    "maps sums to rows wrongly": ("product", "(q >> 1) * 8", "(q & 1) * 8"),
    "stores rows beyond the last": ("product", "if (m >= P::M || n >= P::N)", "if (n >= P::N)"),
    "stores columns beyond the last": ("product", "if (m >= P::M || n >= P::N)", "if (m >= P::M)"),
    "reads weights beyond the last row": (
        "product", "bool inside = n < P::N && k < P::WLD;", "bool inside = k < P::WLD;"
    ),
    "joins before the last part is there": (
        "split product", "== P::SPLIT - 1;", "== P::SPLIT - 2;"
    ),
    "joins one part too few": (
        "split product", "s < P::SPLIT; ++s)\n      sum", "s < P::SPLIT - 1; ++s)\n      sum"
    ),
    "no barrier between blocks of k": (
        "plain product", "put(stage ^ 1);\n    __syncthreads();", "put(stage ^ 1);"
    ),
    "one buffer for two blocks": ("plain product", "put(stage ^ 1)", "put(stage)"),
    "forgets that padding is zero": (
        "conv", "x + (o >= 0 ? o : 0), o >= 0)", "x + (o >= 0 ? o : 0), true)"
    ),
    "reads left of the image": ("conv", "(unsigned)x < (unsigned)P::W;", "x < P::W;"),
    "no barrier before slots are written again": (
        "rows", "  __syncthreads();  // the slots may still be read for an earlier fold\n", ""
    ),
    "no barrier before slots are read": (
        "rows", "slots[threadIdx.x / 32] = v;\n  __syncthreads();", "slots[threadIdx.x / 32] = v;"
    ),
    "a barrier that half of the block reaches": (
        "rows", "slots[threadIdx.x / 32] = v;\n  __syncthreads();",
        "slots[threadIdx.x / 32] = v;\n  if (threadIdx.x < 128) __syncthreads();",
    ),
    "folds half of a warp": ("short rows", "int mask = 16; mask > 0", "int mask = 8; mask > 0"),
    "no end of a row": ("short rows", "r < 33;", "r < 40;"),
    "no barrier before keys are overwritten": (
        "attention", "    __syncthreads();  // the block of keys before is read\n", ""
    ),
    "keys beyond the last count": ("attention", "if (key >= P::K) score", "if (false) score"),
    "old sums are not scaled": ("attention", "sum[j] *= keep;", "sum[j] *= 1.f;"),
    "reads right of the image": (
        "pool", "(unsigned)x < (unsigned)P::W)", "(unsigned)x <= (unsigned)P::W)"
    ),
    "no end of the tensor": ("pointwise", "i < 28)", "i < 32)"),
    "misaligned vectors": ("pointwise", "first = i * 4;", "first = i * 4 + (i < 20);"),
}  # fmt: skip


@cache
def _made(name: str) -> tuple[Artifact, Mapping[str, Any], list[Any], str]:
    make, precision = NETS[name]
    net = make()
    feeds = net.feeds()
    return compiled(net, precision), feeds, onnxruntime_outputs(net.model(), feeds), precision


def _seen(name: str, text: str) -> bool:
    """True when some order of threads shows that the text is wrong."""
    artifact, feeds, wanted, precision = _made(name)
    simulator = Simulator(text)
    for order in ORDERS:
        try:
            error = error_of(simulator.replay(artifact, feeds, order), wanted)
        except ExecutionError:
            return True
        if not error <= BARS[precision]:
            return True
    return False


@pytest.mark.parametrize("name", sorted(NETS))
def test_without_a_bug_nothing_is_seen(name: str) -> None:
    assert not _seen(name, _made(name)[0].read("kernels.cu").decode())


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_bug_is_seen(bug: str) -> None:
    name, right, wrong = BUGS[bug]
    text = _made(name)[0].read("kernels.cu").decode()
    assert right in text, "the text that the bug replaces is gone: seed it anew"
    assert _seen(name, text.replace(right, wrong))


def test_shared_memory_ends_where_the_launch_says() -> None:
    artifact, feeds, _, _ = _made("product")
    simulator = Simulator.of(artifact)
    plan = artifact.json("cuda.json")
    step = next(s for s in plan["steps"] if s["kernel"].startswith("gemm"))
    rooms = [np.zeros(size // 4 + 4, np.float32) for _, _, size in step["args"]]
    args = [room.ctypes.data // 16 * 16 + 16 for room in rooms]
    simulator.launch(step["kernel"], [1, 1, 1], step["block"], args, step["shared"])
    with pytest.raises(ExecutionError, match="outside of the buffers"):
        simulator.launch(step["kernel"], [1, 1, 1], step["block"], args, step["shared"] // 2)
    assert set(feeds) == {"x"}
