"""precision=bf16 through the CPU pipe: what is rounded, how far outputs move, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import OptionError
from graphopt.ir import DType
from graphopt.runtime.artifact import Artifact
from graphopt.verify import relative_error
from tests.backends.pipe import Net, compiled, host_level, kernels, loaded, onnxruntime_outputs

BF16 = f"cpu{{levels={host_level()},precision=bf16}}"
# Half a unit in the last of 8 bits is 2e-3; two operands and a few layers make some times that.
BUDGET = 1.5e-2


def _rounded(artifact: Artifact) -> int:
    steps = artifact.json("plan")["steps"]
    return sum(1 for step in steps if step.get("attrs", {}).get("bf16"))


def _check(net: Net, rounded: int, target: str = BF16) -> None:
    model = net.model()
    artifact = compiled(model, target)
    assert _rounded(artifact) == rounded
    feeds = net.feeds()
    got = list(loaded(artifact).run(feeds).values())
    for mine, right in zip(got, onnxruntime_outputs(model, feeds), strict=True):
        assert 0 < relative_error(mine, right) <= BUDGET


def test_products() -> None:
    net = Net()
    x = net.input("x", (2, 7, 33))
    hidden = net("Relu", net("Add", net("MatMul", x, net.weight(33, 70)), net.weight(70)))
    _check(net.output(net("MatMul", hidden, net.weight(70, 20))), 2)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(kernel: int, stride: int) -> None:
    net = Net()
    pads = [kernel // 2] * 4
    window = {"strides": [stride, stride], "pads": pads}
    x = net.input("x", (2, 19, 9, 11))
    y = net("Conv", x, net.weight(24, 19, kernel, kernel), net.weight(24), **window)
    _check(net.output(net("Sigmoid", y)), 1, BF16.replace("}", ",exact=on}"))


def test_what_stays_in_float32() -> None:
    """Few channels, groups, gates, computed operands; Winograd is faster than bfloat16."""
    net = Net()
    x = net.input("x", (1, 64, 28, 28))
    y = net("Conv", x, net.weight(64, 64, 3, 3), pads=[1] * 4)
    y = net("Conv", y, net.weight(64, 1, 3, 3), pads=[1] * 4, group=64)
    gate = net("Conv", net("GlobalAveragePool", y), net.weight(64, 64, 1, 1))
    y = net("Conv", net("Mul", y, gate), net.weight(8, 64, 1, 1))
    artifact = compiled(net.output(net("MatMul", y, y)).model(), BF16)
    assert _rounded(artifact) == 0
    assert "conv_winograd" in kernels(artifact)


def test_excluded_nodes_stay() -> None:
    net = Net()
    x = net.input("x", (4, 32))
    y = net("MatMul", net("MatMul", x, net.weight(32, 32)), net.weight(32, 32))
    model = net.output(y).model()
    one = compiled(model, BF16.replace("}", ",exclude=n1}"))
    assert _rounded(one) == 1
    none = compiled(model, BF16.replace("}", ",exclude=n0+n1}"))
    assert _rounded(none) == 0


def test_layers_that_break_the_budget_stay(tmp_path: Path) -> None:
    """A difference of large numbers: what rounding takes is all that is left."""
    net = Net()
    x = net.input("x", (4, 32))
    w = net.rng.standard_normal((32, 32)).astype(np.float32)
    noise = (1e-4 * net.rng.standard_normal((32, 32))).astype(np.float32)
    y = net("Sub", net("MatMul", x, net.const(w)), net("MatMul", x, net.const(w + noise)))
    path, output = tmp_path / "m.onnx", tmp_path / "m.gopt"
    onnx.save(net.output(y).model(), path)
    artifact = graphopt.compile(path, BF16, precision="bf16", output=output)
    result = artifact.manifest["verification"]
    assert result["kept_in_fp32"] == [2, 2]
    assert result["relative_error"] < 1e-3
    assert _rounded(artifact) == 0


def test_options() -> None:
    net = Net()
    model = net.output(net("Relu", net.input("x", (2,)))).model()
    with pytest.raises(OptionError, match="is fp32 or bf16, not 'bf8'"):
        compiled(model, "cpu{precision=bf8}")
    with pytest.raises(OptionError, match="there is no precision 'bf8'"):
        graphopt.compile(model, precision="bf8")


def _stored(artifact: Artifact) -> int:
    """Values between steps that are stored in bfloat16."""
    return sum(1 for value in artifact.json("plan")["values"] if value["dtype"] == DType.BF16)


def test_results_are_stored_in_half_their_bytes() -> None:
    """An inverted residual: what its depthwise convolution, products and residual alone read."""
    net = Net()
    x = net.input("x", (1, 24, 14, 14))
    y = net("Conv", x, net.weight(24, 24, 1, 1))
    z = net("Relu", net("Conv", y, net.weight(96, 24, 1, 1)))
    z = net("Relu", net("Conv", z, net.weight(96, 1, 3, 3), pads=[1] * 4, group=96))
    z = net("Add", net("Conv", z, net.weight(24, 96, 1, 1)), y)
    z = net("Conv", z, net.weight(32, 24, 1, 1))
    model = net.output(z).model()
    artifact = compiled(model, BF16)
    assert _stored(artifact) == 4
    feeds = net.feeds()
    for mine, right in zip(
        loaded(artifact).run(feeds).values(), onnxruntime_outputs(model, feeds), strict=True
    ):
        assert relative_error(mine, right) <= BUDGET


@pytest.mark.parametrize("amx", ["on", "off"])
def test_convolutions_are_chosen_for_the_processor(amx: str) -> None:
    """Winograd only where sums of bfloat16 are slower; the artifact runs here either way."""
    net = Net()
    x = net.input("x", (1, 64, 28, 28))
    model = net.output(net("Conv", x, net.weight(64, 64, 3, 3), pads=[1] * 4)).model()
    artifact = compiled(model, BF16.replace("}", f",amx={amx}}}"))
    assert ("conv_winograd" in kernels(artifact)) == (amx == "off")
    feeds = net.feeds()
    (mine,) = loaded(artifact).run(feeds).values()
    assert relative_error(mine, onnxruntime_outputs(model, feeds)[0]) <= BUDGET


def test_a_first_layer_is_rounded_by_lines_of_taps() -> None:
    net = Net()
    x = net.input("x", (1, 3, 31, 31))
    y = net("Conv", x, net.weight(24, 3, 7, 7), pads=[3] * 4, strides=[2, 2])
    _check(net.output(net("Relu", y)), 1)


@pytest.mark.parametrize("queries", [1, 9])
def test_attention(queries: int) -> None:
    net = Net()
    q, k = net.input("q", (1, 2, queries, 16)), net.input("k", (1, 2, 13, 16))
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    y = net("MatMul", net("Softmax", scores, axis=-1), net.input("v", (1, 2, 13, 16)))
    model = net.output(y).model()
    artifact = compiled(model, BF16)
    assert kernels(artifact) == ["attention"]
    assert _rounded(artifact) == int(queries > 1)
    feeds = net.feeds()
    (mine,) = loaded(artifact).run(feeds).values()
    assert relative_error(mine, onnxruntime_outputs(model, feeds)[0]) <= BUDGET
