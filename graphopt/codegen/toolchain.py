"""Bringing tvm in: late, quickly, and without what its import does to the process."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from graphopt.errors import missing_extra

__all__ = ["load_tvm"]

_NO_TORCH = "TVM_FFI_DISABLE_TORCH_C_DLPACK"


def load_tvm() -> None:
    """Imports tvm. Raises ToolchainError when it is not installed.

    tvm imports torch where that is installed, which takes several times as long as itself, only to
    exchange tensors with it: it does without here, unless torch is loaded already. It also replaces
    ``sys.excepthook`` by one that kills child processes: that is undone.
    """
    if "tvm" in sys.modules:
        return
    hook = sys.excepthook
    modules: dict[str, Any] = sys.modules
    hidden = "torch" not in modules
    before = os.environ.get(_NO_TORCH)
    if hidden:
        # An entry of None makes the import fail as if torch were not installed.
        modules["torch"] = None
        os.environ[_NO_TORCH] = "1"
    try:
        _import()
    finally:
        if hidden:
            del modules["torch"]
            os.environ.pop(_NO_TORCH)
            if before is not None:
                os.environ[_NO_TORCH] = before
        sys.excepthook = hook


def _import() -> ModuleType:
    try:
        import tvm
    except ImportError:
        raise missing_extra("apache-tvm", "cpu") from None
    loaded: ModuleType = tvm
    return loaded
