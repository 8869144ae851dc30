"""Distances between outputs, and what counts as equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.ir import DType
from graphopt.verify import TOLERANCES, compare, relative_error

F32 = np.float32
INF, NAN = np.inf, np.nan


def _array(*values: float, dtype: Any = F32) -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


def test_relative_l2() -> None:
    assert relative_error(_array(3, 4), _array(3, 4)) == 0
    assert relative_error(_array(3, 5), _array(3, 4)) == pytest.approx(0.2)
    assert relative_error(_array(6, 8), _array(3, 4)) == pytest.approx(1.0)


def test_a_zero_reference_is_compared_absolutely() -> None:
    assert relative_error(_array(0, 1e-3), _array(0, 0)) == pytest.approx(1e-3)
    assert relative_error(_array(), _array()) == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (_array(1, NAN), _array(1, NAN)),
        (_array(INF, -INF, 2), _array(INF, -INF, 2)),
        (np.array(1.0, F32), np.array(1.0, F32)),
        (np.zeros((0, 3), F32), np.zeros((0, 3), F32)),
        (np.array(["a", "b"]), np.array(["a", "b"])),
        (np.array(["a", "b"], object), np.array(["a", "b"])),
        (np.array([True, False]), np.array([True, False])),
        (np.array([1 + 2j]), np.array([1 + 2j])),
    ],
)
def test_equal_things(a: Any, b: Any) -> None:
    assert relative_error(a, b) == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (_array(1, NAN), _array(1, 2)),
        (_array(1, 2), _array(1, NAN)),
        (_array(INF), _array(-INF)),
        (_array(INF), _array(3e38)),
        (_array(NAN), _array(INF)),
        (_array(1, 2), np.array([[1, 2]], F32)),
        (_array(1), np.array(1, F32)),
        (np.zeros((0, 3), F32), np.zeros((3, 0), F32)),
        (np.array(["a"]), np.array(["b"])),
        (np.array(["a"], object), np.array(["b"], object)),
    ],
)
def test_things_without_a_distance(a: Any, b: Any) -> None:
    assert relative_error(a, b) == INF


def test_large_and_small_numbers_do_not_overflow() -> None:
    big = _array(3e38, 3e38)
    assert relative_error(big, big) == 0
    assert relative_error(-big, big) == pytest.approx(2)
    tiny = _array(1e-45)
    assert relative_error(tiny * 2, tiny) == pytest.approx(1)


@pytest.mark.parametrize("values", [(2**53 + 1, 2**53), (2**63 - 1, 2**63 - 2), (-(2**63), 0)])
def test_large_integers_that_differ_are_different(values: tuple[int, int]) -> None:
    """As f64 they would be the same number."""
    a, b = (np.array([v], np.int64) for v in values)
    assert relative_error(a, b) > 0
    assert relative_error(a, a) == 0


@given(hnp.arrays(F32, hnp.array_shapes(), elements=st.floats(-1e3, 1e3, width=32)))
def test_distance_to_itself_is_zero_and_to_others_is_not(x: Any) -> None:
    assert relative_error(x, x) == 0
    y = x.copy()
    y.flat[0] += 1
    assert relative_error(y, x) > 0


def test_compare_knows_what_each_type_allows() -> None:
    wanted = {
        "f32": _array(1, 2),
        "f64": np.array([1.0]),
        "f16": np.array([1], np.float16),
        "i64": np.array([3]),
        "bool": np.array([True]),
        "words": np.array(["a"], object),
    }
    found = {c.name: c for c in compare(wanted, wanted)}
    assert list(found) == list(wanted)
    assert all(c.ok and c.error == 0 for c in found.values())
    assert found["f32"].tolerance == TOLERANCES[DType.F32] == 1e-5
    assert found["f64"].tolerance < found["f32"].tolerance < found["f16"].tolerance
    assert found["i64"].tolerance == found["bool"].tolerance == found["words"].tolerance == 0


def test_compare_refuses_what_is_too_far() -> None:
    (far,) = compare({"y": _array(1.0, 2.0002)}, {"y": _array(1, 2)})
    assert not far.ok
    (near,) = compare({"y": _array(1.0, 2.00001)}, {"y": _array(1, 2)})
    assert near.ok
    (slack,) = compare({"y": _array(1.0, 2.0002)}, {"y": _array(1, 2)}, slack=100)
    assert slack.ok
    (integer,) = compare({"y": np.array([4])}, {"y": np.array([3])})
    assert not integer.ok


def test_compare_refuses_another_type() -> None:
    """A f64 where f32 was promised is wrong, however near."""
    (found,) = compare({"y": np.array([1.0])}, {"y": _array(1)})
    assert not found.ok
    (found,) = compare({"y": np.array([1], np.int32)}, {"y": np.array([1])})
    assert not found.ok
