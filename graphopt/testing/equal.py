"""Whether two graphs are the same up to the names of values and the order of independent nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Constant, Graph, Node, Value

__all__ = ["difference"]

# Attributes that hold reals agree up to the rounding of f32, in which ONNX stores them.
_NEAR = 1e-6


def difference(actual: Graph, expected: Graph) -> str | None:
    """Where ``actual`` differs from ``expected`` first; None when the two are the same.

    A constant of ``expected`` whose contents are not known stands for any of its type. Metadata,
    node names and origins are not compared.
    """
    return _Comparison().graphs(actual, expected)


class _Comparison:
    def __init__(self) -> None:
        self.pairs: dict[Value, Value] = {}

    def graphs(self, a: Graph, b: Graph) -> str | None:
        if len(a.inputs) != len(b.inputs):
            return f"{len(a.inputs)} inputs instead of {len(b.inputs)}"
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if x.type != y.type:
                return f"input %{x.name} is {x.type} instead of {y.type}"
            self.pairs[x] = y
        if a.parent is None and a.output_names != b.output_names:
            return f"outputs {a.output_names} instead of {b.output_names}"
        if len(a.outputs) != len(b.outputs):
            return f"{len(a.outputs)} outputs instead of {len(b.outputs)}"
        for x, y in zip(a.outputs, b.outputs, strict=True):
            found = self.values(x, y)
            if found is not None:
                return found
        if len(a) != len(b):
            return f"{len(a)} nodes instead of {len(b)}: some are not read"
        return None

    def values(self, a: Value, b: Value) -> str | None:
        if a in self.pairs:
            return None if self.pairs[a] is b else f"%{a.name} stands where %{b.name} should"
        if a.constant is not None or b.constant is not None:
            return _constants(a, b)
        if a.producer is None or b.producer is None:
            return f"%{a.name} stands where %{b.name} should"
        found = self.nodes(a.producer, b.producer)
        if found is not None:
            return found
        if a.index != b.index:
            return f"output {a.index} of {a.producer!r} is read instead of output {b.index}"
        self.pairs[a] = b
        return None

    def nodes(self, a: Node, b: Node) -> str | None:
        if (a.op.domain, a.op.name) != (b.op.domain, b.op.name):
            return f"{a!r} instead of {b!r}"
        if len(a.outputs) != len(b.outputs) or len(a.inputs) != len(b.inputs):
            return f"{a!r} has other operands or outputs than {b!r}"
        for x, y in zip(a.outputs, b.outputs, strict=True):
            if x.type != y.type:
                return f"%{x.name} is {x.type} instead of {y.type}"
        for u, v in zip(a.inputs, b.inputs, strict=True):
            if u is None or v is None:
                if u is not v:
                    return f"{a!r} instead of {b!r}: an operand is absent"
                continue
            found = self.values(u, v)
            if found is not None:
                return found
        return self.attrs(a, b)

    def attrs(self, a: Node, b: Node) -> str | None:
        for name in sorted({*a.attrs, *b.attrs}):
            left, right = a.attr(name), b.attr(name)
            if isinstance(left, Graph) and isinstance(right, Graph):
                found = self.graphs(left, right)
                if found is not None:
                    return f"in {name} of {a!r}: {found}"
            elif not _same_attr(left, right):
                return f"{name} of {a!r} is {left!r} instead of {right!r}"
        return None


def _constants(a: Value, b: Value) -> str | None:
    if a.constant is None or b.constant is None:
        return f"%{a.name} stands where %{b.name} should"
    if a.type != b.type:
        return f"constant %{a.name} is {a.type} instead of {b.type}"
    if b.constant.available and not _same_constant(a.constant, b.constant):
        return f"constant %{a.name} holds other values than %{b.name}"
    return None


def _same_constant(a: Constant, b: Constant) -> bool:
    x, y = a.array, b.array
    if a.type.dtype.is_float and a.type.dtype.bits >= 32:
        # Cases spell constants to some digits.
        return bool(np.allclose(x, y, rtol=_NEAR, atol=0, equal_nan=True))
    return bool(np.array_equal(x, y))


def _same_attr(a: Any, b: Any) -> bool:
    if isinstance(a, Constant) and isinstance(b, Constant):
        return a.type == b.type and _same_constant(a, b)
    if isinstance(a, float) and isinstance(b, float | int):
        return a == b or abs(a - b) <= _NEAR * abs(b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same_attr, a, b))
    return bool(a == b)
