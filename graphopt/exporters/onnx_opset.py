"""Which opset says the same as the newest one, for the ops that a graph uses.

Our ops have the semantics of the newest opset. An older version of an op will do for a node when no
upgrade step lies between (those mark every change of form or meaning), and when it has the node's
attributes and operands and takes their types.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from graphopt.errors import OptionError, UnsupportedError
from graphopt.frontends.onnx_draft import last_change
from graphopt.ir import DType, Graph, Node, OptionalType, SequenceType, TensorType, Type

__all__ = ["choose_opsets", "least_opset"]

# What a graph without a source opset gets at least: every runtime in use reads it.
_FLOOR = 18
_TYPE_NAMES = {
    DType.F32: "float", DType.F64: "double", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.U8: "uint8", DType.I8: "int8", DType.U16: "uint16", DType.I16: "int16",
    DType.I32: "int32", DType.I64: "int64", DType.U32: "uint32", DType.U64: "uint64",
    DType.STRING: "string", DType.BOOL: "bool", DType.C64: "complex64", DType.C128: "complex128",
    DType.F8E4M3FN: "float8e4m3fn", DType.F8E4M3FNUZ: "float8e4m3fnuz",
    DType.F8E5M2: "float8e5m2", DType.F8E5M2FNUZ: "float8e5m2fnuz", DType.U4: "uint4",
    DType.I4: "int4", DType.F4E2M1: "float4e2m1", DType.F8E8M0: "float8e8m0", DType.U2: "uint2",
    DType.I2: "int2", DType.F6E2M3: "float6e2m3", DType.F6E3M2: "float6e3m2",
}  # fmt: skip


@cache
def _history(domain: str) -> dict[str, list[Any]]:
    from onnx import defs

    table: dict[str, list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == domain:
            table.setdefault(schema.name, []).append(schema)
    for schemas in table.values():
        schemas.sort(key=lambda s: -s.since_version)
    return table


def _type_text(type: Type) -> str:
    if isinstance(type, TensorType):
        return f"tensor({_TYPE_NAMES[type.dtype]})"
    if isinstance(type, SequenceType):
        return f"seq({_type_text(type.element)})"
    assert isinstance(type, OptionalType)
    return f"optional({_type_text(type.element)})"


def _takes(schema: Any, node: Node) -> bool:
    """True when this version of the op has the node's attributes, operands and types."""
    if schema.deprecated or any(name not in schema.attributes for name in node.attrs):
        return False
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for formals, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        many = bool(formals) and "Variadic" in str(formals[-1].option)
        if len(values) > len(formals) and not many:
            return False
        for index, value in enumerate(values):
            formal = formals[min(index, len(formals) - 1)]
            if value is None:
                if "Optional" not in str(formal.option):
                    return False
                continue
            accepted = allowed.get(formal.type_str, {formal.type_str})
            if _type_text(value.type) not in accepted:
                return False
    required = [p for p in schema.inputs if "Single" in str(p.option)]
    return len(node.inputs) >= len(required)


def least_opset(node: Node) -> int | None:
    """The lowest opset of the op's domain that says what ``node`` means; None if it is foreign.

    Raises UnsupportedError when no version of the op takes the node as it is.
    """
    schemas = _history(node.op.domain).get(node.op.name)
    if schemas is None:
        return None
    barrier = last_change(node.op.domain, node.op.name)
    best: int | None = None
    for schema in schemas:
        if not _takes(schema, node):
            break
        best = int(schema.since_version)
        if best <= barrier:
            break
    if best is None:
        types = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
        raise UnsupportedError(
            f"node '{node.name or node.output.name}' ({node.op.qualified}): no ONNX opset has it "
            f"for operands ({types}) and attributes {sorted(node.attrs)}"
        )
    return max(best, barrier) if best < barrier else best


def choose_opsets(graph: Graph, wanted: int | None) -> dict[str, int]:
    """Opsets by domain to write ``graph`` in: the source's, or higher where a node needs it.

    Raises OptionError when ``wanted`` is too low or unknown, UnsupportedError for a node that no
    opset has.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    if wanted is not None and not 1 <= wanted <= newest:
        raise OptionError(f"opset {wanted} does not exist (they go from 1 to {newest})")
    source = graph.metadata.get("onnx.opset", "")
    floor = min(int(source), newest) if source.isdigit() else _FLOOR
    result = {"": wanted if wanted is not None else floor}
    for node in graph.walk():
        domain = node.op.domain
        if domain == "graphopt" or domain.startswith("graphopt."):
            raise UnsupportedError(
                f"node '{node.name or node.output.name}': {node.op.qualified} is internal to "
                "graphopt; export the graph before it is lowered"
            )
        least = least_opset(node)
        if least is None:
            given = graph.metadata.get(f"onnx.opset.{domain}", "1")
            result.setdefault(domain, int(given) if given.isdigit() else 1)
        elif domain == "" and wanted is not None and least > wanted:
            raise OptionError(
                f"opset {wanted} has no {node.op.name} as node "
                f"'{node.name or node.output.name}' uses it; it takes opset {least}"
            )
        else:
            result[domain] = max(least, result.get(domain, 1))
    return result
