"""Damaged files: each gives one of our errors or a graph that verifies, whatever was changed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import verify
from tests.frontends.onnx_models import all_models

_MODELS = {name: model.SerializeToString() for name, model in all_models().items()}
_NAMES = sorted(_MODELS)
_MANY = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)


def _survives(data: bytes) -> None:
    try:
        graph = from_onnx(data)
    except GraphoptError as error:
        assert str(error)
        return
    verify(graph)


@pytest.mark.parametrize("name", _NAMES)
def test_the_models_themselves_are_read(name: str) -> None:
    verify(from_onnx(_MODELS[name]))


@_MANY
@given(st.sampled_from(_NAMES), st.floats(0, 1))
def test_truncation(name: str, share: float) -> None:
    data = _MODELS[name]
    _survives(data[: int(share * len(data))])


@_MANY
@given(
    st.sampled_from(_NAMES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_flipped_bytes(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(_MODELS[name])
    for place, value in flips:
        data[int(place * len(data))] = value
    _survives(bytes(data))


@_MANY
@given(st.sampled_from(_NAMES), st.floats(0, 1), st.floats(0, 1), st.binary(max_size=20))
def test_spliced_bytes(name: str, begin: float, end: float, piece: bytes) -> None:
    data = _MODELS[name]
    first, last = sorted((int(begin * len(data)), int(end * len(data))))
    _survives(data[:first] + piece + data[last:])


_INTS = (0, 1, -1, 2, 3, 5, 7, 22, 27, 64, 2**31, 2**40, -(2**63), 2**63 - 1)
_TEXTS = ("", "x", "y", "w", "Add", "Loop", "If", "Constant", "\0", "ai.onnx", "ä" * 40, "Resize")


def _fields(message: Any) -> list[tuple[Any, Any]]:
    """Every field that is set, of the message and all within it."""
    found: list[tuple[Any, Any]] = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                found.extend(_fields(inner))
    return found


def _edit(message: Any, field: Any, rng: random.Random) -> None:
    repeated = field.is_repeated
    values = getattr(message, field.name)
    if repeated and rng.random() < 0.5:
        at = rng.randrange(len(values))
        if rng.random() < 0.5:
            del values[at]
        elif field.type == field.TYPE_MESSAGE:
            values.add().CopyFrom(values[at])
        else:
            values.append(values[at])
        return
    if field.type == field.TYPE_MESSAGE:
        message.ClearField(field.name)
        return
    new: Any
    if field.type == field.TYPE_STRING:
        new = rng.choice(_TEXTS)
    elif field.type == field.TYPE_BYTES:
        new = rng.randbytes(rng.randrange(9))
    elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        new = rng.choice((0.0, -1.5, float("nan"), float("inf"), 1e38))
    elif field.enum_type is not None:
        new = rng.choice([v.number for v in field.enum_type.values])
    else:
        new = rng.choice(_INTS)
        if field.type == field.TYPE_INT32:
            new = max(-(2**31), min(new, 2**31 - 1))
        elif field.type == field.TYPE_UINT64:
            new = abs(new)
    if repeated:
        values[rng.randrange(len(values))] = new
    else:
        setattr(message, field.name, new)


@_MANY
@given(st.sampled_from(_NAMES), st.integers(0, 2**32), st.integers(1, 4))
def test_edited_fields(name: str, seed: int, edits: int) -> None:
    rng = random.Random(seed)
    model = all_models()[name]
    for _ in range(edits):
        found = _fields(model)
        if not found:
            break
        message, field = rng.choice(found)
        _edit(message, field, rng)
    _survives(model.SerializeToString())
