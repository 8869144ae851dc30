"""Normalisations over space and over groups of channels become one op again.

``(x - mean(x)) / sqrt(var(x) + eps)`` over all spatial axes  ``->  InstanceNormalization(x)``, as
fuse-layer-norm finds its like; ``Reshape(InstanceNormalization(Reshape(x, [N, G, -1])))  ->
GroupNormalization(x)``, and with LayerNormalization in its place; a constant summand of channels
after InstanceNormalization, GroupNormalization or BatchNormalization goes to its shift. (Factors go
there by hoist-scales.)

Values are f32 with a fixed number of channels; nothing in between is read by others. Sound up to
rounding: the definitions of the ops (Ulyanov et al., Instance Normalization, 2016; Wu and He, Group
Normalization, 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.passes.fuse_layer_norm import FuseLayer
from graphopt.passes.merge_reductions import reduced_axes
from graphopt.passes.polynomial import number
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["FuseInstanceNorm"]

Array = np.ndarray[Any, Any]


def _channels(value: Value) -> int | None:
    shape = value.shape
    channels = shape[1] if shape is not None and len(shape) > 2 else None
    return channels if isinstance(channels, int) else None


class FuseInstance(FuseLayer):
    """``(x - mean) / sqrt(var + eps)`` over space  ``->  InstanceNormalization(x)``."""

    def check(self, m: Match) -> Refusal | None:
        """f32, over all spatial axes, which stay as axes of size 1."""
        x = m["x"].tensor
        if x.dtype is not DType.F32 or x.rank is None or _channels(m["x"]) is None:
            return Refusal(lambda: f"it computes on {x}", m["x"])
        if "w" in m.bindings:
            return Refusal("a scale comes with the reciprocal", m["w"])
        space = tuple(range(2, x.rank))
        for name in self.means:
            node = m.node(name)
            if node.is_a("ReduceSum") or reduced_axes(node) != space or not node.attr("keepdims"):
                return Refusal("a mean is not taken over all spatial axes, kept", node)
        if number(m["eps"]) is None:
            return Refusal("epsilon is not one number", m["eps"])
        if m.root.output.shape != m["x"].shape:
            return Refusal("the result has another shape", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op; scale and shift are taken in later."""
        channels = _channels(m["x"])
        assert channels is not None
        ones = op.constant(np.ones(channels, np.float32), "ones")
        zeros = op.constant(np.zeros(channels, np.float32), "zeros")
        result: Value = op.InstanceNormalization(m["x"], ones, zeros, epsilon=number(m["eps"]))
        return result


