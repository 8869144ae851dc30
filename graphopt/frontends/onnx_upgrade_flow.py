"""Upgrades of control flow, and ops that become part of the graph at import."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.frontends.onnx_attrs import Subgraph
from graphopt.frontends.onnx_draft import Draft, step
from graphopt.ir import Constant

__all__ = ["constant_of"]


@step(9, "Scan")
def scan_9(draft: Draft) -> None:
    """Before: operands have a batch axis first, and the body runs for every element of the batch.

    That is a scan over the batch whose body is the scan over the sequence.
    """
    import onnx

    if draft.input(0) is not None:
        draft.unsupported("sequence lengths (operand 0) have no newer form")
    sub = draft.attrs.get("body")
    count = draft.attrs.get("num_scan_inputs")
    if not isinstance(sub, Subgraph) or not isinstance(count, int):
        draft.fail("attributes 'body' and 'num_scan_inputs' are required")
    directions = draft.pop_ints("directions")
    operands = draft.inputs[1:]
    names = [f"batch_in_{k}" for k in range(len(operands))]
    results = [f"batch_out_{k}" for k in range(len(sub.proto.output))]
    inner = onnx.NodeProto(op_type="Scan", name="sequence", input=names, output=results)
    body = inner.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    body.g.CopyFrom(sub.proto)
    inner.attribute.add(name="num_scan_inputs", type=onnx.AttributeProto.INT, i=count)
    if directions:
        inner.attribute.add(
            name="scan_input_directions", type=onnx.AttributeProto.INTS, ints=directions
        )
    graph = onnx.GraphProto(name="batch", node=[inner])
    for name in names:
        graph.input.add(name=name)
    for name in results:
        graph.output.add(name=name)
    frame = replace(sub.frame, opsets={**sub.frame.opsets, "": 9})
    draft.attrs = {"body": Subgraph(graph, frame), "num_scan_inputs": len(operands)}
    draft.inputs = operands


def constant_of(draft: Draft) -> Constant:
    """The tensor that a Constant node holds, in whichever of its attributes."""
    given = [(k, v) for k, v in draft.attrs.items() if v is not None]
    if len(given) != 1:
        draft.fail("exactly one attribute must give the value")
    name, value = given[0]
    if name in ("value", "sparse_value") and isinstance(value, Constant):
        return value
    kinds = {
        "value_int": np.int64, "value_ints": np.int64, "value_float": np.float32,
        "value_floats": np.float32, "value_string": object, "value_strings": object,
    }  # fmt: skip
    if name not in kinds:
        draft.fail(f"there is no attribute '{name}'")
    if name.endswith("strings") or name == "value_string":
        items = value if isinstance(value, tuple) else (value,)
        array = np.empty(len(items), object)
        for index, item in enumerate(items):
            is_bytes = isinstance(item, bytes)
            array[index] = item.decode("utf-8", "surrogateescape") if is_bytes else item
        return Constant(array.reshape(()) if name == "value_string" else array)
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(x, int | float) for x in numbers):
        draft.fail(f"attribute '{name}' does not hold numbers")
    return Constant(np.array(value, kinds[name]))
