"""Special values and corner cases, where ONNX fixes what numpy leaves open or does otherwise.

Results are compared exactly unless a tolerance is named: one rounding from f64 is all that may
differ from the expected value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.ir import DType
from tests.ops.bench import run_op

INF, NAN = math.inf, math.nan


def f32(*items: float) -> Any:
    return np.array(items, np.float32)


def i32(*items: int) -> Any:
    return np.array(items, np.int32)


def same(actual: Any, expected: Any) -> None:
    """Equal as numbers, NaN included, and of one sign where they are zero."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_array_equal(actual, expected)
    if actual.dtype.kind == "f":
        zero = actual == 0
        np.testing.assert_array_equal(np.signbit(actual[zero]), np.signbit(expected[zero]))


# ---- arithmetic ----


def test_integer_division_truncates() -> None:
    same(run_op("Div", i32(7, -7, 7, -7, 0), i32(2, 2, -2, -2, 5)), i32(3, -3, -3, 3, 0))


def test_integers_wrap_around_in_silence() -> None:
    low = np.array([-128], np.int8)
    same(run_op("Abs", low), low)
    same(run_op("Neg", low), low)
    same(run_op("Sub", low, np.array([1], np.int8)), np.array([127], np.int8))
    same(run_op("Div", low, np.array([-1], np.int8)), low)
    same(run_op("Mul", np.array([200], np.uint8), np.array([2], np.uint8)), np.array([144]))


@pytest.mark.parametrize(
    ("fmod", "x", "y", "expected"),
    [
        (0, [-4, 7, 5, -4], [2, -3, 8, 3], [0, -2, 5, 2]),
        (1, [-4, 7, 5, -4], [2, -3, 8, 3], [0, 1, 5, -1]),
    ],
)
def test_mod_of_integers(fmod: int, x: list[int], y: list[int], expected: list[int]) -> None:
    same(run_op("Mod", i32(*x), i32(*y), fmod=fmod), i32(*expected))


def test_mod_of_floats() -> None:
    x, y = f32(-4.3, 7.2, 0.0, INF, 1.0, -1.0, 1.0), f32(2.1, -3.4, -2.0, 2.0, 0.0, INF, INF)
    floor = run_op("Mod", x, y)
    np.testing.assert_allclose(floor[:2], [-4.3 + 3 * 2.1, 7.2 - 3 * 3.4], rtol=1e-5)
    same(floor[2:], f32(-0.0, NAN, NAN, INF, 1.0))
    trunc = run_op("Mod", x, y, fmod=1)
    np.testing.assert_allclose(trunc[:2], [-4.3 + 2 * 2.1, 7.2 - 2 * 3.4], rtol=1e-5)
    same(trunc[2:], f32(0.0, NAN, NAN, -1.0, 1.0))


def test_pow_has_the_type_of_the_base() -> None:
    same(run_op("Pow", i32(2, -3, 5), np.array([3, 3, 0])), i32(8, -27, 1))
    same(run_op("Pow", i32(9, 2), f32(0.5, -1.0)), i32(3, 0))
    same(run_op("Pow", i32(2, 1), i32(-1, -5)), i32(0, 1))
    same(run_op("Pow", f32(-8, 0, 2, NAN), f32(1 / 3, -1, 0.5, 0)), f32(NAN, INF, math.sqrt(2), 1))
    assert run_op("Pow", f32(2), np.array([10], np.int64)).dtype == np.float32


def test_round_halves_to_even() -> None:
    x = f32(0.5, 1.5, 2.5, -0.5, -1.5, NAN, INF)
    same(run_op("Round", x), f32(0, 2, 2, -0.0, -2, NAN, INF))


def test_sign_and_nan() -> None:
    same(run_op("Sign", f32(-2, 0, 3, NAN)), f32(-1, 0, 1, NAN))
    same(run_op("Relu", f32(-1, NAN, INF)), f32(0, NAN, INF))
    same(run_op("Max", f32(1, NAN), f32(NAN, 2)), f32(NAN, NAN))
    same(run_op("IsInf", f32(INF, -INF, NAN), detect_negative=0), [True, False, False])


def test_clip_with_crossed_bounds_gives_the_upper() -> None:
    same(run_op("Clip", f32(-5, 0, 5), np.float32(3), np.float32(1)), f32(1, 1, 1))
    same(run_op("Clip", f32(NAN, -5), np.float32(0)), f32(NAN, 0))
    same(run_op("Clip", f32(7), None, np.float32(2)), f32(2))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@given(x=st.integers(-128, 127), amount=st.integers(-128, 127))
