"""Entries of a graph's journal as JSON, and back.

Types, attributes and small constants are written as in `.gir`; larger constants by their digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from graphopt.ir import (
    Constant,
    DType,
    TensorType,
    Type,
    parse_attr,
    parse_dim,
    parse_type,
    print_attr,
)
from graphopt.ir.journal import Entry, RegionRef
from graphopt.ir.text import INLINE_ELEMENTS
from graphopt.ops.registry import get

__all__ = ["Constants", "decode", "encode", "is_small"]

Constants = Mapping[str, np.ndarray[Any, Any]]


def is_small(constant: Constant) -> bool:
    """True for constants that text holds without loss: few elements, and no NaN, whose bits it
    does not tell."""
    if constant.type.dtype is DType.STRING:
        return True
    if constant.numel > INLINE_ELEMENTS:
        return False
    if not (constant.type.dtype.is_float or constant.type.dtype.is_complex):
        return True
    return not bool(np.isnan(constant.array.astype(np.complex128)).any())


def encode(entry: Entry) -> list[Any]:
    """An entry as JSON."""
    kind, *rest = entry
    if kind == "add":
        graph, before, op, outputs, inputs, attrs, name, origin = rest
        shown = {k: _encode_attr(v) for k, v in attrs.items()}
        typed = [_encode_value(v) for v in outputs]
        return [kind, graph, before, op.qualified, typed, inputs, shown, name, sorted(origin)]
    if kind == "const":
        return [kind, rest[0], rest[1], _encode_attr(rest[2])]
    if kind == "region":
        return [kind, *rest[:3], [_encode_value(v) for v in rest[3]]]
    if kind == "attr":
        return [kind, *rest[:2], None if rest[2] is None else _encode_attr(rest[2])]
    if kind in ("type", "take"):
        return [kind, *rest[:-1], str(rest[-1])]
    if kind == "elements":
        return [kind, rest[0], _encode_elements(rest[1])]
    if kind == "origin":
        return [kind, rest[0], sorted(rest[1])]
    return [kind, *rest]


def decode(data: list[Any], constants: Constants | None = None) -> Entry:
    """The inverse of :func:`encode`; ``constants`` holds bytes by digest.

    Raises ValueError, KeyError or TypeError where ``data`` is no entry.
    """
    kind, *rest = data
    if kind == "add":
        graph, before, op, outputs, inputs, attrs, name, origin = rest
        domain, _, op_name = op.rpartition("::")
        known = {k: _decode_attr(v, constants) for k, v in attrs.items()}
        typed = [_decode_value(v) for v in outputs]
        found = get(op_name, domain)
        return (kind, graph, before, found, typed, inputs, known, name, frozenset(origin))
    if kind == "const":
        return (kind, rest[0], rest[1], _decode_attr(rest[2], constants))
    if kind == "region":
        return (kind, *rest[:3], [_decode_value(v) for v in rest[3]])
    if kind == "attr":
        value = None if rest[2] is None else _decode_attr(rest[2], constants)
        return (kind, *rest[:2], value)
    if kind in ("type", "take"):
        return (kind, *rest[:-1], _type(rest[-1]))
    if kind == "elements":
        return (kind, rest[0], _decode_elements(rest[1]))
    if kind == "origin":
        return (kind, rest[0], frozenset(rest[1]))
    return (kind, *rest)


@lru_cache(maxsize=4096)
def _type(text: str) -> Type:
    return parse_type(text)


def _encode_value(value: tuple[str, Any, Any]) -> list[Any]:
    name, type, elements = value
    return [name, str(type), _encode_elements(elements)]


def _decode_value(data: list[Any]) -> tuple[str, Any, Any]:
    name, type, elements = data
    return name, _type(type), _decode_elements(elements)


def _encode_elements(elements: Any) -> list[str] | None:
    return None if elements is None else [str(dim) for dim in elements]


def _decode_elements(data: Any) -> tuple[Any, ...] | None:
    return None if data is None else tuple(parse_dim(text) for text in data)


def _encode_attr(value: Any) -> Any:
    if isinstance(value, RegionRef):
        return {"region": value.number}
    # A list and a tuple are one attribute; a constant in one is spelled as one alone.
    if isinstance(value, Constant) and not is_small(value):
        return print_attr(value, inline_elements=-1)
    if isinstance(value, tuple | list) and any(isinstance(item, Constant) for item in value):
        return [_encode_attr(item) for item in value]
    return print_attr(value)


def _decode_attr(data: Any, constants: Constants | None) -> Any:
    if isinstance(data, Mapping):
        return RegionRef(data["region"])
    if isinstance(data, list):
        return tuple(_decode_attr(item, constants) for item in data)
    value = parse_attr(data, resolve=get)
    if isinstance(value, Constant) and not value.available:
        raw = (constants or {}).get(value.digest)
        if raw is not None:
            return Constant(
                None, type=value.type, load=_loader(value.type, raw), digest=value.digest
            )
    return value


def _loader(type: TensorType, raw: np.ndarray[Any, Any]) -> Callable[[], np.ndarray[Any, Any]]:
    shape = tuple(dim for dim in type.shape or () if isinstance(dim, int))
    return lambda: raw.view(type.dtype.numpy).reshape(shape)
