"""What follows a product or convolution runs on its tile while it is hot.

``Relu(conv(x, w, b))  ->  conv{activation=relu}``; ``Add(conv(...), r)  ->  conv(..., residual=r)``
when ``r`` has the very shape of the output; a constant per-channel ``Add`` becomes the bias. An
activation may follow the sum, or come before it (``residual_after``).

Sound: the same operations in the same order, without a trip to memory. Nothing is fused into a
result that somebody else reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.ops import DOMAIN, plan_regions
from graphopt.ir import Builder, DType, Graph, Node, Value
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["ACTIVATIONS", "FuseEpilogue", "precedes"]

_KERNELS = frozenset({"gemm", "matmul", "conv", "conv_winograd", "conv_transpose"})
_BIAS, _RESIDUAL = 2, 3


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """``f(conv(x, w))  ->  conv{activation=f}(x, w)``."""

    name: ClassVar[str] = "cpu-fuse-epilogue"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-dense",)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when something was fused."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            if node.op.domain:
                continue
            fused = _bias(node) or _residual(node) or _activation(node)
            if fused is None:
                continue
            heavy, operands, attrs = fused
            new = graph.add(
                heavy.op,
                operands,
                {**heavy.attrs, **attrs},
                types=[node.output.type],
                names=[node.output.name],
                name=heavy.name,
                origin=heavy.origin | node.origin,
                before=node,
            )
            record_edit(ctx.log, self.name, "FuseEpilogue", [heavy, node], [new])
            graph.replace(node, [new.output])
            graph.erase(heavy)
            changed = True
        return changed


Fused = tuple[Node, list[Value | None], dict[str, Any]]


def _heavy(value: Value | None, reader: Node) -> Node | None:
    """The kernel node behind ``value`` when ``reader`` alone reads it and no activation follows."""
    node = None if value is None else value.producer
    if node is None or node.op.domain != DOMAIN or node.op.name not in _KERNELS:
        return None
    if len(node.outputs) != 1 or node.output.use_count != 1 or node.graph is not reader.graph:
        return None
    return node if node.output.tensor.dtype is DType.F32 else None


def _split(node: Node) -> tuple[Node, Value] | None:
    """(kernel node, other operand) of an Add; the later of two kernel nodes takes the other."""
    if not node.is_a("Add"):
        return None
    a, b = node.inputs
    assert a is not None and b is not None
    found = [(h, o) for h, o in ((_heavy(a, node), b), (_heavy(b, node), a)) if h is not None]
    if not found:
        return None
    if len(found) == 2 and precedes(found[1][0], found[0][0]):
        return found[0]
    return found[-1]


def precedes(a: Node, b: Node) -> bool:
    """True when ``a`` comes before ``b`` in their graph."""
    node: Node | None = b
    while node is not None:
        if node is a:
            return True
        node = node._prev
    return False


def _operands(heavy: Node) -> list[Value | None]:
    return [*heavy.inputs, *[None] * (_RESIDUAL + 1 - len(heavy.inputs))]


def _bias(node: Node) -> Fused | None:
    found = _split(node)
    if found is None:
        return None
    heavy, other = found
    if other.constant is None or heavy.input(_BIAS) is not None or heavy.attrs.get("activation"):
        return None
    if heavy.input(_RESIDUAL) is not None:
        return None
    shape = heavy.output.shape
    assert shape is not None
    channels = shape[-1]
    array = other.constant.array
    fits = array.size in (1, channels) and (array.size == 1 or array.shape[-1] == channels)
    if not fits or not isinstance(channels, int) or array.ndim > len(shape):
        return None
    row = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (channels,)))
    operands = _operands(heavy)
    operands[_BIAS] = Builder(node.graph).constant(row, other.name)
    return heavy, operands, {}


def _residual(node: Node) -> Fused | None:
    found = _split(node)
    if found is None:
        return None
    heavy, other = found
    if heavy.input(_RESIDUAL) is not None or other.is_constant or other is heavy.output:
        return None
    if other.shape != heavy.output.shape or node.output.shape != heavy.output.shape:
        return None
    operands = _operands(heavy)
    operands[_RESIDUAL] = other
    after = 1 if heavy.attrs.get("activation") else None
    return heavy, operands, {} if after is None else {"residual_after": after}


def _scalar(node: Node, index: int) -> float | None:
    value = node.input(index)
    if value is None or value.constant is None or value.constant.numel != 1:
        return None
    return float(value.constant.array.reshape(())[()])


def _clip(node: Node) -> dict[str, Any] | None:
    low = -np.inf if node.input(1) is None else _scalar(node, 1)
    high = np.inf if node.input(2) is None else _scalar(node, 2)
    if low is None or high is None or not np.isfinite([low, high]).all():
        return None
    return {"activation": "clip", "alpha": low, "beta": high}


def _plain(name: str, *params: tuple[str, str]) -> Callable[[Node], dict[str, Any] | None]:
    return lambda node: {
        "activation": name, **{ours: float(node.attr(theirs)) for ours, theirs in params}
    }  # fmt: skip


def _gelu(node: Node) -> dict[str, Any] | None:
    approximate = node.attr("approximate") or "none"
    return {"activation": "gelu_tanh" if approximate == "tanh" else "gelu"}


def _swish(node: Node) -> dict[str, Any] | None:
    return {"activation": "silu"} if float(node.attr("alpha")) == 1.0 else None


ACTIVATIONS: dict[str, Callable[[Node], dict[str, Any] | None]] = {
    "Clip": _clip,
    "Elu": _plain("elu", ("alpha", "alpha")),
    "Gelu": _gelu,
    "HardSigmoid": _plain("hardsigmoid", ("alpha", "alpha"), ("beta", "beta")),
    "HardSwish": _plain("hardswish"),
    "LeakyRelu": _plain("leaky_relu", ("alpha", "alpha")),
    "Mish": _plain("mish"),
    "Relu": _plain("relu"),
    "Sigmoid": _plain("sigmoid"),
    "Softplus": _plain("softplus"),
    "Swish": _swish,
    "Tanh": _plain("tanh"),
}


def _activation(node: Node) -> Fused | None:
    make = ACTIVATIONS.get(node.op.name)
    heavy = None if make is None else _heavy(node.input(0), node)
    if make is None or heavy is None or heavy.attrs.get("activation"):
        return None
    attrs = make(node)
    return None if attrs is None else (heavy, list(heavy.inputs), attrs)