def test_bitshift(direction: str, x: int, amount: int) -> None:
    result = run_op(
        "BitShift", np.array([x], np.int8), np.array([amount], np.int8), direction=direction
    )
    if not 0 <= amount < 8:
        expected = -1 if direction == "RIGHT" and x < 0 else 0
    elif direction == "RIGHT":
        expected = x >> amount
    else:
        expected = ((x << amount) + 128) % 256 - 128
    assert result.tolist() == [expected]


def test_narrow_floats_round_once() -> None:
    bf16 = DType.BF16.numpy
    # 1 + 2**-8 lies between two bf16 numbers; the sum of two of them is exact before rounding.
    x = np.array([1.0, 256.0], np.float32).astype(bf16)
    total = run_op("Sum", x, x, x)
    same(total.astype(np.float32), f32(3, 768))
    # Adding 1 to 256 one by one in bf16 would stay at 256.
    many = np.array([256.0] + [1.0] * 8, np.float32).astype(bf16)
    same(run_op("ReduceSum", many, keepdims=0).astype(np.float32), np.float32(264))
    half = np.array([60000, 60000], np.float16)
    same(run_op("ReduceMean", half, keepdims=0), np.float16(60000))
    same(run_op("Exp", np.array([12], np.float16)), np.array([INF], np.float16))


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("Softplus", [-200, 0, 200], [0, math.log(2), 200]),
        ("Sigmoid", [-200, 0, 200], [0, 0.5, 1]),
        ("Mish", [-200, 200], [-0.0, 200]),
        ("Gelu", [-40, 0, 40], [-0.0, 0, 40]),
        ("Softsign", [-3, 1e30], [-0.75, 1]),
        ("HardSwish", [-4, 0, 4], [-0.0, 0, 4]),
        ("Erf", [-INF, 0, 0.5], [-1, 0, math.erf(0.5)]),
        ("Elu", [-INF, -1, 2], [-1, math.expm1(-1), 2]),
    ],
)
def test_activations_at_the_ends(name: str, x: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(run_op(name, f32(*x)), f32(*expected), rtol=2e-7, atol=1e-38)


# ---- Cast ----

F8 = [
    # type, largest, what overflow gives without saturation
    (DType.F8E4M3FN, 448.0, NAN),
    (DType.F8E4M3FNUZ, 240.0, NAN),
    (DType.F8E5M2, 57344.0, INF),
    (DType.F8E5M2FNUZ, 57344.0, NAN),
]


@pytest.mark.parametrize(("dtype", "largest", "overflow"), F8)
def test_cast_to_float8(dtype: DType, largest: float, overflow: float) -> None:
    x = f32(0, 1, -1e9, 1e9, INF, -INF, NAN)
    saturated = run_op("Cast", x, to=int(dtype)).astype(np.float32)
    same(saturated, f32(0, 1, -largest, largest, largest, -largest, NAN))
    plain = run_op("Cast", x, to=int(dtype), saturate=0).astype(np.float32)
    same(np.abs(plain), np.abs(f32(0, 1, overflow, overflow, overflow, overflow, NAN)))
    zero = run_op("Cast", f32(-0.0), to=int(dtype)).astype(np.float32)
    # The FNUZ types have no negative zero.
    assert bool(np.signbit(zero[0])) == (not dtype.name.endswith("FNUZ"))


@pytest.mark.parametrize(
    ("mode", "saturate", "expected"),
    [
        ("up", 1, [2.0**-127, 2, 4, 1, 2.0**127, 2.0**127, NAN]),
        ("down", 1, [2.0**-127, 1, 2, 1, 2.0**127, 2.0**127, NAN]),
        ("nearest", 1, [2.0**-127, 1, 4, 1, 2.0**127, 2.0**127, NAN]),
        ("nearest", 0, [NAN, 1, 4, 1, NAN, NAN, NAN]),
    ],
)
def test_cast_to_e8m0(mode: str, saturate: int, expected: list[float]) -> None:
    x = np.array([0, 1.25, 3, 1, INF, 1e39, NAN])
    found = run_op("Cast", x, to=int(DType.F8E8M0), round_mode=mode, saturate=saturate)
    same(found.astype(np.float64), expected)


def test_cast_between_integers_keeps_the_low_bits() -> None:
    same(run_op("Cast", np.array([200, -1, 70000], np.int32), to=3), np.array([-56, -1, 112]))
    same(run_op("Cast", np.array([17, -9], np.int32), to=int(DType.I4)).astype(int), [1, 7])
    same(run_op("Cast", np.array([255, 7], np.uint8), to=int(DType.U2)).astype(int), [3, 3])


def test_cast_to_bool_and_back() -> None:
    same(run_op("Cast", f32(0, -0.0, 0.1, NAN), to=9), [False, False, True, True])
    same(run_op("Cast", np.array([True, False]), to=1), f32(1, 0))


def test_cast_of_strings() -> None:
    x = np.array(["3.14", "1e-5", "+INF", "inf", "-INF", "nan"], object)
    same(run_op("Cast", x, to=1), f32(3.14, 1e-5, INF, INF, -INF, NAN))
    same(run_op("Cast", np.array(["100", "-7", "100.5"], object), to=7), np.array([100, -7, 100]))
    assert run_op("Cast", np.array([0.1, 314.15926]), to=8).tolist() == ["0.1", "314.15926"]
    with pytest.raises(ModelError, match="'Hello' is no f32 number"):
        run_op("Cast", np.array(["Hello"], object), to=1)


def test_bitcast() -> None:
    same(run_op("BitCast", f32(1.0), to=int(DType.I32)), i32(0x3F800000))
    nibbles = np.array([-1, 7, -8], np.int8).astype(DType.I4.numpy)
    same(run_op("BitCast", nibbles, to=int(DType.U4)).astype(int), [15, 7, 8])
    with pytest.raises(ModelError, match="not of one width"):
        run_op("BitCast", f32(1.0), to=int(DType.I64))


# ---- reductions ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -INF), ("ReduceMin", INF),
        ("ReduceL1", 0), ("ReduceL2", 0), ("ReduceSumSquare", 0), ("ReduceLogSum", -INF),
        ("ReduceLogSumExp", -INF),
    ],
)  # fmt: skip
def test_reduction_of_nothing(name: str, expected: float) -> None:
    empty = np.zeros((2, 0), np.float32)
    same(run_op(name, empty, np.array([1]), keepdims=0), f32(expected, expected))


