"""Intermediate values are kept as f16, and products read f16 operands into f32 sums.

``y = product(x, w); z = group{f}(y)  ->  the same`` with y in f16: bodies cast what they read and
what they store, so that everything between two stores is computed in f32. Inputs, outputs and masks
keep their types; weights of products are rounded.

Lossy: each value stored, and each operand of a product, is rounded to 11 bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.ops import GROUP
from graphopt.backends.cuda.ops import OPERANDS, dense, is_group, is_view
from graphopt.errors import CompileError
from graphopt.ir import Builder, Constant, DType, Graph, Node, TensorType, Value
from graphopt.ir.clone import copy_nodes
from graphopt.rewrite import Numerics, Pass, PassContext, lossy, record_edit

__all__ = ["HalfStorage"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class HalfStorage(Pass):
    """``f32 between kernels  ->  f16``."""

    name: ClassVar[str] = "cuda-half-storage"
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy(1e-2)
    follows: ClassVar[tuple[str, ...]] = ("cuda-fuse-tails",)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a value or an operand became f16."""
        narrow = _narrow(graph)
        before = {v: v.type for v in narrow}
        for value in narrow:
            value.type = TensorType(DType.F16, value.shape)
        changed = bool(narrow)
        for node in list(graph):
            if is_group(node):
                new = _rewritten(graph, node, before)
            elif dense(node):
                new = _rounded(graph, node, before)
            else:
                continue
            if new is not None:
                record_edit(ctx.log, self.name, "HalfStorage", [node], [new])
                changed = True
        return changed


def _narrow(graph: Graph) -> list[Value]:
    """Values that may be f16: those that kernels make and only kernels read."""
    fixed: set[Value] = set()
    found: list[Value] = []
    for node in graph:
        for value in node.outputs:
            if not isinstance(value.type, TensorType) or value.tensor.dtype is not DType.F32:
                continue
            if is_view(node) and node.inputs[0] not in found:
                continue
            if not (is_view(node) or is_group(node) or dense(node)) or not _readable(value):
                continue
            found.append(value)
    kept = dict.fromkeys(found)
    # A view and what it views have one type.
    while True:
        fixed = {v for v in kept for u in v.users if is_view(u) and u.output not in kept} | {
            v
            for v in kept
            if is_view(v.producer) and v.producer is not None and v.producer.inputs[0] not in kept
        }
        if not fixed:
            return list(kept)
        for value in fixed:
            del kept[value]


def _readable(value: Value) -> bool:
    if value.is_output:
        return False
    for use in value.users:
        if is_group(use) or is_view(use):
            continue
        if not dense(use) or (use.op.name == "attention" and use.input(3) is value):
            return False
    return True


def _body(node: Node, body: Graph, inputs: list[TensorType], outputs: list[TensorType]) -> Graph:
    """A body between operands and results of other types: casts at its edges."""
    result = Graph(body.name, node.graph)
    mapping: dict[Value, Value] = {}
    builder = Builder(result, origin=node.origin)
    for old, type in zip(body.inputs, inputs, strict=True):
        new = result.add_input(old.name, type, rename=True)
        new.set_elements(old.elements)
        wide = isinstance(old.type, TensorType) and old.type.dtype is not type.dtype
        mapping[old] = builder.Cast(new, to=int(old.tensor.dtype)) if wide else new
    for constant in body.constants.values():
        assert constant.constant is not None
        mapping[constant] = result.add_constant(constant.constant, constant.name)
    copy_nodes(list(body), result, mapping)
    for old, type in zip(body.outputs, outputs, strict=True):
        value = mapping[old]
        if value.tensor.dtype is not type.dtype:
            value = builder.Cast(value, to=int(type.dtype))
        result.add_output(value)
    return result


def _rewritten(graph: Graph, node: Node, before: dict[Value, Any]) -> Node | None:
    if not any(v in before for v in (*node.inputs, *node.outputs)):
        return None
    body = node.attrs["body"]
    types = [v.tensor for v in node.inputs if v is not None]
    graph.set_attr(node, "body", _body(node, body, types, [v.tensor for v in node.outputs]))
    return node


def _rounded(graph: Graph, node: Node, before: dict[Value, Any]) -> Node | None:
    own = OPERANDS[node.op.name]
    changed = node.output in before or any(v in before for v in node.inputs)
    places = {"product": 2, "depthwise": 2, "attention": 3}.get(node.op.name, 1)
    for place in range(places):
        value = node.inputs[place]
        assert value is not None
        if value.tensor.dtype is DType.F32:
            graph.set_input(node, place, _half(graph, node, value))
            if value.is_constant and not value.use_count:
                graph.erase_constant(value)
            changed = True
    tail = node.attrs.get("tail")
    if changed and isinstance(tail, Graph):
        types = [TensorType(DType.F32, tail.inputs[0].shape)]
        types += [v.tensor for v in node.inputs[own:] if v is not None]
        graph.set_attr(node, "tail", _body(node, tail, types, [node.output.tensor]))
    return node if changed else None


def _half(graph: Graph, node: Node, value: Value) -> Value:
    """``value`` in f16: a constant rounded, anything else cast by a kernel."""
    type = TensorType(DType.F16, value.shape)
    constant = value.constant
    if constant is not None:
        return graph.add_constant(_rounded_constant(constant, type), f"{value.name}.f16")
    body = Graph("body", graph)
    source = body.add_input(value.name, value.type, rename=True)
    body.add_output(Builder(body, origin=node.origin).Cast(source, to=int(DType.F16)))
    group = graph.add(
        GROUP,
        [value],
        {"body": body, "kind": "pointwise"},
        types=[type],
        names=[f"{value.name}.f16"],
        origin=node.origin,
        before=node,
    )
    return group.output


def _rounded_constant(constant: Constant, type: TensorType) -> Constant:
    def load() -> Array:
        array = constant.read()
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float16)
        if np.isinf(rounded).any() and not np.isinf(array).any():
            raise CompileError("weights beyond the range of f16: compile with --precision fp32")
        return rounded

    digest = hashlib.blake2b(f"f16 {constant.digest}".encode(), digest_size=16).hexdigest()
    return Constant(None, type=type, load=load, digest=digest)
