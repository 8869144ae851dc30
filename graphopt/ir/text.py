"""The `.gir` text form: printing.

One statement a line::

    graph @main(%x: f32[N, 3]) -> (%y) {
      %w = const f32[64, 3] #9f86d081884c7d65
      %axes = const i64[1] [1]
      %y: f32[N, 64] = Gemm(%x, %w, _) {transB = 1} @["gemm_0"]
    }

Small constants are spelled out, larger ones stand by their digest; the parser also takes
``splat(x)``, ``seed(n)``, ``seed(n, low, high)`` and ``any`` for what they hold. `_` is an absent
operand. The list after `@` is the node's origin; a node name that is not the only origin follows as
`: "name"`. Graph outputs whose interface name differs from the value's print as
`%value as "name"`. Parsing is in :mod:`graphopt.ir.parse`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from graphopt.ir.constant import Constant
from graphopt.ir.dim import Expr
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import OptionalType, SequenceType, TensorType

__all__ = ["INLINE_ELEMENTS", "print_attr", "print_graph", "print_node"]

# Constants of at most this many elements are spelled out.
INLINE_ELEMENTS = 16
_PLAIN = re.compile(r"[A-Za-z0-9_./\-]+\Z")


def print_graph(graph: Graph, *, inline_elements: int | None = INLINE_ELEMENTS) -> str:
    """The text of a graph; :func:`graphopt.ir.parse.parse` gives an equal graph back.

    Constants of more than ``inline_elements`` elements stand by their digest (None: none do).
    """
    printer = _Printer(inline_elements)
    printer.graph(graph, "", "graph ")
    return "\n".join(printer.lines) + "\n"


def print_node(node: Node) -> str:
    """One node's line (regions included, over several lines)."""
    printer = _Printer(INLINE_ELEMENTS)
    printer.node(node, "")
    return "\n".join(printer.lines)


def print_attr(value: Any, *, inline_elements: int | None = INLINE_ELEMENTS) -> str:
    """The text of an attribute that is no region. Raises TypeError where it has none."""
    return _Printer(inline_elements).attr(value)


def quote(name: str) -> str:
    """``name`` bare where the grammar allows, else as a JSON string."""
    return name if _PLAIN.match(name) else json.dumps(name)


def _ref(value: Value | None) -> str:
    return "_" if value is None else "%" + quote(value.name)


def _elements(value: Value) -> str:
    if value.is_constant or value.elements is None:
        return ""
    return f" <{', '.join(map(str, value.elements))}>"


class _Printer:
    def __init__(self, inline: int | None) -> None:
        self.inline = inline
        self.lines: list[str] = []

    def graph(self, graph: Graph, indent: str, head: str) -> None:
        inputs = ", ".join(f"{_ref(v)}: {v.type}{_elements(v)}" for v in graph.inputs)
        outputs = ", ".join(
            _ref(v) if v.name == name else f"{_ref(v)} as {json.dumps(name)}"
            for v, name in zip(graph.outputs, graph.output_names, strict=True)
        )
        self.lines.append(f"{indent}{head}@{quote(graph.name)}({inputs}) -> ({outputs}) {{")
        inner = indent + "  "
        for key in sorted(graph.metadata):
            text = f"meta {json.dumps(key)} = {json.dumps(graph.metadata[key])}"
            self.lines.append(inner + text)
        for value in graph.constants.values():
            assert value.constant is not None
            self.lines.append(f"{inner}{_ref(value)} = const {self.constant(value.constant)}")
        for node in graph:
            self.node(node, inner)
        self.lines.append(f"{indent}}}")

    def node(self, node: Node, indent: str) -> None:
        outs = ", ".join(f"{_ref(v)}: {v.type}{_elements(v)}" for v in node.outputs)
        ins = ", ".join(_ref(v) for v in node.inputs)
        text = f"{indent}{outs} = {node.op.qualified}({ins})"
        plain = {k: v for k, v in node.attrs.items() if not isinstance(v, Graph)}
        if plain:
            shown = ", ".join(f"{k} = {self.attr(plain[k])}" for k in sorted(plain))
            text += f" {{{shown}}}"
        text += f" @[{', '.join(json.dumps(o) for o in sorted(node.origin))}]"
        if node.name and node.origin != {node.name}:
            text += f" : {json.dumps(node.name)}"
        regions = [(k, v) for k, v in sorted(node.attrs.items()) if isinstance(v, Graph)]
        if regions:
            text += " regions {"
        self.lines.append(text)
        for key, region in regions:
            self.graph(region, indent + "  ", f"{key} = ")
        if regions:
            self.lines.append(f"{indent}}}")

    def attr(self, value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return str(int(value))
        if isinstance(value, int | np.integer):
            return str(int(value))
        if isinstance(value, float | np.floating):
            return _float(float(value))
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, bytes):
            return f'hex("{value.hex()}")'
        if isinstance(value, tuple | list):
            return "[" + ", ".join(self.attr(item) for item in value) + "]"
        if isinstance(value, Constant):
            return f"tensor {self.constant(value)}"
        if isinstance(value, Expr):
            return f"dim({value})"
        if isinstance(value, TensorType | SequenceType | OptionalType):
            return f"type({value})"
        raise TypeError(f"an attribute of type {type(value).__name__} has no text form")

    def constant(self, constant: Constant) -> str:
        small = self.inline is None or constant.numel <= self.inline
        if constant.available and (small or constant.type.dtype is DType.STRING):
            items = ", ".join(_element(x, constant.type.dtype) for x in constant.array.ravel())
            return f"{constant.type} [{items}]"
        return f"{constant.type} #{constant.digest}"


def _float(value: float) -> str:
    text = repr(value)
    return text if any(c in text for c in ".einf") else text + ".0"


def _element(item: Any, dtype: DType) -> str:
    if dtype is DType.STRING:
        if isinstance(item, bytes):
            return json.dumps(item.decode("utf-8", "surrogateescape"))
        return json.dumps(str(item))
    if dtype is DType.BOOL:
        return "1" if item else "0"
    if dtype.is_complex:
        return f"({_float(float(item.real))}, {_float(float(item.imag))})"
    if dtype.is_float:
        # The shortest text that names the same f32 or narrower value.
        value = item if dtype in (DType.F32, DType.F64) else np.float32(item)
        return str(value) if np.isfinite(value) else _float(float(value))
    return str(int(item))
