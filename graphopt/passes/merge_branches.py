"""Products of one value that are put side by side become one product.

``Concat(Conv(x, a, p), Conv(x, b, q))  ->  Conv(x, [a b], [p q])`` along the channels;
``Concat(x @ a, x @ b)  ->  x @ [a b]`` and Gemm along the features, with constant rows added or
not. The same activation may follow in every branch: it then follows once.

The branches stand next to each other in the concatenation, read the same value through the same
window, have constant weights and no other readers; convolutions are not in groups.

Sound: every element is the same sum of products; a kernel may add them in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Graph, Node, Trait, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["MergeBranches"]


@dataclass(frozen=True)
class _Branch:
    """A product, the bias that is added to it, and the activation after it."""

    product: Node
    bias: Value | None
    nodes: tuple[Node, ...]
    activation: Node | None

    def key(self, axis: int) -> tuple[Any, ...]:
        """Equal for branches that one product can stand for."""
        node = self.product
        weight = node.input(1)
        assert weight is not None and weight.shape is not None
        window = weight.shape[2:] if node.is_a("Conv") else ()
        after = None if self.activation is None else _form(self.activation)
        joined = 1 if node.is_a("Conv") else (node.output.tensor.rank or 0) - 1
        fits = axis == joined
        added = self.bias is not None
        return (fits, node.input(0), _form(node), window, added, weight.tensor.dtype, after)


def _form(node: Node) -> tuple[Any, ...]:
    return (node.op.name, tuple(sorted((k, repr(v)) for k, v in node.attrs.items())))


@dataclass(frozen=True)
class MergeBranches(Pass):
    """``Concat(f(x, a), f(x, b))  ->  f(x, [a b])``."""

    name: ClassVar[str] = "merge-branches"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when branches were merged."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            if node.is_a("Concat"):
                changed |= self._concat(graph, node, ctx)
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Which operand of a concatenation is no branch, or does not go with its neighbour."""
        if not node.is_a("Concat"):
            return Refusal(f"it is no Concat but {node.op.qualified}", node)
        for value in node.inputs:
            if value is not None and _branch(value) is None:
                return Refusal(f"{value!r} is no product with constants that it alone reads", value)
        return Refusal("neighbours read other values, or differ in attributes or activation", node)

    def _concat(self, graph: Graph, node: Node, ctx: PassContext) -> bool:
        rank = node.output.tensor.rank
        if rank is None:
            return False
        axis = int(node.attr("axis")) % rank
        runs = _runs(node, axis)
        if all(len(run) == 1 for run in runs):
            return False
        merged = [n for run in runs if len(run) > 1 for _, b in run for n in (b.nodes if b else ())]
        origin = frozenset().union(*(n.origin for n in (*merged, node)))
        op = Builder(graph, before=node, origin=origin)
        parts = [_emit(op, [b for _, b in run if b]) if len(run) > 1 else run[0][0] for run in runs]
        result = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)
        record_edit(ctx.log, self.name, "MergeBranches", [node, *merged], op.created)
        graph.replace(node, [result])
        for gone in merged:
            graph.erase(gone)
        return True


def _runs(node: Node, axis: int) -> list[list[tuple[Value, _Branch | None]]]:
    """Operands of a concatenation, with those that become one product next to each other."""
    runs: list[list[tuple[Value, _Branch | None]]] = []
    for value in node.inputs:
        assert value is not None
        branch = _branch(value)
        last = runs[-1][-1][1] if runs else None
        key = None if branch is None else branch.key(axis)
        if last is not None and key is not None and key[0] and last.key(axis) == key:
            runs[-1].append((value, branch))
        else:
            runs.append([(value, branch)])
    return runs


def _branch(value: Value) -> _Branch | None:
    """``value``, which one node alone reads, as a product with an activation; readers first."""
    nodes: list[Node] = []
    activation, bias = None, None
    node = _private(value)
    if node is not None and _activates(node):
        nodes.append(node)
        activation = node
        node = _private(node.input(0))
    if node is not None and node.is_a("Add"):
        nodes.append(node)
        a, b = node.inputs
        product, bias = (a, b) if b is not None and b.is_constant else (b, a)
        shape = node.output.shape
        node = _private(product)
        if node is None or not node.is_a("MatMul") or node.output.shape != shape:
            return None
    if node is None or node.op.domain or node.op.name not in ("Conv", "MatMul", "Gemm"):
        return None
    nodes.append(node)
    bias = bias if node.is_a("MatMul") else node.input(2)
    fits = _constant(node, bias)
    return _Branch(node, bias, tuple(nodes), activation) if fits else None


def _private(value: Value | None) -> Node | None:
    """The producer of a value that is read once."""
    if value is None or value.use_count != 1 or value.is_output:
        return None
    return value.producer


def _activates(node: Node) -> bool:
    return node.op.has(Trait.POINTWISE) and len(node.inputs) == 1 and not node.op.domain


def _constant(node: Node, bias: Value | None) -> bool:
    weight, x = node.input(1), node.input(0)
    if weight is None or weight.constant is None or x is None or x.is_constant:
        return False
    channels = _channels(node)
    if channels is None or not node.output.tensor.dtype.is_float:
        return False
    if node.is_a("Conv") and int(node.attr("group")) != 1:
        return False
    if node.is_a("Gemm") and (node.attr("beta") != 1.0 or node.attr("transA")):
        return False
    if bias is None:
        return True
    constant = bias.constant
    return constant is not None and constant.numel == constant.type.shape[-1:][0] == channels  # type: ignore[index]


def _channels(node: Node) -> int | None:
    weight = node.input(1)
    assert weight is not None
    shape = weight.shape
    if shape is None or (len(shape) != 2 and not node.is_a("Conv")):
        return None
    dim = shape[0] if node.is_a("Conv") or node.attr("transB") else shape[-1]
    return dim if isinstance(dim, int) else None


def _emit(op: Builder, branches: list[_Branch]) -> Value:
    """One product for all, biases and activation included."""
    first = branches[0].product
    axis = 0 if first.is_a("Conv") or first.attr("transB") else 1
    weights = [_array(branch.product.input(1)) for branch in branches]
    source = first.input(1)
    assert source is not None
    weight = op.constant(np.concatenate(weights, axis=axis), f"{source.name}.merged")
    bias = None
    if branches[0].bias is not None:
        rows = [_array(branch.bias).reshape(-1) for branch in branches]
        bias = op.constant(np.concatenate(rows), f"{branches[0].bias.name}.merged")
    y: Value
    if first.is_a("MatMul"):
        y = op.MatMul(first.input(0), weight)
        y = y if bias is None else op.Add(y, bias)
    else:
        y = op.op(first.op.name, first.input(0), weight, bias, **first.attrs)
    activation = branches[0].activation
    if activation is not None:
        y = op.op(activation.op.name, y, **activation.attrs)
    return y


def _array(value: Value | None) -> np.ndarray[Any, Any]:
    assert value is not None and value.constant is not None
    return value.constant.array
