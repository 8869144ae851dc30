"""Large models are mapped: reading one takes neither its size in memory nor its size in time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from onnx import TensorProto, helper

from tests.frontends.onnx_models import F32, info, model_of

_GIB = 1 << 30
_READ = """
import resource, sys
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import verify
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph = from_onnx(sys.argv[1])
verify(graph)
[weight] = graph.constants.values()
assert weight.constant.nbytes == int(sys.argv[2])
assert float(weight.constant.array.ravel()[12345]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_model_of_three_gigabytes_is_read_in_bounded_memory(tmp_path: Path) -> None:
    size = 3 * _GIB
    data = tmp_path / "w.bin"
    with data.open("wb") as file:
        file.truncate(size)  # a file of holes: no space on disk
    weight = TensorProto(name="w", data_type=F32, dims=[size // 4096, 1024])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g", [info("x", F32, ["N", size // 4096])], [info("y")], [weight]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(graph).SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path), str(size)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown_kib = int(done.stdout)
    # Imports and a few pages of the file; nothing in proportion to it.
    assert grown_kib < 200 * 1024
