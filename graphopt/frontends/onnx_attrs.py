"""Attributes of ONNX nodes as values of the IR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import ModelError, UnsupportedError
from graphopt.frontends.onnx_tensor import TensorReader, text
from graphopt.frontends.onnx_types import Symbols, convert_type
from graphopt.ir import REQUIRED, Constant, Graph, OpDef
from graphopt.ir.types import OptionalType, SequenceType, TensorType

__all__ = ["AttrReader", "Subgraph", "check_attrs"]

# AttributeProto.AttributeType
_FIELDS = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors",
    10: "graphs", 11: "sparse_tensor", 12: "sparse_tensors", 13: "tp", 14: "type_protos",
}  # fmt: skip


@dataclass(frozen=True)
class Subgraph:
    """A graph attribute that is not a region yet: the op's operands decide the types of its inputs.

    ``frame`` is the importer's context that the graph was written in.
    """

    proto: Any
    frame: Any


@dataclass
class AttrReader:
    """Converts AttributeProtos, with references to attributes of a function resolved."""

    reader: TensorReader
    symbols: Symbols
    label: str

    def convert(
        self, protos: Any, node: str, outer: Mapping[str, Any] | None, frame: Any
    ) -> dict[str, Any]:
        """Attributes by name. ``outer`` are those of the function around, None outside of one."""
        result: dict[str, Any] = {}
        for proto in protos:
            name = text(proto.name)
            reference = text(proto.ref_attr_name)
            if name in result:
                raise ModelError(f"node '{node}' has two attributes '{name}'")
            if reference:
                if outer is None:
                    raise ModelError(
                        f"node '{node}': attribute '{name}' refers to a function's attribute "
                        f"'{reference}', but it is in no function"
                    )
                if outer.get(reference) is not None:
                    result[name] = outer[reference]
                continue
            result[name] = self._value(proto, name, node, frame)
        return result

    def _value(self, proto: Any, name: str, node: str, frame: Any) -> Any:
        kind = _FIELDS.get(proto.type)
        where = f"node '{node}': attribute '{name}'"
        if kind is None:
            # Files of IR version 1 have no type; exactly one field is set.
            if proto.type != 0:
                raise ModelError(f"{where} has type {proto.type}, which does not exist")
            present = [f.name for f, _ in proto.ListFields() if f.name in _FIELDS.values()]
            if len(present) != 1:
                raise ModelError(f"{where} has no value")
            kind = present[0]
        raw = getattr(proto, kind)
        convert = self._converters(where, frame)[kind]
        if kind.endswith("s") and kind != "s":
            return tuple(convert(item) for item in raw)
        if kind not in ("f", "i", "s") and not proto.HasField(kind):
            raise ModelError(f"{where} has no value")
        return convert(raw)

    def _converters(self, where: str, frame: Any) -> dict[str, Callable[[Any], Any]]:
        def tensor(raw: Any) -> Constant:
            return self.reader.constant(raw, where=where)

        def type_proto(raw: Any) -> Any:
            found = convert_type(raw, where, self.symbols, self.label)
            if found is None:
                raise ModelError(f"{where} is a type without an element type")
            return found

        def refuse(raw: Any) -> Any:
            raise UnsupportedError(f"{where} is a list of graphs, types or sparse tensors")

        return {
            "f": float, "floats": float, "i": int, "ints": int, "s": _string, "strings": _string,
            "t": tensor, "tensors": tensor, "tp": type_proto,
            "g": lambda raw: Subgraph(raw, frame),
            "sparse_tensor": lambda raw: self.reader.sparse(raw, where),
            "graphs": refuse, "type_protos": refuse, "sparse_tensors": refuse,
        }  # fmt: skip


def _string(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "i": lambda v: isinstance(v, int),
    "f": lambda v: isinstance(v, float),
    "s": lambda v: isinstance(v, str | bytes),
    "t": lambda v: isinstance(v, Constant),
    "g": lambda v: isinstance(v, Graph | Subgraph),
    "type": lambda v: isinstance(v, TensorType | SequenceType | OptionalType),
    "ints": lambda v: isinstance(v, tuple) and all(isinstance(x, int) for x in v),
    "floats": lambda v: isinstance(v, tuple) and all(isinstance(x, float) for x in v),
    "strings": lambda v: isinstance(v, tuple) and all(isinstance(x, str | bytes) for x in v),
    "tensors": lambda v: isinstance(v, tuple) and all(isinstance(x, Constant) for x in v),
}


def check_attrs(op: OpDef, attrs: Mapping[str, Any], node: str) -> None:
    """Raises ModelError for an attribute that ``op`` lacks, of the wrong type, or missing."""
    for name, value in attrs.items():
        spec = op.attrs.get(name)
        if spec is None:
            raise ModelError(f"node '{node}' ({op.qualified}): there is no attribute '{name}'")
        if not _CHECKS[spec.kind](value):
            raise ModelError(
                f"node '{node}' ({op.qualified}): attribute '{name}' has the wrong type"
            )
    for name, spec in op.attrs.items():
        if spec.default is REQUIRED and name not in attrs:
            raise ModelError(f"node '{node}' ({op.qualified}): attribute '{name}' is required")