class FuseGroup(Rule):
    """``Reshape(InstanceNormalization(Reshape(x, [N, G, -1])))  ->  GroupNormalization(x)``."""

    def pattern(self, op: PatternOps, x: Var, scale: Var, shift: Var) -> list[NodePattern]:
        """Over groups made an axis; LayerNormalization over what is left of them is the same."""
        grouped = op.Reshape(x, op.rest("split"), _bind="split")
        instance = op.InstanceNormalization(grouped, scale, shift, _bind="norm")
        layer = op.LayerNormalization(grouped, scale, _bind="norm")
        return [op.Reshape(norm, op.rest("joined")) for norm in (instance, layer)]

    def check(self, m: Match) -> Refusal | None:
        """Batches stay an axis, the next is of the groups, and the shape comes back."""
        x, norm = m["x"], m.node("norm")
        channels, split = _channels(x), m.node("split").output.shape
        if x.tensor.dtype is not DType.F32 or channels is None or split is None or x.shape is None:
            return Refusal(lambda: f"it computes on {x!r}", x)
        groups = split[1] if len(split) > 2 else None
        if not isinstance(groups, int) or not groups or channels % groups or split[0] != x.shape[0]:
            return Refusal("the first reshape does not make groups of channels", m.node("split"))
        if m.root.output.shape != x.shape:
            return Refusal("the second reshape does not undo the first", m.root)
        parameters = [m["scale"], m.get("shift")]
        if any(p is not None and p.constant is None for p in parameters):
            return Refusal("scale or shift is not constant", norm)
        if norm.is_a("LayerNormalization"):
            constant = m["scale"].constant
            assert constant is not None
            whole = len(split) == 3 and int(norm.attr("axis")) in (-1, 2) and len(norm.outputs) == 1
            if not whole or not bool((constant.array == constant.array.flat[0]).all()):
                return Refusal("it is not over whole groups, all of one scale", norm)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op, with the scale and shift of each group for all its channels."""
        norm, channels, split = m.node("norm"), _channels(m["x"]), m.node("split").output.shape
        assert channels is not None and split is not None and isinstance(split[1], int)
        scale = _constant(m["scale"])
        shift = _constant(m["shift"]) if "shift" in m.bindings else np.zeros(1, np.float32)
        if norm.is_a("LayerNormalization"):
            scale = scale.ravel()[:1]
        result: Value = op.GroupNormalization(
            m["x"],
            op.constant(_spread(scale, channels), m["scale"].name),
            op.constant(_spread(shift, channels), f"{m['scale'].name}.shift"),
            epsilon=norm.attr("epsilon"),
            num_groups=split[1],
        )
        return result


def _constant(value: Value) -> Array:
    assert value.constant is not None
    return value.constant.array


def _spread(numbers: Array, channels: int) -> Array:
    return np.repeat(numbers.ravel(), channels // numbers.size).astype(np.float32)


class AbsorbShift(Rule):
    """``InstanceNormalization(x, s, b) + t  ->  InstanceNormalization(x, s, b + t)``."""

    def pattern(self, op: PatternOps) -> list[NodePattern]:
        """Any normalisation with a shift a channel."""
        names = ("InstanceNormalization", "GroupNormalization", "BatchNormalization")
        return [op.Add(op.op(n, op.rest("of"), _bind="norm"), op.constant("t")) for n in names]

    def check(self, m: Match) -> Refusal | None:
        """Its own shift must be constant, and the summand vary along channels alone."""
        norm = m.node("norm")
        shift = norm.input(2)
        if shift is None or shift.constant is None or shift.tensor.dtype is not DType.F32:
            return Refusal("its shift is not an f32 constant", norm)
        if norm.attr("training_mode"):
            return Refusal("it runs in training mode", norm)
        if m.root.output.shape != norm.output.shape or _row(norm, m["t"]) is None:
            return Refusal("the summand does not vary along channels alone", m["t"])
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The normalisation with the sum of both, rounded once."""
        norm = m.node("norm")
        inputs, row = list(norm.inputs), _row(norm, m["t"])
        shift = inputs[2]
        assert shift is not None and row is not None
        total = _constant(shift).astype(np.float64) + row
        inputs[2] = op.constant(total.astype(np.float32), shift.name)
        result: Value = op.op(norm.op.name, *inputs, **norm.attrs)
        return result


def _row(norm: Node, value: Value) -> Array | None:
    """A constant as one number (f64) a channel, if that is how it broadcasts."""
    rank, shape = norm.output.tensor.rank, static_shape(value.shape)
    shift = norm.input(2)
    if rank is None or shape is None or len(shape) > rank or rank < 2 or shift is None:
        return None
    full = (1,) * (rank - len(shape)) + shape
    channels = _constant(shift).size
    if any(size != 1 for axis, size in enumerate(full) if axis != 1) or full[1] not in (
        1,
        channels,
    ):
        return None
    return np.broadcast_to(_constant(value).astype(np.float64).reshape(-1), (channels,))


@dataclass(frozen=True)
class FuseInstanceNorm(RulePass):
    """Spelled-out normalisations ``->`` InstanceNormalization, GroupNormalization."""

    name: ClassVar[str] = "fuse-instance-norm"

    def rules(self, graph: Graph) -> list[Rule]:
        """Instances first: groups are made of them."""
        return [FuseInstance(), FuseGroup(), AbsorbShift()]
