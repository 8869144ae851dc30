"""Hand-written plans: what the compiler would emit, small enough to read."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime.artifact import Artifact
from graphopt.runtime.dtypes import dtype_code

_SOURCE = Path(__file__).parents[2] / "csrc" / "tests" / "test_kernels.c"


@cache
def object_code() -> bytes:
    """csrc/tests/test_kernels.c as an object file."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "a C compiler built the native module, so there is one"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.o"
        command = [compiler, "-c", "-O2", "-fPIC", "-o", str(out), str(_SOURCE)]
        subprocess.run(command, check=True)
        return out.read_bytes()


class PlanWriter:
    """Builds the JSON of a plan. Shapes are lists of sizes: ints, symbols, nested expressions."""

    def __init__(self) -> None:
        self.symbols: list[str] = []
        self.dims: list[Any] = []
        self.values: list[dict[str, Any]] = []
        self.inputs: list[int] = []
        self.outputs: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.weights = bytearray()
        self.host: list[str] = []

    def symbol(self, name: str) -> int:
        if name not in self.symbols:
            self.symbols.append(name)
        return self.symbols.index(name)

    def dim(self, size: Any) -> int:
        if isinstance(size, str):
            entry: Any = {"sym": self.symbol(size)}
        elif isinstance(size, (list, tuple)):
            entry = [size[0], *(self.dim(part) for part in size[1:])]
        else:
            entry = size
        if entry not in self.dims:
            self.dims.append(entry)
        return self.dims.index(entry)

    def _value(self, name: str, dtype: str, shape: Sequence[Any], kind: str, **more: Any) -> int:
        code = dtype_code(np.dtype(dtype))
        dims = [self.dim(size) for size in shape]
        self.values.append({"name": name, "dtype": code, "shape": dims, "kind": kind, **more})
        return len(self.values) - 1

    def input(self, name: str, shape: Sequence[Any], dtype: str = "float32") -> int:
        self.inputs.append(self._value(name, dtype, shape, "input"))
        return self.inputs[-1]

    def temp(self, name: str, shape: Sequence[Any], dtype: str = "float32") -> int:
        return self._value(name, dtype, shape, "temp")

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> int:
        self.weights += bytes(-len(self.weights) % 64)
        offset = len(self.weights)
        self.weights += array.tobytes()
        sizes = {"offset": offset, "nbytes": array.nbytes}
        return self._value(name, array.dtype.name, array.shape, "constant", **sizes)

    def output(self, name: str, value: int) -> None:
        self.outputs.append({"name": name, "value": value})

    def call(self, symbol: str, args: Sequence[int | None], extent: Any, **more: Any) -> None:
        dims = [self.dim(size) for size in more.pop("dims", [])]
        step = {"kind": "object", "symbol": symbol, "args": args, "dims": dims}
        self.steps.append({**step, "extent": self.dim(extent), "name": symbol, "grain": 16, **more})

    def step(self, kind: str, **fields: Any) -> None:
        self.steps.append({"kind": kind, "name": kind, **fields})

    def document(self) -> dict[str, Any]:
        return {
            "version": 1,
            "symbols": self.symbols,
            "dims": self.dims,
            "values": self.values,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "steps": self.steps,
            "objects": {"x86-64": "objects/x86-64.o"},
        }

    def members(self) -> dict[str, Any]:
        members: dict[str, Any] = {
            "plan": json.dumps(self.document()).encode(),
            "weights": bytes(self.weights),
            "objects/x86-64.o": object_code(),
        }
        if self.host:
            members["host.json"] = json.dumps(self.host).encode()
        return members

    def save(self, path: Path, manifest: Mapping[str, Any] | None = None) -> Path:
        Artifact(manifest or {"target": "cpu"}, self.members()).save(path)
        return path
