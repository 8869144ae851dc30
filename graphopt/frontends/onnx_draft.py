"""A node on its way into the IR, and the table of steps that bring it to the newest opset."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir import Builder, Dim, DType, TensorType, Value

__all__ = ["Draft", "Step", "changes", "step", "steps_after"]

# Each module fills the table; explicit, so that a missing one is an error.
_MODULES = (
    "graphopt.frontends.onnx_upgrade_basic",
    "graphopt.frontends.onnx_upgrade_layers",
    "graphopt.frontends.onnx_upgrade_moves",
    "graphopt.frontends.onnx_upgrade_flow",
)


@dataclass
class Draft:
    """One node of a model at its own opset; steps change it in place.

    ``version`` is the opset that the node is written in; ``build`` adds helper nodes of the newest
    opset before it, with the same origin. ``wanted`` says which outputs have a name.
    """

    op: str
    domain: str
    version: int
    inputs: list[Value | None]
    attrs: dict[str, Any]
    wanted: list[bool]
    label: str
    build: Builder
    names: list[str] = field(default_factory=list)

    @property
    def n_outputs(self) -> int:
        """Number of outputs, unnamed ones in the middle included."""
        return len(self.wanted)

    def fail(self, cause: str) -> NoReturn:
        """Raises ModelError that names the node."""
        raise ModelError(f"node '{self.label}' ({self.op}-{self.version}): {cause}")

    def unsupported(self, cause: str) -> NoReturn:
        """Raises UnsupportedError that names the node."""
        raise UnsupportedError(f"node '{self.label}' ({self.op}-{self.version}): {cause}")

    def input(self, index: int) -> Value | None:
        """Operand ``index``, None when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """Operand ``index``; fails when it is absent."""
        found = self.input(index)
        if found is None:
            self.fail(f"operand {index} is missing")
        return found

    def tensor(self, index: int) -> TensorType:
        """Type of operand ``index``, which must be a tensor."""
        found = self.value(index).type
        if not isinstance(found, TensorType):
            self.fail(f"operand {index} is {found}, not a tensor")
        return found

    def rank(self, index: int) -> int:
        """Rank of operand ``index``; fails when it is unknown."""
        rank = self.tensor(index).rank
        if rank is None:
            self.unsupported(f"the rank of operand {index} is not known")
        return rank

    def shape(self, index: int) -> tuple[Dim, ...]:
        """Shape of operand ``index``; fails when its rank is unknown."""
        self.rank(index)
        shape = self.tensor(index).shape
        assert shape is not None
        return shape

    def axis(self, value: int, rank: int) -> int:
        """``value`` as a non-negative axis; fails when out of range."""
        if not -rank <= value < rank:
            self.fail(f"axis {value} is out of range for rank {rank}")
        return value + rank if value < 0 else value

    def set_input(self, index: int, value: Value | None) -> None:
        """Makes ``value`` operand ``index``, with absent ones before it where needed."""
        while len(self.inputs) <= index:
            self.inputs.append(None)
        self.inputs[index] = value

    def pop_ints(self, name: str) -> tuple[int, ...] | None:
        """Takes an attribute that is a list of ints out."""
        value = self.attrs.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(x, int) for x in value):
            self.fail(f"attribute '{name}' is not a list of integers")
        return value

    def pop_int(self, name: str, default: int) -> int:
        """Takes an integer attribute out."""
        value = self.attrs.pop(name, default)
        if not isinstance(value, int):
            self.fail(f"attribute '{name}' is not an integer")
        return value

    def pop_float(self, name: str, default: float) -> float:
        """Takes a float attribute out."""
        value = self.attrs.pop(name, default)
        if not isinstance(value, float):
            self.fail(f"attribute '{name}' is not a float")
        return value

    def pop_str(self, name: str, default: str) -> str:
        """Takes a string attribute out."""
        value = self.attrs.pop(name, default)
        if not isinstance(value, str):
            self.fail(f"attribute '{name}' is not a string")
        return value

    def ints(self, values: Sequence[int], name: str = "c") -> Value:
        """A constant i64 vector."""
        return self.build.constant(np.array(values, np.int64), name)

    def scalar(self, value: float, dtype: DType, name: str = "c") -> Value:
        """A constant 0-d tensor. Values are cast as numpy casts."""
        return self.build.constant(np.array(value).astype(dtype.numpy), name)

    def attr_to_input(self, name: str, index: int, required: bool = False) -> None:
        """Attribute ``name`` (ints) becomes operand ``index``, the way newer opsets have it."""
        values = self.pop_ints(name)
        if values is not None:
            self.set_input(index, self.ints(values, name))
        elif required:
            self.fail(f"attribute '{name}' is required")


# Changes the draft in place and returns None, or builds all outputs itself and returns them.
Step = Callable[[Draft], "Sequence[Value] | None"]
_steps: dict[tuple[str, str], list[tuple[int, Step]]] = {}
_loaded = False


def step(version: int, *ops: str, domain: str = "") -> Callable[[Step], Step]:
    """Registers a step from any opset before ``version`` to it, for each of ``ops``."""

    def register(function: Step) -> Step:
        for op in ops:
            entries = _steps.setdefault((domain, op), [])
            if any(v == version for v, _ in entries):
                raise ValueError(f"{op} has two steps to opset {version}")
            entries.append((version, function))
            entries.sort(key=lambda entry: entry[0])
        return function

    return register


def _load() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for module in _MODULES:
            importlib.import_module(module)


def steps_after(domain: str, op: str, version: int) -> tuple[int, Step] | None:
    """The next step for a node of ``op`` written in opset ``version``, None when it is newest."""
    _load()
    for target, function in _steps.get((domain, op), ()):
        if target > version:
            return target, function
    return None


def changes(domain: str, op: str) -> tuple[int, ...]:
    """The opsets that gave ``op`` another form or meaning, oldest first."""
    _load()
    return tuple(version for version, _ in _steps.get((domain, op), ()))
