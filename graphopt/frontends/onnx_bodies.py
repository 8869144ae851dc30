"""Ops that graphopt does not define but ONNX does as a function: its body is inlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.errors import ModelError
from graphopt.frontends.onnx_attrs import Subgraph
from graphopt.frontends.onnx_draft import Draft
from graphopt.ir import Value

if TYPE_CHECKING:
    from graphopt.frontends.onnx_import import Frame, Importer

__all__ = ["check_exists", "inline_schema_body"]


def _schema(draft: Draft) -> Any | None:
    from onnx import defs

    newest = defs.onnx_opset_version()
    version = newest if not draft.domain else min(draft.version, 1 << 20)
    try:
        return defs.get_schema(draft.op, version, draft.domain)
    except defs.SchemaError:
        return None


def check_exists(draft: Draft) -> None:
    """Raises ModelError for an op of the ONNX domain that no opset has."""
    if _schema(draft) is None:
        raise ModelError(
            f"node '{draft.label}': the ONNX domain has no op '{draft.op}' in opset {draft.version}"
        )


def inline_schema_body(importer: Importer, draft: Draft, frame: Frame) -> Sequence[Value] | None:
    """Inlines the body that ONNX gives for the op; None when it gives none.

    All nodes of the body have the origin of the call.
    """
    schema = _schema(draft)
    if schema is None:
        return None
    function = _body(schema, draft)
    if function is None:
        return None
    opsets = {o.domain: int(o.version) for o in function.opset_import}
    opsets.setdefault("", schema.since_version)
    inner = replace(
        frame, opsets=opsets, prefix=f"{draft.label}/", origin=draft.build.origin, hints={}
    )
    attrs = dict(draft.attrs)
    for name, spec in schema.attributes.items():
        if name not in attrs and spec.default_value.type:
            attrs.update(importer.attrs.convert([spec.default_value], draft.label, None, frame))
    return importer.inline(function, draft.inputs, attrs, draft.n_outputs, draft.build.graph, inner)


def _body(schema: Any, draft: Draft) -> Any | None:
    import onnx

    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    from graphopt.exporters.onnx_proto import node_proto, type_proto

    attrs = {k: v.proto if isinstance(v, Subgraph) else v for k, v in draft.attrs.items()}
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(draft.inputs)]
    outputs = [f"o{k}" if wanted else "" for k, wanted in enumerate(draft.wanted)]
    node = node_proto(draft.op, draft.domain, names, outputs, attrs)
    types = [type_proto(v.type).SerializeToString() if v is not None else b"" for v in draft.inputs]
    versions = list(schema.context_dependent_function_opset_versions)
    encoded = schema.get_context_dependent_function_with_opset_version(
        max(versions), node.SerializeToString(), types
    )
    if not encoded:
        return None
    return onnx.FunctionProto.FromString(encoded)
