"""Building generated kernels into a library and calling them on arrays.

Every tensor lies at the very end of a mapping that is followed by a page without access, so that a
kernel that reads or writes one byte too far dies.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.codegen import LEVELS, KernelInfo, KernelRequest, compile_kernels
from graphopt.ir import DType, Graph, TensorType, evaluate
from graphopt.ops.interpreter import run_graph

Array = np.ndarray[Any, Any]

needs_tools = pytest.mark.skipif(
    shutil.which("ld") is None, reason="`ld` links the generated objects of these tests"
)

_NUMBERS = itertools.count()
_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


@cache
def machine_levels() -> tuple[str, ...]:
    """ISA levels that this machine runs."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    needed = {
        "x86-64-v2": {"ssse3", "sse4_1", "sse4_2"},
        "x86-64-v3": {"avx2", "fma", "f16c", "bmi2"},
        "x86-64-v4": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    }
    return tuple(level for level in LEVELS if needed[level] <= set(flags))


class Guarded:
    """An array whose last byte is followed by memory that may not be touched."""

    def __init__(self, array: Array) -> None:
        size = -(-max(array.nbytes, 1) // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, size + _PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if _libc.mprotect(ctypes.c_void_p(base + size), _PAGE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        self.address = base + size - array.nbytes
        raw = np.frombuffer(self._map, np.uint8, array.nbytes, size - array.nbytes)
        self.array = raw.view(array.dtype).reshape(array.shape)
        self.array[...] = array


class Library:
    """Kernels of some requests at one ISA level, ready to be called."""

    def __init__(self, requests: Sequence[KernelRequest], level: str, folder: Path) -> None:
        compiled = compile_kernels(requests, [level], cache=False)
        # A library of the same name would not be loaded anew.
        path = folder / f"{level}-{next(_NUMBERS)}.o"
        path.write_bytes(compiled.objects[level])
        library = path.with_suffix(".so")
        subprocess.run(["ld", "-shared", "-o", library, path], check=True)
        self.kernels = compiled.kernels
        self._library = ctypes.CDLL(str(library))

    def run(
        self,
        info: KernelInfo,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        env: Mapping[str, int],
        cuts: Sequence[float] = (),
    ) -> list[Array]:
        """Results of a call; ``cuts`` (parts of 1) say where the range is split."""
        sides = {
            "input": [Guarded(np.ascontiguousarray(x)) for x in inputs],
            "output": [Guarded(x) for x in outputs],
        }
        args = [ctypes.c_void_p(sides[side][k].address) for side, k in info.arguments]
        dims = [ctypes.c_int64(evaluate(dim, env)) for dim in info.dims]
        extent = evaluate(info.extent, env)
        bounds = sorted({0, extent, *(int(c * extent) for c in cuts)})
        function = getattr(self._library, info.symbol)
        for begin, end in itertools.pairwise(bounds):
            code = function(*args, *dims, ctypes.c_int64(begin), ctypes.c_int64(end))
            assert code == 0
        return [guard.array.copy() for guard in sides["output"]]


def outputs_for(graph: Graph, env: Mapping[str, int]) -> list[Array]:
    """Output arrays filled with a pattern that no kernel writes."""
    arrays = []
    for value in graph.outputs:
        assert isinstance(value.type, TensorType) and value.type.shape is not None
        shape = tuple(evaluate(dim, env) for dim in value.type.shape)
        array = np.empty(shape, value.type.dtype.numpy)
        array.reshape(-1).view(np.uint8)[...] = 0x5A
        arrays.append(array)
    return arrays


def check(
    graph: Graph,
    inputs: Sequence[Array],
    folder: Path,
    *,
    env: Mapping[str, int] | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    expected: Sequence[Array] | None = None,
    levels: Sequence[str] | None = None,
) -> None:
    """Every level gives what the interpreter (or ``expected``) says.

    Floats agree to ``rtol`` in relative L2 norm (NaN and infinities in the same places) plus
    ``atol`` for each element; all else is equal.
    """
    env = dict(env or {})
    wanted = run_graph(graph, list(inputs)) if expected is None else expected
    for level in levels or machine_levels():
        library = Library([KernelRequest(graph)], level, folder)
        got = library.run(
            library.kernels[0], inputs, outputs_for(graph, env), env, cuts=(0.3, 0.31, 0.8)
        )
        for y, want in zip(got, wanted, strict=True):
            compare(y, np.asarray(want), rtol, atol, level)


def compare(y: Array, want: Array, rtol: float, atol: float, label: str) -> None:
    """Asserts that ``y`` is ``want`` as :func:`check` defines it."""
    assert y.dtype == want.dtype and y.shape == want.shape, label
    if y.dtype.kind in "iub" or not DType.from_numpy(y.dtype).is_float:
        np.testing.assert_array_equal(y, want, err_msg=label)
        return
    with np.errstate(all="ignore"):
        a, b = y.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=label)
    infinite = np.isinf(b)
    np.testing.assert_array_equal(a[infinite], b[infinite], err_msg=label)
    difference = np.abs(a[finite] - b[finite])
    difference = np.maximum(difference - atol, 0)
    # Powers may be too large to be squared.
    unit = max(np.abs(b[finite]).max(initial=0.0), 1.0)
    difference, scale = difference / unit, np.linalg.norm(b[finite] / unit)
    assert np.linalg.norm(difference) <= rtol * scale, (
        f"{label}: relative L2 {np.linalg.norm(difference) / max(scale, 1e-300):.3g}"
    )
