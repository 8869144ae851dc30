"""What follows an integer product runs on its tile: bias, activation, bytes, residual, table.

``Quantize(Relu(conv_int8(x, w)))  ->  conv_int8`` with bytes for a result: bounds of the rounded
number stand for Relu and Clip, which keep the order of numbers. ``Quantize(Dequantize(conv_int8) +
Dequantize(r))  ->  conv_int8(..., r)``. A lookup in a table of 256 bytes joins too.

Sound: the same operations on each element in the same order, each rounded as before, but that the
scales of the operands and of the result are multiplied first, as QLinearConv has it: a number that
lies between two bytes may be rounded to the other one. Nothing is fused into a result that somebody
else reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.cpu.fuse_epilogue import ACTIVATIONS, precedes
from graphopt.backends.cpu.ops import DOMAIN, plan_regions
from graphopt.backends.cpu.quantized import BYTES, Bytes, bytes_of, quantize_to
from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value
from graphopt.ops.quantize import integer_range
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["FuseInt8"]

_KERNELS = frozenset({"gemm_int8", "conv_int8"})
_SCALE, _OFFSET, _RESIDUAL, _TABLE = 3, 4, 5, 6
_COUNT = 8
_CLAMPS = frozenset({None, "none", "relu", "clip"})


@dataclass(frozen=True)
class _Fused:
    """The kernel node that takes ``absorbed`` in, with these operands, attributes, result type."""

    heavy: Node
    absorbed: tuple[Node, ...]
    operands: list[Value | None]
    attrs: dict[str, Any]
    dtype: DType


@dataclass(frozen=True)
class FuseInt8(Pass):
    """``Quantize(f(conv_int8(x, w)))  ->  conv_int8{...}(x, w)``."""

    name: ClassVar[str] = "cpu-fuse-int8"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-int8",)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when something was fused."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            fused = next((f for f in (step(node) for step in _STEPS) if f is not None), None)
            if fused is None:
                continue
            origins = [n.origin for n in (fused.heavy, *fused.absorbed)]
            heavy = fused.heavy
            new = graph.add(
                heavy.op,
                fused.operands,
                fused.attrs,
                types=[TensorType(fused.dtype, node.output.shape)],
                names=[node.output.name],
                name=heavy.name,
                origin=frozenset().union(*origins),
                before=node,
            )
            record_edit(ctx.log, self.name, "FuseInt8", [heavy, *fused.absorbed], [new])
            graph.replace(node, [new.output])
            for dead in (*reversed(fused.absorbed), heavy):
                if dead is not node and not any(v.use_count for v in dead.outputs):
                    graph.erase(dead)
            changed = True
        return changed


def _heavy(value: Value | None, reader: Node, *, bytes: bool) -> Node | None:
    """The kernel node behind ``value``, of bytes or of floats, when ``reader`` alone reads it."""
    node = None if value is None else value.producer
    if node is None or node.op.domain != DOMAIN or node.op.name not in _KERNELS:
        return None
    if node.output.use_count != 1 or node.output.is_output or node.graph is not reader.graph:
        return None
    dtype = node.output.tensor.dtype
    return node if (dtype in BYTES if bytes else dtype is DType.F32) else None


def _operands(heavy: Node) -> list[Value | None]:
    return [*heavy.inputs, *[None] * (_COUNT - len(heavy.inputs))]


def _array(value: Value | None) -> np.ndarray[Any, Any]:
    assert value is not None and value.constant is not None
    return value.constant.array


def _is_depthwise(heavy: Node) -> bool:
    return int(heavy.attrs.get("group", 1)) > 1 and heavy.attrs["group"] == heavy.attrs["cout"]


# ---- on numbers ----


def _bias(node: Node) -> _Fused | None:
    """A constant Add, one number a column."""
    if not node.is_a("Add"):
        return None
    for position in (0, 1):
        heavy, other = _heavy(node.input(position), node, bytes=False), node.input(1 - position)
        if heavy is None or other is None or other.constant is None:
            continue
        if heavy.attrs.get("activation") or any(heavy.input(i) for i in (_OFFSET, _RESIDUAL)):
            return None
        columns = heavy.output.shape[-1] if heavy.output.shape else 0
        array = other.constant.array
        fits = array.size in (1, columns) and (array.size == 1 or array.shape[-1] == columns)
        if not fits or not isinstance(columns, int) or array.ndim > len(heavy.output.shape or ()):
            return None
        row = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (columns,)), np.float32)
        operands = _operands(heavy)
        operands[_OFFSET] = Builder(node.graph).constant(row, other.name)
        return _Fused(heavy, (node,), operands, dict(heavy.attrs), DType.F32)
    return None


def _activation(node: Node) -> _Fused | None:
    make = ACTIVATIONS.get(node.op.name) if not node.op.domain else None
    heavy = None if make is None else _heavy(node.input(0), node, bytes=False)
    if make is None or heavy is None or heavy.attrs.get("activation"):
        return None
    attrs = make(node)
    if attrs is None or (_is_depthwise(heavy) and attrs["activation"] not in _CLAMPS):
        return None
    return _Fused(heavy, (node,), _operands(heavy), {**heavy.attrs, **attrs}, DType.F32)


def _float_residual(node: Node) -> _Fused | None:
    """A float tensor of the same shape, where bytes do not follow."""
    if not node.is_a("Add"):
        return None
    found: list[tuple[Node, Value]] = []
    for position in (0, 1):
        heavy, other = _heavy(node.input(position), node, bytes=False), node.input(1 - position)
        if heavy is not None and other is not None:
            found.append((heavy, other))
    if not found:
        return None
    later = found[0] if len(found) == 1 or precedes(found[1][0], found[0][0]) else found[1]
    heavy, other = later
    if heavy.input(_RESIDUAL) is not None or other.is_constant or other is heavy.output:
        return None
    if other.shape != heavy.output.shape or other.tensor.dtype is not DType.F32:
        return None
    if _quantized_after(node) or bytes_of(other) is not None or _is_depthwise(heavy):
        return None
    operands = _operands(heavy)
    operands[_RESIDUAL] = other
    after = {"residual_after": 1} if heavy.attrs.get("activation") else {}
    return _Fused(heavy, (node,), operands, {**heavy.attrs, **after}, DType.F32)


def _quantized_after(node: Node) -> bool:
    """True when all that reads ``node``, but for clamps, quantizes."""
    users = list(node.output.users)
    if len(users) == 1 and users[0].op.name in ("Relu", "Clip"):
        users = list(users[0].output.users)
    return bool(users) and all(user.is_a("QuantizeLinear") for user in users)


# ---- to bytes ----


def _bounds(
    scale: np.float32, zero: int, dtype: DType, activation: dict[str, Any]
) -> tuple[float, float]:
    """Bounds of the rounded number, without the zero point, of a clamp before it."""
    low, high = (float(bound - zero) for bound in integer_range(dtype))
    kind = activation.get("activation")
    if kind in ("relu", "clip"):
        least = 0.0 if kind == "relu" else float(np.rint(np.float32(activation["alpha"]) / scale))
        low = min(max(low, least), high)
    if kind == "clip":
        high = max(min(high, float(np.rint(np.float32(activation["beta"]) / scale))), low)
    return low, high


def _quantize(node: Node) -> _Fused | None:
    """``Quantize(conv_int8)``, an activation between them included."""
    to = quantize_to(node)
    heavy = None if to is None else _heavy(node.input(0), node, bytes=False)
    if to is None or heavy is None or heavy.input(_RESIDUAL) is not None:
        return None
    scale, zero, dtype = to
    operands, attrs = _operands(heavy), dict(heavy.attrs)
    builder = Builder(node.graph)
    if attrs.get("activation") not in _CLAMPS:
        low, high = _bounds(scale, zero, dtype, {})
        attrs |= {"out_scale": float(scale), "zero": zero, "low": low, "high": high}
        return _Fused(heavy, (node,), operands, attrs, dtype)
    low, high = _bounds(scale, zero, dtype, attrs)
    for name in ("activation", "alpha", "beta"):
        attrs.pop(name, None)
    factors = _array(operands[_SCALE]) / scale
    if not (np.isfinite(factors).all() and (factors > np.finfo(np.float32).tiny).all()):
        return None
    operands[_SCALE] = builder.constant(factors, "scale")
    if operands[_OFFSET] is not None:
        operands[_OFFSET] = builder.constant(_array(operands[_OFFSET]) / scale, "offset")
    attrs |= {"zero": zero, "low": low, "high": high}
    return _Fused(heavy, (node,), operands, attrs, dtype)


def _residual(node: Node) -> _Fused | None:
    """``Quantize(clamp(conv + Dequantize(r)))``: conv is of bytes, dequantized, or of floats."""
    to = quantize_to(node)
    if to is None:
        return None
    scale, zero, dtype = to
    clamp: dict[str, Any] = {}
    absorbed = [node]
    total = node.input(0)
    inner = None if total is None else total.producer
    if inner is not None and inner.op.name in ("Relu", "Clip") and _alone(inner, node):
        found = ACTIVATIONS[inner.op.name](inner)
        if found is None:
            return None
        clamp = found
        absorbed.append(inner)
        total = inner.input(0)
        inner = None if total is None else total.producer
    if inner is None or not inner.is_a("Add") or not _alone(inner, absorbed[-1]):
        return None
    absorbed.append(inner)
    found_sides = [s for s in (_side(inner, 0), _side(inner, 1)) if s is not None]
    if not found_sides:
        return None
    side = found_sides[0]
    if len(found_sides) == 2 and precedes(side.heavy, found_sides[1].heavy):
        side = found_sides[1]
    heavy, operands = side.heavy, _operands(side.heavy)
    operands[_RESIDUAL] = side.other.value
    low, high = _bounds(scale, zero, dtype, clamp)
    attrs = dict(heavy.attrs)
    if side.mid is not None:
        attrs |= {
            "mid_scale": float(side.mid.scale), "mid_low": attrs["low"], "mid_high": attrs["high"]
        }  # fmt: skip
        absorbed.append(side.dequantize)
    attrs |= {
        "residual_scale": float(side.other.scale), "residual_zero": side.other.zero,
        "out_scale": float(scale), "zero": zero, "low": low, "high": high,
    }  # fmt: skip
    return _Fused(heavy, tuple(reversed(absorbed)), operands, attrs, dtype)


@dataclass(frozen=True)
class _Side:
    """One operand of a sum that is a kernel's result, ``mid`` its bytes if it is quantized."""

    heavy: Node
    other: Bytes
    mid: Bytes | None
    dequantize: Node


