"""Building nodes by calling ops: ``b.Relu(x)``, ``b.Concat(x, y, axis=1)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.constant import Constant
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.op import OpDef, resolve_op
from graphopt.ir.types import Type

__all__ = ["Builder"]

Operand = Value | np.ndarray[Any, Any] | Constant | int | float | Sequence[int] | None


class Builder:
    """Adds nodes to a graph at one place, all with one origin.

    Attribute access gives ops of the ONNX domain: ``b.Add(x, y)`` returns the output value, or
    a tuple of ``_outputs=k`` of them. Numpy arrays, and python ints or sequences of ints (as i64),
    may stand for operands. Keyword arguments are attributes; underscored ones steer the builder:
    ``_outputs``, ``_name`` (wanted name of the first output), ``_types``, ``_domain``.
    """

    def __init__(
        self, graph: Graph, *, before: Node | None = None, origin: Iterable[str] = ()
    ) -> None:
        self.graph = graph
        self.before = before
        self.origin = frozenset(origin)
        self.created: list[Node] = []

    def constant(self, data: Any, name: str = "c", dtype: Any = None) -> Value:
        """A constant value from anything that numpy takes; python ints become i64, floats f32."""
        if isinstance(data, Constant):
            return self.graph.add_constant(data, name)
        if not isinstance(data, np.ndarray | np.generic):
            array = np.asarray(data)
            if dtype is None and array.dtype.kind == "f":
                dtype = np.float32
            if dtype is None and array.dtype.kind in "iu":
                dtype = np.int64
            if array.size == 0 and dtype is None:
                dtype = np.int64
        else:
            array = np.asarray(data)
        return self.graph.add_constant(array if dtype is None else array.astype(dtype), name)

    def call(
        self,
        op: OpDef,
        /,
        *operands: Operand,
        _outputs: int = 1,
        _name: str = "",
        _types: Sequence[Type] | None = None,
        **attrs: Any,
    ) -> Node:
        """Adds a node of ``op`` and returns it."""
        values = [x if x is None or isinstance(x, Value) else self.constant(x) for x in operands]
        node = self.graph.add(
            op,
            values,
            attrs,
            n_outputs=_outputs,
            types=_types,
            names=[_name] if _name else None,
            origin=self.origin,
            before=self.before,
        )
        self.created.append(node)
        return node

    def op(self, name: str, /, *operands: Operand, _domain: str = "", **options: Any) -> Any:
        """``b.op("Name", ...)`` is ``b.Name(...)`` for ops of any domain."""
        node = self.call(resolve_op(name, _domain), *operands, **options)
        return node.outputs[0] if len(node.outputs) == 1 else node.outputs

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not name[0].isupper():
            raise AttributeError(name)

        def build(*operands: Operand, **options: Any) -> Any:
            return self.op(name, *operands, **options)

        return build
