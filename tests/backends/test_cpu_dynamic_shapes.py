"""Sizes that only the run knows: counts, slices and reshapes that depend on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from graphopt.errors import GraphoptError
from tests.backends.pipe import Net, check, compiled, loaded

Array = np.ndarray[Any, Any]


def _values(*items: int) -> Any:
    return lambda rng, shape: np.array(items, np.int64).reshape(shape)


def test_nonzero_and_what_follows() -> None:
    net = Net()
    x = net.input("x", (4, 5))
    mask = net("Greater", x, net.const(np.float32(0)))
    where = net("NonZero", mask)
    found = net("GatherND", x, net("Transpose", where, perm=[1, 0]))
    y = net("Mul", net("Relu", found), net.const(np.float32(2)))
    check(
        net.output(where, y, net("Shape", where)), {"x": ("N", 5)}, [{"x": (9, 5)}, {"x": (0, 5)}]
    )


@pytest.mark.parametrize("keep", ["none", "all"])
def test_nonzero_of_nothing_and_of_everything(keep: str) -> None:
    fill = 0.0 if keep == "none" else 1.0
    net = Net()
    x = net.input("x", (3, 4), make=lambda rng, shape: np.full(shape, fill, np.float32))
    where = net("NonZero", x)
    first = net("Slice", where, net.const([0]), net.const([1]))
    rows = net("Gather", x, net("Squeeze", first, net.const([0])))
    check(net.output(where, net("MatMul", rows, net.weight(4, 6))))


def test_compress_feeds_a_product() -> None:
    net = Net()
    x = net.input("x", (6, 4))
    keep = net.input("keep", (6,), bool)
    rows = net("Compress", x, keep, axis=0)
    y = net("Relu", net("Gemm", rows, net.weight(4, 5), net.weight(5)))
    more = [{"x": (9, 4), "keep": (9,)}]
    check(net.output(y), {"x": ("N", 4), "keep": ("N",)}, more)


def test_unique_values() -> None:
    net = Net()
    x = net.input("x", (12,), np.int64, make=lambda rng, shape: rng.integers(0, 5, shape))
    check(net.output(*net("Unique", x, outputs=4)), {"x": ("N",)}, [{"x": (30,)}])


@pytest.mark.parametrize("shape", [(2, 12), (24, 1), (-1, 8), (3, -1), (0, -1)], ids=str)
def test_reshape_to_sizes_that_are_an_input(shape: Sequence[int]) -> None:
    net = Net()
    x = net.input("x", (4, 6))
    s = net.input("s", (2,), np.int64, make=_values(*shape))
    y = net("Relu", net("Reshape", x, s))
    check(net.output(y, net("Transpose", y, perm=[1, 0])), fallbacks=True)


def test_reshape_to_sizes_that_are_computed_from_data() -> None:
    """ReduceSum of a mask is a size; the product of sizes is checked by the run."""
    net = Net()
    x = net.input("x", (4, 6))
    rows = net("Reshape", net.input("rows", (), np.int64, make=_values(3)), net.const([1]))
    sizes = net("Concat", rows, net.const([-1]), axis=0)
    check(net.output(net("Neg", net("Reshape", x, sizes))), fallbacks=True)


@pytest.mark.parametrize(
    ("start", "end", "step"), [(1, 5, 1), (0, 100, 2), (-2, -100, -1), (4, 4, 1), (-3, 100, 1)]
)
def test_slices_with_bounds_that_are_inputs(start: int, end: int, step: int) -> None:
    net = Net()
    x = net.input("x", (7, 3))
    bounds = [
        net.input(name, (1,), np.int64, make=_values(value))
        for name, value in (("start", start), ("end", end))
    ]
    y = net("Slice", x, *bounds, net.const([0]), net.const([step]))
    check(net.output(net("Relu", y), net("MatMul", y, net.weight(3, 4))), fallbacks=True)


def test_slice_length_of_another_input() -> None:
    """The sequence's length comes from the shape of a second input."""
    net = Net()
    x, other = net.input("x", (1, 16, 4)), net.input("other", (1, 5, 2))
    length = net("Gather", net("Shape", other), net.const([1]), axis=0)
    y = net("Slice", x, net.const([0]), length, net.const([1]))
    symbols = {"other": ("N", "T", 2)}
    more = [{"other": (1, 1, 2)}, {"other": (1, 16, 2)}]
    check(net.output(net("Relu", y)), symbols, more, static=False)


