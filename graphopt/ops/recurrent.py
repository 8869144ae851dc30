"""Recurrent layers: RNN, GRU, LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.dim import Dim
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import require_equal
from graphopt.ops.precision import Array, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import attr_specs, cost_of

__all__ = ["ACTIVATIONS", "activation_functions", "recurrent_types", "rounded_lstm"]

Activation = Callable[[Array], Array]

# Name in lower case: default alpha and beta (None: the function has no such parameter).
ACTIVATIONS: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
    "softsign": (None, None),
    "softplus": (None, None),
}


def _activate(name: str, alpha: float, beta: float, x: Array) -> Array:
    a, b = x.dtype.type(alpha), x.dtype.type(beta)
    with np.errstate(over="ignore"):
        match name:
            case "relu":
                return np.asarray(np.maximum(x, x.dtype.type(0)))
            case "tanh":
                return np.asarray(np.tanh(x))
            case "sigmoid":
                return np.asarray(1 / (1 + np.exp(-x)))
            case "affine":
                return np.asarray(a * x + b)
            case "leakyrelu":
                return np.where(x >= 0, x, a * x)
            case "thresholdedrelu":
                return np.where(x >= a, x, x.dtype.type(0))
            case "scaledtanh":
                return np.asarray(a * np.tanh(b * x))
            case "hardsigmoid":
                return np.asarray(np.clip(a * x + b, 0, 1))
            case "elu":
                return np.where(x >= 0, x, a * np.expm1(x))
            case "softsign":
                return np.asarray(x / (1 + np.abs(x)))
            case _:
                return np.asarray(np.logaddexp(x, x.dtype.type(0)))


def activation_functions(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> list[Activation]:
    """The functions, each taking its alpha and beta from the lists in order, as far as they go.

    Functions without such a parameter take none. Raises ModelError on an unknown name.
    """
    rest_alpha, rest_beta = list(alphas), list(betas)
    functions: list[Activation] = []
    for name in names:
        lower = name.lower()
        if lower not in ACTIVATIONS:
            raise ModelError(f"recurrent layers have no activation '{name}'")
        alpha, beta = ACTIVATIONS[lower]
        if alpha is not None and rest_alpha:
            alpha = rest_alpha.pop(0)
        if beta is not None and rest_beta:
            beta = rest_beta.pop(0)
        functions.append(_bound(lower, alpha or 0.0, beta or 0.0))
    return functions


def _bound(name: str, alpha: float, beta: float) -> Activation:
    return lambda x: _activate(name, alpha, beta, x)


@dataclass(frozen=True, slots=True)
class _Cell:
    """One direction: weights [gates*hidden, ...] and what the attributes say."""

    w: Array
    r: Array
    wb: Array
    rb: Array
    peephole: Array
    functions: list[Activation]
    clip: float | None
    flag: bool  # GRU: linear_before_reset; LSTM: input_forget

    def bounded(self, x: Array) -> Array:
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)


_LSTM_DEFAULTS = ("Sigmoid", "Tanh", "Tanh")

# One step: (cell, gates from the input, hidden state, cell state) -> (hidden state, cell state).
Step = Callable[[_Cell, Array, Array, Array], tuple[Array, Array]]


def _rnn_step(cell: _Cell, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return cell.functions[0](cell.bounded(gates + h @ cell.r.T + cell.rb)), c


def _gru_step(cell: _Cell, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    f, g = cell.functions
    size = h.shape[-1]
    recurrent = h @ cell.r[: 2 * size].T + cell.rb[: 2 * size]
    z = f(cell.bounded(gates[:, :size] + recurrent[:, :size]))
    r = f(cell.bounded(gates[:, size : 2 * size] + recurrent[:, size:]))
    weight, bias = cell.r[2 * size :], cell.rb[2 * size :]
    inner = r * (h @ weight.T + bias) if cell.flag else (r * h) @ weight.T + bias
    candidate = g(cell.bounded(gates[:, 2 * size :] + inner))
    return (1 - z) * candidate + z * h, c


def _lstm_step(cell: _Cell, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    f, g, hidden = cell.functions
    i, o, forget, candidate = np.split(gates + h @ cell.r.T + cell.rb, 4, axis=-1)
    p_i, p_o, p_f = np.split(cell.peephole, 3)
    i = f(cell.bounded(i + p_i * c))
    forget = 1 - i if cell.flag else f(cell.bounded(forget + p_f * c))
    c = forget * c + i * g(cell.bounded(candidate))
    o = f(cell.bounded(o + p_o * c))
    return o * hidden(cell.bounded(c)), c


def _sweep(
    step: Step, cell: _Cell, x: Array, lengths: Array, h: Array, c: Array, backwards: bool
) -> tuple[Array, Array, Array]:
    """Runs one direction over x [steps, batch, input]; past a row's length its state stays."""
    steps, batch = x.shape[:2]
    order = np.repeat(np.arange(steps)[:, None], batch, axis=1)
    if backwards:
        order = np.where(order < lengths, lengths - 1 - order, order)
    rows = np.arange(batch)
    gates = x @ cell.w.T + cell.wb
    y = np.zeros((steps, batch, h.shape[-1]), dtype=x.dtype)
    for t in range(steps):
        at = order[t]
        new_h, new_c = step(cell, gates[at, rows], h, c)
        live = (t < lengths)[:, None]
        h, c = np.where(live, new_h, h), np.where(live, new_c, c)
        y[at, rows] = np.where(live, new_h, 0)
    return y, h, c


