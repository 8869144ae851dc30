"""Changes of shape before and after pointwise ops cancel through them.

``Reshape(Relu(Reshape(x)))  ->  Relu(x)``, or one Reshape of it; ``Unsqueeze(Mul(Squeeze(x),
Squeeze(y)))  ->  Mul(x, y)``; ``Unsqueeze(Sqrt(ReduceMean(x, keepdims=0)))  ->
Sqrt(ReduceMean(x, keepdims=1))``. The ops between are computed in the shape that asks for the
fewest changes of shape, and only where these become fewer.

Sound: a pointwise op computes each element by itself, in whatever shape. Operands that broadcast
are single elements, reach no further back than the axes at the end that both shapes share, or are
constants with axes of size 1 added or dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from graphopt.ir import Builder, Dim, Graph, Node, TensorType, Trait, Value, static_shape
from graphopt.passes.views import VIEWS, View, is_view, plan_view, same_size
from graphopt.rewrite import (
    EXACT,
    Match,
    NodePattern,
    Numerics,
    PatternOps,
    Refusal,
    Rule,
    RulePass,
    Var,
)

__all__ = ["CancelReshapes"]

Shape = tuple[Dim, ...]
# Trees of pointwise ops up to this size are looked through.
_MAX_NODES = 16
_REDUCTIONS = frozenset(
    {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
     "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"}
)  # fmt: skip


@dataclass
class _Tree:
    """Pointwise ops of one shape above a view, and what they read."""

    root: Node
    shape: Shape
    nodes: list[Node] = field(default_factory=list)
    leaves: list[Value] = field(default_factory=list)

    def grow(self, value: Value) -> None:
        """Adds ``value``: what computes it, where that is a pointwise op for this tree alone."""
        node = value.producer
        if value.is_constant or node is None or not self._inside(value, node):
            if value not in self.leaves:
                self.leaves.append(value)
            return
        if node in self.nodes:
            return
        self.nodes.append(node)
        for operand in node.inputs:
            if operand is not None:
                self.grow(operand)

    def _inside(self, value: Value, node: Node) -> bool:
        if not node.op.has(Trait.POINTWISE) or len(node.outputs) != 1 or node.op.domain:
            return False
        if node.is_a("SwiGLU") or node.is_a("BitCast") or len(self.nodes) >= _MAX_NODES:
            return False
        if node.graph is not self.root.graph or value.tensor.shape != self.shape:
            return False
        readers = set(value.users) - set(self.nodes)
        return not value.is_output and readers <= {self.root}


@dataclass
class _Plan:
    """What to do: the shape to compute in, the view after it, and operands in that shape."""

    shape: Shape
    after: View
    operands: dict[Value, _Operand]
    gone: list[Node]
    cost: int


@dataclass
class _Operand:
    """``value`` in another shape: a view of it, a constant, or a reduction that keeps its axes."""

    value: Value
    view: View = field(default_factory=lambda: View(""))
    keep: bool = False

    def build(self, builder: Builder) -> Value:
        node = self.value.producer
        if self.keep:
            assert node is not None
            attrs = {**node.attrs, "keepdims": 1}
            return builder.call(node.op, *node.inputs, **attrs).output
        if self.value.constant is not None and self.view.op:
            array = self.value.constant.array
            if self.view.op == "Reshape":
                return builder.constant(array.reshape(self.view.numbers), self.value.name)
        return self.view.build(builder, self.value)


class CancelThrough(Rule):
    """``View(f(View(x), ...))  ->  f(x, ...)``, or one view of it."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Any view."""
        return [op.op(name, x, op.rest("rest")) for name in VIEWS]

    def check(self, m: Match) -> Refusal | None:
        """There must be pointwise ops before it, and fewer views in another shape."""
        plan = _best(m)
        if isinstance(plan, Refusal):
            return plan
        tree = _tree(m)
        assert isinstance(tree, _Tree)
        m.nodes.extend(tree.nodes)
        m.nodes.extend(plan.gone)
        m.kept.update(plan.gone)
        return None

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The ops in the other shape, and what view is left."""
        plan, tree = _best(m), _tree(m)
        assert isinstance(plan, _Plan) and isinstance(tree, _Tree)
        made = {leaf: operand.build(op) for leaf, operand in plan.operands.items()}

        def build(value: Value) -> Value:
            if value not in made:
                node = value.producer
                assert node is not None
                inputs = [None if v is None else build(v) for v in node.inputs]
                made[value] = op.call(node.op, *inputs, **node.attrs).output
            return made[value]

        return plan.after.build(op, build(m["x"]))


def _tree(m: Match) -> _Tree | Refusal:
    root, x = m.root, m["x"]
    shape, out = x.tensor.shape, root.output.tensor.shape
    if shape is None or out is None or not is_view(root) or not same_size(shape, out):
        return Refusal("it is no view for certain", root)
    tree = _Tree(root, shape)
    tree.grow(x)
    if not tree.nodes:
        return Refusal("what it views is not computed pointwise for it alone", x)
    return tree


def _best(m: Match) -> _Plan | Refusal:
    """The cheapest plan that has fewer views than there are."""
    tree = _tree(m)
    if isinstance(tree, Refusal):
        return tree
    for node in tree.nodes:
        # Else what it computes would lack axes that no operand has.
        if not any(v is not None and v.tensor.shape == tree.shape for v in node.inputs):
            return Refusal(f"no operand of %{node.output.name} has its whole shape", node)
    out = m.root.output.tensor.shape
    assert out is not None
    candidates = [out, *(s for leaf in tree.leaves if (s := _viewed_shape(leaf)) is not None)]
    best: _Plan | None = None
    reason = ""
    for shape in dict.fromkeys(candidates):
        plan = _plan(tree, shape, out)
        if isinstance(plan, str):
            reason = reason or plan
        elif best is None or plan.cost < best.cost:
            best = plan
    if best is None:
        return Refusal(reason, m.root)
    if best.cost >= 0:
        return Refusal("the views do not become fewer", m.root)
    return best


def _viewed_shape(leaf: Value) -> Shape | None:
    """The shape of what ``leaf`` is a view of."""
    node = leaf.producer
    if node is None or not is_view(node):
        return None
    source = node.input(0)
    assert source is not None
    shape = source.tensor.shape
    if shape is None or leaf.tensor.shape is None or not same_size(shape, leaf.tensor.shape):
        return None
    return shape


def _plan(tree: _Tree, shape: Shape, out: Shape) -> _Plan | str:
    after = plan_view(shape, out)
    if isinstance(after, str):
        return after
    plan = _Plan(shape, after, {}, [], (1 if after.op else 0) - 1)
    for leaf in tree.leaves:
        found = _operand(tree, leaf, shape)
        if isinstance(found, str):
            return found
        operand, gone, cost = found
        plan.operands[leaf] = operand
        plan.gone += gone
        plan.cost += cost
    return plan


def _operand(tree: _Tree, leaf: Value, shape: Shape) -> tuple[_Operand, list[Node], int] | str:
    """``leaf`` for ops computed in ``shape``, nodes that may go, and how many nodes that costs."""
    old = leaf.tensor.shape
    if old is None:
        return f"the rank of %{leaf.name} is not known"
    if old == tree.shape:
        return _whole(tree, leaf, shape)
    if len(old) <= _shared_end(tree.shape, shape) or not old:
        return _Operand(leaf), [], 0
    if leaf.constant is None:
        return f"%{leaf.name} is spread over axes that change"
    if leaf.constant.numel == 1:
        return _Operand(leaf, View("Reshape")), [], 0
    padded = (1,) * (len(tree.shape) - len(old)) + old
    moved = _follow(tree.shape, shape, padded)
    if moved is None:
        return f"the constant %{leaf.name} is spread over axes that change"
    return _Operand(leaf, View("Reshape", moved)), [], 0


def _whole(tree: _Tree, leaf: Value, shape: Shape) -> tuple[_Operand, list[Node], int] | str:
    """The same for a leaf of the shape of the tree."""
    node = leaf.producer
    alone = not leaf.is_output and set(leaf.users) <= {*tree.nodes, tree.root}
    source = None if node is None or _viewed_shape(leaf) is None else node.input(0)
    if source is not None and node is not None:
        plan = plan_view(source.tensor.shape or (), shape)
        if not isinstance(plan, str):
            cost = (1 if plan.op else 0) - (1 if alone else 0)
            return _Operand(source, plan), [node], cost
    if node is not None and alone and _kept(node) == shape:
        return _Operand(leaf, keep=True), [node], 0
    plan = plan_view(tree.shape, shape)
    if isinstance(plan, str):
        return plan
    if leaf.constant is not None:
        numbers = static_shape(shape)
        if numbers is None:
            return f"[{', '.join(map(str, shape))}] is no shape of a constant"
        return _Operand(leaf, View("Reshape", numbers)), [], 0
    return _Operand(leaf, plan), [], 1 if plan.op else 0


def _kept(node: Node) -> Shape | None:
    """The shape of a reduction if it kept the axes that it drops."""
    source, axes = node.input(0), node.input(1)
    if node.op.domain or node.op.name not in _REDUCTIONS or node.attr("keepdims"):
        return None
    if source is None or not isinstance(source.type, TensorType) or source.type.shape is None:
        return None
    shape = source.type.shape
    if axes is None:
        return None if node.attr("noop_with_empty_axes") else (1,) * len(shape)
    if axes.elements is None or not axes.elements:
        return None
    reduced = {int(axis) % len(shape) for axis in axes.elements if isinstance(axis, int)}
    return tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))


def _shared_end(a: Sequence[Dim], b: Sequence[Dim]) -> int:
    """How many axes at the end two shapes share."""
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count


def _follow(old: Shape, new: Shape, operand: Shape) -> tuple[int, ...] | None:
    """The shape of ``operand``, which broadcasts over ``old``, for ``new``, where the two differ by
    axes of size 1 alone."""
    result: list[int] = []
    at = 0
    for dim in new:
        while at < len(old) and old[at] != dim and old[at] == 1:
            if operand[at] != 1:
                return None
            at += 1
        if at < len(old) and old[at] == dim:
            size = operand[at]
            if not isinstance(size, int):
                return None
            result.append(size)
            at += 1
        elif dim == 1:
            result.append(1)
        else:
            return None
    return tuple(result) if all(dim == 1 for dim in old[at:]) else None


@dataclass(frozen=True)
class CancelReshapes(RulePass):
    """``Reshape(Relu(Reshape(x)))  ->  Relu(x)``."""

    name: ClassVar[str] = "cancel-reshapes"
    numerics: ClassVar[Numerics] = EXACT

    def rules(self, graph: Graph) -> list[Rule]:
        """One rule for all views."""
        return [CancelThrough()]