def test_reductions_without_axes() -> None:
    x = f32(1, -2, 3)
    same(run_op("ReduceSum", x), f32(2))
    same(run_op("ReduceSum", x, np.zeros(0, np.int64), noop_with_empty_axes=1), x)
    # The steps beside the folding still happen.
    same(run_op("ReduceSumSquare", x, noop_with_empty_axes=1), f32(1, 4, 9))
    same(run_op("ReduceL1", x, noop_with_empty_axes=1), f32(1, 2, 3))


def test_extremes_of_bools_and_infinities() -> None:
    x = np.array([[True, False], [False, False]])
    same(run_op("ReduceMax", x, np.array([1]), keepdims=0), [True, False])
    same(run_op("ReduceMin", x, np.array([1]), keepdims=0), [False, False])
    same(run_op("ReduceLogSumExp", f32(-INF, -INF)), f32(-INF))
    same(run_op("ReduceLogSumExp", f32(1000, 1000)), f32(1000 + math.log(2)))


def test_arg_max_of_ties() -> None:
    x = i32(1, 5, 5, 2)
    assert run_op("ArgMax", x).tolist() == [1]
    assert run_op("ArgMax", x, select_last_index=1).tolist() == [2]
    assert run_op("ArgMin", -x, select_last_index=1, keepdims=0).tolist() == 2


@pytest.mark.parametrize(
    ("exclusive", "reverse", "expected"),
    [(0, 0, [1, 3, 6]), (1, 0, [0, 1, 3]), (0, 1, [6, 5, 3]), (1, 1, [5, 3, 0])],
)
def test_cumulative_sum(exclusive: int, reverse: int, expected: list[int]) -> None:
    found = run_op("CumSum", i32(1, 2, 3), np.array(0), exclusive=exclusive, reverse=reverse)
    assert found.tolist() == expected


# ---- choosing and moving ----