def _directions(attr: Callable[[str], str]) -> int:
    return 2 if attr("direction") == "bidirectional" else 1


def _evaluate(
    step: Step, gates: int, defaults: tuple[str, ...], flag: str
) -> Callable[..., tuple[Array, ...]]:
    def evaluate(
        ctx: EvalContext,
        x: Array,
        w: Array,
        r: Array,
        bias: Array | None = None,
        lengths: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        peephole: Array | None = None,
    ) -> tuple[Array, ...]:
        cells = _cells(ctx, gates, defaults, flag, (w, r, bias, peephole))
        states = (initial_h, initial_c)
        if not ctx.attr("layout"):
            return _run(ctx, step, cells, x, lengths, states)[: 3 if gates == 4 else 2]
        swapped = [None if v is None else np.swapaxes(v, 0, 1) for v in states]
        y, *last = _run(ctx, step, cells, np.swapaxes(x, 0, 1), lengths, swapped)
        results = (y.transpose(2, 0, 1, 3), *(np.swapaxes(v, 0, 1) for v in last))
        return results[: 3 if gates == 4 else 2]

    return evaluate


def _run(
    ctx: EvalContext,
    step: Step,
    cells: Sequence[_Cell],
    x: Array,
    lengths: Array | None,
    states: Sequence[Array | None],
) -> tuple[Array, ...]:
    """Y [steps, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]."""
    data = widen(x)
    steps, batch = data.shape[:2]
    if lengths is None:
        lengths = np.full(batch, steps, dtype=np.int32)
    shape = (len(cells), batch, cells[0].r.shape[1])
    h, c = (np.zeros(shape, dtype=data.dtype) if v is None else widen(v) for v in states)
    results = [
        _sweep(step, cell, data, lengths, h[d], c[d], backwards)
        for d, (cell, backwards) in enumerate(
            zip(cells, _orders(ctx.attr("direction")), strict=True)
        )
    ]
    y = np.stack([result[0] for result in results], axis=1)
    last = (np.stack([result[i] for result in results]) for i in (1, 2))
    return tuple(narrow(v, x.dtype) for v in (y, *last))


