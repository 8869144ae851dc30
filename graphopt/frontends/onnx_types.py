"""Types of ONNX values as graphopt types; names of dynamic sizes as symbols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from graphopt.errors import ModelError, UnsupportedError
from graphopt.frontends.onnx_tensor import text
from graphopt.ir import Dim, DType, Graph, OptionalType, SequenceType, TensorType, Type, sym

__all__ = ["Symbols", "convert_type", "symbol_name"]

_SYMBOL = re.compile(r"[A-Za-z_][\w.$@:]*\Z", re.ASCII)
# Some exporters write this for every size they do not know: it names none.
_UNKNOWN = ("", "?")
_FUNCTIONS = frozenset({"min", "max", "bcast", "ne1"})


def symbol_name(raw: str) -> str:
    """``raw`` as the name of a symbol: other characters become ``_``."""
    if _SYMBOL.match(raw) and raw not in _FUNCTIONS:
        return raw
    cleaned = re.sub(r"[^\w.$@:]", "_", raw, flags=re.ASCII)
    if not cleaned or not (cleaned[0].isalpha() or cleaned[0] == "_") or cleaned in _FUNCTIONS:
        cleaned = "_" + cleaned
    return cleaned


class Symbols:
    """The symbols of one model: one a ``dim_param``, fresh ones for sizes without a name."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[str, Dim] = {}

    def named(self, raw: str) -> Dim:
        """The symbol of ``dim_param`` ``raw``; two that clean to one name stay apart."""
        found = self._known.get(raw)
        if found is None:
            found = self._known[raw] = self._graph.fresh_symbol(symbol_name(raw))
        return found

    def unnamed(self, owner: str, axis: int) -> Dim:
        """A new symbol for axis ``axis`` of the value ``owner``."""
        return self._graph.fresh_symbol(symbol_name(f"{owner}_{axis}"))

    def bind(self, raw: str, dim: Dim) -> None:
        """Makes ``dim_param`` ``raw`` stand for ``dim``."""
        self._known[raw] = dim

    def known(self, raw: str) -> Dim | None:
        """What ``dim_param`` ``raw`` stands for so far."""
        return self._known.get(raw)

    def exact(self, name: str) -> Dim:
        """The symbol ``name`` itself, as the caller wrote it."""
        self._graph.reserve_symbol(name)
        return sym(name)


def dim_params(type_proto: Any) -> Iterator[str]:
    """Names of the dynamic sizes in a TypeProto."""
    kind = type_proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        for dim in getattr(type_proto, kind).shape.dim:
            if dim.WhichOneof("value") == "dim_param" and dim.dim_param not in _UNKNOWN:
                yield text(dim.dim_param)
    elif kind in ("sequence_type", "optional_type"):
        yield from dim_params(getattr(type_proto, kind).elem_type)


def convert_type(proto: Any, owner: str, symbols: Symbols, label: str) -> Type | None:
    """The type a TypeProto declares; None when it declares none or no element type.

    Sizes without a name, and negative ones, become fresh symbols after ``owner`` and the axis.
    Raises ModelError for an impossible type, UnsupportedError for maps and opaque types.
    """
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind in ("tensor_type", "sparse_tensor_type"):
        body = getattr(proto, kind)
        if body.elem_type == 0:
            return None
        try:
            dtype = DType(body.elem_type)
        except ValueError:
            raise ModelError(
                f"{label}: value '{owner}' has element type {body.elem_type}, which does not exist"
            ) from None
        if not body.HasField("shape"):
            return TensorType(dtype, None)
        if len(body.shape.dim) > 64:
            raise ModelError(f"{label}: value '{owner}' has {len(body.shape.dim)} axes")
        dims = [_dim(dim, owner, axis, symbols) for axis, dim in enumerate(body.shape.dim)]
        return TensorType(dtype, tuple(dims))
    if kind in ("sequence_type", "optional_type"):
        element = convert_type(getattr(proto, kind).elem_type, owner, symbols, label)
        if element is None:
            return None
        return SequenceType(element) if kind == "sequence_type" else OptionalType(element)
    raise UnsupportedError(f"{label}: value '{owner}' is a {kind.removesuffix('_type')}, "
                           "which graphopt has no type for")  # fmt: skip


def _dim(dim: Any, owner: str, axis: int, symbols: Symbols) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value" and dim.dim_value >= 0:
        return int(dim.dim_value)
    if kind == "dim_param" and dim.dim_param not in _UNKNOWN:
        return symbols.named(text(dim.dim_param))
    return symbols.unnamed(owner, axis)
