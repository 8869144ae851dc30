"""Inputs that are made up: integers stay below what they index."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.ir import parse
from graphopt.verify import default_sizes, random_inputs


def _drawn(body: str, dtype: str = "i64") -> np.ndarray:
    graph = parse(f"graph @g(%x: {dtype}[2000]) -> (%y) {{\n{body}\n}}")
    array: np.ndarray = random_inputs(graph, {})["x"]
    return array


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("%t = const f32[50, 3] seed(1)\n%y = Gather(%t, %x) {axis = 0}", 50),
        ("%t = const f32[3, 40] seed(1)\n%y = Gather(%t, %x) {axis = 1}", 40),
        ("%a = const i64[1] [1]\n%u = Unsqueeze(%x, %a)\n"
         "%c = const i64[1, 257] seed(1, 256, 257)\n%y = Equal(%u, %c)", 257),
        ("%d = const i64[] [12]\n%v = const f32[2] [0, 1]\n%y = OneHot(%x, %d, %v)", 12),
        ("%t = const f32[50, 3] seed(1)\n%s = const f32[7, 3] seed(1)\n"
         "%a = Gather(%t, %x) {axis = 0}\n%b = Gather(%s, %x) {axis = 0}\n%y = Add(%a, %b)", 7),
        ("%y = Neg(%x)", 2),
    ],
)  # fmt: skip
def test_integers_stay_below_what_they_index(body: str, limit: int) -> None:
    array = _drawn(body)
    assert array.min() == 0
    assert array.max() == limit - 1


def test_narrow_types_hold_what_is_drawn() -> None:
    array = _drawn("%t = const f32[500, 3] seed(1)\n%i = Cast(%x) {to = 7}\n"
                   "%y = Gather(%t, %i) {axis = 0}", "i8")  # fmt: skip
    assert array.dtype == np.int8 and 100 < array.max() <= 127 and array.min() >= 0


def test_floats_are_standard_normal() -> None:
    array = _drawn("%y = Neg(%x)", "f32")
    assert abs(array.mean()) < 0.1 and abs(array.std() - 1) < 0.1


def test_the_same_seed_gives_the_same_inputs() -> None:
    graph = parse("graph @g(%x: f32[N, 3]) -> (%x) {}")
    first, second = (random_inputs(graph, {"N": 2}, seed=5)["x"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_first_axis_is_taken_for_the_batch() -> None:
    graph = parse("graph @g(%x: f32[N, S]) -> (%x) {}")
    sizes = default_sizes(graph)
    assert all(size["N"] == 1 for size in sizes)
    assert len({size["S"] for size in sizes}) == len(sizes)


def test_what_is_no_tensor_cannot_be_made_up() -> None:
    graph = parse("graph @g(%x: seq<f32[2]>) -> (%x) {}")
    with pytest.raises(UnsupportedError, match="'x'"):
        random_inputs(graph, {})
