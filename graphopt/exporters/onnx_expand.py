"""Ops that an older opset lacks, written as the functions that ONNX defines them by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.exporters.onnx_lower import Form
from graphopt.exporters.onnx_opset import Opsets
from graphopt.exporters.onnx_proto import node_proto, type_proto
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Builder, Graph, Node, Value, clone
from graphopt.passes import parse_pipeline

__all__ = ["expand", "expanded"]

# Bodies call ops that have bodies of their own.
_ROUNDS = 4
_DOMAIN = "graphopt.body"
_CLEAN = "repeat[3](fold-constants,simplify,merge-common,eliminate-dead)"


def expanded(graph: Graph, opset: int) -> Graph:
    """``graph``, or a copy in which :func:`expand` has found something to do."""
    opsets = Opsets(opset)
    if all(_has(opsets, node) for node in graph.walk()):
        return graph
    result = clone(graph)
    expand(result, opset)
    return result


def expand(graph: Graph, opset: int) -> int:
    """Replaces nodes that ``opset`` has no form for by the bodies that ONNX gives for their ops.

    New nodes take over the origin of the node that they spell out. Nodes without a body stay, for
    the exporter to name. Returns how many nodes went.
    """
    opsets = Opsets(opset)
    count = 0
    for _ in range(_ROUNDS):
        lacking = [node for node in graph.walk() if not _has(opsets, node)]
        done = sum(_expand(node, opset) for node in lacking)
        count += done
        if not done:
            break
    return count


def _has(opsets: Opsets, node: Node) -> bool:
    return bool(node.op.domain) or isinstance(opsets.form(node), Form)


def _expand(node: Node, opset: int) -> bool:
    spelled = _SPELLED.get(node.op.name)
    result = (
        spelled(Builder(node.graph, before=node, origin=node.origin), node) if spelled else None
    )
    if result is not None:
        node.graph.replace(node, [result])
        return True
    # Bodies of Attention differ from opset to opset in what they yield for masked scores.
    scores = node.op.name == "Attention" and any(v.use_count for v in node.outputs[3:])
    body = None if node.regions or scores else _body(node, opset)
    if body is None or any(inner.regions for inner in body):
        return False
    graph = node.graph
    operands = [value for value in node.inputs if value is not None]
    found: dict[Value, Value] = dict(zip(body.inputs, operands, strict=True))
    for value in body.constants.values():
        assert value.constant is not None
        found[value] = graph.add_constant(value.constant, value.name)
    for inner in body:
        copy = graph.add(
            inner.op,
            [None if v is None else found[v] for v in inner.inputs],
            inner.attrs,
            n_outputs=len(inner.outputs),
            origin=node.origin,
            before=node,
        )
        found.update(zip(inner.outputs, copy.outputs, strict=True))
    results = iter(body.outputs)
    graph.replace(node, [found[next(results)] if v.use_count else None for v in node.outputs])
    return True


def _shape_part(op: Builder, node: Node) -> Value | None:
    """``Shape(x, start, end)`` of opset 15: the shape, and a slice of it."""
    start, end = int(node.attr("start") or 0), node.attr("end")
    if not start and end is None:
        return None
    last = np.iinfo(np.int64).max if end is None else int(end)
    result: Value = op.Slice(op.Shape(node.input(0)), [start], [last], [0])
    return result


def _softmax(op: Builder, node: Node) -> Value | None:
    """A softmax along an axis that is not the last: that axis becomes the last."""
    value = node.input(0)
    rank = value.tensor.rank if value is not None else None
    if rank is None:
        return None
    axis = int(node.attr("axis")) % rank
    if axis == rank - 1:
        return None
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    rows = op.op(node.op.name, op.Transpose(value, perm=tuple(perm)), axis=rank - 1)
    result: Value = op.Transpose(rows, perm=tuple(perm))
    return result


def _gelu(op: Builder, node: Node) -> Value | None:
    """The spelling of PyTorch's exporter, which runtimes look for; no more nodes than any other."""
    x = node.input(0)
    if x is None or node.attr("approximate") != "none":
        return None
    dtype = x.tensor.dtype.numpy
    numbers = (np.asarray(v, dtype) for v in (math.sqrt(2), 1, 0.5))
    root, one, half = (op.constant(v, "c") for v in numbers)
    result: Value = op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)
    return result


