"""NVRTC through ctypes: CUDA text to cubins and PTX, without a host compiler or a driver."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from graphopt.codegen.cache import Cache, default_folder
from graphopt.errors import CompileError, missing_extra

__all__ = ["compile_text", "library_path", "resources"]

_PATTERNS = {"13": "cu13/lib/libnvrtc.so.13", "12": "cuda_nvrtc/lib/libnvrtc.so.12"}
_OPTIONS = ("--std=c++17", "--ptxas-options=-v", "--fmad=true")


def library_path(toolkit: str) -> Path | None:
    """Where pip put NVRTC of a toolkit's major version; None when it is not installed."""
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        path = Path(folder) / _PATTERNS[toolkit]
        if path.is_file():
            return path
    return None


@cache
def _library(toolkit: str) -> ctypes.CDLL:
    path = library_path(toolkit)
    if path is None:
        package = "nvidia-cuda-nvrtc" if toolkit == "13" else "nvidia-cuda-nvrtc-cu12"
        raise missing_extra(package, "cuda")
    lib = ctypes.CDLL(str(path))
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p
    return lib


@cache
def version(toolkit: str) -> str:
    """NVRTC's version. Raises ToolchainError when it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library(toolkit).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_text(text: str, arch: str, toolkit: str = "13") -> tuple[bytes, str]:
    """Machine code for ``arch`` (``sm_90``), or PTX (``compute_90``), and the assembler's notes.

    Raises CompileError with NVRTC's message, ToolchainError when NVRTC is not installed.
    """
    store = Cache(default_folder())
    key = "\n".join(["cuda", version(toolkit), arch, *_OPTIONS, text])
    code, log = store.get(f"code {key}"), store.get(f"log {key}")
    if code is None or log is None:
        code, notes = _compile(text, arch, toolkit)
        log = notes.encode()
        store.put(f"code {key}", code)
        store.put(f"log {key}", log)
    return code, log.decode(errors="replace")


def _compile(text: str, arch: str, toolkit: str) -> tuple[bytes, str]:
    lib = _library(toolkit)
    program = ctypes.c_void_p()
    source, name = text.encode(), b"kernels.cu"
    code = lib.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None)
    if code:
        raise CompileError(f"NVRTC: {lib.nvrtcGetErrorString(code).decode()}")
    try:
        options = [f"--gpu-architecture={arch}".encode(), *(o.encode() for o in _OPTIONS)]
        array = (ctypes.c_char_p * len(options))(*options)
        code = lib.nvrtcCompileProgram(program, len(options), array)
        log = _read(lib, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if code:
            raise CompileError(f"NVRTC cannot compile for {arch}: {log[:2000]}")
        return _read(lib, program, "CUBIN" if arch.startswith("sm_") else "PTX"), log
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _read(lib: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    code = getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    code = code or getattr(lib, f"nvrtcGet{what}")(program, data)
    if code:
        raise CompileError(f"NVRTC: {lib.nvrtcGetErrorString(code).decode()}")
    return data.raw


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_USED = re.compile(r"Used (\d+) registers")
_SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def resources(log: str) -> dict[str, dict[str, int]]:
    """Registers and spilled bytes of each kernel, from the assembler's notes."""
    found: dict[str, dict[str, int]] = {}
    current: dict[str, int] = {}
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            current = found.setdefault(match[1], {"registers": 0, "spills": 0})
        elif match := _SPILL.search(line):
            current["spills"] = int(match[1]) + int(match[2])
        elif match := _USED.search(line):
            current["registers"] = int(match[1])
    return found