@pytest.mark.parametrize("limit", [0, 1, 9])
def test_range_of_an_input(limit: int) -> None:
    net = Net()
    n = net.input("n", (), np.int64, make=_values(limit))
    r = net("Range", net.const(np.int64(0)), n, net.const(np.int64(1)))
    y = net("Mul", net("Cast", r, to=1), net.const(np.float32(0.5)))
    check(net.output(r, y), fallbacks=True)


def test_range_of_a_size() -> None:
    net = Net()
    x = net.input("x", (2, 5, 4))
    length = net("Slice", net("Shape", x), net.const([1]), net.const([2]))
    length = net("Squeeze", length, net.const([0]))
    positions = net("Range", net.const(np.int64(0)), length, net.const(np.int64(1)))
    table = net.weight(64, 4)
    y = net("Add", x, net("Gather", table, positions))
    check(net.output(y), {"x": ("N", "T", 4)}, [{"x": (1, 64, 4)}, {"x": (3, 1, 4)}])


@pytest.mark.parametrize("target", [(3, 4), (5, 1, 4), (1, 1)], ids=str)
def test_expand_to_an_input(target: Sequence[int]) -> None:
    net = Net()
    x = net.input("x", (1, 4))
    shape = net.input("shape", (len(target),), np.int64, make=_values(*target))
    check(net.output(net("Tanh", net("Expand", x, shape))), fallbacks=True)


def test_expand_to_the_shape_of_another() -> None:
    net = Net()
    x, y = net.input("x", (1, 4)), net.input("y", (3, 4))
    wide = net("Expand", x, net("Shape", y))
    more = [{"x": (1, 4), "y": (6, 4)}, {"x": (1, 4), "y": (1, 4)}]
    check(net.output(net("Add", wide, y)), {"x": (1, 4), "y": ("N", 4)}, more)


@pytest.mark.parametrize("repeats", [(1, 2), (3, 1), (0, 1)], ids=str)
def test_tile_by_an_input(repeats: Sequence[int]) -> None:
    net = Net()
    x = net.input("x", (2, 3))
    r = net.input("r", (2,), np.int64, make=_values(*repeats))
    check(net.output(net("Neg", net("Tile", x, r))), fallbacks=True)


def test_pads_that_are_an_input() -> None:
    net = Net()
    x = net.input("x", (2, 3))
    pads = net.input("pads", (4,), np.int64, make=_values(1, 0, 2, 1))
    check(net.output(net("Neg", net("Pad", x, pads))), fallbacks=True)


def test_constant_of_shape_and_zero_states() -> None:
    """A zero state of the batch's size, as exporters of recurrent models write it."""
    net = Net()
    x = net.input("x", (3, 4))
    rows = net("Slice", net("Shape", x), net.const([0]), net.const([1]))
    zeros = net("ConstantOfShape", net("Concat", rows, net.const([6]), axis=0))
    y = net("Concat", x, zeros, axis=1)
    check(net.output(y), {"x": ("N", 4)}, [{"x": (1, 4)}, {"x": (8, 4)}])


@pytest.mark.parametrize("k", [1, 3, 6])
def test_topk_with_k_that_is_an_input(k: int) -> None:
    net = Net()
    x = net.input("x", (2, 6))
    count = net.input("k", (1,), np.int64, make=_values(k))
    values, indices = net("TopK", x, count, outputs=2)
    check(net.output(net("Neg", values), indices))


def test_split_into_sizes_that_are_an_input() -> None:
    net = Net()
    x = net.input("x", (6, 2))
    sizes = net.input("sizes", (2,), np.int64, make=_values(2, 4))
    a, b = net("Split", x, sizes, outputs=2, axis=0)
    check(net.output(net("Relu", a), net("Neg", b)), fallbacks=True)


def test_one_hot_with_a_depth_that_is_an_input() -> None:
    net = Net()
    x = net.input("x", (5,), np.int64)
    depth = net.input("depth", (), np.int64, make=_values(10))
    values = net.const([0.0, 1.0])
    check(net.output(net("Relu", net("OneHot", x, depth, values))))


