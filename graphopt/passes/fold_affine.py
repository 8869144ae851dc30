"""Per-channel scales and shifts fold into the weights of the product before or after them.

``BatchNormalization(Conv(x, w, b))``, ``Conv(x, w, b) * s`` and ``Conv(x, w, b) + t`` with constant
``s``, ``t`` that vary along output channels alone ``->  Conv(x, w', b')``, differences, quotients
and negations alike; the same for ConvTranspose, Gemm and MatMul (scales). Where no product comes
before, that after takes them: ``Conv(BatchNormalization(x), w, b)``, ``Conv(x * s, w, b)`` and,
without padding, ``Conv(x + t, w, b)  ->  Conv(x, w', b')``; ``Gemm(x + t, w, b)`` alike.
``Gemm(x, w, b, alpha, beta)  ->  Gemm(x, w', b')``.

Weights, bias, scale and shift must be f32 constants, finite, and the product read by nobody else.
Sound up to rounding: convolution is linear in each output channel. New weights are computed in f64
and rounded once.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.passes.scales import scaled
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FoldAffine"]

Array = np.ndarray[Any, Any]
# (scale, shift) an output channel, None where there is none.
Numbers = tuple[Array | None, Array | None]
_CONVS = ("Conv", "ConvTranspose")


def _array(value: Value | None) -> Array:
    assert value is not None and value.constant is not None
    return value.constant.array


def _constant(value: Value | None) -> bool:
    return value is None or value.is_constant


def _channels(node: Node) -> int | None:
    shape = node.output.shape
    axis = 1 if node.op.name in (*_CONVS, "Gemm") else -1
    dim = shape[axis] if shape is not None and len(shape) >= 2 else None
    return dim if isinstance(dim, int) else None


def _per_channel(node: Node, constant: Value) -> Array | None:
    """``constant`` as one number an output channel (f64), if that is how it broadcasts."""
    channels, shape = _channels(node), static_shape(constant.shape)
    rank = node.output.tensor.rank
    if channels is None or shape is None or rank is None or len(shape) > rank:
        return None
    full = (1,) * (rank - len(shape)) + shape
    axis = 1 if node.op.name in (*_CONVS, "Gemm") else rank - 1
    if any(dim != 1 for position, dim in enumerate(full) if position != axis):
        return None
    if full[axis] not in (1, channels):
        return None
    return np.broadcast_to(_array(constant).astype(np.float64).reshape(-1), (channels,)).copy()


def _row(node: Node, bias: Value) -> Array:
    """The bias of a product, one number (f64) an output channel."""
    if node.op.name in _CONVS:
        return _array(bias).astype(np.float64)
    found = _per_channel(node, bias)
    assert found is not None
    return found


def _refusal(node: Node) -> Refusal | None:
    if node.output.tensor.dtype is not DType.F32:
        return Refusal(lambda: f"it computes in {node.output.tensor.dtype}", node)
    if not _constant(node.input(1)) or not _constant(node.input(2)):
        return Refusal("its weights or bias are not constant", node)
    if node.is_a("MatMul") and (node.input(1) is None or node.input(1).tensor.rank != 2):  # type: ignore[union-attr]
        return Refusal("its weights are not a matrix", node)
    if node.is_a("Gemm") and (node.attr("alpha") != 1.0 or node.attr("beta") != 1.0):
        return Refusal("alpha or beta is not 1", node)
    bias = node.input(2)
    if node.is_a("Gemm") and bias is not None and _per_channel(node, bias) is None:
        return Refusal("its bias does not vary along output channels alone", node)
    return None


def _emit(op: Builder, node: Node, scale: Array | None, shift: Array | None) -> Value:
    """``node`` with output channel c times ``scale[c]`` plus ``shift[c]``."""
    weight, bias = node.input(1), node.input(2)
    assert weight is not None
    channels = _channels(node)
    assert channels is not None
    b = np.zeros(channels) if bias is None else _row(node, bias)
    new_weight = weight
    if scale is not None:
        new_weight = scaled(op, weight, _along(node, scale, weight.tensor.rank or 0))
        b = b * scale
    if shift is not None:
        b = b + shift
    if node.is_a("MatMul"):
        result: Value = op.MatMul(node.input(0), new_weight)
        return result
    name = bias.name if bias is not None else f"{weight.name}.bias"
    new_bias = op.constant(b.astype(np.float32), name)
    built: Value = op.op(node.op.name, node.input(0), new_weight, new_bias, **node.attrs)
    return built


def _along(node: Node, scale: Array, rank: int) -> Array:
    """``scale`` shaped to multiply the weights along their output channels."""
    if node.is_a("Conv"):
        axis = 0
    elif node.is_a("ConvTranspose"):
        inner, group = _array(node.input(1)).shape[0], int(node.attr("group"))
        rows = np.repeat(scale.reshape(group, -1), inner // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (rank - 2))
    elif node.is_a("Gemm"):
        axis = 0 if node.attr("transB") else 1
    else:
        axis = rank - 1
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def _products(op: PatternOps, *names: str) -> list[NodePattern]:
    return [op.op(name, op.rest("operands"), _bind="node") for name in names]


class _Fold(Rule):
    """Shared by the folds: which node, which numbers."""

    @abstractmethod
    def numbers(self, m: Match) -> Numbers | None:
        """(scale, shift) an output channel."""

    def check(self, m: Match) -> Refusal | None:
        """Weights must be constant and the other constant per channel."""
        refused = _refusal(m.node("node"))
        if refused is not None:
            return refused
        numbers = self.numbers(m)
        if numbers is None:
            return Refusal("the constant does not vary along output channels alone", m.root)
        if not all(np.isfinite(array).all() for array in numbers if array is not None):
            return Refusal("the constant is not finite", m.root)
        if m.root.output.shape != m.node("node").output.shape:
            return Refusal("it changes the shape", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """The product with new weights."""
        numbers = self.numbers(m)
        assert numbers is not None
        value = _emit(op, m.node("node"), *numbers)
        return (value, *[None] * (len(m.root.outputs) - 1))


class FoldBatchNorm(_Fold):
    """``BatchNormalization(Conv(x, w, b))  ->  Conv(x, w', b')``."""

    def pattern(self, op: PatternOps, s: Var, b: Var, mean: Var, var: Var) -> list[NodePattern]:
        """Inference mode, over a convolution or Gemm."""
        return [
            op.BatchNormalization(product, s, b, mean, var)
            for product in _products(op, *_CONVS, "Gemm")
        ]

    def numbers(self, m: Match) -> Numbers | None:
        """scale = s / sqrt(var + eps), shift = b - mean * scale."""
        if m.root.attr("training_mode") or any(v.use_count for v in m.root.outputs[1:]):
            return None
        if not all(m[name].is_constant for name in ("s", "b", "mean", "var")):
            return None
        s, b, mean, var = (_array(m[k]).astype(np.float64) for k in ("s", "b", "mean", "var"))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = s / np.sqrt(var + float(m.root.attr("epsilon")))
            return scale, b - mean * scale


class FoldScale(_Fold):
    """``Conv(x, w, b) * s  ->  Conv(x, w', b')``."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """A constant factor, a constant divisor, or a sign."""
        products = _products(op, *_CONVS, "Gemm", "MatMul")
        return [
            *(op.Mul(product, op.constant("c")) for product in products),
            *(op.Div(product, op.constant("c")) for product in products),
            *(op.Neg(product) for product in products),
        ]

    def numbers(self, m: Match) -> Numbers | None:
        """The factor."""
        constant = m.get("c")
        if constant is None:
            channels = _channels(m.node("node"))
            return None if channels is None else (np.full(channels, -1.0), None)
        scale = _per_channel(m.node("node"), constant)
        if scale is not None and m.root.is_a("Div"):
            with np.errstate(divide="ignore"):
                scale = 1.0 / scale
        return None if scale is None else (scale, None)


class FoldShift(_Fold):
    """``Conv(x, w, b) + t  ->  Conv(x, w, b')``; ``t - Conv(x, w, b)`` alike."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """A constant summand on either side."""
        products = _products(op, *_CONVS, "Gemm")
        return [
            *(op.Add(product, op.constant("c")) for product in products),
            *(op.Sub(product, op.constant("c")) for product in products),
            *(op.Sub(op.constant("c"), product) for product in products),
        ]

    def numbers(self, m: Match) -> Numbers | None:
        """The summand, and -1 where the product is taken off."""
        shift = _per_channel(m.node("node"), m["c"])
        if shift is None or m.root.is_a("Add"):
            return None if shift is None else (None, shift)
        if m.root.input(1) is m["c"]:
            return None, -shift
        return np.full(shift.shape, -1.0), shift


class FoldAlpha(Rule):
    """``Gemm(x, w, b, alpha, beta)  ->  Gemm(x, alpha * w, beta * b)``."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> NodePattern:
        """A bias may be absent."""
        return op.Gemm(x, w, op.rest("bias"))

    def check(self, m: Match) -> Refusal | None:
        """There must be a factor, and constants to take it in."""
        node, bias = m.root, m.root.input(2)
        scaled = [node.attr("alpha") != 1.0, bias is not None and node.attr("beta") != 1.0]
        if not any(scaled):
            return Refusal("alpha and beta are 1", node)
        for value, changed in zip((m["w"], bias), scaled, strict=True):
            if changed and value is not None and value.constant is None:
                return Refusal("its weights or bias are not constant", value)
            if changed and value is not None and value.tensor.dtype is not DType.F32:
                return Refusal(lambda: f"it computes in {node.output.tensor.dtype}", node)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Constants in place of attributes."""
        node, weight, bias = m.root, m["w"], m.root.input(2)
        alpha, beta = (np.float64(node.attr(name)) for name in ("alpha", "beta"))
        if alpha != 1.0:
            weight = scaled(op, weight, np.asarray(alpha))
        if bias is not None and beta != 1.0:
            bias = scaled(op, bias, np.asarray(beta))
        attrs = {k: v for k, v in node.attrs.items() if k not in ("alpha", "beta")}
        result: Value = op.Gemm(m["x"], weight, bias, **attrs)
        return result


def _input_channels(node: Node) -> int | None:
    shape = static_shape(node.input(1).shape) if node.input(1) is not None else None  # type: ignore[union-attr]
    if shape is not None and node.is_a("Gemm"):
        return shape[1 if node.attr("transB") else 0]
    return None if shape is None else shape[1] * int(node.attr("group"))


def _per_input_channel(node: Node, constant: Value) -> Array | None:
    """``constant`` as one number (f64) a channel of a convolution's input, if it broadcasts so."""
    channels, shape = _input_channels(node), static_shape(constant.shape)
    rank = node.output.tensor.rank
    if channels is None or shape is None or rank is None or len(shape) > rank:
        return None
    full = (1,) * (rank - len(shape)) + shape
    if any(dim != 1 for axis, dim in enumerate(full) if axis != 1) or full[1] not in (1, channels):
        return None
    return np.broadcast_to(_array(constant).astype(np.float64).reshape(-1), (channels,)).copy()


def _by_input_channel(node: Node, numbers: Array) -> Array:
    """One number an input channel, shaped to multiply the weights [out, in / group, kernel...]."""
    weight, group = node.input(1), int(node.attr("group"))
    assert weight is not None
    out, inner, *kernel = (d for d in weight.shape or () if isinstance(d, int))
    rows = np.repeat(numbers.reshape(group, inner), out // group, axis=0)
    return rows.reshape(out, inner, *[1] * len(kernel))


class _FoldBefore(Rule):
    """Shared by the folds into the convolution that follows."""

    def check(self, m: Match) -> Refusal | None:
        """Weights must be constant and the other constant per input channel."""
        conv = m.root
        refused = _refusal(conv)
        if refused is not None:
            return refused
        numbers = _per_input_channel(conv, m["c"])
        if numbers is None or m["x"].tensor.rank != conv.output.tensor.rank:
            return Refusal("the constant does not vary along input channels alone", m["c"])
        if m.node("before").output.shape != m["x"].shape:
            return Refusal("it changes the shape", m.node("before"))
        if not np.isfinite(numbers).all():
            return Refusal("the constant is not finite", m["c"])
        return None


class FoldScaleBefore(_FoldBefore):
    """``Conv(x * s, w, b)  ->  Conv(x, w', b)``."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> NodePattern:
        """A constant factor."""
        scaled = op.Mul(x, op.constant("c"), _bind="before")
        return op.Conv(scaled, w, op.rest("bias"))

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Weights times the factors."""
        numbers = _per_input_channel(m.root, m["c"])
        assert numbers is not None
        weight = scaled(op, m["w"], _by_input_channel(m.root, numbers))
        result: Value = op.Conv(m["x"], weight, *m.values("bias"), **m.root.attrs)
        return result


class FoldShiftBefore(_FoldBefore):
    """``Conv(x + t, w, b)  ->  Conv(x, w, b')``, where no padding stands for ``x + t``."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """A constant summand, or what is taken off."""
        c, rest = op.constant("c"), op.rest("bias")
        both = [op.Add(x, c, _bind="before"), op.Sub(x, c, _bind="before")]
        return [op.op(name, shifted, w, rest) for shifted in both for name in ("Conv", "Gemm")]

    def check(self, m: Match) -> Refusal | None:
        """Padding is zero, not the summand."""
        padded = any(m.root.attr("pads") or ())
        if padded or m.root.attr("auto_pad") not in (None, "NOTSET", "VALID"):
            return Refusal("the convolution pads", m.root)
        if m.root.is_a("Gemm") and m.root.attr("transA"):
            return Refusal("it multiplies by the transpose", m.root)
        return super().check(m)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """What the summands add to each output channel goes to the bias."""
        numbers = _per_input_channel(m.root, m["c"])
        assert numbers is not None
        if m.node("before").is_a("Sub"):
            numbers = -numbers
        weight = _array(m["w"]).astype(np.float64)
        if m.root.is_a("Gemm"):
            total = numbers @ (weight.T if m.root.attr("transB") else weight)
        else:
            products = weight * _by_input_channel(m.root, numbers)
            total = products.reshape(products.shape[0], -1).sum(axis=1)
        old = m.root.input(2)
        name = f"{m['w'].name}.bias" if old is None else old.name
        if old is not None:
            total = total + _row(m.root, old)
        bias = op.constant(total.astype(np.float32), name)
        result: Value = op.op(m.root.op.name, m["x"], m["w"], bias, **m.root.attrs)
        return result


class FoldBatchNormBefore(Rule):
    """``Conv(BatchNormalization(x), w, b)  ->  Conv(x, w', b')``, without padding; Gemm too."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """Inference mode; nobody else reads the normalised value."""
        norm = op.BatchNormalization(x, op.rest("parameters"), _bind="norm")
        return [op.op(name, norm, w, op.rest("bias")) for name in ("Conv", "Gemm")]

    def check(self, m: Match) -> Refusal | None:
        """Constant weights and parameters; padding is zero, not the shift."""
        refused = _refusal(m.root)
        if refused is not None:
            return refused
        norm, root = m.node("norm"), m.root
        parameters = m.values("parameters")
        if norm.attr("training_mode") or any(v is None or v.constant is None for v in parameters):
            return Refusal("it runs in training mode, or its parameters are not constant", norm)
        padded = any(root.attr("pads") or ())
        if padded or root.attr("auto_pad") not in (None, "NOTSET", "VALID"):
            return Refusal("the convolution pads", root)
        if root.is_a("Gemm") and root.attr("transA"):
            return Refusal("it multiplies by the transpose", root)
        if not all(np.isfinite(numbers).all() for numbers in _batch_numbers(norm)):
            return Refusal("the parameters do not give finite numbers", norm)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Weights times the factors; what the summands add goes to the bias."""
        root, old = m.root, m.root.input(2)
        scale, shift = _batch_numbers(m.node("norm"))
        weight = _array(m["w"]).astype(np.float64)
        if root.is_a("Gemm"):
            turned = bool(root.attr("transB"))
            factors = scale.reshape(1, -1) if turned else scale.reshape(-1, 1)
            total = shift @ (weight.T if turned else weight)
        else:
            factors = _by_input_channel(root, scale)
            products = weight * _by_input_channel(root, shift)
            total = products.reshape(products.shape[0], -1).sum(axis=1)
        name = f"{m['w'].name}.bias" if old is None else old.name
        if old is not None:
            total = total + _row(root, old)
        bias = op.constant(total.astype(np.float32), name)
        result: Value = op.op(root.op.name, m["x"], scaled(op, m["w"], factors), bias, **root.attrs)
        return result


def _batch_numbers(norm: Node) -> tuple[Array, Array]:
    """(scale, shift) a channel (f64) of a BatchNormalization with constant parameters."""
    gain, bias, mean, var = (_array(v).astype(np.float64) for v in norm.inputs[1:5])
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gain / np.sqrt(var + float(norm.attr("epsilon")))
        return scale, bias - mean * scale


@dataclass(frozen=True)
class FoldAffine(RulePass):
    """``a * Conv(x, w, b) + c  ->  Conv(x, w', b')``."""

    name: ClassVar[str] = "fold-affine"

    def rules(self, graph: Graph) -> list[Rule]:
        """Into the product before first: it leaves nothing for the one after."""
        return [
            FoldBatchNorm(),
            FoldScale(),
            FoldShift(),
            FoldAlpha(),
            FoldScaleBefore(),
            FoldShiftBefore(),
            FoldBatchNormBefore(),
        ]
