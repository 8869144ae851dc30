"""Pools, activations, convolutions and slices in the order that computes less.

``MaxPool(Relu(x))  ->  Relu(MaxPool(x))``, which has fewer elements to look at; but where a
convolution or product of matrices comes before, which runs an activation for free,
``Relu(MaxPool(x))  ->  MaxPool(Relu(x))``; Clip and LeakyRelu alike.
``AveragePool(Conv(x, w, b))  ->  Conv(AveragePool(x), w, b)`` for windows of one element, means
over space alike, ``ReduceMean(MatMul(x, w))`` over rows too;
``Conv(Resize(x), w, b)  -> Resize(Conv(x, w, b))`` for windows of one element and larger images.
``Slice(Conv(x, w), every s-th)  ->  Conv(x, w)`` in steps of s; pools alike.

Nothing in between is read by others. Pools have windows with an element each and round sizes down;
activations have slopes above 0. Sound: an activation that keeps the order and a maximum can be
swapped, to the bit; an average and a resize are linear, and so is such a convolution (where the
average counts padding, it must have no bias), up to rounding; results that a slice drops need not
be computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.passes.merge_reductions import reduced_axes
from graphopt.passes.polynomial import number
from graphopt.passes.simplify_pools import Windows, windows
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["ReorderPools"]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_POINTWISE = ("Add", "BatchNormalization")
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip")
_MAX_DEPTH = 3


def _runs_for_free(value: Value, depth: int = 0) -> bool:
    """True when an activation of ``value`` would be fused into what computes it."""
    node = value.producer
    if node is None or node.op.domain or value.use_count != 1 or depth > _MAX_DEPTH:
        return False
    if node.op.name in _PRODUCTS:
        return True
    operands = [v for v in node.inputs if v is not None and not v.is_constant]
    return node.op.name in _POINTWISE and any(_runs_for_free(v, depth + 1) for v in operands)


def _activation_refusal(node: Node) -> Refusal | None:
    """Why an activation does not keep the order of elements."""
    if node.is_a("LeakyRelu") and float(node.attr("alpha")) <= 0:
        return Refusal("its slope is not above 0", node)
    if any(v is not None and number(v) is None for v in node.inputs[1:]):
        return Refusal("its bounds are not known numbers", node)
    return None


def _pool_refusal(node: Node) -> Refusal | None:
    """Why a maximum may see padding alone, or shows more than maxima."""
    found = windows(node)
    if isinstance(found, Refusal):
        return found
    return None if found.filled else Refusal("a window may lie in the padding alone", node)


class PoolFirst(Rule):
    """``MaxPool(Relu(x))  ->  Relu(MaxPool(x))``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Activations that keep the order."""
        return [op.MaxPool(op.op(n, x, op.rest("c"), _bind="act")) for n in _ACTIVATIONS]

    def check(self, m: Match) -> Refusal | None:
        """The pool must leave less, and the activation not be free where it is."""
        refused = _pool_refusal(m.root) or _activation_refusal(m.node("act"))
        if refused is not None:
            return refused
        found = windows(m.root)
        if isinstance(found, Windows) and all(s == 1 for s in found.strides):
            return Refusal("the pool leaves as many elements", m.root)
        if _runs_for_free(m["x"]):
            return Refusal("the activation runs with the product before it", m.node("act"))
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """The activation of fewer elements."""
        act = m.node("act")
        pooled = op.MaxPool(m["x"], **m.root.attrs)
        result = op.op(act.op.name, pooled, *m.values("c"), **act.attrs)
        return (result, *[None] * (len(m.root.outputs) - 1))


class ActivationFirst(Rule):
    """``Relu(MaxPool(Conv(x)))  ->  MaxPool(Relu(Conv(x)))``."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Activations that keep the order."""
        return [op.op(n, op.MaxPool(x, _bind="pool"), op.rest("c")) for n in _ACTIVATIONS]

    def check(self, m: Match) -> Refusal | None:
        """The activation must be free there."""
        refused = _activation_refusal(m.root) or _pool_refusal(m.node("pool"))
        if refused is not None:
            return refused
        if not _runs_for_free(m["x"]):
            return Refusal("no product comes before that would run the activation", m.node("pool"))
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The pool of activated elements."""
        active = op.op(m.root.op.name, m["x"], *m.values("c"), **m.root.attrs)
        result: Value = op.MaxPool(active, **m.node("pool").attrs)
        return result


class AverageFirst(Rule):
    """``AveragePool(Conv(x, w, b))  ->  Conv(AveragePool(x), w, b)``, windows of one element."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> list[NodePattern]:
        """Averages and means over space."""
        conv = op.Conv(x, w, op.rest("bias"), _bind="conv")
        return [
            op.AveragePool(conv),
            op.GlobalAveragePool(conv),
            op.ReduceMean(conv, op.rest("axes")),
        ]

    def check(self, m: Match) -> Refusal | None:
        """A convolution of single elements, and fewer of them afterwards."""
        conv, root = m.node("conv"), m.root
        if root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"{root.output.tensor.dtype} rounds after each", root)
        found = windows(conv) if conv.attr("kernel_shape") else _kernel(m["w"], conv)
        if isinstance(found, Refusal):
            return found
        if found.size != 1 or any((*found.begin, *found.end)) or any(s != 1 for s in found.strides):
            return Refusal(lambda: f"windows of {found.kernel}, or padding, or steps", conv)
        rank = conv.output.tensor.rank
        if root.is_a("ReduceMean"):
            if rank is None or reduced_axes(root) != tuple(range(2, rank)):
                return Refusal("the mean is not taken over all of space", root)
            return None
        if root.is_a("GlobalAveragePool"):
            return None
        pool = windows(root)
        if isinstance(pool, Refusal):
            return pool
        if all(s == 1 for s in pool.strides):
            return Refusal("the pool leaves as many elements", root)
        bias = len(m.values("bias")) > 0 and m.values("bias")[0] is not None
        if bias and root.attr("count_include_pad") and any((*pool.begin, *pool.end)):
            return Refusal("the average counts padding, to which no bias was added", root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The convolution of the average."""
        root, conv = m.root, m.node("conv")
        mean = root.is_a("ReduceMean")
        attrs: dict[str, Any] = {"keepdims": 1} if mean else dict(root.attrs)
        averaged = op.op(root.op.name, m["x"], *root.inputs[1:], **attrs)
        result: Value = op.Conv(averaged, m["w"], *m.values("bias"), **conv.attrs)
        if mean and not root.attr("keepdims"):
            axes = reduced_axes(root)
            assert axes is not None
            result = op.Squeeze(result, axes)
        return result


def _kernel(weight: Value, conv: Node) -> Windows | Refusal:
    """The windows of a convolution that leaves its kernel to its weights."""
    shape = weight.shape
    if shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return Refusal("its windows are not known", conv)
    kernel = tuple(d for d in shape[2:] if isinstance(d, int))
    strides = tuple(conv.attr("strides") or (1,) * len(kernel))
    pads = tuple(conv.attr("pads") or (0,) * (2 * len(kernel)))
    if conv.attr("auto_pad") not in (None, "", "NOTSET", "VALID"):
        return Refusal(lambda: f"auto_pad is {conv.attr('auto_pad')}", conv)
    return Windows(kernel, strides, pads[: len(kernel)], pads[len(kernel) :])


class MeanFirst(Rule):
    """``ReduceMean(MatMul(x, w) + b)  ->  MatMul(ReduceMean(x), w) + b``, over rows."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """With or without a row that is added."""
        product = op.MatMul(x, op.constant("w"), _bind="product")
        both = [product, op.Add(product, op.constant("b"))]
        return [op.ReduceMean(value, op.rest("axes")) for value in both]

    def check(self, m: Match) -> Refusal | None:
        """A matrix of weights, and means over other axes than that of its columns."""
        root, rank, row = m.root, m["x"].tensor.rank, m.get("b")
        if root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"{root.output.tensor.dtype} rounds after each", root)
        if rank is None or rank < 3 or m["w"].tensor.rank != 2:
            return Refusal(lambda: f"it multiplies {m['x']!r} and {m['w']!r}", m.node("product"))
        axes = reduced_axes(root)
        if not axes or rank - 1 in axes:
            return Refusal(lambda: f"the mean is over axes {axes}", root)
        columns = (m["w"].shape or ())[-1:]
        if row is not None and static_shape(row.shape) not in (
            columns,
            (*(1,) * (rank - 1), *columns),
        ):
            return Refusal("what is added is not a row", row)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The product of fewer rows."""
        axes, row = reduced_axes(m.root), m.get("b")
        assert axes is not None
        mean = op.ReduceMean(m["x"], axes, keepdims=int(bool(m.root.attr("keepdims"))))
        result: Value = op.MatMul(mean, m["w"])
        if row is not None:
            assert row.constant is not None
            result = op.Add(result, op.constant(row.constant.array.reshape(-1), row.name))
        return result


class ConvFirst(Rule):
    """``Conv(Resize(x), w, b)  ->  Resize(Conv(x, w, b))``, windows of one element."""

    def pattern(self, op: PatternOps, x: Var, w: Var) -> NodePattern:
        """A resize by factors."""
        resize = op.Resize(x, op.rest("how"), _bind="resize")
        return op.Conv(resize, w, op.rest("bias"))

    def check(self, m: Match) -> Refusal | None:
        """A convolution of single elements; factors of at least 1, along space alone."""
        root, resize = m.root, m.node("resize")
        if root.output.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"{root.output.tensor.dtype} rounds after each", root)
        found, scales = _kernel(m["w"], root), resize.input(2)
        if isinstance(found, Refusal):
            return found
        if found.size != 1 or any((*found.begin, *found.end)) or any(s != 1 for s in found.strides):
            return Refusal(lambda: f"windows of {found.kernel}, or padding, or steps", root)
        if resize.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
            return Refusal("it resizes a part, and what lies around it", resize)
        if scales is None or scales.constant is None or resize.attr("axes") is not None:
            return Refusal("it resizes to sizes, or by factors that are not known", resize)
        factors = scales.constant.array
        if bool((factors < 1).any()) or bool((factors[:2] != 1).any()) or not factors.prod() > 1:
            return Refusal(lambda: f"its factors are {factors.tolist()}", resize)
        channels = static_shape((m["w"].shape or ())[:2])
        if channels is None or channels[0] > 2 * channels[1] * int(root.attr("group")):
            return Refusal(lambda: f"{channels} channels to resize are more than before", root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The convolution of the smaller image."""
        resize = m.node("resize")
        small = op.Conv(m["x"], m["w"], *m.values("bias"), **m.root.attrs)
        result: Value = op.Resize(small, *m.values("how"), **resize.attrs)
        return result


class SliceToStride(Rule):
    """``Slice(Conv(x, w), every s-th)  ->  Conv(x, w)`` in steps of s; pools alike."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """What slides windows."""
        names = ("Conv", "MaxPool", "AveragePool")
        return [
            op.Slice(op.op(n, x, op.rest("rest"), _bind="slides"), op.rest("how")) for n in names
        ]

    def check(self, m: Match) -> Refusal | None:
        """From the first element to the last, along spatial axes, in fixed steps."""
        node = m.node("slides")
        if node.attr("auto_pad") not in (None, "", "NOTSET", "VALID") or node.attr("ceil_mode"):
            return Refusal("its sizes follow from its steps", node)
        if len(node.outputs) > 1:
            return Refusal("its indices may be read", node)
        found = _steps(m)
        if isinstance(found, Refusal):
            return found
        if all(step == 1 for step in found):
            return Refusal("it takes every element", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """Longer steps."""
        node, steps = m.node("slides"), _steps(m)
        assert not isinstance(steps, Refusal)
        old = node.attr("strides") or (1,) * len(steps)
        strides = [int(a) * b for a, b in zip(old, steps, strict=True)]
        attrs = {**node.attrs, "strides": strides}
        result: Value = op.op(node.op.name, m["x"], *m.values("rest"), **attrs)
        return result


def _steps(m: Match) -> tuple[int, ...] | Refusal:
    """The step of the slice along each spatial axis."""
    shape = m.node("slides").output.shape
    found = [_integers(v) for v in m.values("how")]
    if shape is None or len(found) < 2 or any(v is None for v in found):
        return Refusal("what it takes is not known", m.root)
    starts, ends = found[0] or (), found[1] or ()
    axes = (found[2] if len(found) > 2 else None) or tuple(range(len(starts)))
    steps = (found[3] if len(found) > 3 else None) or (1,) * len(starts)
    result = [1] * (len(shape) - 2)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % len(shape)
        size = shape[place]
        whole = end >= size if isinstance(size, int) else end >= np.iinfo(np.int32).max
        if start != 0 or not whole or step < 1 or (place < 2 and step != 1):
            return Refusal("it takes not every s-th element of whole spatial axes", m.root)
        if place >= 2:
            result[place - 2] = step
    return tuple(result)


def _integers(value: Value | None) -> tuple[int, ...] | None:
    if value is None or value.constant is None:
        return None
    return tuple(int(x) for x in value.constant.array.ravel())


@dataclass(frozen=True)
class ReorderPools(RulePass):
    """Pools, activations, convolutions and slices in the order that computes less."""

    name: ClassVar[str] = "reorder-pools"
    follows: ClassVar[tuple[str, ...]] = ("merge-reductions", "simplify-pools")

    def rules(self, graph: Graph) -> list[Rule]:
        """Less work first."""
        return [
            SliceToStride(),
            AverageFirst(),
            MeanFirst(),
            ConvFirst(),
            PoolFirst(),
            ActivationFirst(),
        ]
