"""Every op is declared as the newest opset of onnx declares it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import ops
from graphopt.ir import REQUIRED, OpDef

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

_KINDS = {
    "INT": "i", "FLOAT": "f", "STRING": "s", "TENSOR": "t", "GRAPH": "g", "INTS": "ints",
    "FLOATS": "floats", "STRINGS": "strings", "TENSORS": "tensors", "TYPE_PROTO": "type",
}  # fmt: skip

# The frontend turns a sparse constant into a dense one.
_LEFT_OUT = {("Constant", "sparse_value")}
# RNN's declared default names one activation a direction; absent says that for any direction.
_OWN_DEFAULTS = {("RNN", "activations")}
# Gradient differentiates a graph, for training; the others handle maps, which are no type here.
_UNDEFINED = {"Gradient", "CastMap", "DictVectorizer", "ZipMap"}
# onnxruntime's, which keeps it in ONNX's domain.
_FOREIGN = {"SimplifiedLayerNormalization"}


def _all_ops() -> list[Any]:
    return [
        pytest.param(ops.get(name, domain), id=f"{domain}::{name}" if domain else name)
        for domain in DOMAINS
        for name in ops.names(domain)
        if name not in _FOREIGN
    ]


def _suffix(parameter: Any) -> str:
    option = onnx.defs.OpSchema.FormalParameterOption
    return {option.Optional: "?", option.Variadic: "*"}.get(parameter.option, "")


def _default(attribute: Any) -> Any:
    if attribute.required:
        return REQUIRED
    if not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return tuple(x.decode() if isinstance(x, bytes) else x for x in value)
    return value


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, float):
        return isinstance(ours, float) and np.float32(ours) == np.float32(theirs)
    return type(ours) is type(theirs) and bool(ours == theirs)


@pytest.mark.parametrize("op", _all_ops())
def test_schema(op: OpDef) -> None:
    schema = onnx.defs.get_schema(op.name, domain=op.domain)
    assert [_suffix(p) for p in schema.inputs] == [n[len(n.rstrip("?*")) :] for n in op.inputs]
    assert len(schema.outputs) == len(op.outputs)
    last = bool(op.outputs) and op.outputs[-1].endswith("*")
    assert last == (bool(schema.outputs) and _suffix(schema.outputs[-1]) == "*")

    expected = {n: a for n, a in schema.attributes.items() if (op.name, n) not in _LEFT_OUT}
    assert sorted(op.attrs) == sorted(expected)
    for name, attribute in expected.items():
        spec = op.attrs[name]
        kind = _KINDS[str(attribute.type).rsplit(".", 1)[-1]]
        assert spec.kind == kind, f"'{name}' is of kind {spec.kind}, not {kind}"
        if (op.name, name) not in _OWN_DEFAULTS:
            default = _default(attribute)
            assert _same(spec.default, default), f"'{name}': {spec.default!r}, not {default!r}"


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_op_of_onnx_is_defined(domain: str) -> None:
    live = {s.name for s in onnx.defs.get_all_schemas() if s.domain == domain and not s.deprecated}
    assert not live - set(ops.names(domain)) - _UNDEFINED


def test_an_unknown_op_is_opaque() -> None:
    op = ops.get("NoSuchOp", "com.example")
    assert op.opaque
    assert op is ops.get("NoSuchOp", "com.example")
    assert ops.known("NoSuchOp", "com.example") is None
    assert ops.get("Add", "ai.onnx") is ops.get("Add")
