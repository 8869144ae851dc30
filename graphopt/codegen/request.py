"""What is asked of the code generator, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.codegen.expr import Refusal
from graphopt.ir import Dim, Graph, Node, TensorType, Value, substitute, sym, symbols

__all__ = ["CompiledObjects", "KernelInfo", "KernelRequest", "canonical_text", "symbol_order"]


@dataclass(frozen=True, eq=False)
class KernelRequest:
    """A fused group: operands and results of the body's inputs and outputs, in order.

    Constants of one element, and those that steer an op (axes, pads...), are part of the body.
    """

    body: Graph
    kind: str = ""
    name: str = ""
    operands: tuple[Value | None, ...] = ()
    results: tuple[Value, ...] = ()

    @staticmethod
    def from_node(node: Node) -> KernelRequest:
        """The request of a ``graphopt.cpu::group`` node. Raises Refusal when it has no body."""
        body = node.attrs.get("body")
        if not isinstance(body, Graph):
            raise Refusal(f"{node!r} has no body")
        kind = str(node.attrs.get("kind") or "")
        return KernelRequest(body, kind, node.name, node.inputs, node.outputs)


@dataclass(frozen=True)
class KernelInfo:
    """How a kernel is called: ``int symbol(args..., dims..., begin, end)``.

    ``arguments`` are the tensors in order: ("input", i) is operand i of the group, ("output", i)
    its result i; operands that the kernel does not read are left out. ``args`` are the same as
    values of the graph (when the request named them). ``dims`` are passed as int64. The
    range [0, extent) may be split at will, into parts of ``grain`` units or more.
    """

    symbol: str
    arguments: tuple[tuple[str, int], ...]
    dims: tuple[Dim, ...]
    extent: Dim
    grain: int
    flops: Dim
    bytes: Dim
    args: tuple[Value, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class CompiledObjects:
    """Object code by ISA level, and one :class:`KernelInfo` for every request, in order."""

    objects: Mapping[str, bytes]
    kernels: tuple[KernelInfo, ...]


def symbol_order(body: Graph) -> list[str]:
    """The symbols of a body in the order in which they are met."""
    found: dict[str, None] = {}

    def see(dims: Sequence[Dim] | None) -> None:
        for dim in dims or ():
            for name in sorted(symbols(dim)):
                found.setdefault(name)

    def see_value(value: Value | None) -> None:
        if value is not None:
            if isinstance(value.type, TensorType):
                see(value.type.shape)
            see(value.elements)

    for value in body.inputs:
        see_value(value)
    for node in body:
        for each in (*node.inputs, *node.outputs):
            see_value(each)
    return list(found)


def canonical_text(body: Graph) -> str:
    """A text that two bodies share exactly when one kernel serves both.

    Values are numbered and symbols renamed; names, origins and the kind do not matter.
    """
    rename: dict[str, Dim] = {n: sym(f"s{i}") for i, n in enumerate(symbol_order(body))}
    names: dict[Value, str] = {}
    lines: list[str] = []

    def type_of(value: Value) -> str:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            return str(value.type)
        dims = ", ".join(str(substitute(d, rename)) for d in value.type.shape)
        known = value.elements
        text = f"{value.type.dtype}[{dims}]"
        if known is not None and value.constant is None:
            text += f" <{', '.join(str(substitute(d, rename)) for d in known)}>"
        return text

    def name(value: Value | None) -> str:
        if value is None:
            return "_"
        found = names.get(value)
        if found is None:
            if value.constant is None:
                raise Refusal(f"'{value.name}' comes from outside the group")
            found = f"const {value.constant.type} #{value.constant.digest}"
        return found

    for k, value in enumerate(body.inputs):
        names[value] = f"i{k}"
        lines.append(f"i{k}: {type_of(value)}")
    for k, node in enumerate(body):
        for index, value in enumerate(node.outputs):
            names[value] = f"v{k}.{index}"
        outs = ", ".join(f"{names[v]}: {type_of(v)}" for v in node.outputs)
        ins = ", ".join(name(v) for v in node.inputs)
        attrs = ", ".join(f"{a}={_attribute(node.attrs[a])}" for a in sorted(node.attrs))
        lines.append(f"{outs} = {node.op.qualified}({ins}) {{{attrs}}}")
    lines.append("return " + ", ".join(name(v) for v in body.outputs))
    return "\n".join(lines)


def _attribute(value: object) -> str:
    digest = getattr(value, "digest", None)
    return f"#{digest}" if isinstance(digest, str) else repr(value)


def kernel_hash(text: str) -> str:
    """16 hex digits that name a kernel."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
