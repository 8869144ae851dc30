"""Compiling: sharing, caching, determinism, self-contained objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import needs_tools

import graphopt.ops  # noqa: F401
from graphopt.codegen import (
    LEVELS,
    KernelRequest,
    Refusal,
    can_emit,
    compile_kernels,
    emit_assembly,
    emit_text,
)
from graphopt.codegen.elf import strip, undefined_symbols
from graphopt.errors import CompileError, OptionError
from graphopt.ir import Builder, DType, Graph, OpDef, TensorType, sym

GROUP = OpDef("group", "graphopt.cpu", inputs=("operands*",), outputs=("results*",))


def chain(symbol: str, scale: float = 0.5) -> Graph:
    graph = Graph("body")
    x = graph.add_input(f"in_{symbol}", TensorType(DType.F32, (sym(symbol), 8)))
    b = Builder(graph, origin=[symbol])
    graph.add_output(b.Mul(b.Exp(x), np.float32(scale)))
    return graph


def test_equal_groups_share_a_kernel(tmp_path: Path) -> None:
    """Names and symbols do not matter; constants do."""
    requests = [KernelRequest(chain("N")), KernelRequest(chain("M")), KernelRequest(chain("N", 2))]
    compiled = compile_kernels(requests, ["x86-64-v3"], cache=tmp_path)
    first, second, third = compiled.kernels
    assert first.symbol == second.symbol != third.symbol
    assert str(first.flops).count("N") and str(second.flops).count("M")
    assert first.extent != second.extent


def test_cache_hit_needs_no_tvm_and_is_identical(tmp_path: Path) -> None:
    script = f"""
import sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
import graphopt.ops
from pathlib import Path
from test_codegen_driver import chain
from graphopt.codegen import KernelRequest, compile_kernels
done = compile_kernels([KernelRequest(chain("N"))], ["x86-64-v3"], cache=Path({str(tmp_path)!r}))
print(sorted(m for m in sys.modules if m == "tvm"), done.objects["x86-64-v3"].hex())
"""
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    cold, warm = (run.stdout.split(maxsplit=1) for run in runs)
    assert cold[0] == "['tvm']" and warm[0] == "[]"
    assert cold[1] == warm[1]


def test_objects_are_deterministic() -> None:
    requests = [KernelRequest(chain("N")), KernelRequest(chain("M", 3))]
    first = compile_kernels(requests, list(LEVELS), cache=False)
    again = compile_kernels(requests[::-1], list(LEVELS), cache=False)
    assert first.objects == again.objects
    assert first.kernels == again.kernels[::-1]


def test_damaged_cache_entries_are_made_anew(tmp_path: Path) -> None:
    requests = [KernelRequest(chain("N"))]
    first = compile_kernels(requests, ["x86-64-v2"], cache=tmp_path)
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:-7])
    assert compile_kernels(requests, ["x86-64-v2"], cache=tmp_path).objects == first.objects


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    compiled = compile_kernels([KernelRequest(chain("N"))], ["x86-64-v2"], cache=blocked)
    assert compiled.objects["x86-64-v2"]


def test_importing_tvm_leaves_the_process_alone() -> None:
    script = """
import sys
hook = sys.excepthook
from graphopt.codegen.toolchain import load_tvm
load_tvm()
assert "tvm" in sys.modules and sys.excepthook is hook
assert sys.modules.get("torch", 0) == 0, "torch was imported, or hidden for good"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_tools
def test_objects_are_self_contained(tmp_path: Path) -> None:
    compiled = compile_kernels([KernelRequest(chain("N"))], list(LEVELS), cache=False)
    for level, data in compiled.objects.items():
        path = tmp_path / f"{level}.o"
        path.write_bytes(data)
        assert undefined_symbols(data) == []
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        names = {line.split()[-1]: line.split()[-2] for line in listed.splitlines()}
        assert names[compiled.kernels[0].symbol] == "T"
        assert not [n for n, kind in names.items() if kind in "UwWvV"]
        assert b".debug" not in data
        # Stripping again changes nothing.
        assert strip(data) == data


def test_foreign_bytes_are_no_object() -> None:
    with pytest.raises(CompileError, match="ELF"):
        strip(b"not an object")


def test_group_nodes() -> None:
    graph = Graph("main")
    x = graph.add_input("x", TensorType(DType.F32, (3, 8)))
    body = Graph("body", graph)
    inner = body.add_input("inner", TensorType(DType.F32, (3, 8)))
    body.add_output(Builder(body).Tanh(inner))
    node = graph.add(GROUP, [x], {"body": body, "kind": "pointwise"}, types=[inner.type])
    assert can_emit(node) is None
    request = KernelRequest.from_node(node)
    info = compile_kernels([request], ["x86-64-v2"], cache=False).kernels[0]
    assert info.args == (x, node.output)
    assert info.arguments == (("input", 0), ("output", 0))


def test_unread_operands_are_no_arguments() -> None:
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (3, 8)))
    shape = graph.add_input("shape", TensorType(DType.I64, (2,)))
    shape.set_elements((24, 1))
    graph.add_output(Builder(graph).Reshape(x, shape))
    info = compile_kernels([KernelRequest(graph)], ["x86-64-v2"], cache=False).kernels[0]
    assert info.arguments == (("input", 0), ("output", 0))


def test_errors() -> None:
    with pytest.raises(OptionError, match="unknown ISA level"):
        compile_kernels([KernelRequest(chain("N"))], ["sse9"], cache=False)
    graph = Graph("body")
    x = graph.add_input("x", TensorType(DType.F32, (3, 8)))
    graph.add_output(Builder(graph).CumSum(x, np.int64(1)))
    with pytest.raises(Refusal, match="group 'g': CumSum is not generated"):
        compile_kernels([KernelRequest(graph, name="g")], ["x86-64-v2"], cache=False)
    with pytest.raises(Refusal, match="has no body"):
        KernelRequest.from_node(graph.nodes[0])


def test_nothing_to_compile() -> None:
    compiled = compile_kernels([], ["x86-64-v2"], cache=False)
    assert compiled.kernels == () and set(compiled.objects) == {"x86-64-v2"}


def test_texts_to_look_at() -> None:
    request = KernelRequest(chain("N"))
    text = emit_text(request, "x86-64-v3")
    assert "prim_func" in text and "float32x8" in text
    assert "vfmadd" in emit_assembly(request, "x86-64-v3")
