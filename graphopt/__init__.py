"""graphopt: a compiler that makes trained neural networks small and fast, and shows they work.

::

    artifact = graphopt.compile("model.onnx", target="cpu", output="model.gopt")
    session = graphopt.load("model.gopt", threads=2)
    outputs = session.run({"x": x})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api import from_onnx, optimize, to_onnx
    from graphopt.compiler import compile
    from graphopt.ir import Graph
    from graphopt.ops.text import parse
    from graphopt.runtime import Session, load

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "Session",
    "__version__",
    "compile",
    "from_onnx",
    "load",
    "optimize",
    "parse",
    "to_onnx",
]

_WHERE = {
    "Graph": "graphopt.ir",
    "Session": "graphopt.runtime",
    "compile": "graphopt.compiler",
    "from_onnx": "graphopt.api",
    "load": "graphopt.runtime",
    "optimize": "graphopt.api",
    "parse": "graphopt.ops.text",
    "to_onnx": "graphopt.api",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import graphopt` costs nothing beyond what is used.
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
