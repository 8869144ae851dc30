"""Building the simulator of a CUDA text, and running kernels and whole artifacts in it."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import CompileError, ExecutionError, ToolchainError
from graphopt.runtime.artifact import Artifact

__all__ = ["KernelFault", "Simulator"]

Array = np.ndarray[Any, Any]

_HERE = Path(__file__).parent
_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(([^)]*)\)\s*\{'
)
# Misaligned vectors trap, as they do on the device.
_FLAGS = (
    "-std=c++20", "-O1", "-march=x86-64-v3", "-ffp-contract=off", "-w", "-shared", "-fPIC",
    "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error", "-U_FORTIFY_SOURCE",
)  # fmt: skip
_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class KernelFault(ExecutionError):
    """A simulated kernel broke a rule: bounds, alignment, barriers."""


class _Guarded:
    """A buffer between two pages that nobody may touch: against the page behind it, or (with
    ``front``) the one before it."""

    def __init__(self, content: bytes, front: bool) -> None:
        size = len(content)
        pages = -(-max(size, 1) // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, pages + 2 * _PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (base, base + _PAGE + pages):
            _libc.mprotect(guard, _PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0)
        # Buffers of the device are 256-byte aligned; 16 is what kernels ask for.
        self._at = _PAGE + (0 if front else pages - -(-size // 16) * 16)
        self.size = size
        self.address = base + self._at
        self._map[self._at : self._at + size] = content

    def read(self) -> bytes:
        return self._map[self._at : self._at + self.size]


class Simulator:
    """The kernels of one CUDA text, compiled for this machine.

    Raises ToolchainError when there is no C++ compiler, CompileError when the text does not
    compile. Built libraries are kept in ``folder`` (a temporary one by default) by content.
    """

    def __init__(self, text: str, folder: str | os.PathLike[str] | None = None) -> None:
        self.text = text
        self.library = _build(text, folder)
        self._lib = ctypes.CDLL(str(self.library))
        self._lib.gosim_last_error.restype = ctypes.c_char_p
        self.kernels = tuple(name for name, _ in _KERNEL.findall(text))

    @staticmethod
    def of(artifact: Artifact, folder: str | os.PathLike[str] | None = None) -> Simulator:
        """The simulator of an artifact's kernels."""
        return Simulator(artifact.read("kernels.cu").decode(), folder)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[int],
        shared: int = 0,
        order: int = 0,
    ) -> None:
        """Runs a kernel on addresses and integers. ``order`` of threads: 0 forwards, 1 backwards,
        2 and up at random. Raises KernelFault."""
        slots = [ctypes.c_uint64(value) for value in args]
        pointers = (ctypes.c_void_p * max(len(slots), 1))(*[ctypes.addressof(s) for s in slots])
        shape = (ctypes.c_uint * 6)(*grid, *block)
        if self._lib.gosim_run(kernel.encode(), pointers, shape, ctypes.c_size_t(shared), order):
            raise KernelFault(f"kernel {kernel}: {self._lib.gosim_last_error().decode()}")

    def replay(
        self, artifact: Artifact, inputs: Mapping[str, Array], order: int = 0
    ) -> dict[str, Array]:
        """Outputs of an artifact, its launches in turn. Each buffer of each launch lies against a
        guard page (before it for odd orders), memory that nothing wrote is NaN. Raises
        KernelFault."""
        plan = artifact.json("cuda.json")
        arena = bytearray(b"\xff" * int(plan["arena_bytes"]))
        start, nbytes = plan["zero"]
        arena[start : start + nbytes] = bytes(nbytes)
        weights = artifact.read("weights")
        for spec in plan["inputs"]:
            data = np.ascontiguousarray(inputs[spec["name"]], dtype=spec["dtype"]).tobytes()
            arena[spec["offset"] : spec["offset"] + len(data)] = data
        for step in plan["steps"]:
            rooms: list[tuple[str, int, _Guarded]] = []
            args: list[int] = []
            for where, offset, size in step["args"]:
                source = weights if where == "w" else arena
                room = _Guarded(bytes(source[offset : offset + size]), order % 2 == 1)
                rooms.append((where, offset, room))
                args.append(room.address)
            self.launch(step["kernel"], step["grid"], step["block"], args, step["shared"], order)
            for (where, offset, room), written in zip(rooms, step["writes"], strict=True):
                if where == "a" and written:
                    arena[offset : offset + room.size] = room.read()
        return {
            spec["name"]: np.frombuffer(
                bytes(arena[spec["offset"] : spec["offset"] + spec["bytes"]]), spec["dtype"]
            ).reshape(spec["shape"])
            for spec in plan["outputs"]
        }


def _build(text: str, folder: str | os.PathLike[str] | None) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise ToolchainError("the CUDA simulator needs a C++ compiler (g++) on the PATH")
    source = _source(text)
    headers = b"".join((_HERE / name).read_bytes() for name in ("shim.h", "driver.h"))
    key = hashlib.blake2b(source.encode() + headers + repr(_FLAGS).encode(), digest_size=12)
    place = Path(folder) if folder is not None else Path(tempfile.gettempdir()) / "graphopt-sim"
    place.mkdir(parents=True, exist_ok=True)
    library = place / f"cuda-{key.hexdigest()}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        unit, result = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
        unit.write_text(source)
        done = subprocess.run(
            [compiler, *_FLAGS, f"-I{_HERE}", "-o", str(result), str(unit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise CompileError(f"the CUDA text does not compile here: {done.stderr[:2000]}")
        result.replace(library)
    return library


def _source(text: str) -> str:
    lines = ['#include "shim.h"', text, '#include "driver.h"']
    for name, parameters in _KERNEL.findall(text):
        types = [_type(p) for p in parameters.split(",") if p.strip()]
        passed = ", ".join(f"*({t}*)a[{i}]" for i, t in enumerate(types))
        sizes = ", ".join(f"sizeof({t})" for t in types)
        lines.append(f"static void call_{name}(void** a) {{ {name}({passed}); }}")
        lines.append(f'static gosim::Register add_{name}("{name}", call_{name}, {{{sizes}}});')
    return "\n".join(lines) + "\n"


def _type(parameter: str) -> str:
    """The type in a parameter's declaration."""
    return re.sub(r"\w+\s*$", "", parameter.replace("__restrict__", "")).strip()
