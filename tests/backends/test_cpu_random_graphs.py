"""Random graphs through the whole CPU pipe: whatever meets whatever, the numbers must hold.

Hypothesis draws a list of small integers and a builder turns it into ops that fit the values made
so far, so every draw is a model and shrinking drops nodes. Free batches are told by their size: a
multiple of BATCH is a multiple of the batch, and no other size ever is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.ops.interpreter import run_graph
from graphopt.verify import relative_error
from tests.backends.pipe import Net, compiled, loaded, onnxruntime_outputs

# Each example is compiled by LLVM, so a plain run takes few; GRAPHOPT_EXAMPLES=1000 digs deeper.
EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "25"))

Shape = tuple[int, ...]
BATCH = 7


class _Done(Exception):
    """There are no choices left."""


class Grower:
    """Adds ops to a net as a stream of choices says. Values stay of moderate size."""

    def __init__(self, choices: list[int], batch: bool = False) -> None:
        self.net = Net()
        self.batch = batch
        self.choices: Iterator[int] = iter(choices)
        self.values: list[tuple[str, Shape]] = []

    def pick(self, count: int) -> int:
        """The next choice among ``count``."""
        choice = next(self.choices, None)
        if choice is None:
            raise _Done
        return choice % count

    def value(self) -> tuple[str, Shape]:
        """One of the values so far, the latest likelier."""
        back = min(self.pick(8), self.pick(8))
        return self.values[-1 - back % len(self.values)]

    def free(self, *sizes: int) -> bool:
        """True when one of these sizes depends on the batch (0, which is told apart, does not)."""
        return self.batch and any(size and size % BATCH == 0 for size in sizes)

    def target(self, shape: Shape) -> Any:
        """A constant to reshape to; None where more than one size is free."""
        free = [axis for axis, size in enumerate(shape) if self.free(size)]
        if len(free) > 1:
            return None
        return self.net.const([-1 if axis in free else size for axis, size in enumerate(shape)])

    def add(self, name: Any, shape: Shape) -> None:
        """Keeps a new value if it is not too large."""
        if np.prod(shape, dtype=np.int64) <= 4096 and len(shape) <= 5:
            self.values.append((name, shape))

    def axis(self, shape: Shape) -> int:
        """Any axis of a shape of at least one."""
        return self.pick(len(shape))

    def grow(self) -> None:
        """Adds ops until the choices end."""
        makers = list(_MAKERS)
        try:
            while True:
                makers[self.pick(len(makers))](self)
        except _Done:
            pass


def _unary(g: Grower) -> None:
    x, shape = g.value()
    op = ("Tanh", "Relu", "Sigmoid", "Neg", "Abs", "Softsign", "Erf", "HardSwish")[g.pick(8)]
    g.add(g.net(op, x), shape)


def _composite(g: Grower) -> None:
    x, shape = g.value()
    op, attrs = (
        ("LeakyRelu", {"alpha": 0.3}), ("Elu", {}), ("Gelu", {}), ("Softplus", {}), ("Mish", {}),
        ("HardSigmoid", {}), ("Selu", {}), ("Celu", {}),
    )[g.pick(8)]  # fmt: skip
    g.add(g.net(op, x, **attrs), shape)


def _swish(g: Grower) -> None:
    x, shape = g.value()
    g.add(g.net("Mul", g.net("Sigmoid", x), x), shape)


def _binary(g: Grower) -> None:
    (a, left), (b, right) = g.value(), g.value()
    try:
        shape = np.broadcast_shapes(left, right)
    except ValueError:
        return
    op = ("Add", "Sub", "Mul", "Max", "Min")[g.pick(5)]
    y = g.net(op, a, b)
    g.add(g.net("Tanh", y) if op == "Mul" else y, shape)


def _constant(g: Grower) -> None:
    x, shape = g.value()
    kept = tuple(size if g.pick(2) and not g.free(size) else 1 for size in shape)
    drop = g.pick(len(shape) + 1) if all(size == 1 for size in kept) else 0
    w = g.net.weight(*kept[drop:])
    op = ("Add", "Sub", "Mul", "Max")[g.pick(4)]
    g.add(g.net(op, *((x, w) if g.pick(2) else (w, x))), shape)


def _where(g: Grower) -> None:
    (a, shape), (b, other) = g.value(), g.value()
    if shape == other:
        mask = g.net("Greater", g.values[0][0], g.net.const(np.float32(0.0)))
        if g.values[0][1] == shape:
            g.add(g.net("Where", mask, a, b), shape)


def _matmul(g: Grower) -> None:
    x, shape = g.value()
    if shape and not g.free(shape[-1]):
        n = 1 + g.pick(20)
        n += g.free(n)
        g.add(g.net("MatMul", x, g.net.weight(shape[-1], n)), (*shape[:-1], n))


def _product(g: Grower) -> None:
    (a, left), (b, right) = g.value(), g.value()
    if len(left) != len(right) or len(left) < 2 or left[:-2] != right[:-2]:
        return
    if left[-1] != right[-1]:
        return
    order = [*range(len(right) - 2), len(right) - 1, len(right) - 2]
    y = g.net("MatMul", a, g.net("Transpose", b, perm=order))
    g.add(g.net("Tanh", y), (*left[:-1], right[-2]))


def _conv(g: Grower) -> None:
    x, shape = g.value()
    if len(shape) != 4:
        return
    n, c, h, w = shape
    if g.free(c):
        return
    kernel, group = (1, 3)[g.pick(2)], (1, c)[g.pick(2)]
    out = c if group == c else 1 + g.pick(12)
    out += g.free(out)
    if out % group:
        return
    pads = [kernel // 2] * 4
    w0 = g.net.weight(out, c // group, kernel, kernel, scale=0.3)
    g.add(g.net("Conv", x, w0, pads=pads, group=group), (n, out, h, w))


def _pool(g: Grower) -> None:
    x, shape = g.value()
    if (
        len(shape) == 4
        and min(shape[2:]) >= 2
        and not g.free(*shape[2:], *(d // 2 for d in shape[2:]))
    ):
        op = ("MaxPool", "AveragePool")[g.pick(2)]
        n, c, h, w = shape
        g.add(g.net(op, x, kernel_shape=[2, 2], strides=[2, 2]), (n, c, h // 2, w // 2))


def _transpose(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    order = list(range(len(shape)))
    for k in range(len(order) - 1, 0, -1):
        other = g.pick(k + 1)
        order[k], order[other] = order[other], order[k]
    g.add(g.net("Transpose", x, perm=order), tuple(shape[axis] for axis in order))


def _reshape(g: Grower) -> None:
    x, shape = g.value()
    if len(shape) < 2:
        return
    axis = g.pick(len(shape) - 1)
    merged = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    target = g.target(merged)
    if target is not None:
        g.add(g.net("Reshape", x, target), merged)


def _split_axis(g: Grower) -> None:
    x, shape = g.value()
    for axis, size in enumerate(shape):
        if size % 2 == 0 and size > 0 and not g.free(size):
            parts = (*shape[:axis], 2, size // 2, *shape[axis + 1 :])
            target = g.target(parts)
            if target is not None:
                g.add(g.net("Reshape", x, target), parts)
            return


def _squeeze(g: Grower) -> None:
    x, shape = g.value()
    axis = g.pick(len(shape) + 1)
    if axis < len(shape) and shape[axis] == 1:
        y = g.net("Squeeze", x, g.net.const([axis]))
        g.add(y, (*shape[:axis], *shape[axis + 1 :]))
    else:
        g.add(g.net("Unsqueeze", x, g.net.const([axis])), (*shape[:axis], 1, *shape[axis:]))


def _concat(g: Grower) -> None:
    (a, left), (b, right) = g.value(), g.value()
    if not left or len(left) != len(right):
        return
    axis = g.axis(left)
    both = left[axis], right[axis]
    if g.free(sum(both)) != (g.free(both[0]) and g.free(both[1])) or (
        g.free(*both) and not g.free(sum(both))
    ):
        return
    if (*left[:axis], *left[axis + 1 :]) == (*right[:axis], *right[axis + 1 :]):
        y = g.net("Concat", a, b, axis=axis)
        g.add(y, (*left[:axis], left[axis] + right[axis], *left[axis + 1 :]))


def _slice(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    axis = g.axis(shape)
    start, stop = sorted((g.pick(shape[axis] + 1), g.pick(shape[axis] + 1)))
    if start < stop and not g.free(shape[axis], stop - start):
        y = g.net("Slice", x, g.net.const([start]), g.net.const([stop]), g.net.const([axis]))
        g.add(y, (*shape[:axis], stop - start, *shape[axis + 1 :]))


def _split(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    axis = g.axis(shape)
    if shape[axis] >= 2:
        first = 1 + g.pick(shape[axis] - 1)
        sizes = [first, shape[axis] - first]
        if g.free(shape[axis], *sizes):
            return
        parts = g.net("Split", x, g.net.const(sizes), outputs=2, axis=axis)
        for y, size in zip(parts, sizes, strict=True):
            g.add(y, (*shape[:axis], size, *shape[axis + 1 :]))


def _pad(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    before, after = ([g.pick(3) for _ in shape] for _ in range(2))
    padded = tuple(a + b + c for a, b, c in zip(before, shape, after, strict=True))
    if any(g.free(a, b) and a != b for a, b in zip(shape, padded, strict=True)):
        return
    g.add(g.net("Pad", x, g.net.const([*before, *after])), padded)


def _gather(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    axis = g.axis(shape)
    if g.free(shape[axis]):
        return
    rows = [g.pick(shape[axis]) for _ in range(1 + g.pick(3))]
    y = g.net("Gather", x, g.net.const(rows), axis=axis)
    g.add(y, (*shape[:axis], len(rows), *shape[axis + 1 :]))


def _expand(g: Grower) -> None:
    x, shape = g.value()
    wide = tuple(3 if size == 1 else size for size in shape)
    one = [1 if g.free(size) else size for size in (2, *wide)]
    g.add(g.net("Expand", x, g.net.const(one)), (2, *wide))


def _reduce(g: Grower) -> None:
    x, shape = g.value()
    if not shape:
        return
    op = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")[g.pick(4)]
    axis, keep = g.axis(shape), g.pick(2)
    rest = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
    g.add(g.net(op, x, g.net.const([axis]), keepdims=keep), rest)


def _softmax(g: Grower) -> None:
    x, shape = g.value()
    if shape:
        g.add(g.net(("Softmax", "LogSoftmax")[g.pick(2)], x, axis=g.axis(shape)), shape)


def _layer_norm(g: Grower) -> None:
    x, shape = g.value()
    # One element alone is its own mean: what is left is rounding error, scaled up.
    if shape and shape[-1] > 2 and not g.free(shape[-1]):
        weights = g.net.weight(shape[-1]), g.net.weight(shape[-1])
        g.add(g.net("LayerNormalization", x, *weights, epsilon=0.1), shape)


def _batch_norm(g: Grower) -> None:
    x, shape = g.value()
    if len(shape) >= 2 and not g.free(shape[1]):
        w = [g.net.weight(shape[1]) for _ in range(3)]
        variance = g.net.const(np.abs(g.net.rng.standard_normal(shape[1])).astype(np.float32) + 0.5)
        g.add(g.net("BatchNormalization", x, *w, variance), shape)


def _clip(g: Grower) -> None:
    x, shape = g.value()
    low, high = g.net.const(np.float32(-0.5)), g.net.const(np.float32(0.75))
    g.add(g.net("Clip", x, low, high), shape)


_MAKERS: tuple[Callable[[Grower], None], ...] = (
    _unary, _unary, _composite, _swish, _binary, _binary, _constant, _constant, _where, _matmul,
    _product, _conv, _conv, _pool, _transpose, _transpose, _reshape, _split_axis, _squeeze, _concat,
    _slice, _split, _pad, _gather, _expand, _reduce, _softmax, _layer_norm, _batch_norm, _clip,
)  # fmt: skip

INPUTS: tuple[Shape, ...] = ((2, 6, 5, 4), (3, 4, 6), (4, 6), (1, 8, 6, 6), (2, 1, 3))


def _check(grower: Grower, symbols: bool, batches: tuple[int, ...] = ()) -> None:
    net = grower.net
    read = {name for node in net.nodes for name in node.input}
    ends = [name for name, _ in grower.values[1:] if name not in read] or [grower.values[-1][0]]
    net.output(*dict.fromkeys(ends))
    if symbols:
        shape = net.inputs["x"][1]
        model = net.model({"x": ("N", *shape[1:])})
    else:
        model = net.model()
    source = graphopt.from_onnx(model)
    session = loaded(compiled(source))
    shape = net.inputs["x"][1]
    for shapes in ({}, *({"x": (n, *shape[1:])} for n in batches)):
        _compare(model, source, session, net.feeds(1, shapes))


def _compare(model: Any, source: Any, session: Any, feeds: Any) -> None:
    got = session.run(feeds)
    with np.errstate(all="ignore"):
        plain = run_graph(source, feeds)
    peers = onnxruntime_outputs(model, feeds)
    for (name, mine), right, peer in zip(got.items(), plain, peers, strict=True):
        # Where two plain engines differ, the graph magnifies rounding and so may we.
        bound = max(1e-5, 10 * relative_error(peer, right))
        assert mine.shape == np.shape(right)
        assert relative_error(mine, right) <= bound, f"{name}: {relative_error(mine, right):.2e}"


CHOICES = st.lists(st.integers(0, 2**16), min_size=60, max_size=160)
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="GRAPHOPT_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
TIMEOUT = pytest.mark.timeout(0 if "GRAPHOPT_EXAMPLES" in os.environ else 300)


@given(st.sampled_from(INPUTS), CHOICES)
@SETTINGS
@TIMEOUT
def test_random_graphs(shape: Shape, choices: list[int]) -> None:
    grower = Grower(choices)
    grower.values.append((grower.net.input("x", shape), shape))
    grower.grow()
    if grower.net.nodes and len(grower.values) > 1:
        _check(grower, symbols=choices[0] % 2 == 1)


FREE: tuple[Shape, ...] = ((BATCH, 6, 5, 4), (BATCH, 4, 6), (BATCH, 8), (BATCH, 1, 2, 3), (BATCH,))


@given(st.sampled_from(FREE), CHOICES)
@SETTINGS
@TIMEOUT
def test_random_graphs_of_any_batch(shape: Shape, choices: list[int]) -> None:
    """Compiled once, run at other sizes than those it was made with, 1 among them."""
    grower = Grower(choices, batch=True)
    grower.values.append((grower.net.input("x", shape), shape))
    grower.grow()
    if grower.net.nodes and len(grower.values) > 1:
        _check(grower, symbols=True, batches=(1, 2, 13))
