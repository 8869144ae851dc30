"""On a real GPU: `python -m pytest tests/gpu`. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime.cuda_driver import Driver
from graphopt.runtime.cuda_session import CudaSession
from tests.backends.cuda_nets import BARS, cnn, compiled, error_of, saved, transformer
from tests.backends.pipe import Net, onnxruntime_outputs


def _missing() -> str:
    """Why nothing runs here; "" when something does."""
    try:
        Driver()
    except GraphoptError as error:
        return str(error)
    return ""


WHY = _missing()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY or "there is a device")


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [cnn, transformer])
def test_a_model_is_right_on_the_device(
    make: Callable[[], Net], precision: str, graph: bool, tmp_path: Path
) -> None:
    net = make()
    path = saved(compiled(net, precision, "sm_80+sm_90"), tmp_path)
    session = CudaSession(path, graph=graph)
    for seed in (1, 2, 3):
        feeds = net.feeds(seed)
        wanted = onnxruntime_outputs(net.model(), feeds)
        assert error_of(session.run(feeds), wanted) <= BARS[precision]
    session.close()