def _layer_norm(op: Builder, node: Node) -> Value | None:
    """The spelling of PyTorch's exporter, over the last axis."""
    x, weight, bias = (node.input(k) for k in range(3))
    rank = x.tensor.rank if x is not None else None
    last = rank is not None and node.attr("axis") in (-1, rank - 1)
    if x is None or weight is None or not last or any(v.use_count for v in node.outputs[1:]):
        return None
    dtype = x.tensor.dtype.numpy
    axes = op.constant(np.array([-1], np.int64), "axes")
    centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Pow(centred, np.asarray(2, dtype)), axes, keepdims=1)
    epsilon = np.asarray(node.attr("epsilon"), dtype)
    result: Value = op.Mul(op.Div(centred, op.Sqrt(op.Add(variance, epsilon))), weight)
    return result if bias is None else op.Add(result, bias)


_SPELLED: dict[str, Callable[[Builder, Node], Value | None]] = {
    "Gelu": _gelu,
    "LayerNormalization": _layer_norm,
    "Shape": _shape_part,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Hardmax": _softmax,
}


def _body(node: Node, opset: int) -> Graph | None:
    """The body of the node's op as a graph of its operands; None where ONNX gives none."""
    import onnx

    inputs = [f"i{k}" if v is not None else "" for k, v in enumerate(node.inputs)]
    outputs = [f"o{k}" if v.use_count else "" for k, v in enumerate(node.outputs)]
    while not outputs[-1]:
        outputs.pop()
    schema = onnx.defs.get_schema(node.op.name, onnx.defs.onnx_opset_version(), "")
    attrs = dict(node.attrs)
    kinds = {key: spec.kind for key, spec in node.op.attrs.items()}
    call = node_proto(node.op.name, "", inputs, outputs, attrs, kinds=kinds)
    function = _function(schema, call, node, opset)
    if function is None:
        return None
    function.name, function.domain = "body", _DOMAIN
    for name, spec in schema.attributes.items():
        if name not in attrs and spec.default_value.type:
            call.attribute.append(spec.default_value)
    known = {*function.attribute, *(a.name for a in function.attribute_proto)}
    kept = [a for a in call.attribute if a.name in known]
    del call.attribute[:]
    call.attribute.extend(kept)
    call.op_type, call.domain = "body", _DOMAIN
    model = onnx.ModelProto(ir_version=10, functions=[function])
    model.opset_import.extend(function.opset_import)
    model.opset_import.add(domain=_DOMAIN, version=1)
    model.graph.name = "body"
    model.graph.node.append(call)
    for name, value in zip(inputs, node.inputs, strict=True):
        if value is not None:
            model.graph.input.add(name=name).type.CopyFrom(type_proto(value.type))
    for name in filter(None, outputs):
        model.graph.output.add(name=name)
    graph = from_onnx(model)
    # Bodies are written for every type and shape: most of what they ask is known here.
    parse_pipeline(_CLEAN)(graph)
    return graph


def _function(schema: Any, call: Any, node: Node, opset: int) -> Any | None:
    """The FunctionProto of the op for the youngest opset that is not above ``opset``."""
    import onnx

    if schema.has_function:
        version = _best(schema.function_opset_versions, opset)
        return onnx.FunctionProto.FromString(schema.get_function_with_opset_version(version))
    if not schema.has_context_dependent_function:
        return None
    version = _best(schema.context_dependent_function_opset_versions, opset)
    types = [b"" if v is None else type_proto(v.type).SerializeToString() for v in node.inputs]
    encoded = schema.get_context_dependent_function_with_opset_version(
        version, call.SerializeToString(), types
    )
    return onnx.FunctionProto.FromString(encoded) if encoded else None


def _best(versions: Any, opset: int) -> int:
    fitting = [v for v in versions if v <= opset]
    return int(max(fitting) if fitting else min(versions))