def rounded_lstm(
    ctx: EvalContext,
    rounded: Callable[[Array], Array],
    operands: Sequence[Array | None],
) -> tuple[Array, ...]:
    """An LSTM whose products see their data operand through ``rounded``.

    ``operands`` are LSTM's (X, W, R, B, sequence_lens, initial_h, initial_c, P), all steps first.
    """
    x, w, r, bias, lengths, h, c, peephole = operands
    assert x is not None and w is not None and r is not None
    cells = _cells(ctx, 4, _LSTM_DEFAULTS, "input_forget", (w, r, bias, peephole))

    def step(cell: _Cell, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        return _lstm_step(cell, gates, rounded(h), c)

    return _run(ctx, step, cells, rounded(x), lengths, (h, c))


def _orders(direction: str) -> list[bool]:
    orders = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    if direction not in orders:
        raise ModelError(f"direction is '{direction}'")
    return orders[direction]


def _cells(
    ctx: EvalContext,
    gates: int,
    defaults: tuple[str, ...],
    flag: str,
    operands: tuple[Array, Array, Array | None, Array | None],
) -> list[_Cell]:
    w, r, bias, peephole = operands
    count, hidden = w.shape[0], r.shape[2]
    rows = gates * hidden
    names = ctx.attr("activations") or defaults * count
    if len(names) != len(defaults) * count:
        ctx.fail(f"it takes {len(defaults) * count} activations, not {len(names)}")
    functions = activation_functions(
        names, ctx.attr("activation_alpha") or (), ctx.attr("activation_beta") or ()
    )
    both = np.zeros((count, 2 * rows), w.dtype) if bias is None else bias
    peep = np.zeros((count, 3 * hidden), w.dtype) if peephole is None else peephole
    return [
        _Cell(
            widen(w[d]),
            widen(r[d]),
            widen(both[d, :rows]),
            widen(both[d, rows:]),
            widen(peep[d]),
            functions[d * len(defaults) : (d + 1) * len(defaults)],
            ctx.attr("clip") or None,  # exporters write 0 for "none"
            bool(flag and ctx.attr(flag)),
        )
        for d in range(count)
    ]


def _infer(gates: int) -> Callable[[InferContext], tuple[Type, ...]]:
    def infer(ctx: InferContext) -> tuple[Type, ...]:
        data, weight, recurrent = ctx.shape(0), ctx.shape(1), ctx.shape(2)
        count = _directions(ctx.attr)
        for index, shape in enumerate((data, weight, recurrent)):
            if shape is not None and len(shape) != 3:
                ctx.fail(f"operand {index} must have 3 axes, not {len(shape)}")
        hidden: Dim = ctx.attrs.get("hidden_size") or ctx.fresh("hidden")
        if recurrent is not None:
            hidden = recurrent[2]
            require_equal(ctx, recurrent[0], count, "R must have an entry for every direction")
            require_equal(ctx, recurrent[1], gates * hidden, "R must have a row for every gate")
        if weight is not None and data is not None:
            require_equal(ctx, weight[2], data[2], "W must have a column for every input")
        return recurrent_types(ctx, hidden, bool(ctx.attr("layout")))

    return infer


def recurrent_types(ctx: InferContext, hidden: Dim, batch_first: bool) -> tuple[Type, ...]:
    """Types of Y, Y_h and Y_c for the input that is operand 0."""
    dtype, data, count = ctx.dtype(0), ctx.shape(0), _directions(ctx.attr)
    steps, batch = (ctx.fresh("steps"), ctx.fresh("batch")) if data is None else data[:2]
    if batch_first:
        steps, batch = batch, steps
        y: tuple[Dim, ...] = (batch, steps, count, hidden)
        state: tuple[Dim, ...] = (batch, count, hidden)
    else:
        y, state = (steps, count, batch, hidden), (count, batch, hidden)
    return TensorType(dtype, y), TensorType(dtype, state), TensorType(dtype, state)


def _flops(gates: int) -> Callable[[Node], Dim | None]:
    def count(node: Node) -> Dim | None:
        data, weight, recurrent = node.inputs[:3]
        if data is None or weight is None or recurrent is None:
            return None
        shape, w, r = data.shape, weight.shape, recurrent.shape
        if shape is None or w is None or r is None:
            return None
        rows = w[0] * r[2] * gates
        return 2 * shape[0] * shape[1] * rows * (w[2] + r[2])

    return count


_COMMON: dict[str, Any] = {
    "activation_alpha": "floats",
    "activation_beta": "floats",
    "activations": "strings",
    "clip": "f",
    "direction": ("s", "forward"),
    "hidden_size": "i",
    "layout": ("i", 0),
}

register(
    OpDef(
        "RNN",
        inputs=("X", "W", "R", "B?", "sequence_lens?", "initial_h?"),
        outputs=("Y?", "Y_h?"),
        attrs=attr_specs(**_COMMON),
        infer=_infer(1),
        evaluate=_evaluate(_rnn_step, 1, ("Tanh",), ""),
        cost=cost_of(_flops(1)),
    ),
    OpDef(
        "GRU",
        inputs=("X", "W", "R", "B?", "sequence_lens?", "initial_h?"),
        outputs=("Y?", "Y_h?"),
        attrs=attr_specs(**_COMMON, linear_before_reset=("i", 0)),
        infer=_infer(3),
        evaluate=_evaluate(_gru_step, 3, ("Sigmoid", "Tanh"), "linear_before_reset"),
        cost=cost_of(_flops(3)),
    ),
    OpDef(
        "LSTM",
        inputs=("X", "W", "R", "B?", "sequence_lens?", "initial_h?", "initial_c?", "P?"),
        outputs=("Y?", "Y_h?", "Y_c?"),
        attrs=attr_specs(**_COMMON, input_forget=("i", 0)),
        infer=_infer(4),
        evaluate=_evaluate(_lstm_step, 4, _LSTM_DEFAULTS, "input_forget"),
        cost=cost_of(_flops(4)),
    ),
)
