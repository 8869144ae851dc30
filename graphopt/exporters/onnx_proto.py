"""Values of the IR as ONNX protobufs: tensors, types, attributes, nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir import Constant, Dim, DType, OptionalType, SequenceType, TensorType, Type
from graphopt.ir.graph import Graph

__all__ = ["attribute_proto", "node_proto", "raw_bytes", "tensor_proto", "type_proto"]

Array = np.ndarray[Any, Any]


def raw_bytes(array: Array, dtype: DType) -> bytes:
    """Contents the way ``raw_data`` holds them: little-endian, sub-byte elements packed."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype.bits % 8 == 0:
        return flat.tobytes()
    bits = dtype.bits
    if dtype.is_float:
        codes = flat.view(np.uint8)
    else:
        codes = flat.astype(np.int8).view(np.uint8)
    codes = codes & np.uint8((1 << bits) - 1)
    if 8 % bits:
        stream = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
        return np.packbits(stream.ravel(), bitorder="little").tobytes()
    per_byte = 8 // bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes
    groups = padded.reshape(-1, per_byte)
    packed = np.zeros(groups.shape[0], np.uint8)
    for index in range(per_byte):
        packed |= groups[:, index] << np.uint8(bits * index)
    return packed.tobytes()


def tensor_proto(constant: Constant, name: str = "") -> Any:
    """The TensorProto of a constant, its contents inside."""
    import onnx

    dtype = constant.type.dtype
    proto = onnx.TensorProto(name=name, data_type=int(dtype))
    proto.dims.extend(constant.array.shape)
    if dtype is DType.STRING:
        proto.string_data.extend(_encoded(item) for item in constant.array.ravel())
    else:
        proto.raw_data = raw_bytes(constant.array, dtype)
    return proto


def _encoded(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")


def type_proto(type: Type) -> Any:
    """The TypeProto of a type; symbolic sizes become ``dim_param`` texts."""
    import onnx

    proto = onnx.TypeProto()
    if isinstance(type, TensorType):
        proto.tensor_type.elem_type = int(type.dtype)
        if type.shape is not None:
            proto.tensor_type.shape.SetInParent()
            for dim in type.shape:
                _add_dim(proto.tensor_type.shape, dim)
    elif isinstance(type, SequenceType):
        proto.sequence_type.elem_type.CopyFrom(type_proto(type.element))
    else:
        assert isinstance(type, OptionalType)
        proto.optional_type.elem_type.CopyFrom(type_proto(type.element))
    return proto


def _add_dim(shape: Any, dim: Dim) -> None:
    entry = shape.dim.add()
    if isinstance(dim, int):
        entry.dim_value = dim
    else:
        entry.dim_param = str(dim)


def attribute_proto(
    name: str, value: Any, graph: Callable[[Graph], Any] | None = None, kind: str = ""
) -> Any:
    """The AttributeProto of an attribute. ``graph`` converts regions, ``kind`` is the schema's.

    Raises UnsupportedError for a value that ONNX attributes cannot hold.
    """
    import onnx

    kinds = onnx.AttributeProto
    proto = onnx.AttributeProto(name=name)
    if kind == "f" and isinstance(value, int | float | np.number):
        proto.type, proto.f = kinds.FLOAT, float(value)
    elif isinstance(value, bool | int | np.integer):
        proto.type, proto.i = kinds.INT, int(value)
    elif isinstance(value, float | np.floating):
        proto.type, proto.f = kinds.FLOAT, float(value)
    elif isinstance(value, str | bytes):
        proto.type, proto.s = kinds.STRING, _encoded(value)
    elif isinstance(value, Constant):
        proto.type = kinds.TENSOR
        proto.t.CopyFrom(tensor_proto(value))
    elif isinstance(value, TensorType | SequenceType | OptionalType):
        proto.type = kinds.TYPE_PROTO
        proto.tp.CopyFrom(type_proto(value))
    elif isinstance(value, onnx.GraphProto):
        proto.type = kinds.GRAPH
        proto.g.CopyFrom(value)
    elif isinstance(value, Graph) and graph is not None:
        proto.type = kinds.GRAPH
        proto.g.CopyFrom(graph(value))
    elif isinstance(value, tuple | list):
        _list_attribute(proto, value, kind)
    else:
        raise UnsupportedError(
            f"attribute '{name}' is a {type(value).__name__}, which ONNX has no form for"
        )
    return proto


def _list_attribute(proto: Any, values: Sequence[Any], kind: str) -> None:
    import onnx

    kinds = onnx.AttributeProto
    if not values and kind in ("floats", "strings", "tensors"):
        proto.type = {"floats": kinds.FLOATS, "strings": kinds.STRINGS}.get(kind, kinds.TENSORS)
    elif kind != "floats" and all(isinstance(v, int | np.integer) for v in values):
        proto.type = kinds.INTS
        proto.ints.extend(int(v) for v in values)
    elif all(isinstance(v, int | float | np.number) for v in values):
        proto.type = kinds.FLOATS
        proto.floats.extend(float(v) for v in values)
    elif all(isinstance(v, str | bytes) for v in values):
        proto.type = kinds.STRINGS
        proto.strings.extend(_encoded(v) for v in values)
    elif all(isinstance(v, Constant) for v in values):
        proto.type = kinds.TENSORS
        proto.tensors.extend(tensor_proto(v) for v in values)
    else:
        raise UnsupportedError(f"attribute '{proto.name}' is a list that ONNX has no form for")


def node_proto(
    op: str,
    domain: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attrs: Mapping[str, Any],
    *,
    name: str = "",
    graph: Callable[[Graph], Any] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Any:
    """The NodeProto of one operation; attributes in the order of their names.

    ``kinds`` are the attributes' kinds by name, where the value alone does not tell (``f`` for an
    int, an empty list).
    """
    import onnx

    proto = onnx.NodeProto(op_type=op, domain=domain, name=name, input=inputs, output=outputs)
    for key in sorted(attrs):
        if attrs[key] is not None:
            kind = (kinds or {}).get(key, "")
            proto.attribute.append(attribute_proto(key, attrs[key], graph, kind))
    return proto