def test_symbolic_flatten_to_a_product() -> None:
    """[N, C, H, W] to [N, -1] needs H * W * C for the next product: sizes fixed, batch free."""
    net = Net()
    x = net.input("x", (2, 3, 4, 5))
    shape = net("Shape", x)
    batch = net("Gather", shape, net.const(0), axis=0)
    sizes = net("Concat", net("Unsqueeze", batch, net.const([0])), net.const([-1]), axis=0)
    y = net("Gemm", net("Reshape", x, sizes), net.weight(60, 7))
    check(net.output(y), {"x": ("N", 3, 4, 5)}, [{"x": (1, 3, 4, 5)}, {"x": (9, 3, 4, 5)}])


def test_heads_split_and_merged_with_free_batch_and_length() -> None:
    net = Net()
    x = net.input("x", (2, 5, 12))
    h = net("Transpose", net("Reshape", x, net.const([0, 0, 3, 4])), perm=[0, 2, 1, 3])
    h = net("Tanh", h)
    y = net("Reshape", net("Transpose", h, perm=[0, 2, 1, 3]), net.const([0, 0, 12]))
    check(net.output(y), {"x": ("N", "T", 12)}, [{"x": (1, 1, 12)}, {"x": (4, 9, 12)}])


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({"x": np.zeros((4, 6), np.float32), "s": np.array([5, 5])}, "Reshape|elements|size"),
        ({"x": np.zeros((4, 6), np.float32), "s": np.array([-1, -1])}, "-1|Reshape"),
        ({"x": np.zeros((4, 6), np.float32), "s": np.array([-1, 7])}, "Reshape|elements|divi"),
        ({"x": np.zeros((4, 6), np.float32), "s": np.array([-2, 12])}, "Reshape|size|negative"),
    ],
)
def test_impossible_sizes_are_one_clear_error(inputs: dict[str, Array], what: str) -> None:
    net = Net()
    y = net("Relu", net("Reshape", net.input("x", (4, 6)), net.input("s", (2,), np.int64)))
    session = loaded(compiled(net.output(y).model(), fallbacks=True))
    with pytest.raises(GraphoptError, match=what):
        session.run(inputs)


def test_an_index_out_of_range_is_one_clear_error() -> None:
    net = Net()
    y = net("Gather", net.input("x", (4, 6)), net.input("i", (2,), np.int64))
    session = loaded(compiled(net.output(y).model()))
    x = np.zeros((4, 6), np.float32)
    assert session.run({"x": x, "i": np.array([-4, 3])})
    for bad in (4, -5, 2**62):
        with pytest.raises(GraphoptError, match=r"range|index|indices"):
            session.run({"x": x, "i": np.array([0, bad])})


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16", "uint8"])
def test_filled_tensors_of_any_type(dtype: str) -> None:
    """At no level may LLVM make a memset of it: nobody defines that in generated code."""
    net = Net()
    x = net.input("x", (3, 4))
    one = numpy_helper.from_array(np.ones(1, dtype))
    check(
        net.output(net("ConstantOfShape", net("Shape", x), value=one)),
        {"x": ("N", 4)},
        [{"x": (7, 4)}],
    )
    compiled(net.model(), "cpu{levels=v2+v3+v4}")


def test_masks_made_from_sizes() -> None:
    """A causal mask of the sequence's length."""
    net = Net()
    x = net.input("x", (5, 4))
    length = net("Slice", net("Shape", x), net.const([0]), net.const([1]))
    square = net("Concat", length, length, axis=0)
    full = net(
        "ConstantOfShape", square, value=numpy_helper.from_array(np.full(1, -1e9, np.float32))
    )
    mask = net("Trilu", full, net.const(1), upper=1)
    positions = net("Range", net.const(0), net("Squeeze", length), net.const(1))
    hot = net("OneHot", positions, length, net.const([0.0, 1.0]))
    eye = net("EyeLike", mask, k=1)
    check(net.output(mask, positions, hot, eye), {"x": ("T", 4)}, [{"x": (1, 4)}, {"x": (40, 4)}])
