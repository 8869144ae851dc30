"""3 x 3 convolutions by Winograd through the CPU pipe: sizes, epilogues, when it is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.backends.pipe import Net, check, compiled, host_level, kernels, loaded


def _conv(shape: Sequence[int], cout: int = 16, pads: Sequence[int] = (1, 1, 1, 1)) -> Net:
    net = Net()
    x = net.input("x", shape)
    return net.output(net("Conv", x, net.weight(cout, shape[1], 3, 3), net.weight(cout), pads=pads))


@pytest.mark.parametrize("shape", [(1, 16, 24, 24), (2, 35, 25, 31), (1, 130, 40, 21)], ids=str)
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 2, 1, 0)], ids=str)
def test_sizes(shape: Sequence[int], pads: Sequence[int]) -> None:
    more = [{"x": (2, shape[1], 3, 9)}, {"x": (1, shape[1], 61, 5)}, {"x": (0, shape[1], 9, 9)}]
    artifact = check(_conv(shape, 37, pads), {"x": ("N", shape[1], "H", "W")}, more)
    assert "conv_winograd" in kernels(artifact)


def test_bias_residual_and_activations_are_part_of_the_step() -> None:
    net = Net()
    x = net.input("x", (1, 32, 28, 28))
    first = net("Relu", net("Conv", x, net.weight(32, 32, 3, 3), net.weight(32), pads=[1] * 4))
    second = net("Conv", first, net.weight(32, 32, 3, 3), net.weight(32), pads=[1] * 4)
    artifact = check(net.output(net("Sigmoid", net("Add", second, first))))
    assert kernels(artifact).count("conv_winograd") == 2
    assert len(kernels(artifact)) == 4  # with the two changes of layout


def test_exact_leaves_it_out() -> None:
    target = f"cpu{{exact=on,levels={host_level()}}}"
    found = kernels(compiled(_conv((1, 16, 28, 28)).model(), target))
    assert "conv" in found
    assert "conv_winograd" not in found


def test_the_error_is_that_of_rounding() -> None:
    """Some three times that of plain sums, at 256 channels."""
    net = _conv((1, 256, 28, 28), 64)
    feeds = net.feeds()
    fast = loaded(compiled(net.model())).run(feeds)["t0_0"]
    plain = loaded(compiled(net.model(), f"cpu{{exact=on,levels={host_level()}}}")).run(feeds)[
        "t0_0"
    ]
    assert 0 < np.linalg.norm(fast - plain) <= 3e-6 * np.linalg.norm(plain)
