"""Changes of shape that move no element: what one op does them, with constants alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import GraphoptError
from graphopt.ir import Builder, Dim, EvalContext, Node, TensorType, Value, product, resolve_op
from graphopt.ops.shape import reshaped

__all__ = ["VIEWS", "View", "is_view", "plan_view", "reshape_target", "same_size"]

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class View:
    """One change of shape: ``op(x, numbers)``, or x itself where ``op`` is empty."""

    op: str
    numbers: tuple[int, ...] = ()

    def build(self, builder: Builder, x: Value) -> Value:
        """The view of ``x``."""
        if not self.op:
            return x
        name = "shape" if self.op == "Reshape" else "axes"
        result: Value = builder.op(self.op, x, builder.constant(list(self.numbers), name))
        return result


def is_view(node: Node) -> bool:
    """True for an op that changes the shape of operand 0 and nothing else."""
    if node.op.domain:
        return False
    return node.op.name in VIEWS or _moves_nothing(node)


def _moves_nothing(node: Node) -> bool:
    """True for a Transpose that moves axes of size 1 alone."""
    if not node.is_a("Transpose"):
        return False
    value = node.input(0)
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return False
    shape = value.type.shape
    perm = node.attr("perm") or range(len(shape) - 1, -1, -1)
    kept = [axis for axis in perm if shape[axis] != 1]
    return kept == sorted(kept)


def plan_view(old: Sequence[Dim], new: Sequence[Dim], *, inferred: int | None = None) -> View | str:
    """The one op that makes shape ``new`` of shape ``old``; otherwise why none with constants does.

    ``inferred`` is an axis of ``new`` that may be left to the run even beside sizes that may be 0.
    """
    old, new = tuple(old), tuple(new)
    if old == new:
        return View("")
    added = _ones_added(old, new)
    if added is not None:
        return View("Unsqueeze", added)
    dropped = _ones_added(new, old)
    if dropped is not None:
        return View("Squeeze", dropped)
    target = reshape_target(old, new, inferred=inferred)
    return target if isinstance(target, str) else View("Reshape", target)


def _ones_added(short: Sequence[Dim], long: Sequence[Dim]) -> tuple[int, ...] | None:
    """Axes of ``long`` that are 1 and without which it is ``short``."""
    axes: list[int] = []
    at = 0
    for axis, dim in enumerate(long):
        if at < len(short) and short[at] == dim:
            at += 1
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return tuple(axes) if at == len(short) else None


def reshape_target(
    old: Sequence[Dim], new: Sequence[Dim], *, inferred: int | None = None
) -> tuple[int, ...] | str:
    """The constant with which Reshape makes ``new`` of ``old``, or why there is none.

    A size that is not a number is copied (0) where ``old`` has it at the same place. One other may
    be inferred (-1): beside numbers, or at ``inferred``.
    """
    target: list[int] = []
    hole: int | None = None
    for axis, dim in enumerate(new):
        if isinstance(dim, int) and dim > 0:
            target.append(dim)
        elif axis < len(old) and old[axis] == dim:
            target.append(0)
        elif hole is None:
            hole = axis
            target.append(-1)
        else:
            return f"sizes {new[hole]} and {dim} would both have to be inferred"
    if hole is not None and hole != inferred and 0 in target:
        return f"size {new[hole]} cannot be inferred where {new[target.index(0)]} may be 0"
    ctx = EvalContext(resolve_op("Reshape"), {}, 1)
    try:
        dims = reshaped(ctx, old, target, False)
    except GraphoptError as error:
        return str(error)
    if tuple(dims) != tuple(new):
        listed = ", ".join(map(str, dims))
        return f"it would come out as [{listed}] as far as one can tell"
    return tuple(target)


def same_size(old: Sequence[Dim], new: Sequence[Dim]) -> bool:
    """True when both shapes certainly hold equally many elements."""
    return product(old) == product(new)
