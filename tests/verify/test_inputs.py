"""Made-up inputs, and inputs that somebody gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError, UnsupportedError
from graphopt.verify import default_sizes, fit_inputs, random_inputs


def _graph(inputs: str) -> graphopt.Graph:
    return graphopt.parse(f"graph @g({inputs}) -> () {{ }}")


def test_sizes_take_the_first_axis_for_the_batch() -> None:
    graph = _graph("%x: f32[N, 3, H, W], %y: i64[N]")
    sizes = default_sizes(graph)
    assert all(s["N"] == 1 for s in sizes)
    assert all(s["H"] == s["W"] for s in sizes)
    assert len({s["H"] for s in sizes}) == len(sizes) > 3
    assert default_sizes(_graph("%x: f32[2, 3]")) == [{}]


def test_a_symbol_elsewhere_too_is_no_batch() -> None:
    (first, *_) = default_sizes(_graph("%x: f32[T, 4], %m: f32[1, T]"))
    assert first["T"] > 1


def test_random_inputs_fit_and_are_seeded() -> None:
    graph = _graph("%x: f32[N, 3], %i: i64[N, 2*N], %b: bool[2], %h: f16[4]")
    sizes = {"N": 5}
    one, two, other = (random_inputs(graph, sizes, seed) for seed in (1, 1, 2))
    assert {k: (v.dtype.name, v.shape) for k, v in one.items()} == {
        "x": ("float32", (5, 3)),
        "i": ("int64", (5, 10)),
        "b": ("bool", (2,)),
        "h": ("float16", (4,)),
    }
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert not np.array_equal(one["x"], other["x"])
    assert fit_inputs(graph, one) == one


@pytest.mark.parametrize("type", ["string[2]", "f32[*]", "seq<f32[2]>"])
def test_values_that_cannot_be_made_up(type: str) -> None:
    with pytest.raises(UnsupportedError, match="'x'"):
        random_inputs(_graph(f"%x: {type}"), {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, "input 'i' is missing; expected i64[N]"),
        ({"z": 1}, "unknown input 'z'; the model has inputs x: f32[N, 3], i: i64[N]"),
        ({"x": np.zeros((2, 3))}, "input 'x': expected f32[N, 3], got float64[2, 3]"),
        ({"x": np.zeros((2, 4), np.float32)}, "got float32[2, 4]"),
        ({"x": np.zeros(3, np.float32)}, "got float32[3]"),
        (
            {"i": np.zeros(4, np.int64)},
            "input 'i': expected i64[N], got int64[4]: N is 2 elsewhere",
        ),
        ({"i": np.zeros(2, np.dtype(np.int64).newbyteorder())}, "got"),
    ],
)
def test_inputs_that_do_not_fit(given: dict[str, Any], message: str) -> None:
    graph = _graph("%x: f32[N, 3], %i: i64[N]")
    fitting = {"x": np.zeros((2, 3), np.float32), "i": np.zeros(2, np.int64)}
    assert fit_inputs(graph, fitting).keys() == fitting.keys()
    if "missing" in message:
        fitting = {}
    with pytest.raises(InputError) as error:
        fit_inputs(graph, {**fitting, **given})
    assert message in str(error.value)


def test_sizes_in_expressions_are_checked() -> None:
    graph = _graph("%x: f32[N], %y: f32[2*N]")
    good = {"x": np.zeros(2, np.float32), "y": np.zeros(4, np.float32)}
    assert fit_inputs(graph, good).keys() == good.keys()
    with pytest.raises(InputError, match="'y'"):
        fit_inputs(graph, {**good, "y": np.zeros(5, np.float32)})
