"""From a lowered graph to a program: launches in order, weights, the arena."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.backends.cuda.dense import Launch, Workspace, launch_of
from graphopt.backends.cuda.memory import ALIGNMENT, Buffer, place
from graphopt.backends.cuda.ops import SHARED_DOMAIN, dense, is_group, is_view
from graphopt.backends.cuda.text import Kernels
from graphopt.codegen import Refusal
from graphopt.errors import UnsupportedError
from graphopt.ir import Constant, Graph, Node, Value, static_shape

__all__ = ["Program"]

FORMAT = 1
# The buffer that is 0 between launches.
_ZERO = "zero"


@dataclass
class Program:
    """What the launcher needs but the machine code. Raises UnsupportedError for a node that has no
    CUDA text."""

    graph: Graph
    kernels: Kernels = field(default_factory=Kernels)
    steps: list[tuple[Node, Launch]] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._roots: dict[Value, Value] = {}
        self._known: dict[Value, Constant] = {}
        self._offsets: dict[str, int] = {}
        self._size = 0
        for node in self.graph:
            self._lower(node)
        self._buffers = self._lifetimes()
        self.arena = place(list(self._buffers.values()))

    # ---- steps ----

    def _lower(self, node: Node) -> None:
        if is_view(node):
            source = node.inputs[0]
            assert source is not None
            self._roots[node.output] = self._root(source)
            return
        if node.op.domain == SHARED_DOMAIN and node.op.name == "shape":
            value = node.output
            dims = np.asarray(node.attrs["dims"], value.tensor.dtype.numpy)
            self._known[value] = Constant(dims.reshape(static_shape(value.shape) or ()))
            return
        if not dense(node) and not is_group(node):
            raise UnsupportedError(
                f"target 'cuda' has no kernel for node '{node.name or node.output.name}' "
                f"({node.op.qualified})"
            )
        try:
            self.steps.append((node, launch_of(node, self.kernels)))
        except Refusal as refusal:
            raise UnsupportedError(
                f"target 'cuda' cannot generate node '{'+'.join(sorted(node.origin)[:3])}': "
                f"{refusal}"
            ) from None

    def _root(self, value: Value) -> Value:
        return self._roots.get(value, value)

    def _constant(self, value: Value) -> Constant | None:
        return value.constant or self._known.get(value)

    # ---- memory ----

    def _lifetimes(self) -> dict[Any, Buffer]:
        end = len(self.steps)
        found: dict[Any, Buffer] = {}

        def touch(key: Any, nbytes: int, step: int) -> None:
            buffer = found.setdefault(key, Buffer(nbytes, step, step))
            buffer.last = max(buffer.last, step)

        for value in self.graph.inputs:
            touch(value, _nbytes(value), -1)
        for step, (_, launch) in enumerate(self.steps):
            for arg in launch.args:
                if isinstance(arg, Workspace) and not arg.zero:
                    touch(id(arg), arg.nbytes, step)
                elif isinstance(arg, Workspace):
                    zero = found.setdefault(_ZERO, Buffer(0, -1, end))
                    zero.nbytes = max(zero.nbytes, arg.nbytes)
                elif self._constant(self._root(arg)) is None:
                    touch(self._root(arg), _nbytes(arg), step)
        for value in self.graph.outputs:
            if self._constant(self._root(value)) is None:
                touch(self._root(value), _nbytes(value), end)
        return found

    def _weight(self, constant: Constant) -> int:
        """The offset of a constant in the weights; equal ones lie there once."""
        key = f"{constant.type} {constant.digest}"
        if key not in self._offsets:
            padding = -self._size % ALIGNMENT
            if padding:
                self.weights.append(bytes(padding))
            self._offsets[key] = self._size + padding
            self.weights.append(constant)
            self._size += padding + constant.nbytes
        return self._offsets[key]

    def _where(self, arg: Value | Workspace) -> list[Any]:
        if isinstance(arg, Workspace):
            key = _ZERO if arg.zero else id(arg)
            return ["a", self._buffers[key].offset, arg.nbytes]
        root = self._root(arg)
        constant = self._constant(root)
        if constant is not None:
            return ["w", self._weight(constant), constant.nbytes]
        return ["a", self._buffers[root].offset, _nbytes(arg)]

    # ---- result ----

    def manifest(self, archs: list[dict[str, Any]]) -> bytes:
        """The launches as the launcher reads them (docs/artifact.md)."""
        steps = [
            {
                "kernel": launch.kernel,
                "grid": list(launch.grid),
                "block": [launch.threads, 1, 1],
                "shared": launch.shared,
                "args": [self._where(arg) for arg in launch.args],
                "writes": [int(w) for w in launch.writes],
                "name": "+".join(sorted(node.origin)[:3]),
            }
            for node, launch in self.steps
        ]
        outputs = [
            self._spec(name, value)
            for value, name in zip(self.graph.outputs, self.graph.output_names, strict=True)
        ]
        zero = self._buffers.get(_ZERO)
        document = {
            "version": FORMAT,
            "archs": archs,
            "inputs": [self._spec(value.name, value) for value in self.graph.inputs],
            "outputs": outputs,
            "steps": steps,
            "arena_bytes": self.arena,
            "weights_bytes": self._size,
            "zero": [zero.offset, zero.nbytes] if zero is not None else [0, 0],
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    def _spec(self, name: str, value: Value) -> dict[str, Any]:
        where, offset, nbytes = self._where(value)
        return {
            "name": name,
            "dtype": value.tensor.dtype.numpy.name,
            "shape": list(static_shape(value.shape) or ()),
            "where": where,
            "offset": offset,
            "bytes": nbytes,
        }


def _nbytes(value: Value) -> int:
    return math.prod(static_shape(value.shape) or ()) * value.tensor.dtype.nbytes
