"""The native runtime: what csrc/python binds. Use `graphopt.runtime` instead of this module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.hashing import Buffer

_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float32]

class NativeError(RuntimeError):
    """A damaged artifact, or operands that an operator forbids."""

def isa() -> str: ...
def isa_levels() -> list[str]: ...
def xxh64(data: Buffer) -> int: ...
def chunked_xxh64(data: Buffer) -> int: ...
def has_kernel(name: str) -> bool: ...
def run_kernel(
    name: str,
    inputs: Sequence[_Array | None],
    outputs: Sequence[_Array | tuple[str, Sequence[int] | None] | None],
    attrs: Mapping[str, Any],
    threads: int = 1,
) -> list[_Array | None]: ...
def pack_gemm(w: _Floats) -> _Floats: ...
def pack_conv(w: _Floats, group: int = 1) -> _Floats: ...
def pack_conv_transpose(w: _Floats, group: int = 1) -> _Floats: ...
