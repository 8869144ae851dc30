"""Generated code: reductions, softmax, normalisations, movements and what fuses with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels

Op = Callable[[Net, str], Any]

REDUCTIONS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
]  # fmt: skip


def _positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return (0.5 + rng.random(shape)).astype(np.float32)


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [[0], [1], [2], [-1, 1], [0, 1, 2], None], ids=str)
def test_reductions(op: str, axes: list[int] | None) -> None:
    net = Net()
    x = net.input("x", (3, 5, 18), make=_positive)
    operands = [] if axes is None else [net.const(axes)]
    kept, dropped = net(op, x, *operands, keepdims=1), net(op, x, *operands, keepdims=0)
    more = [{"x": (1, 1, 1)}, {"x": (4, 33, 7)}]
    artifact = check(net.output(kept, dropped), {"x": ("A", "B", "C")}, more)
    assert set(kernels(artifact)) <= {"object", "view"}


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMean"])
def test_long_reductions_stay_accurate(op: str) -> None:
    """A million terms: sums in f32 must not lose digits one by one."""
    net = Net()
    x = net.input("x", (1, 1 << 20), make=_positive)
    net.output(net(op, x, keepdims=0))
    # onnxruntime's own sum drifts further than 1e-5 from the f64 one.
    check(net, oracle=False)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64])
def test_reductions_of_other_types(dtype: Any) -> None:
    net = Net()
    x = net.input("x", (3, 17), dtype)
    net.output(net("ReduceSum", x, net.const([1])), net("ReduceMax", x, net.const([0])))
    check(net, tolerance=2e-3 if dtype is np.float16 else None)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceL1", "ReduceSumSquare"])
def test_reductions_of_nothing(op: str) -> None:
    net = Net()
    net.output(net(op, net.input("x", (2, 0, 3)), net.const([1])))
    check(net)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("last", [0, 1])
def test_arguments_of_extremes(op: str, axis: int, last: int) -> None:
    def ties(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        return rng.integers(0, 3, shape).astype(np.float32)

    net = Net()
    x = net.input("x", (3, 20, 7), make=ties)
    net.output(net(op, x, axis=axis, keepdims=0, select_last_index=last))
    check(net, {"x": ("A", "B", "C")}, [{"x": (2, 2, 2)}])


@pytest.mark.parametrize("op", ["ArgMax", "Hardmax", "LpNormalization", "Softmax"])
def test_row_programs_between_pointwise_ops(op: str) -> None:
    """What comes before and after may run in the same loop."""
    net = Net()
    x = net("Mul", net("Tanh", net.input("x", (3, 5, 18))), net.weight(18))
    y = net(op, x, axis=-1)
    y = net("Cast", y, to=1) if op == "ArgMax" else y
    net.output(net("Add", net("Relu", y), net.const(np.float32(1))))
    check(net, {"x": ("A", "B", 18)}, [{"x": (1, 1, 18)}])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax(op: str, axis: int) -> None:
    net = Net()
    net.output(net(op, net.input("x", (3, 5, 18)), axis=axis))
    more = [{"x": (1, 1, 1)}, {"x": (2, 64, 33)}]
    check(net, {"x": ("A", "B", "C")}, more)


def test_softmax_of_large_and_infinite_values() -> None:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        x = (1e4 * rng.standard_normal(shape)).astype(np.float32)
        x[0, ::2] = -np.inf
        return x

    net = Net()
    check(net.output(net("Softmax", net.input("x", (4, 33), make=make))))


def test_masked_softmax_runs_as_one_kernel() -> None:
    net = Net()
    scores, mask = net.input("s", (2, 3, 6, 6)), net.input("m", (2, 1, 1, 6))
    scaled = net("Div", scores, net.const(np.float32(8)))
    y = net("Softmax", net("Add", scaled, mask))
    artifact = check(net.output(y))
    assert kernels(artifact) == ["object"]


# ---- normalisations ----


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(axis: int, bias: bool) -> None:
    shape = (3, 5, 18)
    net = Net()
    tail = shape[axis % 3 :]
    operands = [net.weight(*tail)] + ([net.weight(*tail)] if bias else [])
    y = net("LayerNormalization", net.input("x", shape), *operands, axis=axis, epsilon=1e-3)
    symbols = {"x": ("N", *shape[1:])}
    check(net.output(y), symbols, [{"x": (1, *shape[1:])}])


def test_layer_norm_with_statistics() -> None:
    net = Net()
    found = net(
        "LayerNormalization", net.input("x", (3, 18)), net.weight(18), net.weight(18), outputs=3
    )
    check(net.output(*found), fallbacks=True)


def test_layer_norm_spelled_out_after_a_residual_sum() -> None:
    net = Net()
    x = net("Add", net.input("x", (2, 5, 16)), net.input("r", (2, 5, 16)))
    centred = net("Sub", x, net("ReduceMean", x, net.const([-1])))
    variance = net("ReduceMean", net("Pow", centred, net.const(np.float32(2))), net.const([-1]))
    root = net("Sqrt", net("Add", variance, net.const(np.float32(1e-5))))
    y = net("Add", net("Mul", net("Div", centred, root), net.weight(16)), net.weight(16))
    symbols = {"x": ("N", "T", 16), "r": ("N", "T", 16)}
    artifact = check(net.output(y, x), symbols, [{"x": (1, 1, 16), "r": (1, 1, 16)}])
    assert kernels(artifact) == ["object"]


def test_rms_norm() -> None:
    net = Net(opset=23)
    y = net("RMSNormalization", net.input("x", (3, 5, 16)), net.weight(16))
    check(net.output(y), {"x": ("N", "T", 16)}, [{"x": (1, 2, 16)}])


def test_group_and_instance_norm() -> None:
    net = Net()
    x = net.input("x", (2, 6, 5, 4))
    a = net("GroupNormalization", x, net.weight(6), net.weight(6), num_groups=3)
    b = net("InstanceNormalization", x, net.weight(6), net.weight(6))
    check(net.output(a, b), {"x": ("N", 6, "H", "W")}, [{"x": (1, 6, 3, 9)}])


def test_batch_norm_with_parameters_that_are_inputs() -> None:
    net = Net()
    operands = [net.input(name, (6,), make=_positive) for name in ("s", "b", "m", "v")]
    y = net("BatchNormalization", net.input("x", (2, 6, 5, 4)), *operands)
    check(net.output(y), fallbacks=True)


@pytest.mark.parametrize("op", ["LpNormalization", "MeanVarianceNormalization", "LRN"])
def test_rarer_norms(op: str) -> None:
    attrs: dict[str, Any] = {"LRN": {"size": 3}, "LpNormalization": {"axis": 1, "p": 2}}.get(op, {})
    net = Net()
    check(net.output(net(op, net.input("x", (2, 6, 5, 4)), **attrs)))


# ---- movements ----

MOVEMENTS: dict[str, Op] = {
    "transpose": lambda net, x: net("Transpose", x, perm=[2, 0, 1]),
    "transpose reversed": lambda net, x: net("Transpose", x),
    "concat": lambda net, x: net("Concat", x, x, net("Neg", x), axis=1),
    "concat weights": lambda net, x: net("Concat", x, net.weight(4, 6, 3), axis=-1),
    "split": lambda net, x: net("Split", x, net.const([1, 2, 3]), outputs=3, axis=1),
    "split unread": lambda net, x: net("Split", x, outputs=3, axis=1, num_outputs=3)[1],
    "slice": lambda net, x: net(
        "Slice", x, net.const([1, 2]), net.const([3, 9]), net.const([0, 2])
    ),
    "slice back": lambda net, x: net(
        "Slice", x, net.const([-1]), net.const([-99]), net.const([1]), net.const([-2])
    ),
    "slice empty": lambda net, x: net("Slice", x, net.const([3]), net.const([3]), net.const([1])),
    "pad": lambda net, x: net("Pad", x, net.const([1, 0, 2, 0, 3, 0])),
    "pad value": lambda net, x: net(
        "Pad", x, net.const([0, 0, 1, 0, 0, 1]), net.const(np.float32(5))
    ),
    "pad reflect": lambda net, x: net("Pad", x, net.const([1, 2, 0, 0, 3, 2]), mode="reflect"),
    "pad edge": lambda net, x: net("Pad", x, net.const([1, 2, 7, 0, 3, 2]), mode="edge"),
    "gather": lambda net, x: net("Gather", x, net.const([[2, -1], [0, 0]]), axis=1),
    "gather scalar": lambda net, x: net("Gather", x, net.const(1), axis=0),
    "expand": lambda net, x: net(
        "Expand", net("Slice", x, net.const([0]), net.const([1])), net.const([7, 6, 5])
    ),
    "tile": lambda net, x: net("Tile", x, net.const([2, 1, 3])),
    "where": lambda net, x: net(
        "Where", net("Greater", x, net.const(np.float32(0))), x, net.weight(5)
    ),
    "depth to space": lambda net, x: net(
        "DepthToSpace", net("Reshape", x, net.const([1, 4, 6, 5])), blocksize=2
    ),
    "space to depth": lambda net, x: net(
        "SpaceToDepth", net("Reshape", x, net.const([1, 5, 6, 4])), blocksize=2
    ),
    "flip": lambda net, x: net(
        "Slice",
        x,
        net.const([-1]),
        net.const([-9223372036854775808]),
        net.const([0]),
        net.const([-1]),
    ),
    "rotate": lambda net, x: net(
        "Concat",
        net("Neg", net("Slice", x, net.const([2]), net.const([5]), net.const([2]))),
        net("Slice", x, net.const([0]), net.const([2]), net.const([2])),
        axis=2,
    ),
    "cumsum": lambda net, x: net("CumSum", x, net.const(1), exclusive=1, reverse=1),
    "trilu": lambda net, x: net("Trilu", x, net.const(1), upper=0),
    "reverse sequence": lambda net, x: net(
        "ReverseSequence", x, net.const([1, 2, 3, 4]), batch_axis=0, time_axis=1
    ),
    "scatter": lambda net, x: net(
        "ScatterElements", x, net.const([[[0, 1]]]), net.weight(1, 1, 2), axis=2
    ),
    "scatter nd": lambda net, x: net("ScatterND", x, net.const([[1], [3]]), net.weight(2, 6, 5)),
    "gather elements": lambda net, x: net("GatherElements", x, net.const([[[4, 0]]]), axis=2),
    "gather nd": lambda net, x: net("GatherND", x, net.const([[1, 2], [3, -1]])),
    "topk": lambda net, x: net("TopK", x, net.const([2]), outputs=2, axis=1, largest=0),
    "resize": lambda net, x: net(
        "Resize",
        net("Unsqueeze", x, net.const([0])),
        "",
        net.const([1.0, 1.0, 1.5, 2.0]),
        mode="linear",
    ),
    "einsum": lambda net, x: net("Einsum", x, net.weight(5, 3), equation="abc,cd->adb"),
}


@pytest.mark.parametrize("op", MOVEMENTS)
def test_movements(op: str) -> None:
    """With a producer and a reader that could fuse."""
    net = Net()
    x = net("Tanh", net.input("x", (4, 6, 5)))
    found = MOVEMENTS[op](net, x)
    found = [found] if isinstance(found, str) else found
    check(net.output(*found, *(net("Mul", y, y) for y in found)), fallbacks=True)


@pytest.mark.parametrize(
    ("op", "free"),
    [
        ("transpose", ("A", "B", "C")),
        ("concat", ("A", "B", "C")),
        ("slice", ("A", 6, "C")),
        ("slice back", ("A", "B", "C")),
        ("pad", ("A", "B", "C")),
        ("pad edge", ("A", "B", "C")),
        ("gather", ("A", 6, "C")),
        ("gather scalar", ("A", "B", "C")),
        ("tile", ("A", "B", "C")),
        ("trilu", ("A", "B", "C")),
        ("flip", ("A", "B", "C")),
        ("where", ("A", "B", 5)),
        ("einsum", ("A", "B", 5)),
    ],
)
def test_movements_of_symbolic_sizes(op: str, free: Sequence[int | str]) -> None:
    net = Net()
    found = MOVEMENTS[op](net, net("Tanh", net.input("x", (4, 6, 5))))
    sizes = ((9, 3, 4), (2, 7, 11))
    more = [
        {"x": tuple(s if isinstance(f, str) else f for s, f in zip(size, free, strict=True))}
        for size in sizes
    ]
    check(net.output(found), {"x": free}, more, fallbacks=True, static=False)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_movements_of_every_type(dtype: str) -> None:
    net = Net()
    x = net.input("x", (4, 6), bool if dtype == "bool" else np.dtype(dtype).type)
    t = net("Transpose", x)
    c = net("Concat", x, x, axis=1)
    s = net("Slice", x, net.const([1]), net.const([5]), net.const([1]))
    p = net("Pad", x, net.const([1, 0, 0, 2]))
    g = net("Gather", x, net.const([3, 0]))
    check(net.output(t, c, s, p, g))


# ---- pointwise ----


def test_long_chains_become_one_kernel() -> None:
    net = Net()
    x, y = net.input("x", (4, 33)), net.input("y", (33,))
    h = x
    for op in ("Tanh", "Neg", "Abs", "Exp", "Sqrt", "Sigmoid"):
        h = net("Add", net(op, h), y)
    artifact = check(net.output(h), {"x": ("N", "M"), "y": ("M",)}, [{"x": (1, 1), "y": (1,)}])
    assert kernels(artifact) == ["object"]


def test_chains_longer_than_a_group_are_cut() -> None:
    net = Net()
    x = h = net.input("x", (4, 33))
    for k in range(90):
        h = net("Add", net("Tanh", h), x) if k % 2 else net("Mul", h, net.const(np.float32(0.99)))
    artifact = check(net.output(h))
    assert 1 < len(kernels(artifact)) < 6


def test_results_of_one_group_with_many_readers() -> None:
    net = Net()
    x = net.input("x", (5, 7))
    a = net("Tanh", x)
    b = net("Mul", a, a)
    c = net("Sub", b, a)
    check(net.output(a, net("Sqrt", net("Abs", b)), net("Add", c, b)))


def test_diamonds_around_a_foreign_node_do_not_close_a_cycle() -> None:
    """a feeds c directly and through a product: a and c cannot share a kernel."""
    net = Net()
    a = net("Tanh", net.input("x", (6, 6)))
    c = net("Add", a, net("Relu", net("MatMul", a, net.weight(6, 6))))
    check(net.output(net("Mul", c, a)))


@pytest.mark.parametrize(
    "shapes", [((3, 1, 5), (4, 1)), ((1,), (2, 3)), ((), (4,)), ((0, 3), (1, 3))], ids=str
)
def test_broadcasts(shapes: Sequence[Sequence[int]]) -> None:
    net = Net()
    a, b = net.input("a", shapes[0]), net.input("b", shapes[1])
    check(net.output(net("Mul", net("Add", a, b), b), net("Max", a, b)))


def test_broadcast_decided_by_the_run() -> None:
    """[N] beside [M]: equal, or one of them 1."""
    net = Net()
    a, b = net.input("a", (4,)), net.input("b", (4,))
    y = net("Tanh", net("Add", net("Neg", a), b))
    more = [{"a": (1,), "b": (5,)}, {"a": (7,), "b": (1,)}, {"a": (1,), "b": (1,)}]
    check(net.output(y), {"a": ("N",), "b": ("M",)}, more)


def test_scalars() -> None:
    net = Net()
    x = net.input("x", ())
    check(net.output(net("Exp", net("Neg", x)), net("Reshape", x, net.const([1, 1]))))


def test_comparisons_logic_and_integers() -> None:
    net = Net()
    i, j = net.input("i", (3, 8), np.int64), net.input("j", (8,), np.int64)
    x = net.input("x", (3, 8))
    less = net("Less", i, j)
    both = net("And", less, net("Not", net("Equal", i, j)))
    y = net("Where", both, x, net("Cast", net("Mod", i, net.const(3)), to=1))
    check(net.output(less, y, net("BitwiseAnd", i, j), net("Max", i, j)))