def test_top_k_of_ties_is_stable() -> None:
    values, places = run_op("TopK", i32(3, 1, 3, 2, 3), np.array([4]), outputs=2)
    assert (values.tolist(), places.tolist()) == ([3, 3, 3, 2], [0, 2, 4, 3])
    values, places = run_op("TopK", i32(3, 1, 3, 1), np.array([2]), outputs=2, largest=0)
    assert (values.tolist(), places.tolist()) == ([1, 1], [1, 3])
    with pytest.raises(ModelError, match="takes 9 of 2"):
        run_op("TopK", i32(1, 2), np.array([9]), outputs=2)


def test_indices_are_checked() -> None:
    x = f32(1, 2, 3)
    same(run_op("Gather", x, np.array([-1, 0])), f32(3, 1))
    for index in (3, -4):
        with pytest.raises(ModelError, match="out of range"):
            run_op("Gather", x, np.array([index]))
        with pytest.raises(ModelError, match="out of range"):
            run_op("ScatterElements", x, np.array([index]), f32(9))


def test_scatter_reductions_see_every_update() -> None:
    x, where, update = i32(1, 1, 1), np.array([0, 0, -1]), i32(5, 7, 2)
    expected = {"add": [13, 1, 3], "mul": [35, 1, 2], "max": [7, 1, 2], "min": [1, 1, 1]}
    for reduction, result in expected.items():
        found = run_op("ScatterElements", x, where, update, reduction=reduction)
        assert found.tolist() == result
        found = run_op("ScatterND", x, where[:, None], update, reduction=reduction)
        assert found.tolist() == result


def test_gather_elements_over_many_columns() -> None:
    # numpy's `choose` would end at 32 of them.
    x = np.arange(300, dtype=np.float32).reshape(3, 100)
    where = np.arange(100)[None] % 3
    same(run_op("GatherElements", x, where, axis=0), x[where, np.arange(100)[None]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("constant", [0, 0, 0, 1, 2, 3, 0, 0, 0, 0]),
        ("edge", [1, 1, 1, 1, 2, 3, 3, 3, 3, 3]),
        ("reflect", [2, 3, 2, 1, 2, 3, 2, 1, 2, 3]),
        ("wrap", [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]),
    ],
)
def test_pad_further_than_the_data(mode: str, expected: list[int]) -> None:
    found = run_op("Pad", i32(1, 2, 3), np.array([3, 4]), mode=mode)
    assert found.tolist() == expected


def test_pad_crops_and_keeps_types() -> None:
    same(run_op("Pad", i32(1, 2, 3, 4), np.array([-1, 2])), i32(2, 3, 4, 0, 0))
    words = run_op("Pad", np.array(["a"], object), np.array([1, 0]))
    assert words.tolist() == ["", "a"]
    half = run_op("Pad", np.array([1], DType.BF16.numpy), np.array([1, 1]), mode="edge")
    same(half.astype(np.float32), f32(1, 1, 1))


def test_deprecated_ops_still_run() -> None:
    x = f32(1, 2, 4).reshape(1, 3)
    scales = f32(1, 2)
    assert run_op("Upsample", x, scales).tolist() == [[1, 1, 2, 2, 4, 4]]
    assert run_op("Upsample", x, scales, mode="linear").tolist() == [[1, 1.5, 2, 3, 4, 4]]
    assert run_op("Scatter", x, np.array([[1]]), f32(9).reshape(1, 1), axis=1).tolist() == [
        [1, 9, 4]
    ]


def test_tensor_scatter_wraps_around() -> None:
    cache, update = np.zeros((2, 4, 1), np.int32), np.array([1, 2, 3, 4]).reshape(2, 2, 1)
    update = update.astype(np.int32)
    start = np.array([1, 3])
    found = run_op("TensorScatter", cache, update, start, mode="circular")
    assert found[..., 0].tolist() == [[0, 1, 2, 0], [4, 0, 0, 3]]
    with pytest.raises(ModelError, match="leaves a cache of 4"):
        run_op("TensorScatter", cache, update, start)


def test_unique_in_order_of_appearance() -> None:
    found = run_op("Unique", i32(2, 1, 1, 3, 4, 3), outputs=4, sorted=0)
    assert [a.tolist() for a in found] == [
        [2, 1, 3, 4], [0, 1, 3, 4], [0, 1, 1, 2, 3, 2], [1, 2, 2, 1],
    ]  # fmt: skip


def test_nonzero_of_a_scalar() -> None:
    assert run_op("NonZero", np.array(3.0, np.float32)).shape == (0, 1)
    assert run_op("NonZero", np.array(0.0, np.float32)).shape == (0, 0)