def _side(add: Node, position: int) -> _Side | None:
    value, other = add.input(position), bytes_of(add.input(1 - position))
    if value is None or other is None or value.producer is None:
        return None
    mid = bytes_of(value)
    reader = add if mid is None else value.producer
    heavy = _heavy(value if mid is None else mid.value, reader, bytes=mid is not None)
    if heavy is None or value.use_count != 1 or value.is_output:
        return None
    if other.value.shape != heavy.output.shape or other.value is heavy.output:
        return None
    if heavy.input(_RESIDUAL) is not None or heavy.input(_TABLE) is not None:
        return None
    if heavy.attrs.get("activation") or add.output.shape != heavy.output.shape:
        return None
    return _Side(heavy, other, mid, value.producer)


def _alone(node: Node, reader: Node) -> bool:
    value = node.output
    return value.use_count == 1 and not value.is_output and list(value.users) == [reader]


def _lookup(node: Node) -> _Fused | None:
    """``lookup(conv_int8, table)``."""
    if node.op.domain != DOMAIN or node.op.name != "lookup":
        return None
    heavy = _heavy(node.input(0), node, bytes=True)
    if heavy is None:
        return None
    operands = _operands(heavy)
    table = _array(node.input(1)).view(np.uint8)
    if operands[_TABLE] is not None:
        table = table[_array(operands[_TABLE]).view(np.uint8)]
    operands[_TABLE] = Builder(node.graph).constant(table, "table")
    return _Fused(heavy, (node,), operands, dict(heavy.attrs), node.output.tensor.dtype)


_STEPS: tuple[Callable[[Node], _Fused | None], ...] = (
    _bias, _activation, _quantize, _residual, _lookup, _float_residual,
)  # fmt: skip