def test_range() -> None:
    assert run_op("Range", np.array(10), np.array(4), np.array(-2)).tolist() == [10, 8, 6]
    assert run_op("Range", np.array(3), np.array(3), np.array(1)).tolist() == []
    # Added up in f16 the steps would get lost: 2048 + 1 is 2048 there.
    half = [np.array(v, np.float16) for v in (2048, 2056, 2)]
    assert run_op("Range", *half).tolist() == [2048, 2050, 2052, 2054]


def test_split_into_uneven_parts() -> None:
    parts = run_op("Split", np.arange(7), outputs=3, num_outputs=3)
    assert [p.tolist() for p in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    parts = run_op("Split", np.arange(4), outputs=3, num_outputs=3)
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], []]


def test_trilu_of_empty_and_far_diagonals() -> None:
    x = np.ones((2, 3), np.int32)
    assert run_op("Trilu", x, np.array(9)).sum() == 0
    assert run_op("Trilu", x, np.array(9), upper=0).sum() == 6
    assert run_op("Trilu", np.ones((0, 3), np.int32)).shape == (0, 3)


# ---- random numbers ----


def test_seeds_repeat() -> None:
    first, again = (run_op("RandomNormal", shape=(64,), seed=3.0) for _ in range(2))
    same(first, again)
    uniform = run_op("RandomUniform", shape=(1000,), seed=1.0, low=2.0, high=3.0, dtype=11)
    assert uniform.dtype == np.float64
    assert 2 <= uniform.min() < 2.1 < 2.9 < uniform.max() < 3
    like = run_op("RandomUniformLike", np.zeros((2, 3), np.float16), seed=1.0)
    assert (like.shape, like.dtype) == ((2, 3), np.float16)
    like = run_op("RandomNormalLike", np.zeros(4000, np.float32), mean=5.0, scale=0.5, seed=2.0)
    # Four standard errors of the mean of 4000 draws.
    assert abs(like.mean() - 5) < 4 * 0.5 / math.sqrt(4000)


def test_multinomial_follows_the_weights() -> None:
    logits = np.log(f32(1, 2, 7)).reshape(1, 3)
    drawn = run_op("Multinomial", logits, sample_size=10000, seed=0.0)
    assert drawn.dtype == np.int32
    shares = np.bincount(drawn[0], minlength=3) / 10000
    # Four standard errors of the largest of the shares.
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=4 * math.sqrt(0.25 / 10000))


def test_dropout_scales_what_it_keeps() -> None:
    x = np.ones(1000, np.float32)
    kept, mask = run_op("Dropout", x, np.float32(0.25), np.array(True), outputs=2, seed=1)
    same(kept, np.where(mask, np.float32(1 / 0.75), np.float32(0)))
    assert 0.65 < mask.mean() < 0.85
    same(run_op("Dropout", x, np.float32(0.25)), x)


# ---- strings ----


def test_strings() -> None:
    found = run_op("StringConcat", np.array([["a"], ["b"]]), np.array(["x", "y"]))
    assert found.tolist() == [["ax", "ay"], ["bx", "by"]]
    words, counts = run_op("StringSplit", np.array(["a b  c", "", "d"]), outputs=2)
    assert words.tolist() == [["a", "b", "c"], ["", "", ""], ["d", "", ""]]
    assert counts.tolist() == [3, 0, 1]
    words, _ = run_op("StringSplit", np.array(["a,,b,c"]), outputs=2, delimiter=",", maxsplit=2)
    assert words.tolist() == [["a", "", "b,c"]]
    match = run_op("RegexFullMatch", np.array(["ab12", "ab12 "]), pattern=r"\w+\d{2}")
    assert match.tolist() == [True, False]
    with pytest.raises(ModelError, match="no regular expression"):
        run_op("RegexFullMatch", np.array(["a"]), pattern="(")


def test_string_normalizer() -> None:
    days = np.array(["Monday", "tuesday", "MONDAY"])
    options: dict[str, Any] = {"stopwords": ("monday",), "case_change_action": "UPPER"}
    assert run_op("StringNormalizer", days, **options).tolist() == ["TUESDAY"]
    options["is_case_sensitive"] = 1
    assert run_op("StringNormalizer", days, **options).tolist() == ["MONDAY", "TUESDAY", "MONDAY"]
    assert run_op("StringNormalizer", days[:1], stopwords=("monday",)).tolist() == [""]
